/* The reference: the formulas, one number after the other. Fast enough to test with, and to fall
 * back on anywhere. */
#include "worker/kernels/table.h"

#include <math.h>

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

static float score(const float *q, const float *k, size_t n)
{
    float sum = 0;
    for (size_t d = 0; d < n; d++)
        sum += q[d] * k[d];
    return sum * (float)(1 / sqrt((double)n));
}

/* Softmax in two passes; scores are computed twice rather than stored. */
static void attend(const struct caloris_attention *canvas, size_t head, size_t first, size_t n,
                   float *scratch)
{
    (void)scratch;
    size_t head_dim = canvas->head_dim;
    const float *k = canvas->k + canvas->kv_of[head] * head_dim;
    const float *v = canvas->v + canvas->kv_of[head] * head_dim;
    for (size_t r = first; r < first + n; r++) {
        const float *q = canvas->q + r * canvas->q_stride + head * head_dim;
        float *out = canvas->out + r * canvas->out_stride + head * head_dim;
        float peak = -INFINITY, mass = 0;
        for (size_t j = 0; j < canvas->kv_rows; j++) {
            float s = score(q, k + j * canvas->kv_stride, head_dim);
            peak = s > peak ? s : peak;
        }
        for (size_t d = 0; d < head_dim; d++)
            out[d] = 0;
        for (size_t j = 0; j < canvas->kv_rows; j++) {
            float p = expf(score(q, k + j * canvas->kv_stride, head_dim) - peak);
            mass += p;
            for (size_t d = 0; d < head_dim; d++)
                out[d] += p * v[j * canvas->kv_stride + d];
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
    .argmax = argmax,
    .exp_sums = exp_sums,
    .guide = guide,
    .attend = attend,
    .few = caloris_gemm_f32_ref,
};
