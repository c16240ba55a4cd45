/* The reference: the formulas, one number after the other. Fast enough to test with, and to fall
 * back on anywhere. */
#include "worker/kernels/round.h"
#include "worker/kernels/table.h"

#include <math.h>
#include <string.h>

static void rmsnorm(const float *x, const float *w, float eps, size_t n, float *y)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float scale = (float)(1 / sqrt(sum / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

static void rope(float *x, size_t heads, size_t head_dim, size_t half, const float *cos_sin)
{
    for (size_t h = 0; h < heads; h++) {
        float *head = x + h * head_dim;
        for (size_t j = 0; j < half; j++) {
            float a = head[j], b = head[half + j];
            head[j] = a * cos_sin[j] - b * cos_sin[half + j];
            head[half + j] = b * cos_sin[j] + a * cos_sin[half + j];
        }
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i];
        float e = expf(g >= 0 ? -g : g);
        y[i] = g * (g >= 0 ? 1 : e) / (1 + e) * up[i];
    }
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static size_t argmax(const float *x, size_t n)
{
    size_t top = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            return i;
        if (x[i] > x[top])
            top = i;
    }
    return top;
}

static void exp_sums(const float *x, size_t n, float max, double *sum, double *moment)
{
    for (size_t i = 0; i < n; i++) {
        double below = (double)(x[i] - max), weight = exp(below);
        *sum += weight;
        *moment += weight > 0 ? below * weight : weight; /* not -inf * 0; a NaN stays one */
    }
}

static void guide(float *x, const float *unconditional, float guidance, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = unconditional[i] + (guidance + 1) * (x[i] - unconditional[i]);
}

static void round_row(const float *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = caloris_round_bf16(from[i]);
        memcpy(to + i, &half, sizeof(half));
    }
}

/* Number i of K or V. */
static float number(const void *from, enum caloris_dtype dtype, size_t i)
{
    float x;
    caloris_convert_to_f32(dtype, (const char *)from + i * caloris_dtype_bytes(dtype), &x, 1);
    return x;
}

/* As attention with K and V of that dtype takes it. */
static float rounded(enum caloris_dtype dtype, float x)
{
    const uint16_t half = caloris_round_bf16(x);
    return dtype == CALORIS_DTYPE_BF16 ? number(&half, dtype, 0) : x;
}

/* Of query row r and key j of a head; both at their head. */
static float score(const struct caloris_attention *canvas, const float *q, size_t key)
{
    const size_t n = canvas->head_dim;
    float sum = 0;
    for (size_t d = 0; d < n; d++)
        sum += rounded(canvas->kv_dtype, q[d]) * number(canvas->k, canvas->kv_dtype, key + d);
    return sum * (float)(1 / sqrt((double)n));
}

/* Softmax in two passes; scores are computed twice rather than stored. */
static void attend(const struct caloris_attention *canvas, size_t head, size_t first, size_t n,
                   float *scratch)
{
    (void)scratch;
    const size_t head_dim = canvas->head_dim;
    const size_t at = canvas->kv_of[head] * canvas->kv_head_stride;
    for (size_t r = first; r < first + n; r++) {
        const float *q = canvas->q + r * canvas->q_stride + head * head_dim;
        float *out = canvas->out + r * canvas->out_stride + head * head_dim;
        float peak = -INFINITY, mass = 0;
        for (size_t j = 0; j < canvas->kv_rows; j++) {
            float s = score(canvas, q, j * canvas->kv_stride + at);
            peak = s > peak ? s : peak;
        }
        for (size_t d = 0; d < head_dim; d++)
            out[d] = 0;
        for (size_t j = 0; j < canvas->kv_rows; j++) {
            const size_t key = j * canvas->kv_stride + at;
            const float p = rounded(canvas->kv_dtype, expf(score(canvas, q, key) - peak));
            mass += p;
            for (size_t d = 0; d < head_dim; d++)
                out[d] += p * number(canvas->v, canvas->kv_dtype, key + d);
        }
        for (size_t d = 0; d < head_dim; d++)
            out[d] /= mass;
    }
}

const struct caloris_row_kernels caloris_rows_ref = {
    .isa = CALORIS_ISA_REF,
    .rmsnorm = rmsnorm,
    .rope = rope,
    .swiglu = swiglu,
    .add = add,
    .round_row = round_row,
    .argmax = argmax,
    .exp_sums = exp_sums,
    .guide = guide,
    .attend = attend,
    .few = caloris_gemm_f32_ref,
};
