/* INT8 products in AVX2, which multiplies unsigned by signed bytes only: weights without their
 * signs by the row's numbers with them. Numbers are in ±127, so that the two products that
 * vpmaddubsw adds in 16 bits are at most 2 * 127², and nothing saturates. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256i vec;
typedef struct {
    __m256i numbers, sizes; /* sizes: of weights */
} opened;
typedef int32_t sum_number;
enum { VECS = 2, BLOCK_ROWS = 4, BLOCK_PANELS = 1, ROWS_SIGNED = 1 };

static inline opened open_weights(vec w)
{
    return (opened){w, _mm256_abs_epi8(w)};
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    return (opened){.numbers = _mm256_set1_epi32(group)};
}

static inline vec dot(vec sum, opened x, opened w)
{
    const __m256i signs = _mm256_sign_epi8(x.numbers, w.numbers);
    const __m256i pairs = _mm256_maddubs_epi16(w.sizes, signs);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_int8_avx2 = {
    .isa = CALORIS_ISA_AVX2,
    .needs = CALORIS_CPU_AVX2,
    .name = "avx2",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_int8_signed,
};
