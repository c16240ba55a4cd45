/* worker/kernels/pack.h: a row of activations as BF16 and INT8 products want it. Included by each
 * kernel, so that the compiler makes the most of its instruction set; the same bits from all. */
#ifndef CALORIS_KERNELS_PACK_H
#define CALORIS_KERNELS_PACK_H

#include "worker/kernels/panels.h"
#include "worker/kernels/round.h"

#include <math.h>

static inline void pack_bf16(const float *x, size_t n, unsigned char *to, float *scale)
{
    uint16_t *half = (uint16_t *)(void *)to;
    size_t all = caloris_panel_groups(CALORIS_FORMAT_BF16, n) * 2;
    for (size_t i = 0; i < n; i++)
        half[i] = caloris_round_bf16(x[i]);
    for (size_t i = n; i < all; i++)
        half[i] = 0;
    *scale = 1;
}

/* q = round(127 x / max |x|), stored as q + 128. */
static inline void pack_int8(const float *x, size_t n, unsigned char *to, float *scale)
{
    size_t all = caloris_panel_groups(CALORIS_FORMAT_INT8, n) * 4;
    uint32_t magnitude = caloris_largest(x, n);
    float most;
    memcpy(&most, &magnitude, sizeof(most));
    if (!(most >= CALORIS_INT8_LEAST && most <= FLT_MAX)) {
        memset(to, ROW_OFFSET, all);
        *scale = most < CALORIS_INT8_LEAST ? 0 : NAN;
        return;
    }
    const float inverse = 127 / most;
    for (size_t i = 0; i < n; i++)
        to[i] = (unsigned char)(caloris_round_int(x[i] * inverse) + ROW_OFFSET);
    memset(to + n, ROW_OFFSET, all - n);
    *scale = most / 127;
}

#endif
