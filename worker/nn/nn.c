#include "worker/nn/nn.h"

#include "base/arena.h"
#include "base/err.h"
#include "base/size.h"
#include "worker/comm/comm.h"
#include "worker/kernels/kernels.h"
#include "worker/nn/head.h"
#include "worker/pool/pool.h"

#include <math.h>
#include <string.h>

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Floats that an all-reduce over count floats may want as scratch, whatever the transport. */
static size_t comm_scratch_floats(int ranks, size_t count)
{
    return ranks == 1 ? 0 : count + 32 * (size_t)ranks;
}

/* Where matrices have scales, some may be BF16 all the same. */
static size_t gemm_scratch_bytes(const struct caloris_nn_limits *limits, size_t widest)
{
    const size_t bytes =
        caloris_gemm_scratch_bytes(limits->format, limits->rows, widest, limits->threads);
    if (!caloris_format_scaled(limits->format))
        return bytes;
    return larger(bytes, caloris_gemm_scratch_bytes(CALORIS_FORMAT_BF16, limits->rows, widest,
                                                    limits->threads));
}

/* Of a row. */
static size_t apart_floats(const struct caloris_model_config *config)
{
    return caloris_outliers_most(
        larger(config->hidden, larger(config->heads * config->head_dim, config->ffn)));
}

int caloris_nn_place(struct caloris_nn *nn, const struct caloris_model_config *config,
                     const struct caloris_model_split *split,
                     const struct caloris_nn_limits *limits, void *memory, uint64_t *bytes,
                     uint64_t *kv_bytes, struct caloris_err *err)
{
    const size_t rows = limits->rows;
    const size_t hd = config->head_dim;
    const size_t attention_floats = (2 * split->heads + 2 * split->kv_heads) * hd;
    const size_t ffn_floats = 3 * split->ffn;
    const enum caloris_dtype kv_dtype =
        limits->format == CALORIS_FORMAT_FP32 ? CALORIS_DTYPE_F32 : CALORIS_DTYPE_BF16;
    const size_t layer_bytes = 2 * split->kv_heads * hd * caloris_dtype_bytes(kv_dtype);
    const size_t kept_bytes = config->layers * layer_bytes;
    size_t residual;
    if (!caloris_size_mul(rows, config->hidden, &residual))
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%zu rows of a step are too many", rows);

    struct caloris_arena walk = {memory, 0, false};
    memset(nn, 0, sizeof(*nn));
    nn->config = config;
    nn->split = *split;
    nn->limits = *limits;
    nn->kv_dtype = kv_dtype;
    nn->x = caloris_arena_take(&walk, residual, sizeof(float));
    nn->n = caloris_arena_take(&walk, residual, sizeof(float));
    nn->wide =
        caloris_arena_take(&walk, rows, larger(attention_floats, ffn_floats) * sizeof(float));
    nn->kv = caloris_arena_take(&walk, limits->kv_tokens, kept_bytes);
    nn->passing_kv = caloris_arena_take(&walk, rows, layer_bytes);
    nn->rope = caloris_arena_take(&walk, limits->positions, hd * sizeof(float));
    nn->attention_scratch = caloris_arena_take(&walk, (size_t)limits->threads,
                                               caloris_attention_scratch(hd) * sizeof(float));
    const size_t widest = larger(config->hidden, larger(split->heads * hd, split->ffn));
    nn->gemm_scratch = caloris_arena_take(&walk, gemm_scratch_bytes(limits, widest), 1);
    if (caloris_format_scaled(limits->format))
        nn->apart = caloris_arena_take(&walk, rows, apart_floats(config) * sizeof(float));
    nn->comm_scratch_bytes = comm_scratch_floats(limits->ranks, residual) * sizeof(float);
    nn->comm_scratch = caloris_arena_take(&walk, nn->comm_scratch_bytes, 1);
    nn->kv_of = caloris_arena_take(&walk, split->heads, sizeof(uint32_t));
    nn->attention = caloris_arena_take(&walk, limits->canvases, sizeof(struct caloris_attention));
    nn->tile = caloris_arena_take(&walk, HEAD_TILE_ROWS, HEAD_TILE_VOCAB * sizeof(float));
    nn->summaries = caloris_arena_take(&walk, rows, sizeof(struct caloris_summary));
    nn->best = caloris_arena_take(&walk, rows, CALORIS_MAX_BEST * sizeof(struct caloris_candidate));
    if (caloris_arena_check(&walk, "work buffers of a step", err) < 0)
        return -1;
    *bytes = walk.used;
    *kv_bytes = caloris_size_round_up(limits->kv_tokens * kept_bytes, CALORIS_ARENA_ALIGNMENT);
    return 0;
}

