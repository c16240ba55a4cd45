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
 * the depth; that slice of the panels stays in the first cache while all rows of the tile pass.
 * Sums wait in scratch between slices. Each sum is one chain over the depth in order, so that a
 * row's bits do not depend on how the tile was cut.
 */
#ifndef CALORIS_KERNELS_PANELS_VECTOR_H
#define CALORIS_KERNELS_PANELS_VECTOR_H

#include "worker/kernels/open_int4.h"
#include "worker/kernels/pack.h"
#include "worker/kernels/table.h"

#include "base/size.h"

enum {
    VEC_BYTES = sizeof(vec),
    SUM_STRIDE = TILE_PANELS * PANEL_OUTS, /* numbers from one row's sums to the next's */
};

/* One register block over one slice. */
struct block {
    const unsigned char *x; /* the block's rows at the slice's first group */
    const unsigned char *w; /* panel 0 there */
    size_t w_stride;        /* from one panel's to the next one's */
    size_t groups;
    const unsigned char *start;   /* of panel 0, in the first slice; else NULL: go on from sums */
    size_t panel_bytes;           /* from one panel to the next, as they stand in memory */
    sum_number *sums;             /* [rows, SUM_STRIDE] */
    size_t panels_ahead;          /* 0, 1 or BLOCK_PANELS */
    const unsigned char *w_ahead; /* weights of so many panels to be asked for, */
    size_t w_ahead_step;          /* so many bytes for each group */
    const unsigned char *x_ahead; /* rows to be asked for, as many as x */
};

#define INLINE static inline __attribute__((always_inline))

INLINE vec load_vec(const void *from)
{
    vec v;
    memcpy(&v, from, sizeof(v));
    return v;
}

