/* INT4 products in AVX2, without going through INT8: u - zero of a run is in ±15, so that
 * vpmaddubsw and additions of 16 bits sum the 16 numbers of a run for 8 outputs (8 * 255 * 15
 * fits), and vpmaddwd multiplies by the step: 9 instructions where INT8 takes 16, and the same
 * int32. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256i vec;
typedef int32_t sum_number;
enum { VECS = 2, BLOCK_ROWS = 3, BLOCK_PANELS = 1, ROWS_SIGNED = 0 };

#define OPEN_INT4_BLOCK open_int4_runs
#define OPENED_LINES    OPENED_RUNS_LINES
#include "worker/kernels/panels_tile.h"

enum { RUN_LINES = 1 + RUN_GROUPS };

/* The four bytes of a group in every lane. */
INLINE vec row_group(const unsigned char *x)
{
    int32_t group;
    memcpy(&group, x, sizeof(group));
    return _mm256_set1_epi32(group);
}

/* In assembly: gcc 12 takes the sum of a run apart, adds it in pairs, and runs out of registers. */
INLINE vec add_pairs(vec sum, vec x, vec w)
{
    vec pairs;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
            : "+x"(sum), "=&x"(pairs)
            : "x"(x), "x"(w));
    return sum;
}

/* rows is a constant at each call. */
INLINE void multiply(const struct block *b, size_t rows)
{
    vec sum[BLOCK_ROWS][VECS];
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 2
        for (size_t v = 0; v < VECS; v++)
            sum[r][v] =
                load_vec((const unsigned char *)b->from + r * b->from_row_bytes + v * VEC_BYTES);
    }
    const unsigned char *x = b->x, *run = b->w, *next = b->w_ahead, *next_x = b->x_ahead;
    for (size_t g = 0; g < b->groups; g += RUN_GROUPS, run += RUN_LINES * LINE_BYTES) {
        vec of_run[BLOCK_ROWS][VECS];
#pragma GCC unroll 4
        for (size_t i = 0; i < RUN_GROUPS; i++, x += rows * GROUP_BYTES) {
            const unsigned char *w = run + (1 + i) * LINE_BYTES;
            const vec numbers[VECS] = {load_vec(w), load_vec(w + VEC_BYTES)};
            __builtin_prefetch(next, 0, 3);
            next += b->ahead_bytes;
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++) {
                const vec left = row_group(x + r * GROUP_BYTES);
#pragma GCC unroll 2
                for (size_t v = 0; v < VECS; v++)
                    of_run[r][v] = i == 0 ? _mm256_maddubs_epi16(left, numbers[v])
                                          : add_pairs(of_run[r][v], left, numbers[v]);
            }
        }
        __builtin_prefetch(next_x, 0, 3);
        next_x += RUN_GROUPS * rows * GROUP_BYTES;
        const vec step[VECS] = {load_vec(run), load_vec(run + VEC_BYTES)};
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 2
            for (size_t v = 0; v < VECS; v++)
                sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(of_run[r][v], step[v]));
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 2
        for (size_t v = 0; v < VECS; v++)
            memcpy((unsigned char *)(b->sums + r * SUM_STRIDE) + v * VEC_BYTES, &sum[r][v],
                   VEC_BYTES);
    }
}

static void multiply_block(const struct block *b, size_t rows, size_t panels)
{
    (void)panels; /* one */
    if (rows == 1)
        multiply(b, 1);
    else if (rows == 2)
        multiply(b, 2);
    else
        multiply(b, BLOCK_ROWS);
}

const struct caloris_matrix_kernels caloris_int4_avx2 = {
    .isa = CALORIS_ISA_AVX2,
    .needs = CALORIS_CPU_AVX2,
    .name = "avx2",
    .gemm = gemm,
    .block_rows = BLOCK_ROWS,
    .pack = pack_int8,
};
