/* INT8 products in AVX-512 VNNI: one vpdpbusd multiplies 4 bytes of a row with 16 outputs. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512i vec;
typedef __m512i opened;
typedef int32_t sum_number;
enum { VECS = 1, BLOCK_ROWS = 14, BLOCK_PANELS = 2, ROWS_SIGNED = 0 };

static inline opened open_weights(vec w)
{
    return w;
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    return _mm512_set1_epi32(group);
}

/* In assembly: of the intrinsic gcc 12 copies the sums to and fro, at half the speed. */
static inline vec dot(vec sum, opened x, opened w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_int8_avx512_vnni = {
    .isa = CALORIS_ISA_AVX512_VNNI,
    .needs = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX512 | CALORIS_CPU_AVX512_VNNI,
    .name = "avx512-vnni",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_int8,
};
