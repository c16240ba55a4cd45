#include "tests/unit/tiny_llada.h"

#include "base/json.h"
#include "base/size.h"

#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = 64, MAX_LAYERS = 8, NAME = 96, MAX_HEADER = 1 << 16, FFN_UNIT = 16 };

struct tensor {
    char name[NAME];
    float *data;
};

struct layer {
    const float *attn_norm, *q, *k, *v, *o, *ff_norm, *gate, *up, *down;
};

/* A row of weights, or inputs that have a scale of their own, in place. */
typedef void (*rounder)(double *x, size_t n);

struct tiny_llada {
    size_t d, heads, kv_heads, head_dim, ffn, vocab, layers;
    double eps, theta;
    struct tensor tensor[MAX_TENSORS];
    size_t tensors;
    struct layer layer[MAX_LAYERS];
    rounder round; /* NULL: nothing is rounded */
    size_t ranks;
    const float *embed, *norm, *head;
};

/* ---- files ----------------------------------------------------------------------------------- */

/* One safetensors file: 8 bytes n, n bytes of JSON, data. */
static int read_file(struct tiny_llada *model, const char *path)
{
    FILE *file = fopen(path, "rb");
    char *header = malloc(MAX_HEADER);
    json_t *root = NULL;
    uint64_t n = 0;
    int status = -1;
    if (!file || !header || fread(&n, sizeof(n), 1, file) != 1 || n > MAX_HEADER ||
        fread(header, 1, n, file) != n)
        goto out;
    root = caloris_json_parse(header, n, path, NULL);
    const char *name;
    json_t *entry;
    status = root ? 0 : -1;
    json_object_foreach(root, name, entry)
    {
        const json_t *offsets = json_object_get(entry, "data_offsets");
        if (!offsets)
            continue;
        const char *dtype = json_string_value(json_object_get(entry, "dtype"));
        size_t first = (size_t)json_integer_value(json_array_get(offsets, 0));
        size_t bytes = (size_t)json_integer_value(json_array_get(offsets, 1)) - first;
        struct tensor *tensor = &model->tensor[model->tensors];
        if (model->tensors == MAX_TENSORS || !dtype || strcmp(dtype, "F32") != 0 ||
            !(tensor->data = malloc(bytes)) || fseek(file, (long)(8 + n + first), SEEK_SET) != 0 ||
            fread(tensor->data, 1, bytes, file) != bytes) {
            status = -1;
            break;
        }
        snprintf(tensor->name, NAME, "%s", name);
        model->tensors++;
    }
out:
    json_decref(root);
    free(header);
    if (file)
        fclose(file);
    return status;
}

static const float *find(const struct tiny_llada *model, const char *name)
{
    for (size_t i = 0; i < model->tensors; i++) {
        if (strcmp(model->tensor[i].name, name) == 0)
            return model->tensor[i].data;
    }
    return NULL;
}

static const float *find_in(const struct tiny_llada *model, size_t layer, const char *name)
{
    char full[NAME];
    snprintf(full, sizeof(full), "model.transformer.blocks.%zu.%s.weight", layer, name);
    return find(model, full);
}

static int find_all(struct tiny_llada *model)
{
    model->embed = find(model, "model.transformer.wte.weight");
    model->norm = find(model, "model.transformer.ln_f.weight");
    model->head = find(model, "model.transformer.ff_out.weight");
    if (!model->embed || !model->norm || !model->head)
        return -1;
    for (size_t l = 0; l < model->layers; l++) {
        const struct layer layer = {
            find_in(model, l, "attn_norm"), find_in(model, l, "q_proj"),
            find_in(model, l, "k_proj"),    find_in(model, l, "v_proj"),
            find_in(model, l, "attn_out"),  find_in(model, l, "ff_norm"),
            find_in(model, l, "ff_proj"),   find_in(model, l, "up_proj"),
            find_in(model, l, "ff_out"),
        };
        if (!layer.attn_norm || !layer.q || !layer.k || !layer.v || !layer.o || !layer.ff_norm ||
            !layer.gate || !layer.up || !layer.down)
            return -1;
        model->layer[l] = layer;
    }
    return 0;
}

static size_t number(const json_t *config, const char *name)
{
    return (size_t)json_integer_value(json_object_get(config, name));
}

