/* worker/kernels/pack.h: a row of activations as BF16 and INT8 products want it. Included by each
 * kernel, so that the compiler makes the most of its instruction set; the same bits from all. */
#ifndef CALORIS_KERNELS_PACK_H
#define CALORIS_KERNELS_PACK_H

#include "worker/kernels/panels.h"
#include "worker/kernels/round.h"

#include <math.h>
#include <stdbool.h>

enum { PACK_BYTES = 512 }; /* put in place at a time */

/* Groups of a row from where they stand next to each other; so many together: a constant at each
 * call. */
static inline void place_groups(const unsigned char *from, size_t groups, size_t together,
                                unsigned char *to, size_t stride)
{
    const size_t bytes = together * GROUP_BYTES;
    if (stride == bytes) {
        memcpy(to, from, groups * GROUP_BYTES);
        return;
    }
    for (size_t g = 0; g < groups / together; g++)
        memcpy(to + g * stride, from + g * bytes, bytes);
}

static inline void pack_bf16_by(size_t together, const float *x, size_t n, unsigned char *to,
                                size_t stride, float *scale)
{
    enum { NUMBERS = PACK_BYTES / 2 };
    const size_t all = caloris_panel_groups(CALORIS_FORMAT_BF16, n) * 2;
    for (size_t at = 0; at < all; at += NUMBERS) {
        uint16_t half[NUMBERS];
        size_t count = all - at < NUMBERS ? all - at : NUMBERS;
        size_t given = n - at < count ? n - at : count; /* the padding is less than a block */
        for (size_t i = 0; i < given; i++)
            half[i] = caloris_round_bf16(x[at + i]);
        memset(half + given, 0, (count - given) * sizeof(half[0]));
        place_groups((unsigned char *)half, count / 2, together, to + at / 2 / together * stride,
                     stride);
    }
    *scale = 1;
}

static inline void pack_bf16(const float *x, size_t n, unsigned char *to, size_t stride,
                             float *scale)
{
    pack_bf16_by(1, x, n, to, stride, scale);
}

static inline void pack_bf16_tiles(const float *x, size_t n, unsigned char *to, size_t stride,
                                   float *scale)
{
    pack_bf16_by(BLOCK_GROUPS, x, n, to, stride, scale);
}

/* q = round(127 x / max |x|), stored as q + offset: a constant at each call. */
static inline void pack_int8_by(size_t together, int offset, const float *x, size_t n,
                                unsigned char *to, size_t stride, float *scale)
{
    const size_t all = caloris_panel_groups(CALORIS_FORMAT_INT8, n) * 4;
    const uint32_t magnitude = caloris_largest(x, n);
    float most;
    memcpy(&most, &magnitude, sizeof(most));
    const bool usable = most >= CALORIS_INT8_LEAST && most <= FLT_MAX;
    const float inverse = usable ? 127 / most : 0;
    for (size_t at = 0; at < all; at += PACK_BYTES) {
        unsigned char q[PACK_BYTES];
        size_t count = all - at < PACK_BYTES ? all - at : PACK_BYTES;
        size_t given = !usable ? 0 : n - at < count ? n - at : count;
        for (size_t i = 0; i < given; i++)
            q[i] = (unsigned char)(caloris_round_int(x[at + i] * inverse) + offset);
        memset(q + given, offset, count - given);
        place_groups(q, count / 4, together, to + at / 4 / together * stride, stride);
    }
    *scale = usable ? most / 127 : most < CALORIS_INT8_LEAST ? 0 : NAN;
}

static inline void pack_int8(const float *x, size_t n, unsigned char *to, size_t stride,
                             float *scale)
{
    pack_int8_by(1, ROW_OFFSET, x, n, to, stride, scale);
}

static inline void pack_int8_signed(const float *x, size_t n, unsigned char *to, size_t stride,
                                    float *scale)
{
    pack_int8_by(1, 0, x, n, to, stride, scale);
}

static inline void pack_int8_tiles(const float *x, size_t n, unsigned char *to, size_t stride,
                                   float *scale)
{
    pack_int8_by(BLOCK_GROUPS, ROW_OFFSET, x, n, to, stride, scale);
}

#endif
