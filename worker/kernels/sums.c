/* Scans over a row of logits: the largest, the guided, and the sums of a softmax. */
#include "worker/kernels/kernels.h"

#include <math.h>

size_t caloris_argmax(const float *x, size_t n)
{
    float max = x[0];
    for (size_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++) {
        if (x[i] == max)
            return i;
    }
    return 0; /* only NaN first: the caller's sums will show it */
}

void caloris_exp_sums(const float *x, size_t n, float max, double *sum, double *moment)
{
    enum { CHUNK = 64 }; /* short enough for fp32 partial sums, summed in double */
    for (size_t from = 0; from < n; from += CHUNK) {
        const size_t to = n - from < CHUNK ? n : from + CHUNK;
        float part = 0, part_moment = 0;
        for (size_t i = from; i < to; i++) {
            const float below = x[i] - max;
            const float weight = expf(below);
            part += weight;
            part_moment += weight > 0 ? below * weight : weight; /* not -inf * 0; a NaN stays one */
        }
        *sum += (double)part;
        *moment += (double)part_moment;
    }
}

void caloris_guide(float *x, const float *unconditional, float guidance, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = unconditional[i] + (guidance + 1) * (x[i] - unconditional[i]);
}