struct tiny_llada *tiny_llada_load(const char *dir)
{
    char path[4096];
    glob_t files = {0};
    struct tiny_llada *model = calloc(1, sizeof(*model));
    snprintf(path, sizeof(path), "%s/config.json", dir);
    json_t *config = caloris_json_load(path, MAX_HEADER, NULL);
    int status = -1;
    if (!model || !config)
        goto out;
    model->d = number(config, "d_model");
    model->heads = number(config, "n_heads");
    model->kv_heads = number(config, "n_kv_heads");
    model->head_dim = model->d / model->heads;
    model->ffn = number(config, "mlp_hidden_size");
    model->vocab = number(config, "vocab_size");
    model->layers = number(config, "n_layers");
    model->eps = json_number_value(json_object_get(config, "rms_norm_eps"));
    model->theta = json_number_value(json_object_get(config, "rope_theta"));
    snprintf(path, sizeof(path), "%s/*.safetensors", dir);
    if (model->layers > MAX_LAYERS || glob(path, 0, NULL, &files) != 0)
        goto out;
    status = 0;
    for (size_t i = 0; status == 0 && i < files.gl_pathc; i++)
        status = read_file(model, files.gl_pathv[i]);
    if (status == 0)
        status = find_all(model);
out:
    globfree(&files);
    json_decref(config);
    if (status == 0)
        return model;
    tiny_llada_free(model);
    return NULL;
}

void tiny_llada_free(struct tiny_llada *model)
{
    for (size_t i = 0; model && i < MAX_TENSORS; i++)
        free(model->tensor[i].data);
    free(model);
}

size_t tiny_llada_vocab(const struct tiny_llada *model)
{
    return model->vocab;
}

/* ---- weight formats -------------------------------------------------------------------------- */

/* To 8 bits of mantissa, ties to even. */
static void round_bf16(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int exponent;
        const double mantissa = frexp(x[i], &exponent);
        x[i] = ldexp(nearbyint(ldexp(mantissa, 8)), exponent - 8);
    }
}

/* To multiples of the largest / 127. */
static void round_int8(double *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf((float)x[i]));
    const float scale = most / 127;
    for (size_t i = 0; i < n && most > 0; i++)
        x[i] = (double)nearbyintf((float)x[i] / scale) * (double)scale;
}

/* 16 numbers to multiples of a step from a window of 16 of them that holds zero: of the step that
 * spans them, the one below and the two above, the best. */
static void round_run(double *x, size_t n)
{
    double least = 0, most = 0, best = INFINITY, found[16];
    for (size_t i = 0; i < n; i++) {
        least = fmin(least, x[i]);
        most = fmax(most, x[i]);
    }
    const int spans = (int)ceil((most - least) / 15);
    for (int step = spans > 2 ? spans - 1 : 1; step <= spans + 2 && step <= 16; step++) {
        const double zero = fmin(fmax(nearbyint(7.5 - (most + least) / 2 / step), 0), 15);
        const double low = fmax(-zero, -(127 / step)), high = fmin(15 - zero, 127 / step);
        double at[16], off = 0;
        for (size_t i = 0; i < n; i++) {
            at[i] = fmin(fmax(nearbyint(x[i] / step), low), high) * step;
            off += (at[i] - x[i]) * (at[i] - x[i]);
        }
        if (off < best) {
            best = off;
            memcpy(found, at, sizeof(found));
        }
    }
    memcpy(x, found, n * sizeof(*x));
}

/* As int8, but runs of 16 numbers have 16 values each. */
static void round_int4(double *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf((float)x[i]));
    const float scale = most / 127;
    for (size_t first = 0; first < n && most > 0; first += 16) {
        const size_t count = n - first < 16 ? n - first : 16;
        double units[16];
        for (size_t i = 0; i < count; i++)
            units[i] = (double)((float)x[first + i] / scale);
        round_run(units, count);
        for (size_t i = 0; i < count; i++)
            x[first + i] = units[i] * (double)scale;
    }
}

static void round_matrix(rounder round, const float *matrix, size_t out, size_t in)
{
    float *w = (float *)(uintptr_t)matrix; /* of this model's tensors */
    double *row = calloc(in, sizeof(*row));
    for (size_t o = 0; row && o < out; o++) {
        for (size_t i = 0; i < in; i++)
            row[i] = (double)w[o * in + i];
        round(row, in);
        for (size_t i = 0; i < in; i++)
            w[o * in + i] = (float)row[i];
    }
    free(row);
}