void caloris_nn_prepare(struct caloris_nn *nn)
{
    const struct caloris_model_config *c = nn->config;
    caloris_rope_table(c->rope_theta, c->head_dim, nn->limits.positions, nn->rope);
    const size_t share = c->heads / c->kv_heads; /* consecutive query heads that read one KV head */
    for (size_t i = 0; i < nn->split.heads; i++)
        nn->kv_of[i] = (uint32_t)((nn->split.head_first + i) / share - nn->split.kv_head_first);
}

/* ---- the forward pass ------------------------------------------------------------------------ */

/* A lap over n numbers: so many operations on each, and so many of them moved for each. */
static void lap_vectors(struct caloris_nn *nn, enum caloris_phase phase, double operations,
                        double moved, size_t n)
{
    caloris_nn_lap(nn, phase, operations * (double)n, moved * (double)n * sizeof(float));
}

static int allreduce(struct caloris_nn *nn, float *rows, size_t n_rows, struct caloris_err *err)
{
    struct caloris_comm_counters before, after;
    caloris_comm_counters(nn->comm, &before);
    int rc = caloris_comm_allreduce_f32(nn->comm, rows, n_rows * nn->config->hidden,
                                        nn->comm_scratch, err);
    caloris_comm_counters(nn->comm, &after);
    caloris_nn_lap(nn, CALORIS_PHASE_ALLREDUCE, 0, (double)(after.bytes_sent - before.bytes_sent));
    if (nn->profile.on) {
        const double wait = after.wait_s - before.wait_s;
        nn->profile.phase[CALORIS_PHASE_ALLREDUCE].seconds -= wait;
        nn->profile.phase[CALORIS_PHASE_WAIT].seconds += wait;
    }
    return rc;
}

struct embed_task {
    struct caloris_nn *nn;
    const int32_t *ids;
};

static void embed_row(void *arg, size_t row, int thread)
{
    (void)thread;
    const struct embed_task *task = arg;
    const struct caloris_nn *nn = task->nn;
    const size_t d = nn->config->hidden;
    const size_t id = (size_t)task->ids[row];
    float *to = nn->x + row * d;
    if (id >= nn->split.vocab_first && id - nn->split.vocab_first < nn->split.vocab) {
        const float *table = nn->weights->embed.data;
        memcpy(to, table + (id - nn->split.vocab_first) * d, d * sizeof(float));
    } else {
        memset(to, 0, d * sizeof(float));
    }
}

/* x = E[ids]; the rank that owns an id's row has it, the others add zeros. */
int caloris_nn_embed(struct caloris_nn *nn, const struct caloris_nn_rows *rows,
                     struct caloris_err *err)
{
    struct embed_task task = {nn, rows->ids};
    caloris_pool_run(nn->pool, rows->rows, embed_row, &task);
    lap_vectors(nn, CALORIS_PHASE_EMBED, 0, 2, rows->rows * nn->config->hidden);
    return allreduce(nn, nn->x, rows->rows, err);
}

/* Rows of one KV head stand next to each other, so that attention reads them as one stretch: K
 * [k, tokens, hd], then V likewise. */
struct kv_place {
    unsigned char *kv;
    size_t tokens;
};

/* What is kept of a layer. */
static struct kv_place kept(const struct caloris_nn *nn, size_t layer)
{
    const size_t numbers = 2 * nn->split.kv_heads * nn->config->head_dim;
    const size_t bytes = numbers * nn->limits.kv_tokens * caloris_dtype_bytes(nn->kv_dtype);
    return (struct kv_place){nn->kv + layer * bytes, nn->limits.kv_tokens};
}

/* For the rows of the step whose K/V no later step will read. */
static struct kv_place passing(const struct caloris_nn *nn)
{
    return (struct kv_place){nn->passing_kv, nn->limits.rows};
}

struct copy_task {
    const struct caloris_nn *nn;
    size_t from, to, count;
};

