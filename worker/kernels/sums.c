/* Passes over one row, on the calling thread: the caller has rows enough for all threads. */
#include "worker/kernels/table.h"

size_t caloris_argmax(const float *x, size_t n)
{
    return caloris_rows()->argmax(x, n);
}

void caloris_exp_sums(const float *x, size_t n, float max, double *sum, double *moment)
{
    caloris_rows()->exp_sums(x, n, max, sum, moment);
}

void caloris_guide(float *x, const float *unconditional, float guidance, size_t n)
{
    caloris_rows()->guide(x, unconditional, guidance, n);
}

void caloris_round_row(const float *from, size_t n, uint16_t *to)
{
    caloris_rows()->round_row(from, n, to);
}
