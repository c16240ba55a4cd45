/* worker/kernels/rows_vector.h: the row kernels for one instruction set.
 *
 * Included once by each of rows_portable.c, rows_avx2.c and rows_avx512.c, after the name of the
 * table to define. Sums run over SUM_LANES partial sums whatever the width of a register, and no
 * multiply is fused with an add (-ffp-contract=off), so all instruction sets give the same bits;
 * attention alone differs.
 */
#include "worker/kernels/attend_vector.h"
#include "worker/kernels/few_vector.h"
#include "worker/kernels/sums_vector.h"
#include "worker/kernels/table.h"
#include "worker/kernels/vector.h"

#include <math.h>

/* In double: the square of an outlier does not overflow, and the order of adding does not show. */
static double sum_of_squares(const float *x, size_t n)
{
    double part[SUM_LANES] = {0};
    size_t i = 0;
    for (; i + SUM_LANES <= n; i += SUM_LANES) {
        for (size_t j = 0; j < SUM_LANES; j++)
            part[j] += (double)x[i + j] * (double)x[i + j];
    }
    for (size_t j = 0; i + j < n; j++)
        part[j] += (double)x[i + j] * (double)x[i + j];
    double sum = 0;
    for (size_t j = 0; j < SUM_LANES; j++)
        sum += part[j];
    return sum;
}

static void rmsnorm(const float *x, const float *w, float eps, size_t n, float *y)
{
    float scale = (float)(1 / sqrt(sum_of_squares(x, n) / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

static void rope(float *x, size_t heads, size_t head_dim, size_t half, const float *cos_sin)
{
    const float *restrict cosine = cos_sin, *restrict sine = cos_sin + half;
    for (size_t h = 0; h < heads; h++) {
        float *restrict a = x + h * head_dim, *restrict b = a + half;
        for (size_t j = 0; j < half; j++) {
            float first = a[j], second = b[j];
            a[j] = first * cosine[j] - second * sine[j];
            b[j] = second * cosine[j] + first * sine[j];
        }
    }
}

/* silu(g) = g / (1 + exp(-g)), written so that exp never overflows: for g < 0 as g exp(g) / (1 +
 * exp(g)). */
static vec silu_times(vec gate, vec up)
{
    vec_mask positive = gate >= 0.0f;
    vec e = vec_exp(vec_select(positive, -gate, gate));
    return gate * vec_select(positive, vec_all(1.0f), e) / (e + 1.0f) * up;
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_store(y + i, silu_times(vec_load(gate + i), vec_load(up + i)));
    if (i == n)
        return;
    float rest_gate[LANES] = {0}, rest_up[LANES] = {0}, rest[LANES];
    memcpy(rest_gate, gate + i, (n - i) * sizeof(float));
    memcpy(rest_up, up + i, (n - i) * sizeof(float));
    vec_store(rest, silu_times(vec_load(rest_gate), vec_load(rest_up)));
    memcpy(y + i, rest, (n - i) * sizeof(float));
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

const struct caloris_row_kernels ROW_KERNELS = {
    .isa = ROW_KERNELS_ISA,
    .needs = ROW_KERNELS_NEED,
    .rmsnorm = rmsnorm,
    .rope = rope,
    .swiglu = swiglu,
    .add = add,
    .round_row = round_row,
    .argmax = argmax,
    .exp_sums = exp_sums,
    .guide = guide,
    .attend = attend,
    .few = few,
};
