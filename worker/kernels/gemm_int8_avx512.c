/* INT8 products in AVX-512 without VNNI: bytes become 16-bit numbers, even and odd ones apart, and
 * vpmaddwd adds their products in 32 bits. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512i vec;
typedef struct {
    __m512i even, odd;
} opened;
typedef int32_t sum_number;
enum { VECS = 1, BLOCK_ROWS = 12, BLOCK_PANELS = 2, ROWS_SIGNED = 0 };

static inline opened open_weights(vec w)
{
    return (opened){_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_srai_epi16(w, 8)};
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    __m512i all = _mm512_set1_epi32(group);
    return (opened){_mm512_and_si512(all, _mm512_set1_epi16(255)), _mm512_srli_epi16(all, 8)};
}

static inline vec dot(vec sum, opened x, opened w)
{
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x.even, w.even));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x.odd, w.odd));
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_int8_avx512 = {
    .isa = CALORIS_ISA_AVX512,
    .needs = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512,
    .name = "avx512",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_int8,
};
