#include "worker/calibrate.h"

#include "base/arena.h"
#include "base/err.h"
#include "worker/comm/comm.h"
#include "worker/kernels/kernels.h"
#include "worker/nn/nn.h"
#include "worker/pool/pool.h"

#include <stdlib.h>
#include <string.h>

/* Where the phase of a product counts its inputs; whether ranks hold parts of them. */
static const struct {
    enum caloris_phase phase;
    bool sliced;
} products[CALORIS_LAYER_PRODUCTS] = {
    [CALORIS_PRODUCT_QKV] = {CALORIS_PHASE_QKV, false},
    [CALORIS_PRODUCT_O] = {CALORIS_PHASE_O, true},
    [CALORIS_PRODUCT_GATE_UP] = {CALORIS_PHASE_GATE_UP, false},
    [CALORIS_PRODUCT_DOWN] = {CALORIS_PHASE_DOWN, true},
};

struct work {
    const struct caloris_model_config *config;
    struct caloris_model_split split;
    struct caloris_comm *comm;
    struct caloris_weights_peers peers; /* of the stream */
    struct caloris_stream *stream;
    struct caloris_calibration *calibration;
    struct caloris_nn nn;
    void *memory;
    uint64_t memory_bytes;
    size_t widest;                  /* inputs of any product */
    float *counted, *whole, *all;   /* [phases, widest], [widest], rank 0: [ranks, widest] */
    float *largest[CALORIS_PHASES]; /* parts of counted */
    uint32_t *position, *kv_row;    /* [rows] */
    struct caloris_nn_canvas *canvas;
    struct caloris_nn_rows rows;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void count_loaded(void *arg, uint64_t bytes)
{
    caloris_comm_loaded(arg, bytes);
}

static int make_nn(struct work *work, const struct caloris_sample *sample,
                   struct caloris_pool *pool, struct caloris_err *err)
{
    const struct caloris_nn_limits limits = {
        .rows = sample->rows,
        .positions = sample->longest,
        .canvases = sample->canvases,
        .threads = caloris_pool_threads(pool),
        .ranks = caloris_comm_size(work->comm),
        .format = CALORIS_FORMAT_FP32,
    };
    uint64_t kv_bytes;
    if (caloris_nn_place(&work->nn, work->config, &work->split, &limits, NULL, &work->memory_bytes,
                         &kv_bytes, err) < 0)
        return -1;
    work->memory = caloris_arena_map(work->memory_bytes, "buffers of a calibration", err);
    if (!work->memory)
        return -1;
    caloris_nn_place(&work->nn, work->config, &work->split, &limits, work->memory,
                     &work->memory_bytes, &kv_bytes, err);
    work->nn.comm = work->comm;
    work->nn.pool = pool;
    work->nn.weights = caloris_stream_weights(work->stream);
    work->nn.largest = work->largest;
    caloris_nn_prepare(&work->nn);
    return 0;
}

/* All rows of all canvases, none kept. */
static void lay_out_rows(struct work *work, const struct caloris_sample *sample)
{
    size_t row = 0;
    for (size_t i = 0; i < sample->canvases; i++) {
        work->canvas[i] =
            (struct caloris_nn_canvas){sample->length[i], sample->length[i], false, 0};
        for (uint32_t at = 0; at < sample->length[i]; at++, row++) {
            work->position[row] = at;
            work->kv_row[row] = CALORIS_NN_NOT_KEPT;
        }
    }
    work->rows = (struct caloris_nn_rows){sample->ids,  work->position,   work->kv_row,
                                          work->canvas, sample->canvases, sample->rows};
}

static int begin(struct work *work, const char *dir, const struct caloris_sample *sample,
                 struct caloris_pool *pool, struct caloris_err *err)
{
    const struct caloris_model_config *c = work->config;
    const size_t ranks =
        caloris_comm_rank(work->comm) == 0 ? (size_t)caloris_comm_size(work->comm) : 0;
    work->widest = larger(c->hidden, larger(c->heads * c->head_dim, c->ffn));
    work->counted = calloc(CALORIS_PHASES * work->widest, sizeof(float));
    work->whole = calloc(work->widest, sizeof(float));
    work->all = calloc(ranks * work->widest + 1, sizeof(float));
    work->position = calloc(sample->rows, sizeof(*work->position));
    work->kv_row = calloc(sample->rows, sizeof(*work->kv_row));
    work->canvas = calloc(sample->canvases, sizeof(*work->canvas));
    if (!work->counted || !work->whole || !work->all || !work->position || !work->kv_row ||
        !work->canvas)
        return caloris_err_sys(err, "calibration of %zu rows", sample->rows);
    for (size_t i = 0; i < CALORIS_PHASES; i++)
        work->largest[i] = work->counted + i * work->widest;
    lay_out_rows(work, sample);
    work->calibration = caloris_calibration_new(c->layers, err);
    if (!work->calibration)
        return -1;
    work->peers = (struct caloris_weights_peers){.loaded = count_loaded, .arg = work->comm};
    work->stream = caloris_stream_open(dir, c, &work->split, pool, &work->peers, err);
    return work->stream ? make_nn(work, sample, pool, err) : -1;
}

static void end(struct work *work)
{
    caloris_stream_close(work->stream);
    if (work->memory)
        caloris_arena_unmap(work->memory, work->memory_bytes);
    free(work->counted);
    free(work->whole);
    free(work->all);
    free(work->position);
    free(work->kv_row);
    free(work->canvas);
}

/* This rank's inputs to their places among all, and the largest of all ranks: the same choice
 * everywhere. */
static int compare(struct work *work, enum caloris_product product, size_t *in, bool *lost,
                   struct caloris_err *err)
{
    const struct caloris_model_config *c = work->config;
    const size_t hd = c->head_dim;
    const bool o = product == CALORIS_PRODUCT_O;
    size_t first = 0, count = c->hidden;
    *in = c->hidden;
    if (products[product].sliced) {
        first = o ? work->split.head_first * hd : work->split.ffn_first;
        count = o ? work->split.heads * hd : work->split.ffn;
        *in = o ? c->heads * hd : c->ffn;
    }
    memset(work->whole, 0, *in * sizeof(float));
    memcpy(work->whole + first, work->largest[products[product].phase], count * sizeof(float));
    if (caloris_comm_allreduce_max_f32(work->comm, work->whole, *in, work->all, err) == 0)
        return 0;
    *lost = true;
    return -1;
}

/* Through a layer whose weights are there. *rc: what failed on this rank alone. */
static int calibrate_layer(struct work *work, size_t layer, int *rc, struct caloris_err *mine,
                           bool *lost, struct caloris_err *err)
{
    memset(work->counted, 0, CALORIS_PHASES * work->widest * sizeof(float));
    if (caloris_nn_layer(&work->nn, layer, &work->rows, err) < 0) {
        *lost = true;
        return -1;
    }
    for (enum caloris_product p = 0; p < CALORIS_LAYER_PRODUCTS; p++) {
        size_t in;
        if (compare(work, p, &in, lost, err) < 0)
            return -1;
        if (*rc == 0)
            *rc = caloris_calibration_choose(work->calibration, p, layer, work->whole, in, mine);
    }
    return 0;
}

/* The head's inputs are the same rows on all ranks. */
static int calibrate_head(struct work *work, struct caloris_err *err)
{
    const struct caloris_model_config *c = work->config;
    struct caloris_nn *nn = &work->nn;
    memset(work->whole, 0, c->hidden * sizeof(float));
    caloris_rmsnorm(nn->pool, nn->x, nn->weights->final_norm, c->norm_eps, work->rows.rows,
                    c->hidden, nn->n);
    caloris_nn_largest(nn->n, work->rows.rows, c->hidden, work->whole);
    return caloris_calibration_choose(work->calibration, CALORIS_PRODUCT_HEAD, 0, work->whole,
                                      c->hidden, err);
}

static int through_layers(struct work *work, const struct caloris_sharding *told, bool *lost,
                          struct caloris_err *err)
{
    struct caloris_err mine = {0};
    int rc = 0;
    if (caloris_nn_embed(&work->nn, &work->rows, err) < 0) {
        *lost = true;
        return -1;
    }
    for (size_t layer = 0; layer < work->config->layers; layer++) {
        if (rc == 0)
            rc = caloris_stream_layer(work->stream, layer, &mine);
        if (caloris_comm_agree(work->comm, rc < 0 ? &mine : NULL, err) < 0)
            return -1;
        if (calibrate_layer(work, layer, &rc, &mine, lost, err) < 0)
            return -1;
        if (rc == 0 && told && told->progress)
            rc = told->progress(told->arg, 0, 1, &mine);
    }
    if (rc == 0)
        rc = calibrate_head(work, &mine);
    return caloris_comm_agree(work->comm, rc < 0 ? &mine : NULL, err);
}

struct caloris_calibration *caloris_calibrate(const char *dir,
                                              const struct caloris_model_config *config,
                                              const struct caloris_sample *sample,
                                              struct caloris_comm *comm, struct caloris_pool *pool,
                                              const struct caloris_sharding *told, bool *lost,
                                              struct caloris_err *err)
{
    struct work work = {.config = config, .comm = comm};
    struct caloris_err mine = {0};
    *lost = false;
    caloris_model_split(config, caloris_comm_size(comm), caloris_comm_rank(comm), &work.split);
    int rc = begin(&work, dir, sample, pool, &mine);
    rc = caloris_comm_agree(comm, rc < 0 ? &mine : NULL, err);
    if (rc == 0)
        rc = through_layers(&work, told, lost, err);
    end(&work);
    if (rc == 0)
        return work.calibration;
    caloris_calibration_free(work.calibration);
    return NULL;
}
