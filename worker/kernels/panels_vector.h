/* worker/kernels/panels_vector.h: products with panels for one format and one instruction set.
 *
 * Included by the files gemm_FORMAT_ISA.c, which say before it
 *   vec                 a register; VECS of them make a line of a panel
 *   opened              4 bytes a lane, ready to be multiplied: open_weights(vec),
 *                       open_row(pointer), the 4 bytes there in every lane
 *   dot(sum, x, w)      sum + the products of the 4 bytes, lane by lane
 *   sum_number          what stands in the lanes of a sum: int32_t or float
 *   BLOCK_ROWS, BLOCK_PANELS   of a register block: what the registers hold
 *
 * A register block multiplies up to BLOCK_ROWS rows with BLOCK_PANELS panels over SLICE_GROUPS of
 * the depth; that slice of the panels stays in the first cache while all rows of the tile pass, and
 * that slice of the rows in the second while the panels of a bunch do. Sums wait in scratch between
 * slices. Each sum is one chain over the depth in order, so that a row's bits do not depend on how
 * the tile was cut.
 */
#ifndef CALORIS_KERNELS_PANELS_VECTOR_H
#define CALORIS_KERNELS_PANELS_VECTOR_H

#include "worker/kernels/pack.h"
#include "worker/kernels/table.h"

#include "base/size.h"

enum {
    SLICE_GROUPS = 256,
    FEW_ROWS = 32,  /* up to here a bunch is one block: weights come in the order of memory */
    AHEAD_LINE = 1, /* one line of weights to come is asked for with each line that is used */
    VEC_BYTES = sizeof(vec),
    SUM_STRIDE = TILE_PANELS * PANEL_OUTS, /* numbers from one row's sums to the next's */
};

/* One register block over one slice. */
struct block {
    const unsigned char *x; /* row 0 at the slice's first group */
    size_t x_stride;
    const unsigned char *w; /* panel 0 there */
    size_t panel_bytes;
    size_t groups;
    const unsigned char *start; /* of panel 0, in the first slice; else NULL: go on from sums */
    sum_number *sums;           /* [rows, SUM_STRIDE] */
    const unsigned char *ahead; /* weights to be asked for, as many as w; or NULL */
};

#define INLINE static inline __attribute__((always_inline))

INLINE vec load_vec(const void *from)
{
    vec v;
    memcpy(&v, from, sizeof(v));
    return v;
}

/* rows, panels and ahead are constants at each call. */
INLINE void multiply(const struct block *b, size_t rows, size_t panels, bool ahead)
{
    const size_t vecs = panels * VECS;
    vec sum[BLOCK_ROWS][BLOCK_PANELS * VECS];
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++) {
            const unsigned char *from =
                b->start ? b->start + v / VECS * b->panel_bytes + v % VECS * VEC_BYTES
                         : (const unsigned char *)(b->sums + r * SUM_STRIDE) + v * VEC_BYTES;
            sum[r][v] = load_vec(from);
        }
    }
    const unsigned char *x = b->x, *w = b->w, *next = b->ahead;
    for (size_t g = 0; g < b->groups; g++) {
        opened right[BLOCK_PANELS * VECS];
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++)
            right[v] = open_weights(load_vec(w + v / VECS * b->panel_bytes + v % VECS * VEC_BYTES));
        if (ahead) {
#pragma GCC unroll 2
            for (size_t p = 0; p < panels; p++)
                __builtin_prefetch(next + p * b->panel_bytes, 0, 3);
            next += LINE_BYTES;
        }
#pragma GCC unroll 16
        for (size_t r = 0; r < rows; r++) {
            opened left = open_row(x + r * b->x_stride);
#pragma GCC unroll 4
            for (size_t v = 0; v < vecs; v++)
                sum[r][v] = dot(sum[r][v], left, right[v]);
        }
        x += GROUP_BYTES;
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
        if (panels == BLOCK_PANELS && b->ahead)                                                    \
            multiply(b, ROWS, BLOCK_PANELS, true);                                                 \
        else if (panels == BLOCK_PANELS)                                                           \
            multiply(b, ROWS, BLOCK_PANELS, false);                                                \
        else                                                                                       \
            multiply(b, ROWS, 1, false);                                                           \
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

/* ---- a tile ------------------------------------------------------------------------------------ */

