/* BF16 products in AVX512_BF16: one vdpbf16ps multiplies 2 numbers of a row with 16 outputs. It
 * takes subnormal numbers for zero and makes none. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512 vec;
typedef __m512i opened;
typedef float sum_number;
enum { VECS = 1, BLOCK_ROWS = 14, BLOCK_PANELS = 2, ROWS_SIGNED = 0 };

static inline opened open_weights(vec w)
{
    return _mm512_castps_si512(w);
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    return _mm512_set1_epi32(group);
}

static inline vec dot(vec sum, opened x, opened w)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_bf16_avx512_bf16 = {
    .isa = CALORIS_ISA_AVX512_BF16,
    .needs = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512 | CALORIS_CPU_AVX512_BF16,
    .name = "avx512-bf16",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_bf16,
};
