/* worker/kernels/panels_vector.h: products with panels in vector registers, for one format and one
 * instruction set.
 *
 * Included by the files gemm_FORMAT_ISA.c, which say before it
 *   vec                 a register; VECS of them make a line of a panel
 *   opened              4 bytes a lane, ready to be multiplied: open_weights(vec),
 *                       open_row(pointer), the 4 bytes there in every lane
 *   dot(sum, x, w)      sum + the products of the 4 bytes, lane by lane
 *   sum_number          what stands in the lanes of a sum: int32_t or float
 *   BLOCK_ROWS, BLOCK_PANELS   of a register block: what the registers hold
 *   ROWS_SIGNED         as in panels_tile.h
 */
#ifndef CALORIS_KERNELS_PANELS_VECTOR_H
#define CALORIS_KERNELS_PANELS_VECTOR_H

#define OPEN_INT4_BLOCK open_int4_block
#define OPENED_LINES    BLOCK_GROUPS
#include "worker/kernels/panels_tile.h"

/* rows and panels are constants at each call. */
INLINE void multiply(const struct block *b, size_t rows, size_t panels)
{
    const size_t vecs = panels * VECS;
    vec sum[BLOCK_ROWS][BLOCK_PANELS * VECS];
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++)
            sum[r][v] = load_vec((const unsigned char *)b->from + r * b->from_row_bytes +
                                 v / VECS * b->from_panel_bytes + v % VECS * VEC_BYTES);
    }
    const unsigned char *x = b->x, *w = b->w, *next = b->w_ahead, *next_x = b->x_ahead;
    for (size_t g = 0; g < b->groups; g++) {
        opened right[BLOCK_PANELS * VECS];
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++)
            right[v] = open_weights(load_vec(w + v / VECS * b->w_stride + v % VECS * VEC_BYTES));
#pragma GCC unroll 2
        for (size_t p = 0; p < panels; p++)
            __builtin_prefetch(next + p * b->panel_bytes, 0, 3);
        next += b->ahead_bytes;
        __builtin_prefetch(next_x, 0, 3);
        next_x += rows * GROUP_BYTES;
#pragma GCC unroll 16
        for (size_t r = 0; r < rows; r++) {
            opened left = open_row(x + r * GROUP_BYTES);
#pragma GCC unroll 4
            for (size_t v = 0; v < vecs; v++)
                sum[r][v] = dot(sum[r][v], left, right[v]);
        }
        x += rows * GROUP_BYTES;
        w += LINE_BYTES;
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++)
            memcpy((unsigned char *)(b->sums + r * SUM_STRIDE) + v * VEC_BYTES, &sum[r][v],
                   VEC_BYTES);
    }
}

/* A function for every number of rows; more than BLOCK_ROWS are never asked for. */
#define MULTIPLY(n)                                                                                \
    static void multiply_##n(const struct block *b, size_t panels)                                 \
    {                                                                                              \
        enum { ROWS = n < BLOCK_ROWS ? n : BLOCK_ROWS };                                           \
        if (panels < BLOCK_PANELS)                                                                 \
            multiply(b, ROWS, 1);                                                                  \
        else                                                                                       \
            multiply(b, ROWS, BLOCK_PANELS);                                                       \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)
MULTIPLY(5)
MULTIPLY(6)
MULTIPLY(7)
MULTIPLY(8)
MULTIPLY(9)
MULTIPLY(10)
MULTIPLY(11)
MULTIPLY(12)
MULTIPLY(13)
MULTIPLY(14)

static void (*const multiply_rows[])(const struct block *b, size_t panels) = {
    NULL,        multiply_1,  multiply_2,  multiply_3,  multiply_4,
    multiply_5,  multiply_6,  multiply_7,  multiply_8,  multiply_9,
    multiply_10, multiply_11, multiply_12, multiply_13, multiply_14,
};

static void multiply_block(const struct block *b, size_t rows, size_t panels)
{
    multiply_rows[rows](b, panels);
}

#endif
