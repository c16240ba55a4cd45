#include "worker/comm/two_shot.h"

#include "base/size.h"

#include <string.h>

enum { BLOCK = 1024 }; /* floats summed at a time: 4 KiB stay in the first-level cache */

void two_shot_slice(size_t count, int size, int rank, size_t *first, size_t *n)
{
    size_t units = count / TWO_SHOT_UNIT + (count % TWO_SHOT_UNIT != 0);
    size_t first_unit, n_units;
    caloris_size_deal(units, (size_t)size, (size_t)rank, &first_unit, &n_units);
    size_t begin = first_unit * TWO_SHOT_UNIT;
    size_t end = begin + n_units * TWO_SHOT_UNIT;
    *first = begin < count ? begin : count;
    *n = (end < count ? end : count) - *first;
}

size_t two_shot_longest(size_t count, int size)
{
    size_t first, n;
    two_shot_slice(count, size, 0, &first, &n); /* the larger parts are dealt first */
    return n;
}

void two_shot_sum(float *out, const float *const *sources, int size, size_t first, size_t n)
{
    for (size_t start = 0; start < n; start += BLOCK) {
        size_t block = n - start < BLOCK ? n - start : BLOCK;
        float sum[BLOCK];
        memcpy(sum, sources[0] + first + start, block * sizeof(float));
        for (int rank = 1; rank < size; rank++) {
            const float *x = sources[rank] + first + start;
            for (size_t i = 0; i < block; i++)
                sum[i] += x[i];
        }
        memcpy(out + start, sum, block * sizeof(float));
    }
}
