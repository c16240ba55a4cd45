/* worker/kernels/sums_vector.h: scans over a row of logits, for one instruction set. Included by
 * rows_vector.h. */
#ifndef CALORIS_KERNELS_SUMS_VECTOR_H
#define CALORIS_KERNELS_SUMS_VECTOR_H

#include "worker/kernels/table.h"
#include "worker/kernels/vector.h"

#include <math.h>

enum {
    SUM_LANES = 16,               /* partial sums, whatever the width of a register */
    SUM_VECS = SUM_LANES / LANES, /* registers that hold them */
    SUM_CHUNK = 8 * SUM_LANES,    /* numbers added in fp32 before they go to double */
    SCAN_CHUNK = 256,
};

static size_t argmax(const float *x, size_t n)
{
    vec top = vec_all(-INFINITY);
    vec_mask odd = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = vec_load(x + i);
        odd |= v != v;
        top = vec_select(v > top, v, top);
    }
    float lanes[LANES], max = -INFINITY;
    int32_t nan[LANES], any_nan = 0;
    vec_store(lanes, top);
    memcpy(nan, &odd, sizeof(nan));
    for (size_t j = 0; j < LANES; j++) {
        max = lanes[j] > max ? lanes[j] : max;
        any_nan |= nan[j];
    }
    for (; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        any_nan |= isnan(x[i]);
    }
    if (any_nan) {
        for (i = 0; !isnan(x[i]);)
            i++;
        return i;
    }
    for (i = 0; i + SCAN_CHUNK <= n; i += SCAN_CHUNK) {
        int32_t here = 0;
        for (size_t j = 0; j < SCAN_CHUNK; j++)
            here |= x[i + j] == max;
        if (here)
            break;
    }
    while (x[i] != max)
        i++;
    return i;
}

static void exp_sums(const float *x, size_t n, float max, double *sum, double *moment)
{
    double total[SUM_LANES] = {0}, total_moment[SUM_LANES] = {0};
    for (size_t from = 0; from < n; from += SUM_CHUNK) {
        vec part[SUM_VECS] = {{0}}, part_moment[SUM_VECS] = {{0}};
        for (size_t at = 0; at < SUM_CHUNK && from + at < n; at += SUM_LANES) {
            const float *group = x + from + at;
            float rest[SUM_LANES];
            if (n - from - at < SUM_LANES) { /* the last few: -infinity adds nothing */
                for (size_t j = 0; j < SUM_LANES; j++)
                    rest[j] = from + at + j < n ? group[j] : -INFINITY;
                group = rest;
            }
            for (size_t v = 0; v < SUM_VECS; v++) {
                vec below = vec_load(group + v * LANES) - max;
                vec weight = vec_exp(below);
                part[v] += weight;
                /* not -inf * 0; a NaN stays one */
                part_moment[v] += vec_select(weight > 0.0f, below * weight, weight);
            }
        }
        float lanes[SUM_LANES], lanes_moment[SUM_LANES];
        memcpy(lanes, part, sizeof(lanes));
        memcpy(lanes_moment, part_moment, sizeof(lanes_moment));
        for (size_t j = 0; j < SUM_LANES; j++) {
            total[j] += (double)lanes[j];
            total_moment[j] += (double)lanes_moment[j];
        }
    }
    for (size_t j = 0; j < SUM_LANES; j++) {
        *sum += total[j];
        *moment += total_moment[j];
    }
}

static void guide(float *x, const float *unconditional, float guidance, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = unconditional[i] + (guidance + 1) * (x[i] - unconditional[i]);
}

#endif
