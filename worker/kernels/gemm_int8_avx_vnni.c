/* INT8 products in AVX-VNNI: vpdpbusd in 256 bits. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256i vec;
typedef __m256i opened;
typedef int32_t sum_number;
enum { VECS = 2, BLOCK_ROWS = 6, BLOCK_PANELS = 1, ROWS_SIGNED = 0 };

static inline opened open_weights(vec w)
{
    return w;
}

static inline opened open_row(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    return _mm256_set1_epi32(group);
}

/* In assembly: of the intrinsic gcc 12 copies the sums to and fro. */
static inline vec dot(vec sum, opened x, opened w)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
    return sum;
}

#include "worker/kernels/panels_vector.h"

const struct caloris_matrix_kernels caloris_int8_avx_vnni = {
    .isa = CALORIS_ISA_AVX_VNNI,
    .needs = CALORIS_CPU_AVX2 | CALORIS_CPU_AVX_VNNI,
    .name = "avx-vnni",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_int8,
};