static void copy_layer(void *arg, size_t layer, int thread)
{
    (void)thread;
    const struct copy_task *task = arg;
    const struct caloris_nn *nn = task->nn;
    const size_t bytes = nn->config->head_dim * caloris_dtype_bytes(nn->kv_dtype);
    const struct kv_place place = kept(nn, layer);
    for (size_t head = 0; head < 2 * nn->split.kv_heads; head++) {
        unsigned char *rows = place.kv + head * place.tokens * bytes;
        memcpy(rows + task->to * bytes, rows + task->from * bytes, task->count * bytes);
    }
}

void caloris_nn_copy_kept(struct caloris_nn *nn, size_t from, size_t to, size_t count)
{
    struct copy_task task = {nn, from, to, count};
    caloris_pool_run(nn->pool, nn->config->layers, copy_layer, &task);
}

struct keep_task {
    const struct caloris_nn *nn;
    const struct caloris_nn_rows *rows;
    const float *qkv;
    struct kv_place kept;
};

/* K and V of a row to their place, in the type that attention reads. */
static void keep_row(void *arg, size_t row, int thread)
{
    (void)thread;
    const struct keep_task *task = arg;
    const struct caloris_nn *nn = task->nn;
    const size_t hd = nn->config->head_dim, h = nn->split.heads, k = nn->split.kv_heads;
    const size_t bytes = hd * caloris_dtype_bytes(nn->kv_dtype);
    const bool pass = task->rows->kv_row[row] == CALORIS_NN_NOT_KEPT;
    const struct kv_place place = pass ? passing(nn) : task->kept;
    const size_t token = pass ? row : task->rows->kv_row[row];
    for (size_t head = 0; head < 2 * k; head++) { /* of K, then of V */
        const float *from = task->qkv + row * (h + 2 * k) * hd + (h + head) * hd;
        unsigned char *to = place.kv + (head * place.tokens + token) * bytes;
        if (nn->kv_dtype == CALORIS_DTYPE_BF16)
            caloris_round_row(from, hd, (uint16_t *)to);
        else
            memcpy(to, from, bytes);
    }
}

/* The attention of every canvas of the step. */
static void lay_out_attention(struct caloris_nn *nn, const struct caloris_nn_rows *rows,
                              const float *qkv, struct kv_place of_layer, float *mixed)
{
    const size_t hd = nn->config->head_dim, h = nn->split.heads, k = nn->split.kv_heads;
    const size_t stride = (h + 2 * k) * hd, bytes = hd * caloris_dtype_bytes(nn->kv_dtype);
    size_t first = 0;
    for (size_t i = 0; i < rows->canvases; i++) {
        const struct caloris_nn_canvas *canvas = &rows->canvas[i];
        const struct kv_place place = canvas->cached ? of_layer : passing(nn);
        const unsigned char *keys = place.kv + (canvas->cached ? canvas->kv_first : first) * bytes;
        nn->attention[i] = (struct caloris_attention){
            .q = qkv + first * stride,
            .k = keys,
            .v = keys + k * place.tokens * bytes,
            .out = mixed + first * h * hd,
            .kv_dtype = nn->kv_dtype,
            .q_rows = canvas->rows,
            .kv_rows = canvas->length,
            .q_stride = stride,
            .kv_stride = hd,
            .kv_head_stride = place.tokens * hd,
            .out_stride = h * hd,
            .heads = h,
            .head_dim = hd,
            .kv_of = nn->kv_of,
        };
        first += canvas->rows;
    }
}

/* Two products of head_dim per query, head and key; queries and outputs once, keys and values
 * once. */
static void lap_attention(struct caloris_nn *nn, const struct caloris_nn_rows *rows)
{
    const double hd = (double)nn->config->head_dim, h = (double)nn->split.heads;
    const double k = (double)nn->split.kv_heads;
    const double each = (double)caloris_dtype_bytes(nn->kv_dtype);
    double operations = 0, bytes = 0;
    for (size_t i = 0; nn->profile.on && i < rows->canvases; i++) {
        const double q = (double)rows->canvas[i].rows, keys = (double)rows->canvas[i].length;
        operations += 4 * q * keys * h * hd;
        bytes += 2 * (q * h * sizeof(float) + keys * k * each) * hd;
    }
    caloris_nn_lap(nn, CALORIS_PHASE_ATTENTION, operations, bytes);
}

