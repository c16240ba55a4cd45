/* worker/kernels/panels_amx.h: products with panels in tiles of AMX, for one format.
 *
 * Included by gemm_FORMAT_amx.c, which say before it
 *   sum_number          int32_t or float
 *   TILE_DOT            the instruction that multiplies tiles: "tdpbusd"
 *
 * A block of up to 32 rows is two tiles of rows (as even as they get) by two panels: four tiles of
 * sums. A block of 16 groups of a panel is a tile as it stands; so are 16 groups of some rows,
 * which are packed for that (ROW_GROUPS). In assembly, with the tiles by their numbers: what the
 * compiler's intrinsics do to memory, gcc 12 does not know.
 */
#ifndef CALORIS_KERNELS_PANELS_AMX_H
#define CALORIS_KERNELS_PANELS_AMX_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512i vec; /* of what is not multiplied */
enum { BLOCK_ROWS = 32, BLOCK_PANELS = 2, ROW_GROUPS = 16, ROWS_SIGNED = 0 };

#define OPEN_INT4_BLOCK open_int4_block
#define OPENED_LINES    BLOCK_GROUPS
#include "worker/kernels/panels_tile.h"

enum { TILE_HEIGHT = 16, TILE_BYTES = TILE_HEIGHT * LINE_BYTES };

/* What ldtilecfg reads. */
struct tiles {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* 0, 1: sums of the first rows; 2, 3: of the others; 4, 5: these rows; 6, 7: panels. */
static void configure(size_t first_rows, size_t other_rows)
{
    const size_t rows[] = {first_rows, first_rows, other_rows,  other_rows,
                           first_rows, other_rows, TILE_HEIGHT, TILE_HEIGHT};
    struct tiles tiles = {.palette = 1};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        tiles.rows[i] = (uint8_t)rows[i];
        tiles.row_bytes[i] = rows[i] > 0 ? LINE_BYTES : 0;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(tiles));
}

#define LOAD_TILE(tile, from, stride)                                                              \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"((size_t)(stride))         \
                     : "memory")
#define STORE_TILE(tile, to, stride)                                                               \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"((size_t)(stride))       \
                     : "memory")
#define DOT_TILES(sum, x, w) __asm__ volatile(TILE_DOT " %%tmm" #w ", %%tmm" #x ", %%tmm" #sum ::)

/* Asks for a block of each of so many panels. */
INLINE void ask_for_blocks(const struct block *b, const unsigned char *next, size_t panels)
{
    for (size_t p = 0; p < panels; p++) {
        for (size_t at = 0; at < b->ahead_bytes * BLOCK_GROUPS; at += LINE_BYTES)
            __builtin_prefetch(next + p * b->panel_bytes + at, 0, 3);
    }
}

/* others: whether there are more rows than the first tile's; two: a second panel. Both are
 * constants at each call. */
INLINE void multiply(const struct block *b, size_t rows, size_t first_rows, bool others, bool two)
{
    enum { SUM_BYTES = SUM_STRIDE * sizeof(sum_number) };
    sum_number *sums = b->sums, *other_sums = sums + first_rows * SUM_STRIDE;
    const char *from = b->from, *other_from = from + first_rows * b->from_row_bytes;
    const size_t stride = b->from_row_bytes, across = b->from_panel_bytes;
    LOAD_TILE(0, from, stride);
    if (two)
        LOAD_TILE(1, from + across, stride);
    if (others)
        LOAD_TILE(2, other_from, stride);
    if (others && two)
        LOAD_TILE(3, other_from + across, stride);
    const unsigned char *x = b->x, *w = b->w, *next = b->w_ahead;
    for (size_t g = 0; g < b->groups; g += BLOCK_GROUPS) {
        LOAD_TILE(6, w, LINE_BYTES);
        LOAD_TILE(4, x, LINE_BYTES);
        ask_for_blocks(b, next, two ? 2 : 1);
        DOT_TILES(0, 4, 6);
        if (two) {
            LOAD_TILE(7, w + b->w_stride, LINE_BYTES);
            DOT_TILES(1, 4, 7);
        }
        if (others) {
            LOAD_TILE(5, x + first_rows * LINE_BYTES, LINE_BYTES);
            DOT_TILES(2, 5, 6);
        }
        if (others && two)
            DOT_TILES(3, 5, 7);
        x += rows * LINE_BYTES;
        w += TILE_BYTES;
        next += b->ahead_bytes * BLOCK_GROUPS;
    }
    STORE_TILE(0, sums, SUM_BYTES);
    if (two)
        STORE_TILE(1, sums + PANEL_OUTS, SUM_BYTES);
    if (others)
        STORE_TILE(2, other_sums, SUM_BYTES);
    if (others && two)
        STORE_TILE(3, other_sums + PANEL_OUTS, SUM_BYTES);
}

static void multiply_block(const struct block *b, size_t rows, size_t panels)
{
    const size_t first_rows = rows > TILE_HEIGHT ? (rows + 1) / 2 : rows;
    const bool others = rows > first_rows;
    configure(first_rows, rows - first_rows);
    if (others && panels > 1)
        multiply(b, rows, first_rows, true, true);
    else if (others)
        multiply(b, rows, first_rows, true, false);
    else if (panels > 1)
        multiply(b, rows, first_rows, false, true);
    else
        multiply(b, rows, first_rows, false, false);
}

/* Leaves no tiles behind: a thread that has some is dearer to switch. */
static void gemm_in_tiles(const struct caloris_gemm_tile *tile)
{
    gemm(tile);
    __asm__ volatile("tilerelease" ::);
}

#endif