void tiny_llada_round(struct tiny_llada *model, enum tiny_llada_format format, size_t ranks)
{
    const rounder round_input = format == TINY_LLADA_BF16 ? round_bf16 : round_int8;
    const rounder round = format == TINY_LLADA_INT4 ? round_int4 : round_input;
    const rounder round_o =
        model->head_dim % 16 == 0 ? round : round_input; /* whole runs or none */
    const size_t d = model->d, kv = model->kv_heads * model->head_dim, f = model->ffn;
    model->round = round_input;
    model->ranks = ranks;
    for (size_t l = 0; l < model->layers; l++) {
        const struct layer *layer = &model->layer[l];
        round_matrix(round, layer->q, d, d);
        round_matrix(round, layer->k, kv, d);
        round_matrix(round, layer->v, kv, d);
        round_matrix(round_o, layer->o, d, d);
        round_matrix(round, layer->gate, f, d);
        round_matrix(round, layer->up, f, d);
        round_matrix(round, layer->down, d, f);
    }
    round_matrix(round, model->head, model->vocab, d);
}

/* The input of a product: every rank rounds the part that it holds, in whole units. */
static void round_input(const struct tiny_llada *m, double *x, size_t n, size_t ranks, size_t unit)
{
    for (size_t rank = 0; m->round && rank < ranks; rank++) {
        size_t first, units;
        caloris_size_deal((n + unit - 1) / unit, ranks, rank, &first, &units);
        const size_t begin = first * unit, end = begin + units * unit;
        if (units > 0)
            m->round(x + begin, (end < n ? end : n) - begin);
    }
}

/* What attention multiplies, bf16 unless the matrices are exact. */
static void round_attention(const struct tiny_llada *m, double *x, size_t n)
{
    if (m->round)
        round_bf16(x, n);
}

/* ---- the formulas ---------------------------------------------------------------------------- */

/* y [out] (+)= w [out, in] x [in] */
static void multiply(const float *w, const double *x, size_t out, size_t in, double add, double *y)
{
    for (size_t o = 0; o < out; o++) {
        double sum = 0;
        for (size_t i = 0; i < in; i++)
            sum += (double)w[o * in + i] * x[i];
        y[o] = add * y[o] + sum;
    }
}

static void rmsnorm(const double *x, const float *w, size_t d, double eps, double *y)
{
    double square = 0;
    for (size_t i = 0; i < d; i++)
        square += x[i] * x[i];
    for (size_t i = 0; i < d; i++)
        y[i] = x[i] / sqrt(square / (double)d + eps) * (double)w[i];
}