/* rows, panels and panels_ahead are constants at each call. */
INLINE void multiply(const struct block *b, size_t rows, size_t panels, size_t panels_ahead)
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
    const unsigned char *x = b->x, *w = b->w, *next = b->w_ahead, *next_x = b->x_ahead;
    for (size_t g = 0; g < b->groups; g++) {
        opened right[BLOCK_PANELS * VECS];
#pragma GCC unroll 4
        for (size_t v = 0; v < vecs; v++)
            right[v] = open_weights(load_vec(w + v / VECS * b->w_stride + v % VECS * VEC_BYTES));
#pragma GCC unroll 2
        for (size_t p = 0; p < panels_ahead; p++)
            __builtin_prefetch(next + p * b->panel_bytes, 0, 3);
        next += b->w_ahead_step;
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
            multiply(b, ROWS, 1, 1);                                                               \
        else if (b->panels_ahead == 0)                                                             \
            multiply(b, ROWS, BLOCK_PANELS, 0);                                                    \
        else if (b->panels_ahead == 1)                                                             \
            multiply(b, ROWS, BLOCK_PANELS, 1);                                                    \
        else                                                                                       \
            multiply(b, ROWS, BLOCK_PANELS, BLOCK_PANELS);                                         \
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

/* ---- a tile ---------------------------------------------------------------------------------- */

/* y = sum * scale of the row * scale of the output (+ beta y), n outputs: a constant at the call
 * that matters. */
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

/* Panels [panel, panel + panels) of a tile over some groups. */
struct slice {
    const struct caloris_gemm_tile *tile;
    size_t panel, panels;
    size_t group, groups;
    bool last; /* sums are whole then */
    sum_number *sums;
};

static void finish(const struct slice *slice, size_t row, size_t rows)
{
    const struct caloris_gemm_tile *tile = slice->tile;
    const size_t first = slice->panel * PANEL_OUTS, end = tile->out_first + tile->out_count;
    const size_t n =
        end - first < slice->panels * PANEL_OUTS ? end - first : slice->panels * PANEL_OUTS;
    float ones[BLOCK_PANELS * PANEL_OUTS]; /* the scales of a format that has none */
    for (size_t o = 0; o < BLOCK_PANELS * PANEL_OUTS; o++)
        ones[o] = 1;
    const float *scale = tile->matrix->scale ? tile->matrix->scale + first : ones;
    for (size_t r = row; r < row + rows; r++) {
        const sum_number *sums = slice->sums + r * SUM_STRIDE;
        float *y = tile->y + r * tile->y_stride + first;
        if (n == BLOCK_PANELS * PANEL_OUTS)
            finish_outputs(sums, tile->row_scale[r], scale, tile->beta, y,
                           BLOCK_PANELS * PANEL_OUTS);
        else
            finish_outputs(sums, tile->row_scale[r], scale, tile->beta, y, n);
    }
}

/* Asks for the lines of y that a block of rows will be written to. */
static void ask_for_y(const struct slice *slice, size_t row, size_t rows)
{
    const struct caloris_gemm_tile *tile = slice->tile;
    const float *y = tile->y + row * tile->y_stride + slice->panel * PANEL_OUTS;
    for (size_t r = 0; r < rows; r++, y += tile->y_stride) {
        for (size_t p = 0; p < slice->panels; p++)
            __builtin_prefetch(y + p * PANEL_OUTS, 1, 3);
    }
}

/* INT4: the slice's weights as INT8. */
static void open_slice(const struct slice *slice, const unsigned char *w, size_t panel_bytes)
{
    unsigned char *to = slice->tile->opened;
    for (size_t p = 0; p < slice->panels; p++) {
        const unsigned char *block = w + p * panel_bytes;
        for (size_t g = 0; g < slice->groups; g += BLOCK_GROUPS, block += INT4_BLOCK_BYTES) {
            open_int4_block(block, to);
            to += BLOCK_GROUPS * LINE_BYTES;
        }
    }
}

static void multiply_slice(const struct slice *slice)
{
    const struct caloris_gemm_tile *tile = slice->tile;
    const bool closed = tile->matrix->format == CALORIS_FORMAT_INT4;
    const size_t block_bytes = caloris_block_bytes(tile->matrix->format);
    const size_t panel_bytes = caloris_panel_bytes(tile->matrix->format, tile->matrix->in);
    const size_t row_bytes = caloris_row_bytes(tile->matrix->format, tile->matrix->in);
    const unsigned char *start =
        (const unsigned char *)tile->matrix->data + slice->panel * panel_bytes;
    const unsigned char *w = start + LINE_BYTES + slice->group / BLOCK_GROUPS * block_bytes;
    /* Of memory: the next slice, or the first of the next panels. One block asks for all of it, of
     * several each for a panel, so that the others have something to do meanwhile. */
    const unsigned char *ahead = slice->last ? start + slice->panels * panel_bytes + LINE_BYTES
                                             : w + slice->groups / BLOCK_GROUPS * block_bytes;
    if (closed)
        open_slice(slice, w, panel_bytes);
    const unsigned char *x = tile->packed;
    for (size_t i = 0, row = 0, rows; i < tile->row_blocks; i++, row += rows) {
        size_t row_of_all;
        caloris_size_deal(tile->all_rows, tile->all_blocks, tile->block_first + i, &row_of_all,
                          &rows);
        const struct block b = {
            .x = x + slice->group * rows * GROUP_BYTES,
            .w = closed ? tile->opened : w,
            .w_stride = closed ? slice->groups * LINE_BYTES : panel_bytes,
            .groups = slice->groups,
            .start = slice->group == 0 ? start : NULL,
            .panel_bytes = panel_bytes,
            .sums = slice->sums + row * SUM_STRIDE,
            .panels_ahead = tile->row_blocks == 1 ? slice->panels : i < slice->panels,
            .w_ahead = i == 0 ? ahead : ahead + panel_bytes,
            .w_ahead_step = block_bytes / BLOCK_GROUPS,
            .x_ahead = x + (slice->group + row_bytes / GROUP_BYTES) * rows * GROUP_BYTES,
        };
        if (slice->last)
            ask_for_y(slice, row, rows);
        multiply_rows[rows](&b, slice->panels);
        if (slice->last)
            finish(slice, row, rows);
        x += rows * row_bytes;
    }
}

/* out_first is the first output of a panel. */
static void gemm(const struct caloris_gemm_tile *tile)
{
    const size_t all_groups = caloris_panel_groups(tile->matrix->format, tile->matrix->in);
    const size_t end = (tile->out_first + tile->out_count + PANEL_OUTS - 1) / PANEL_OUTS;
    struct slice slice = {.tile = tile, .panel = tile->out_first / PANEL_OUTS, .sums = tile->sums};
    for (; slice.panel < end; slice.panel += slice.panels) {
        slice.panels = end - slice.panel < BLOCK_PANELS ? 1 : BLOCK_PANELS;
        slice.group = 0;
        do { /* once at least: sums of nothing are zero too */
            const size_t left = all_groups - slice.group;
            slice.groups = left < SLICE_GROUPS ? left : SLICE_GROUPS;
            slice.last = slice.groups == left;
            multiply_slice(&slice);
            slice.group += slice.groups;
        } while (!slice.last);
    }
}

#endif
