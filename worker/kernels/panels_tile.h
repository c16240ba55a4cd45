/* worker/kernels/panels_tile.h: a tile of a product with panels, for one format and one instruction
 * set: slices of the depth, opening of INT4, prefetching, scales.
 *
 * Included by panels_vector.h and panels_amx.h, whose multiply_block it calls, after
 *   vec                 a register
 *   sum_number          what a sum is: int32_t or float
 *   BLOCK_ROWS, BLOCK_PANELS   most rows and panels of a block
 *   FEW_BLOCKS, FEW_SLICE_GROUPS   INT4: slices of tiles of so few blocks, that opening takes as
 *                       long as multiplying, are so short: memory has something to do all the time
 *
 * A slice of the panels stays in the first cache while all rows of the tile pass. Sums wait in
 * scratch between slices. Each sum is one chain over the depth in order, so that a row's bits do
 * not depend on how the tile was cut.
 */
#ifndef CALORIS_KERNELS_PANELS_TILE_H
#define CALORIS_KERNELS_PANELS_TILE_H

#include "worker/kernels/open_int4.h"
#include "worker/kernels/pack.h"
#include "worker/kernels/table.h"

#include "base/size.h"

enum {
    OPEN_AHEAD = 8 * INT4_BLOCK_BYTES,
    SUM_STRIDE = TILE_PANELS * PANEL_OUTS, /* numbers from one row's sums to the next's */
};

/* One block of rows over one slice of the depth. */
struct block {
    const unsigned char *x; /* its rows at the slice's first group */
    const unsigned char *w; /* panel 0 there */
    size_t w_stride;        /* from one panel's to the next one's */
    size_t groups;
    const unsigned char *start;   /* of panel 0, in the first slice; else NULL: go on from sums */
    size_t panel_bytes;           /* from one panel to the next, as they stand in memory */
    sum_number *sums;             /* [rows, SUM_STRIDE] */
    size_t panels_ahead;          /* 0, 1 or BLOCK_PANELS */
    const unsigned char *w_ahead; /* weights of so many panels to be asked for, as many as w */
    const unsigned char *x_ahead; /* rows to be asked for, as many as x */
};

/* sums = start or sums + rows times panels: 1 or BLOCK_PANELS of them. */
static void multiply_block(const struct block *b, size_t rows, size_t panels);

#define INLINE static inline __attribute__((always_inline))

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

/* INT4: the slice's weights as INT8. Those that come OPEN_AHEAD later are asked for meanwhile. */
static void open_slice(const struct slice *slice, const unsigned char *w, size_t panel_bytes)
{
    unsigned char *to = slice->tile->opened;
    for (size_t p = 0; p < slice->panels; p++) {
        const unsigned char *block = w + p * panel_bytes;
        for (size_t g = 0; g < slice->groups; g += BLOCK_GROUPS, block += INT4_BLOCK_BYTES) {
#pragma GCC unroll 16
            for (size_t line = 0; line < INT4_BLOCK_BYTES; line += LINE_BYTES)
                __builtin_prefetch(block + OPEN_AHEAD + line, 0, 3);
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
     * several each for a panel, so that the others have something to do meanwhile. Opening asks for
     * itself. */
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
            .panels_ahead = closed                  ? 0
                            : tile->row_blocks == 1 ? slice->panels
                                                    : i < slice->panels,
            .w_ahead = i == 0 ? ahead : ahead + panel_bytes,
            .x_ahead = x + (slice->group + row_bytes / GROUP_BYTES) * rows * GROUP_BYTES,
        };
        if (slice->last)
            ask_for_y(slice, row, rows);
        multiply_block(&b, rows, slice->panels);
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
    const bool few = tile->row_blocks <= FEW_BLOCKS && tile->matrix->format == CALORIS_FORMAT_INT4;
    const size_t most = few ? FEW_SLICE_GROUPS : SLICE_GROUPS;
    struct slice slice = {.tile = tile, .panel = tile->out_first / PANEL_OUTS, .sums = tile->sums};
    for (; slice.panel < end; slice.panel += slice.panels) {
        slice.panels = end - slice.panel < BLOCK_PANELS ? 1 : BLOCK_PANELS;
        slice.group = 0;
        do { /* once at least: sums of nothing are zero too */
            const size_t left = all_groups - slice.group;
            slice.groups = left < most ? left : most;
            slice.last = slice.groups == left;
            multiply_slice(&slice);
            slice.group += slice.groups;
        } while (!slice.last);
    }
}

#endif
