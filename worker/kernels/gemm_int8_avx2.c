/* INT8 products in AVX2: bytes become 16-bit numbers, even and odd ones apart, and vpmaddwd adds
 * their products in 32 bits. (vpmaddubsw would add two of them in 16 bits, and saturate.) */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256i vec;
typedef struct {
    __m256i even, odd;
} opened;
typedef int32_t sum_number;
enum { VECS = 2, BLOCK_ROWS = 4, BLOCK_PANELS = 1 };

static inline opened open_weights(vec w)
{
    return (opened){_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    __m256i all = _mm256_set1_epi32(group);
    return (opened){_mm256_and_si256(all, _mm256_set1_epi16(255)), _mm256_srli_epi16(all, 8)};
}

static inline vec dot(vec sum, opened x, opened w)
{
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x.even, w.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x.odd, w.odd));
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_int8_avx2 = {
    .isa = CALORIS_ISA_AVX2,
    .needs = CALORIS_CPU_AVX2,
    .name = "avx2",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_int8,
};
