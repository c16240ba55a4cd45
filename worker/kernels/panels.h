/* worker/kernels/panels.h: how BF16, INT8 and INT4 matrices and rows stand in memory. Inside this
 * folder only; the picture is in docs/KERNELS.md.
 *
 * A matrix is a run of panels of 16 outputs, the last one filled up with zeros. A panel begins with
 * one 4-byte number per output, what its sums start from; then come groups of 64 bytes: for each of
 * the 16 outputs 4 bytes of its row (four int8 or two bf16). The depth is filled up with zeros to
 * whole blocks of 16 groups, so that a block is one tile of AMX.
 *
 * INT4 panels have half as much: a block of 16 groups is a line of runs and eight lines of two
 * groups each. A run are 16 numbers of a row; its byte says what their 4 bits stand for. Of two
 * groups the first has the lower halves of the bytes. Kernels open such panels to INT8 lines, a
 * slice at a time.
 *
 * Rows of activations are packed in blocks of as many rows as the kernel's registers hold, as even
 * as they get: for each group the 4 bytes of each row of the block.
 *
 * INT8 rows of activations are stored as q + 128, unsigned, because vpdpbusd multiplies unsigned by
 * signed; the start of a sum, -128 Σ w, makes up for it.
 */
#ifndef CALORIS_KERNELS_PANELS_H
#define CALORIS_KERNELS_PANELS_H

#include "worker/kernels/kernels.h"

enum {
    PANEL_OUTS = 16,
    GROUP_BYTES = 4,                       /* of one row, in each group */
    LINE_BYTES = PANEL_OUTS * GROUP_BYTES, /* one group of a panel; its start */
    BLOCK_GROUPS = 16,
    ROW_OFFSET = 128, /* INT8 rows: what is added to q */

    RUN = CALORIS_INT4_RUN,
    RUN_GROUPS = RUN / GROUP_BYTES,
    INT4_BLOCK_BYTES = LINE_BYTES + BLOCK_GROUPS / 2 * LINE_BYTES,
    OPENED_RUNS_LINES = BLOCK_GROUPS + BLOCK_GROUPS / RUN_GROUPS, /* where steps stand apart */
};

/* What u of a run stands for in INT8: (u - zero) * step, in ±127. */
static inline int caloris_int4_number(unsigned char run, int u)
{
    return (u - (run >> 4)) * ((run & 15) + 1);
}

/* int4.c: x [RUN], in ±127, as u [RUN] of 0..15; returns the byte of the run. */
unsigned char caloris_int4_encode(const float *x, unsigned char *u);

/* Sums of one tile, as they stand in scratch: a tile has about TILE_ROWS rows, in whole register
 * blocks, and takes TILE_PANELS panels at a time. */
enum { TILE_ROWS = 256, SUM_ROWS = TILE_ROWS + 32, TILE_PANELS = 2 };
enum { SLICE_GROUPS = 256 }; /* of the depth, that stay in the first cache: whole blocks */

/* Numbers of a row in a group. */
static inline size_t caloris_group_numbers(enum caloris_format format)
{
    return format == CALORIS_FORMAT_BF16 ? 2 : 4;
}

/* Groups of a row of `in` numbers. */
static inline size_t caloris_panel_groups(enum caloris_format format, size_t in)
{
    const size_t in_group = caloris_group_numbers(format);
    size_t groups = in / in_group + (in % in_group != 0);
    return (groups + BLOCK_GROUPS - 1) / BLOCK_GROUPS * BLOCK_GROUPS;
}

static inline size_t caloris_block_bytes(enum caloris_format format)
{
    return format == CALORIS_FORMAT_INT4 ? INT4_BLOCK_BYTES : BLOCK_GROUPS * LINE_BYTES;
}

static inline size_t caloris_panel_bytes(enum caloris_format format, size_t in)
{
    return LINE_BYTES +
           caloris_panel_groups(format, in) / BLOCK_GROUPS * caloris_block_bytes(format);
}

static inline size_t caloris_row_bytes(enum caloris_format format, size_t in)
{
    return caloris_panel_groups(format, in) * GROUP_BYTES;
}

#endif