/* Half-split rotary of one head. */
static void rotate(double *head, size_t dim, size_t position, double theta)
{
    for (size_t j = 0; j < dim / 2; j++) {
        double angle = (double)position * pow(theta, -2.0 * (double)j / (double)dim);
        double a = head[j], b = head[j + dim / 2];
        head[j] = a * cos(angle) - b * sin(angle);
        head[j + dim / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* out [head_dim] = softmax(q k^T / sqrt(head_dim)) v of one query head over all n positions; the
 * weights before they are divided by their sum are rounded. */
static void attend(const struct tiny_llada *m, const double *q, const double *k, const double *v,
                   size_t n, double *weight, double *out)
{
    const size_t stride = m->kv_heads * m->head_dim;
    double max = -INFINITY, sum = 0;
    for (size_t j = 0; j < n; j++) {
        weight[j] = 0;
        for (size_t i = 0; i < m->head_dim; i++)
            weight[j] += q[i] * k[j * stride + i];
        weight[j] /= sqrt((double)m->head_dim);
        max = fmax(max, weight[j]);
    }
    for (size_t j = 0; j < n; j++)
        weight[j] = exp(weight[j] - max);
    round_attention(m, weight, n);
    for (size_t j = 0; j < n; j++)
        sum += weight[j];
    for (size_t i = 0; i < m->head_dim; i++) {
        out[i] = 0;
        for (size_t j = 0; j < n; j++)
            out[i] += weight[j] / sum * v[j * stride + i];
    }
}

/* Scratch of one forward, in rows; which rows are computed. */
struct rows {
    double *x, *h, *q, *a, *gate, *up, *weight;
    const bool *computed;
    size_t n;
};

/* K and V of every layer: [layers, n, kv_heads * head_dim] each. */
struct tiny_llada_kept {
    size_t n;
    double *k, *v;
};

struct tiny_llada_kept *tiny_llada_keep(const struct tiny_llada *model, size_t n)
{
    const size_t each = model->layers * n * model->kv_heads * model->head_dim;
    struct tiny_llada_kept *kept = calloc(1, sizeof(*kept) + 2 * each * sizeof(double));
    if (!kept)
        return NULL;
    kept->n = n;
    kept->k = (double *)(kept + 1);
    kept->v = kept->k + each;
    return kept;
}

static void run_layer(const struct tiny_llada *m, const struct layer *l, struct rows *r, double *k,
                      double *v)
{
    const size_t d = m->d, hd = m->head_dim, kv = m->kv_heads * hd;
    for (size_t p = 0; p < r->n; p++) {
        if (!r->computed[p])
            continue;
        rmsnorm(r->x + p * d, l->attn_norm, d, m->eps, r->h);
        round_input(m, r->h, d, 1, 1);
        multiply(l->q, r->h, d, d, 0, r->q + p * d);
        multiply(l->k, r->h, kv, d, 0, k + p * kv);
        multiply(l->v, r->h, kv, d, 0, v + p * kv);
        for (size_t h = 0; h < m->heads; h++)
            rotate(r->q + p * d + h * hd, hd, p, m->theta);
        for (size_t h = 0; h < m->kv_heads; h++)
            rotate(k + p * kv + h * hd, hd, p, m->theta);
        round_attention(m, r->q + p * d, d);
        round_attention(m, k + p * kv, kv);
        round_attention(m, v + p * kv, kv);
    }
    for (size_t p = 0; p < r->n; p++) {
        if (!r->computed[p])
            continue;
        for (size_t h = 0; h < m->heads; h++) {
            const size_t shared = h / (m->heads / m->kv_heads) * hd;
            attend(m, r->q + p * d + h * hd, k + shared, v + shared, r->n, r->weight,
                   r->a + h * hd);
        }
        round_input(m, r->a, d, m->ranks, hd);
        multiply(l->o, r->a, d, d, 1, r->x + p * d);
        rmsnorm(r->x + p * d, l->ff_norm, d, m->eps, r->h);
        round_input(m, r->h, d, 1, 1);
        multiply(l->gate, r->h, m->ffn, d, 0, r->gate);
        multiply(l->up, r->h, m->ffn, d, 0, r->up);
        for (size_t i = 0; i < m->ffn; i++)
            r->gate[i] *= r->up[i] / (1 + exp(-r->gate[i]));
        round_input(m, r->gate, m->ffn, m->ranks, FFN_UNIT);
        multiply(l->down, r->gate, d, m->ffn, 1, r->x + p * d);
    }
}

int tiny_llada_rows(const struct tiny_llada *model, struct tiny_llada_kept *kept,
                    const int32_t *ids, const bool *computed, double *logits)
{
    const size_t n = kept->n, d = model->d, kv = model->kv_heads * model->head_dim;
    double *memory = calloc(n * (2 * d + 1) + 2 * d + 2 * model->ffn, sizeof(double));
    if (!memory)
        return -1;
    struct rows r = {.x = memory, .computed = computed, .n = n};
    r.q = r.x + n * d;
    r.weight = r.q + n * d;
    r.h = r.weight + n;
    r.a = r.h + d;
    r.gate = r.a + d;
    r.up = r.gate + model->ffn;
    for (size_t p = 0; p < n; p++) {
        for (size_t i = 0; i < d; i++)
            r.x[p * d + i] = (double)model->embed[(size_t)ids[p] * d + i];
    }
    for (size_t l = 0; l < model->layers; l++)
        run_layer(model, &model->layer[l], &r, kept->k + l * n * kv, kept->v + l * n * kv);
    for (size_t p = 0; p < n; p++) {
        if (!computed[p])
            continue;
        rmsnorm(r.x + p * d, model->norm, d, model->eps, r.h);
        round_input(model, r.h, d, 1, 1);
        multiply(model->head, r.h, model->vocab, d, 0, logits + p * model->vocab);
    }
    free(memory);
    return 0;
}
