/* worker/kernels/panels.h: how BF16 and INT8 matrices and rows stand in memory. Inside this folder
 * only; the picture is in docs/KERNELS.md.
 *
 * A matrix is a run of panels of 16 outputs, the last one filled up with zeros. A panel begins with
 * one 4-byte number per output, what its sums start from; then come groups of 64 bytes: for each of
 * the 16 outputs 4 bytes of its row (four int8 or two bf16). The depth is filled up with zeros to
 * whole blocks of 16 groups, so that a block is one tile of AMX.
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
};

/* Sums of one tile, as they stand in scratch: a tile has about TILE_ROWS rows, in whole register
 * blocks, and takes TILE_PANELS panels at a time. */
enum { TILE_ROWS = 256, SUM_ROWS = TILE_ROWS + 32, TILE_PANELS = 2 };

/* Groups of a row of `in` numbers. */
static inline size_t caloris_panel_groups(enum caloris_format format, size_t in)
{
    size_t in_group = format == CALORIS_FORMAT_INT8 ? 4 : 2;
    size_t groups = in / in_group + (in % in_group != 0);
    return (groups + BLOCK_GROUPS - 1) / BLOCK_GROUPS * BLOCK_GROUPS;
}

static inline size_t caloris_panel_bytes(enum caloris_format format, size_t in)
{
    return (caloris_panel_groups(format, in) + 1) * LINE_BYTES;
}

static inline size_t caloris_row_bytes(enum caloris_format format, size_t in)
{
    return caloris_panel_groups(format, in) * GROUP_BYTES;
}

#endif
