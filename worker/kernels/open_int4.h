/* worker/kernels/open_int4.h: INT4 panels as INT8 ones, for one instruction set. Included by
 * panels_vector.h after `vec`; compiler vectors as wide as that.
 *
 * Numbers of 16 bits are multiplied two bytes at a time: u * step <= 15 * 16 does not reach the
 * other byte. What is taken off, zero * step, does not either. */
#ifndef CALORIS_KERNELS_OPEN_INT4_H
#define CALORIS_KERNELS_OPEN_INT4_H

#include "worker/kernels/panels.h"

typedef uint8_t vec_u8 __attribute__((vector_size(sizeof(vec))));
typedef uint16_t vec_u16 __attribute__((vector_size(sizeof(vec))));
typedef uint32_t vec_u32 __attribute__((vector_size(sizeof(vec))));

static inline vec_u8 times_step(vec_u16 u, vec_u16 step, vec_u8 off)
{
    return (vec_u8)(u * step) - off;
}

/* One block: BLOCK_GROUPS lines to `to`. */
static inline void open_int4_block(const unsigned char *block, unsigned char *to)
{
    const vec_u32 one_of_four = (vec_u32){0} + 0x01010101;
    for (size_t part = 0; part < LINE_BYTES; part += sizeof(vec)) {
        vec_u32 runs;
        memcpy(&runs, block + part, sizeof(runs));
        vec_u32 steps = (runs & one_of_four * 15) + one_of_four;
        vec_u32 zeros = (runs >> 4) & one_of_four * 15;
#pragma GCC unroll 4
        for (size_t j = 0; j < BLOCK_GROUPS / RUN_GROUPS; j++) {
            const vec_u32 step = steps & 255;
            vec_u32 off = (vec_u32)((vec_u16)(zeros & 255) * (vec_u16)step);
            off |= off << 8;
            off |= off << 16;
            const vec_u16 both = (vec_u16)(step | step << 16);
#pragma GCC unroll 2
            for (size_t i = j * RUN_GROUPS; i < (j + 1) * RUN_GROUPS; i += 2) {
                vec_u16 two;
                memcpy(&two, block + LINE_BYTES + i / 2 * LINE_BYTES + part, sizeof(two));
                const vec_u8 low = times_step(two & 0x0f0f, both, (vec_u8)off);
                const vec_u8 high = times_step(two >> 4 & 0x0f0f, both, (vec_u8)off);
                memcpy(to + i * LINE_BYTES + part, &low, sizeof(low));
                memcpy(to + (i + 1) * LINE_BYTES + part, &high, sizeof(high));
            }
            steps >>= 8;
            zeros >>= 8;
        }
    }
}

#endif