/* Panels [first, first + n) against all rows of the tile, over groups [group, group + groups). */
static void multiply_slice(const struct caloris_gemm_tile *tile, size_t panel, size_t panels,
                           size_t group, size_t groups, sum_number *sums,
                           const unsigned char *ahead)
{
    const size_t panel_bytes = caloris_panel_bytes(tile->matrix->format, tile->matrix->in);
    const unsigned char *start = (const unsigned char *)tile->matrix->data + panel * panel_bytes;
    const size_t blocks = tile->rows / BLOCK_ROWS + (tile->rows % BLOCK_ROWS != 0);
    for (size_t i = 0; i < blocks; i++) {
        size_t row, rows;
        caloris_size_deal(tile->rows, blocks, i, &row, &rows);
        struct block b = {
            .x = tile->packed + row * tile->packed_stride + group * GROUP_BYTES,
            .x_stride = tile->packed_stride,
            .w = start + (group + 1) * LINE_BYTES,
            .panel_bytes = panel_bytes,
            .groups = groups,
            .start = group == 0 ? start : NULL,
            .sums = sums + row * SUM_STRIDE,
            .ahead = i == 0 ? ahead : NULL,
        };
        multiply_rows[rows](&b, panels);
    }
}

/* y = sum * scale of the row * scale of the output (+ beta y), n outputs: a constant at the calls
 * that matter. */
INLINE void finish_outputs(const sum_number *sum, float row_scale, const float *scale, float beta,
                           float *y, size_t n)
{
    if (beta == 0) {
        for (size_t o = 0; o < n; o++)
            y[o] = (float)sum[o] * row_scale * scale[o];
    } else {
        for (size_t o = 0; o < n; o++)
            y[o] = (float)sum[o] * row_scale * scale[o] + beta * y[o];
    }
}

static void finish(const struct caloris_gemm_tile *tile, size_t panel, size_t panels,
                   const sum_number *sums)
{
    static const float ones[TILE_PANELS * PANEL_OUTS] = {
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    };
    const size_t first = panel * PANEL_OUTS, end = tile->out_first + tile->out_count;
    const size_t n = end - first < panels * PANEL_OUTS ? end - first : panels * PANEL_OUTS;
    const float *scale = tile->matrix->scale ? tile->matrix->scale + first : ones;
    for (size_t r = 0; r < tile->rows; r++, sums += SUM_STRIDE) {
        float *y = tile->y + r * tile->y_stride + first;
        if (n == TILE_PANELS * PANEL_OUTS)
            finish_outputs(sums, tile->row_scale[r], scale, tile->beta, y,
                           TILE_PANELS * PANEL_OUTS);
        else
            finish_outputs(sums, tile->row_scale[r], scale, tile->beta, y, n);
    }
}

/* out_first is the first output of a panel. */
static void gemm(const struct caloris_gemm_tile *tile)
{
    const struct caloris_matrix *matrix = tile->matrix;
    const size_t panel_bytes = caloris_panel_bytes(matrix->format, matrix->in);
    const size_t all_groups = caloris_panel_groups(matrix->format, matrix->in);
    const size_t end = (tile->out_first + tile->out_count + PANEL_OUTS - 1) / PANEL_OUTS;
    const size_t most = tile->rows <= FEW_ROWS ? BLOCK_PANELS : TILE_PANELS;
    sum_number *sums = tile->sums;
    for (size_t first = tile->out_first / PANEL_OUTS, bunch; first < end; first += bunch) {
        bunch = end - first < most ? end - first : most;
        size_t group = 0;
        do { /* once at least: sums of nothing are zero too */
            size_t groups = all_groups - group < SLICE_GROUPS ? all_groups - group : SLICE_GROUPS;
            for (size_t p = 0, n; p < bunch; p += n) {
                n = bunch - p < BLOCK_PANELS ? 1 : BLOCK_PANELS;
                const unsigned char *here = (const unsigned char *)matrix->data +
                                            (first + p) * panel_bytes + (group + 1) * LINE_BYTES;
                const unsigned char *ahead = here + groups * LINE_BYTES;
                multiply_slice(tile, first + p, n, group, groups, sums + p * PANEL_OUTS, ahead);
            }
            group += groups;
        } while (group < all_groups);
        finish(tile, first, bunch, sums);
    }
}

#endif