/* n = W_o attention(rope(W_q m), rope(W_k m), W_v m), m = rmsnorm(x), summed over ranks: what mlp
 * adds to x. */
static int attention(struct caloris_nn *nn, size_t l, const struct caloris_nn_rows *rows,
                     struct caloris_err *err)
{
    const struct caloris_layer_weights *layer = &nn->weights->layer[l];
    const struct caloris_model_config *c = nn->config;
    const size_t hd = c->head_dim, h = nn->split.heads, k = nn->split.kv_heads;
    const size_t stride = (h + 2 * k) * hd;
    float *qkv = nn->wide;                         /* [R, (h + 2 k) hd] */
    float *mixed = nn->wide + rows->rows * stride; /* [R, h hd] */

    const struct caloris_made_rows normed = {
        .x = nn->x, .norm = layer->attn_norm, .eps = c->norm_eps};
    caloris_nn_multiply_made(nn, CALORIS_PHASE_QKV, &layer->qkv, &layer->apart[CALORIS_PRODUCT_QKV],
                             &normed, nn->n, rows->rows, qkv, stride);
    caloris_rope(nn->pool, qkv, stride, rows->rows, h + k, hd, hd, rows->position, nn->rope);

    struct keep_task keep = {nn, rows, qkv, kept(nn, l)};
    caloris_pool_run(nn->pool, rows->rows, keep_row, &keep);
    lay_out_attention(nn, rows, qkv, keep.kept, mixed);
    if (h > 0)
        caloris_attend(nn->pool, nn->attention, rows->canvases, nn->attention_scratch);
    lap_attention(nn, rows);
    caloris_nn_multiply(nn, CALORIS_PHASE_O, &layer->o, &layer->apart[CALORIS_PRODUCT_O], mixed,
                        rows->rows, nn->n, c->hidden);
    return allreduce(nn, nn->n, rows->rows, err);
}

/* x += n; x += W_down (silu(W_gate m) ⊙ W_up m), m = rmsnorm(x), summed over ranks. */
static int mlp(struct caloris_nn *nn, size_t l, const struct caloris_nn_rows *rows,
               struct caloris_err *err)
{
    const struct caloris_layer_weights *layer = &nn->weights->layer[l];
    const struct caloris_model_config *c = nn->config;
    const size_t f = nn->split.ffn;
    float *gate_up = nn->wide;                    /* [R, 2 f] */
    float *gated = nn->wide + rows->rows * 2 * f; /* [R, f] */

    const struct caloris_made_rows normed = {
        .x = nn->x, .added = nn->n, .norm = layer->ffn_norm, .eps = c->norm_eps};
    caloris_nn_multiply_made(nn, CALORIS_PHASE_GATE_UP, &layer->gate_up,
                             &layer->apart[CALORIS_PRODUCT_GATE_UP], &normed, nn->n, rows->rows,
                             gate_up, 2 * f);
    const struct caloris_made_rows gate = {.x = gate_up};
    caloris_nn_multiply_made(nn, CALORIS_PHASE_DOWN, &layer->down,
                             &layer->apart[CALORIS_PRODUCT_DOWN], &gate, gated, rows->rows, nn->n,
                             c->hidden);
    if (allreduce(nn, nn->n, rows->rows, err) < 0)
        return -1;
    caloris_add(nn->pool, nn->x, nn->n, rows->rows * c->hidden);
    lap_vectors(nn, CALORIS_PHASE_NORMS, 1, 3, rows->rows * c->hidden);
    return 0;
}

int caloris_nn_layer(struct caloris_nn *nn, size_t layer, const struct caloris_nn_rows *rows,
                     struct caloris_err *err)
{
    caloris_comm_at_layer(nn->comm, layer);
    if (attention(nn, layer, rows, err) < 0 || mlp(nn, layer, rows, err) < 0)
        return caloris_err_prefix(err, "layer %zu", layer);
    return 0;
}

int caloris_nn_forward(struct caloris_nn *nn, const struct caloris_nn_rows *rows,
                       struct caloris_err *err)
{
    if (caloris_nn_embed(nn, rows, err) < 0)
        return -1;
    for (size_t l = 0; l < nn->config->layers; l++) {
        if (caloris_nn_layer(nn, l, rows, err) < 0)
            return -1;
    }
    return 0;
}
