/* worker/kernels/open_int4.h: INT4 panels as INT8 ones, or as what INT4 kernels of their own want,
 * for one instruction set. Included by panels_tile.h after `vec`; compiler vectors as wide as that.
 *
 * Lanes of 32 bits are outputs. Runs are taken apart once for all four of a block: even ones (0 and
 * 2) and odd ones, each number in 16 bits. */
#ifndef CALORIS_KERNELS_OPEN_INT4_H
#define CALORIS_KERNELS_OPEN_INT4_H

#include "worker/kernels/panels.h"

#include <immintrin.h>

typedef uint8_t vec_u8 __attribute__((vector_size(sizeof(vec))));
typedef uint16_t vec_u16 __attribute__((vector_size(sizeof(vec))));
typedef uint32_t vec_u32 __attribute__((vector_size(sizeof(vec))));

enum { BLOCK_RUNS = BLOCK_GROUPS / RUN_GROUPS };

/* In every lane the bytes of its own that the bytes of `which` name. */
static inline vec_u8 pick_bytes(vec_u16 from, uint32_t which)
{
    const __m128i bytes = _mm_add_epi32(_mm_set1_epi32((int32_t)which),
                                        _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
#if defined(__AVX512BW__)
    return (vec_u8)_mm512_shuffle_epi8((__m512i)from, _mm512_broadcast_i32x4(bytes));
#else
    return (vec_u8)_mm256_shuffle_epi8((__m256i)from, _mm256_broadcastsi128_si256(bytes));
#endif
}

/* Number `run` (a constant at each call) of those that stand in even_odd, in both halves of a lane,
 * or in all its bytes. */
static inline vec_u16 in_halves(const vec_u16 even_odd[2], size_t run)
{
    return (vec_u16)pick_bytes(even_odd[run % 2], run / 2 ? 0x03020302 : 0x01000100);
}

static inline vec_u8 in_bytes(const vec_u16 even_odd[2], size_t run)
{
    return pick_bytes(even_odd[run % 2], run / 2 ? 0x02020202 : 0);
}

/* What the runs of a block's outputs say. */
struct runs {
    vec_u16 step[2], zero[2]; /* even, odd */
};

static inline struct runs read_runs(const unsigned char *from)
{
    vec_u16 runs;
    memcpy(&runs, from, sizeof(runs));
    return (struct runs){
        .step = {(runs & 15) + 1, (runs >> 8 & 15) + 1},
        .zero = {runs >> 4 & 15, runs >> 12},
    };
}

/* Two bytes are multiplied at once: u * step <= 15 * 16 does not reach the other one. What is taken
 * off, zero * step, does not either. */
static inline vec_u8 times_step(vec_u16 u, vec_u16 step, vec_u8 off)
{
    return (vec_u8)(u * step) - off;
}

/* One block as INT8: BLOCK_GROUPS lines to `to`. */
static inline void open_int4_block(const unsigned char *block, unsigned char *to)
{
    for (size_t part = 0; part < LINE_BYTES; part += sizeof(vec)) {
        const struct runs runs = read_runs(block + part);
        const vec_u16 offs[2] = {runs.zero[0] * runs.step[0], runs.zero[1] * runs.step[1]};
#pragma GCC unroll 4
        for (size_t run = 0; run < BLOCK_RUNS; run++) {
            const vec_u16 step = in_halves(runs.step, run);
            const vec_u8 off = in_bytes(offs, run);
#pragma GCC unroll 2
            for (size_t i = run * RUN_GROUPS; i < (run + 1) * RUN_GROUPS; i += 2) {
                vec_u16 two;
                memcpy(&two, block + LINE_BYTES + i / 2 * LINE_BYTES + part, sizeof(two));
                const vec_u8 low = times_step(two & 0x0f0f, step, off);
                const vec_u8 high = times_step(two >> 4 & 0x0f0f, step, off);
                memcpy(to + i * LINE_BYTES + part, &low, sizeof(low));
                memcpy(to + (i + 1) * LINE_BYTES + part, &high, sizeof(high));
            }
        }
    }
}

/* One block as its runs one behind the other: a line of steps, in both halves of a lane, and
 * RUN_GROUPS lines of u - zero. */
static inline void open_int4_runs(const unsigned char *block, unsigned char *to)
{
    for (size_t part = 0; part < LINE_BYTES; part += sizeof(vec)) {
        const struct runs runs = read_runs(block + part);
        const unsigned char *from = block + LINE_BYTES + part;
        unsigned char *line = to + part;
#pragma GCC unroll 4
        for (size_t run = 0; run < BLOCK_RUNS; run++) {
            const vec_u16 step = in_halves(runs.step, run);
            const vec_u8 zero = in_bytes(runs.zero, run);
            memcpy(line, &step, sizeof(step));
            line += LINE_BYTES;
#pragma GCC unroll 2
            for (size_t i = 0; i < RUN_GROUPS; i += 2, from += LINE_BYTES) {
                vec_u16 two;
                memcpy(&two, from, sizeof(two));
                const vec_u8 low = (vec_u8)(two & 0x0f0f) - zero;
                const vec_u8 high = (vec_u8)(two >> 4 & 0x0f0f) - zero;
                memcpy(line, &low, sizeof(low));
                memcpy(line + LINE_BYTES, &high, sizeof(high));
                line += 2 * LINE_BYTES;
            }
        }
    }
}

#endif
