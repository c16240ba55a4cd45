/* BF16 products in AVX2: a bf16 number is the upper half of an fp32 number. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256 vec;
typedef struct {
    __m256 even, odd;
} opened;
typedef float sum_number;
enum { VECS = 2, BLOCK_ROWS = 4, BLOCK_PANELS = 1, ROWS_SIGNED = 0 };

static inline opened open_pairs(__m256i pairs)
{
    __m256i odd = _mm256_and_si256(pairs, _mm256_set1_epi32((int32_t)0xffff0000));
    return (opened){_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_castsi256_ps(odd)};
}

static inline opened open_weights(vec w)
{
    return open_pairs(_mm256_castps_si256(w));
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    return open_pairs(_mm256_set1_epi32(group));
}

static inline vec dot(vec sum, opened x, opened w)
{
    sum = _mm256_fmadd_ps(x.odd, w.odd, sum);
    return _mm256_fmadd_ps(x.even, w.even, sum);
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_bf16_avx2 = {
    .isa = CALORIS_ISA_AVX2,
    .needs = CALORIS_CPU_AVX2,
    .name = "avx2",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_bf16,
};
