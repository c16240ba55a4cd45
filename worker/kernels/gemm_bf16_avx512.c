/* BF16 products in AVX-512 without BF16: a bf16 number is the upper half of an fp32 number. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512 vec;
typedef struct {
    __m512 even, odd;
} opened;
typedef float sum_number;
enum { VECS = 1, BLOCK_ROWS = 12, BLOCK_PANELS = 2, ROWS_SIGNED = 0 };

static inline opened open_pairs(__m512i pairs)
{
    __m512i odd = _mm512_and_si512(pairs, _mm512_set1_epi32((int32_t)0xffff0000));
    return (opened){_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), _mm512_castsi512_ps(odd)};
}

static inline opened open_weights(vec w)
{
    return open_pairs(_mm512_castps_si512(w));
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    return open_pairs(_mm512_set1_epi32(group));
}

static inline vec dot(vec sum, opened x, opened w)
{
    sum = _mm512_fmadd_ps(x.odd, w.odd, sum);
    return _mm512_fmadd_ps(x.even, w.even, sum);
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_bf16_avx512 = {
    .isa = CALORIS_ISA_AVX512,
    .needs = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512,
    .name = "avx512",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_bf16,
};
