/* worker/kernels/panels_tile.h: a tile of a product with panels, for one format and one instruction
 * set: slices of the depth, opening of INT4, prefetching, scales.
 *
 * Included by panels_vector.h and panels_amx.h, whose multiply_block it calls, after
 *   vec                 a register
 *   sum_number          what a sum is: int32_t or float
 *   BLOCK_ROWS, BLOCK_PANELS   most rows and panels of a block
 *   ROWS_SIGNED         whether rows are packed without their offset, so that sums start from 0
 *   OPEN_INT4_BLOCK, OPENED_LINES   how INT4 blocks are opened, and to how many lines
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
    SUM_STRIDE = TILE_PANELS * PANEL_OUTS, /* numbers from one row's sums to the next's */
    ASKERS = 4,
};

/* One block of rows over one slice of the depth. */
struct block {
    const unsigned char *x; /* its rows at the slice's first group */
    const unsigned char *w; /* panel 0 there */
    size_t w_stride;        /* from one panel's to the next one's */
    size_t groups;
    const void *from;                        /* what sums go on from: that of row 0, panel 0; */
    size_t from_row_bytes, from_panel_bytes; /* from one row's, one panel's to the next one's */
    sum_number *sums;                        /* [rows, SUM_STRIDE] */
    size_t panel_bytes;           /* from one panel to the next, as they stand in memory */
    const unsigned char *w_ahead; /* weights to be asked for, of as many panels: */
    size_t ahead_bytes;           /* for each group */
    const unsigned char *x_ahead; /* rows to be asked for, as many as x */
};

/* sums = from + rows times panels: 1 or BLOCK_PANELS of them. */
static void multiply_block(const struct block *b, size_t rows, size_t panels);

#define INLINE static inline __attribute__((always_inline))

enum { VEC_BYTES = sizeof(vec) };

INLINE vec load_vec(const void *from)
{
    vec v;
    memcpy(&v, from, sizeof(v));
    return v;
}

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

/* The weights that memory is asked for while a slice is multiplied: the next slice, or the first of
 * the next panels. Opening and the first blocks of rows ask for a part each, so that memory and
 * multipliers have something to do all the time. */
struct ahead {
    const unsigned char *w;
    size_t parts;
    size_t bytes; /* of a part, for each group and panel of the slice */
};

/* What part `part` asks for: nothing beyond the last one. */
INLINE void ask_for_part(struct block *b, const struct ahead *ahead, size_t part)
{
    b->ahead_bytes = part < ahead->parts ? ahead->bytes : 0;
    b->w_ahead = ahead->w + part * b->ahead_bytes * b->groups;
}

/* INT4: the panels as they are multiplied, to `to`; asks for weights as blocks of rows do. */
static void open_slice(const struct block *b, size_t panels, unsigned char *to)
{
    for (size_t p = 0; p < panels; p++) {
        const unsigned char *block = b->w + p * b->panel_bytes;
        const unsigned char *next = b->w_ahead + p * b->panel_bytes;
        for (size_t g = 0; g < b->groups; g += BLOCK_GROUPS, block += INT4_BLOCK_BYTES) {
            for (size_t at = 0; at < b->ahead_bytes * BLOCK_GROUPS; at += LINE_BYTES)
                __builtin_prefetch(next + at, 0, 3);
            next += b->ahead_bytes * BLOCK_GROUPS;
            OPEN_INT4_BLOCK(block, to);
            to += OPENED_LINES * LINE_BYTES;
        }
    }
}

/* All rows of the tile times a slice: `b` holds what all their blocks share. The first of them asks
 * for part `part` of what is ahead. */
static void multiply_all_rows(const struct slice *slice, struct block b, const struct ahead *ahead,
                              size_t part)
{
    const struct caloris_gemm_tile *tile = slice->tile;
    const size_t row_bytes = caloris_row_bytes(tile->matrix->format, tile->matrix->in);
    const unsigned char *x = tile->packed;
    b.sums = slice->sums;
    /* As caloris_size_deal does it, but with one division for all blocks. */
    const size_t share = tile->all_rows / tile->all_blocks;
    const size_t larger = tile->all_rows % tile->all_blocks;
    for (size_t i = 0, row = 0, rows; i < tile->row_blocks; i++, row += rows) {
        rows = share + (tile->block_first + i < larger);
        b.x = x + slice->group * rows * GROUP_BYTES;
        x += rows * row_bytes;
        b.x_ahead = x + slice->group * rows * GROUP_BYTES;
        ask_for_part(&b, ahead, part + i);
        if (slice->group > 0)
            b.from = b.sums;
        if (slice->last)
            ask_for_y(slice, row, rows);
        multiply_block(&b, rows, slice->panels);
        if (slice->last)
            finish(slice, row, rows);
        b.sums += rows * SUM_STRIDE;
    }
}

static void multiply_slice(const struct slice *slice)
{
    static const sum_number no_sums[PANEL_OUTS];
    const struct caloris_gemm_tile *tile = slice->tile;
    const enum caloris_format format = tile->matrix->format;
    const bool closed = format == CALORIS_FORMAT_INT4;
    const size_t block_bytes = caloris_block_bytes(format);
    const size_t panel_bytes = caloris_panel_bytes(format, tile->matrix->in);
    const unsigned char *start =
        (const unsigned char *)tile->matrix->data + slice->panel * panel_bytes;
    struct block b = {
        .w = start + LINE_BYTES + slice->group / BLOCK_GROUPS * block_bytes,
        .w_stride = panel_bytes,
        .panel_bytes = panel_bytes,
        .groups = slice->groups,
    };
    if (slice->group > 0) { /* from the sums of each block of rows */
        b.from_row_bytes = SUM_STRIDE * sizeof(sum_number);
        b.from_panel_bytes = LINE_BYTES;
    } else {
        b.from = ROWS_SIGNED ? (const void *)no_sums : start;
        b.from_panel_bytes = ROWS_SIGNED ? 0 : panel_bytes;
    }
    const size_t could_ask = tile->row_blocks + closed;
    const size_t parts = could_ask < ASKERS ? could_ask : ASKERS;
    const struct ahead ahead = {
        .w = slice->last ? start + slice->panels * panel_bytes + LINE_BYTES
                         : b.w + slice->groups / BLOCK_GROUPS * block_bytes,
        .parts = parts,
        .bytes = caloris_size_ceil_div(block_bytes, BLOCK_GROUPS * parts),
    };
    if (closed) {
        ask_for_part(&b, &ahead, 0);
        open_slice(&b, slice->panels, tile->opened);
        b.w = tile->opened;
        b.w_stride = slice->groups / BLOCK_GROUPS * OPENED_LINES * LINE_BYTES;
    }
    multiply_all_rows(slice, b, &ahead, closed);
}

/* out_first is the first output of a panel. */
static void gemm(const struct caloris_gemm_tile *tile)
{
    const size_t all_groups = caloris_panel_groups(tile->matrix->format, tile->matrix->in);
    const size_t end = caloris_size_ceil_div(tile->out_first + tile->out_count, PANEL_OUTS);
    /* Where memory is waited for, what INT4 is opened to shares the first cache with what it is
     * opened from next. */
    const bool shares = tile->matrix->format == CALORIS_FORMAT_INT4 && tile->row_blocks <= ASKERS;
    const size_t most = shares ? SLICE_GROUPS / BLOCK_PANELS : SLICE_GROUPS;
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
