#include "worker/engine.h"

#include "base/err.h"
#include "base/time.h"
#include "worker/comm/comm.h"
#include "worker/kernels/kernels.h"
#include "worker/memory.h"
#include "worker/pool/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What rank 0 asks of all ranks; what follows it depends on op. */
enum op { OP_STEP = 1, OP_LOGITS, OP_STOP };

struct order {
    uint32_t op;
    uint32_t best;  /* STEP: candidates of each summary */
    uint64_t bytes; /* STEP: of the packed plan; LOGITS: ids */
};

struct caloris_engine {
    struct caloris_engine_options options; /* effective */
    struct caloris_comm *comm;
    int rank, ranks;
    struct caloris_pool *pool;
    struct caloris_model_config config;
    struct caloris_weights weights;
    struct caloris_memory memory;
    struct caloris_nn nn;
    struct caloris_step_state step;
    struct caloris_engine_counters counters;
    struct caloris_engine_facts facts;
    struct caloris_rank_share *shares; /* rank 0: [ranks] */
    char core_warning[256];
    bool lost; /* a collective failed: the world is gone */
};

/* ---- opening: stages that may fail on one rank, each followed by an agreement ------------------------------------- */

static uint64_t half_of_memory(const struct caloris_engine *engine)
{
    int index, neighbours;
    caloris_comm_neighbours(engine->comm, &index, &neighbours);
    const uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
    return all / 2 / (uint64_t)neighbours;
}

static int read_config(struct caloris_engine *engine, struct caloris_err *err)
{
    if (caloris_memory_config(&engine->options, &engine->config, err) < 0)
        return -1;
    return caloris_memory_limits(&engine->options, &engine->config, err);
}

static int make_buffers(struct caloris_engine *engine, struct caloris_err *err)
{
    struct caloris_model_split split;
    uint64_t kv_bytes;
    engine->pool = caloris_pool_new(engine->options.threads, err);
    if (!engine->pool)
        return -1;
    caloris_model_split(&engine->config, engine->ranks, engine->rank, &split);
    if (caloris_memory_place(&engine->memory, &engine->options, &engine->config, &split,
                             engine->ranks, engine->rank, true, &engine->nn, &engine->step,
                             &kv_bytes, err) < 0)
        return -1;
    engine->nn.comm = engine->comm;
    engine->nn.pool = engine->pool;
    engine->nn.weights = &engine->weights;
    const size_t reduced = engine->options.max_step_rows * engine->config.hidden;
    if (caloris_comm_scratch_bytes(engine->comm, reduced) > engine->nn.comm_scratch_bytes)
        return caloris_err_set(err, CALORIS_INTERNAL, "all-reduce scratch is larger than planned");
    caloris_nn_prepare(&engine->nn);
    if (engine->rank != 0)
        return 0;

    engine->shares = calloc((size_t)engine->ranks, sizeof(*engine->shares));
    if (!engine->shares)
        return caloris_err_sys(err, "shares of %d ranks", engine->ranks);
    for (int rank = 0; rank < engine->ranks; rank++) {
        if (caloris_memory_share(&engine->options, &engine->config, engine->ranks, rank,
                                 &engine->shares[rank], err) < 0)
            return -1;
    }
    caloris_memory_balance(engine->shares, engine->ranks);
    return 0;
}

static int load_weights(struct caloris_engine *engine, struct caloris_err *err)
{
    const struct caloris_engine_options *o = &engine->options;
    uint64_t bytes = 0;
    if (o->synthetic)
        return caloris_weights_invent(&engine->config, &engine->nn.split, engine->pool,
                                      half_of_memory(engine), &engine->weights, &bytes, err);
    return caloris_weights_load(o->model_dir, &engine->config, &engine->nn.split, engine->pool,
                                &engine->weights, err);
}

static int agree(struct caloris_engine *engine, int rc, struct caloris_err *mine,
                 struct caloris_err *err)
{
    return caloris_comm_agree(engine->comm, rc < 0 ? mine : NULL, err);
}

static int fail_world(struct caloris_engine *engine, struct caloris_err *err)
{
    engine->lost = true;
    caloris_err_prefix(err, "rank %d on %s", engine->rank, caloris_comm_host(engine->comm));
    return -1;
}

/* All that decides what a rank computes and how much it sends: two ranks of one world differ in none of it. */
enum { TERMS_TEXT = 320 };

static void describe_terms(const struct caloris_engine *engine, char text[TERMS_TEXT])
{
    const struct caloris_model_config *c = &engine->config;
    const struct caloris_engine_options *o = &engine->options;
    snprintf(text, TERMS_TEXT,
             "%s of %zu layers x %zu, %zu/%zu heads x %zu, FFN %zu, vocabulary %zu%s, norm_eps %g, "
             "rope_theta %g; %zu requests, %zu tokens a canvas, %zu rows a step, %zu tokens of K/V",
             c->family, c->layers, c->hidden, c->heads, c->kv_heads, c->head_dim, c->ffn, c->vocab,
             c->tied ? " tied" : "", (double)c->norm_eps, c->rope_theta, o->max_requests,
             o->max_canvas, o->max_step_rows, o->kv_tokens);
}

/* A folder that is stale on one host would give wrong sums, or buffers of another size. */
static int compare_terms(struct caloris_engine *engine, struct caloris_err *err)
{
    struct terms {
        char host[64], text[TERMS_TEXT];
    } mine = {0}, *all = NULL;
    struct caloris_err verdict = {0};
    int rc = 0;
    snprintf(mine.host, sizeof(mine.host), "%s", caloris_comm_host(engine->comm));
    describe_terms(engine, mine.text);
    if (engine->rank == 0 && !(all = calloc((size_t)engine->ranks, sizeof(*all))))
        rc = caloris_err_sys(&verdict, "what %d ranks read", engine->ranks);
    if (agree(engine, rc, &verdict, err) < 0)
        return -1;
    if (caloris_comm_gather(engine->comm, &mine, sizeof(mine), all, err) < 0) {
        free(all);
        return fail_world(engine, err);
    }
    for (int rank = 1; rc == 0 && all && rank < engine->ranks; rank++) {
        if (strcmp(all[rank].text, mine.text) != 0)
            rc = caloris_err_set(&verdict, CALORIS_BAD_MODEL,
                                 "rank %d on %.60s has another model: %s; here: %s", rank,
                                 all[rank].host, all[rank].text, mine.text);
    }
    free(all);
    return agree(engine, rc, &verdict, err);
}

/* Tells rank 0 when some rank owns fewer cores than it has threads: the classic ten-fold slowdown of default bindings. */
static int compare_cores(struct caloris_engine *engine, struct caloris_err *err)
{
    struct {
        int cores, threads;
        char host[64];
    } mine = {0}, *all = NULL;
    int index, neighbours;
    caloris_comm_neighbours(engine->comm, &index, &neighbours);
    mine.cores = caloris_pool_cores(neighbours);
    mine.threads = engine->options.threads;
    snprintf(mine.host, sizeof(mine.host), "%s", caloris_comm_host(engine->comm));
    struct caloris_err no_memory = {0};
    int rc = 0;
    if (engine->rank == 0 && !(all = calloc((size_t)engine->ranks, sizeof(*all))))
        rc = caloris_err_sys(&no_memory, "cores of %d ranks", engine->ranks);
    if (agree(engine, rc, &no_memory, err) < 0)
        return -1;
    rc = caloris_comm_gather(engine->comm, &mine, sizeof(mine), all, err);
    for (int rank = 0; rc == 0 && all && rank < engine->ranks; rank++) {
        if (all[rank].threads <= all[rank].cores)
            continue;
        snprintf(engine->core_warning, sizeof(engine->core_warning),
                 "rank %d on %s runs %d threads on %d core%s of its own: bind it to more cores, or "
                 "give it fewer threads",
                 rank, all[rank].host, all[rank].threads, all[rank].cores,
                 all[rank].cores == 1 ? "" : "s");
        break;
    }
    free(all);
    return rc < 0 ? fail_world(engine, err) : 0;
}

static void fill_facts(struct caloris_engine *engine)
{
    struct caloris_engine_facts *facts = &engine->facts;
    caloris_memory_facts(&engine->config, &facts->model);
    facts->ranks = engine->ranks;
    facts->threads = engine->options.threads;
    facts->transport = caloris_comm_transport(engine->comm);
    facts->blas = caloris_kernels_blas();
    facts->blas_warning = caloris_kernels_blas_warning();
    facts->max_requests = engine->options.max_requests;
    facts->max_canvas = engine->options.max_canvas;
    facts->max_step_rows = engine->options.max_step_rows;
    facts->kv_tokens = engine->options.kv_tokens;
    facts->shares = engine->shares;
}

static int open_engine(struct caloris_engine *engine, struct caloris_err *err)
{
    struct caloris_err mine = {0};
    const uint64_t start = caloris_time_ns();
    caloris_kernels_init();
    if (engine->options.threads == 0) {
        int index, neighbours;
        caloris_comm_neighbours(engine->comm, &index, &neighbours);
        engine->options.threads = caloris_pool_cores(neighbours);
    }
    if (agree(engine, read_config(engine, &mine), &mine, err) < 0)
        return -1;
    if (compare_terms(engine, err) < 0)
        return -1;
    if (agree(engine, make_buffers(engine, &mine), &mine, err) < 0)
        return -1;
    fill_facts(engine);
    if (engine->rank == 0 && engine->options.planned)
        engine->options.planned(&engine->facts);
    if (agree(engine, load_weights(engine, &mine), &mine, err) < 0)
        return -1;
    if (compare_cores(engine, err) < 0)
        return -1;

    engine->counters.bytes_read = engine->weights.bytes_read;
    engine->facts.core_warning = engine->core_warning[0] ? engine->core_warning : NULL;
    engine->facts.load_s = (double)(caloris_time_ns() - start) * 1e-9;
    return 0;
}

static void close_engine(struct caloris_engine *engine)
{
    caloris_weights_free(&engine->weights);
    caloris_memory_free(&engine->memory);
    caloris_pool_free(engine->pool);
    free(engine->shares);
    free(engine);
}

/* ---- one step on every rank ------------------------------------------------------------------------------------- */

static int compute_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                        size_t best, struct caloris_err *err)
{
    struct caloris_nn_rows rows;
    struct caloris_comm_counters before, after;
    const uint64_t start = caloris_time_ns();
    caloris_comm_counters(engine->comm, &before);

    caloris_step_apply(&engine->step, plan, &rows);
    if (rows.rows > 0 && caloris_nn_forward(&engine->nn, &rows, err) < 0)
        return -1;
    caloris_nn_head(&engine->nn, engine->step.wants, plan->n_wants, plan->rules, best,
                    &engine->counters.head_rows);

    const double seconds = (double)(caloris_time_ns() - start) * 1e-9;
    caloris_comm_counters(engine->comm, &after);
    const double reduce = after.allreduce_s - before.allreduce_s,
                 wait = after.wait_s - before.wait_s;
    engine->counters.steps++;
    engine->counters.rows += rows.rows;
    engine->counters.compute_s += seconds - reduce;
    engine->counters.allreduce_s += reduce - wait;
    engine->counters.wait_s += wait;
    engine->counters.allreduce_bytes = after.bytes_sent;

    if (caloris_comm_gather(engine->comm, engine->nn.summaries,
                            plan->n_wants * sizeof(*engine->nn.summaries), engine->memory.gathered,
                            err) < 0)
        return -1;
    return caloris_comm_gather(engine->comm, engine->nn.best,
                               plan->n_wants * best * sizeof(*engine->nn.best),
                               engine->memory.gathered_best, err);
}

/* Rank 0: the slices' summaries into one per wanted row. */
static int merge_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                      size_t best, struct caloris_err *err)
{
    const size_t n = plan->n_wants;
    for (size_t w = 0; w < n; w++) {
        struct caloris_summary *to = &engine->memory.summaries[w];
        caloris_nn_merge(engine->memory.gathered + w, n, engine->memory.gathered_best + w * best,
                         n * best, engine->ranks, &plan->rules[plan->wants[w].rule], to,
                         engine->memory.best + w * best);
        if (!isfinite(to->max) || !isfinite(to->rest) || to->found == 0)
            return caloris_err_set(
                err, CALORIS_BAD_MODEL,
                "slot %u, position %u: the logits are not numbers; the weights are damaged",
                plan->spans[plan->wants[w].span].slot, plan->wants[w].position);
    }
    return 0;
}

int caloris_engine_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                        struct caloris_step_result *result, struct caloris_err *err)
{
    if (caloris_step_check(&engine->step, plan, err) < 0)
        return -1;
    size_t best = 1;
    for (size_t i = 0; i < plan->n_rules; i++)
        best = plan->rules[i].best > best ? plan->rules[i].best : best;
    struct order order = {OP_STEP, (uint32_t)best, caloris_step_pack(&engine->step, plan)};
    if (caloris_comm_broadcast_idle(engine->comm, &order, sizeof(order), err) < 0 ||
        caloris_comm_broadcast(engine->comm, engine->step.plan, order.bytes, err) < 0 ||
        compute_step(engine, plan, best, err) < 0)
        return fail_world(engine, err);
    if (merge_step(engine, plan, best, err) < 0)
        return -1;
    *result = (struct caloris_step_result){engine->memory.summaries, engine->memory.best, best};
    return 0;
}

/* ---- raw logits ------------------------------------------------------------------------------------------------- */

/* Rows that go through the head at a time: every rank's slice of them fits the tile. */
static size_t logits_block(const struct caloris_engine *engine, size_t *slice)
{
    *slice = 0;
    for (int rank = 0; rank < engine->ranks; rank++) {
        struct caloris_model_split split;
        caloris_model_split(&engine->config, engine->ranks, rank, &split);
        *slice = split.vocab > *slice ? split.vocab : *slice;
    }
    return caloris_nn_tile_floats() / *slice;
}

typedef int (*logits_sink)(void *arg, const float *logits, size_t rows, struct caloris_err *err);

/* Rank 0: slices [ranks][rows, its vocab] into whole rows. */
static void join_slices(const struct caloris_engine *engine, const float *gathered, size_t stride,
                        size_t rows, float *logits)
{
    for (int rank = 0; rank < engine->ranks; rank++) {
        const struct caloris_rank_share *share = &engine->shares[rank];
        const float *from = gathered + (size_t)rank * stride;
        for (size_t row = 0; row < rows; row++)
            memcpy(logits + row * engine->config.vocab + share->vocab_first,
                   from + row * share->vocab, share->vocab * sizeof(float));
    }
}

static int compute_logits(struct caloris_engine *engine, size_t n, logits_sink sink, void *arg,
                          struct caloris_err *err)
{
    size_t slice;
    const size_t block = logits_block(engine, &slice);
    float *gathered = NULL, *logits = NULL;
    struct caloris_err mine = {0};
    int rc = 0;
    if (engine->rank == 0) {
        gathered = malloc((size_t)engine->ranks * block * slice * sizeof(float));
        logits = malloc(block * engine->config.vocab * sizeof(float));
        if (!gathered || !logits)
            rc = caloris_err_sys(&mine, "logits of %zu rows", block);
    }
    if (agree(engine, rc, &mine, err) < 0) {
        rc = -1;
        goto out;
    }
    for (size_t row = 0; row < n; row++) {
        engine->step.position[row] = (uint32_t)row;
        engine->step.kv_row[row] = CALORIS_NN_NOT_KEPT;
    }
    const struct caloris_nn_canvas canvas = {.rows = n, .length = n};
    const struct caloris_nn_rows rows = {
        engine->step.ids, engine->step.position, engine->step.kv_row, &canvas, 1, n};
    rc = -1;
    if (caloris_nn_forward(&engine->nn, &rows, err) < 0) {
        fail_world(engine, err);
        goto out;
    }
    bool sink_failed = false;
    for (size_t first = 0; first < n; first += block) {
        const size_t count = n - first < block ? n - first : block;
        caloris_nn_logits(&engine->nn, first, count, engine->nn.tile);
        if (caloris_comm_gather(engine->comm, engine->nn.tile, count * slice * sizeof(float),
                                gathered, err) < 0) {
            fail_world(engine, err);
            goto out;
        }
        if (engine->rank != 0 || sink_failed)
            continue;
        join_slices(engine, gathered, count * slice, count, logits);
        sink_failed = sink(arg, logits, count, err) < 0;
    }
    rc = sink_failed ? -1 : 0;
out:
    free(gathered);
    free(logits);
    return rc;
}

int caloris_engine_logits(struct caloris_engine *engine, const int32_t *ids, size_t n,
                          logits_sink sink, void *arg, struct caloris_err *err)
{
    if (n == 0 || n > engine->options.max_canvas)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "ids: %zu tokens are not in 1 … %zu (max-canvas)", n,
                               engine->options.max_canvas);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= engine->config.vocab)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "ids: %d at %zu is outside the vocabulary of %zu", ids[i], i,
                                   engine->config.vocab);
    }
    struct order order = {OP_LOGITS, 0, n};
    memcpy(engine->step.ids, ids, n * sizeof(*ids));
    if (caloris_comm_broadcast_idle(engine->comm, &order, sizeof(order), err) < 0 ||
        caloris_comm_broadcast(engine->comm, engine->step.ids, n * sizeof(*ids), err) < 0)
        return fail_world(engine, err);
    return compute_logits(engine, n, sink, arg, err);
}

/* ---- the world -------------------------------------------------------------------------------------------------- */

/* Ranks 1 …: what rank 0 orders, until it stops. */
static int serve(struct caloris_engine *engine, struct caloris_err *err)
{
    for (;;) {
        struct order order;
        if (caloris_comm_broadcast_idle(engine->comm, &order, sizeof(order), err) < 0)
            return fail_world(engine, err);
        switch (order.op) {
        case OP_STEP: {
            struct caloris_step_plan plan;
            if (caloris_comm_broadcast(engine->comm, engine->step.plan, order.bytes, err) < 0)
                return fail_world(engine, err);
            caloris_step_unpack(&engine->step, &plan);
            if (compute_step(engine, &plan, order.best, err) < 0)
                return fail_world(engine, err);
            break;
        }
        case OP_LOGITS:
            if (caloris_comm_broadcast(engine->comm, engine->step.ids,
                                       order.bytes * sizeof(int32_t), err) < 0)
                return fail_world(engine, err);
            /* Short of memory, all go on: rank 0 says what comes next. */
            if (compute_logits(engine, order.bytes, NULL, NULL, err) < 0 && engine->lost)
                return -1;
            break;
        default: {
            struct caloris_err last;
            if (caloris_comm_broadcast(engine->comm, &last, sizeof(last), err) < 0)
                return fail_world(engine, err);
            if (last.code == CALORIS_OK)
                return 0;
            if (err)
                *err = last;
            return -1;
        }
        }
    }
}

/* Rank 0: the body, then its outcome to all. */
static int lead(struct caloris_engine *engine, caloris_engine_body_fn body, void *arg,
                struct caloris_err *err)
{
    struct caloris_err last = {0};
    int rc = body(engine, arg, &last);
    if (rc < 0 && last.code == CALORIS_OK)
        caloris_err_set(&last, CALORIS_INTERNAL, "failed without a reason");
    if (rc == 0)
        last.code = CALORIS_OK;
    if (rc < 0 && err)
        *err = last;
    if (engine->lost)
        return rc;
    struct order order = {OP_STOP, 0, 0};
    struct caloris_err *lost = rc < 0 ? NULL : err;
    if (caloris_comm_broadcast_idle(engine->comm, &order, sizeof(order), lost) < 0 ||
        caloris_comm_broadcast(engine->comm, &last, sizeof(last), lost) < 0) {
        engine->lost = true;
        return -1;
    }
    return rc;
}

struct run {
    const struct caloris_engine_options *options;
    caloris_engine_body_fn body;
    void *arg;
};

static int run_rank(struct caloris_comm *comm, void *arg, struct caloris_err *err)
{
    const struct run *run = arg;
    const struct caloris_engine_options *options = run->options;
    struct caloris_err mine = {0};
    struct caloris_engine *engine = calloc(1, sizeof(*engine));
    if (!engine)
        caloris_err_sys(&mine, "engine");
    if (caloris_comm_agree(comm, engine ? NULL : &mine, err) < 0) {
        free(engine);
        return -1;
    }
    engine->options = *options;
    engine->comm = comm;
    engine->rank = caloris_comm_rank(comm);
    engine->ranks = caloris_comm_size(comm);
    int rc = open_engine(engine, err);
    if (rc == 0)
        rc = engine->rank == 0 ? lead(engine, run->body, run->arg, err) : serve(engine, err);
    const bool lost = engine->lost;
    close_engine(engine);
    if (rc < 0 && err && options->failed && caloris_comm_rank(comm) == 0 &&
        options->transport == CALORIS_TRANSPORT_MPI)
        options->failed(err);
    if (lost)
        caloris_comm_abort(comm, caloris_exit_server(CALORIS_PEER_LOST));
    return rc;
}

int caloris_engine_run(const struct caloris_engine_options *options, caloris_engine_body_fn body,
                       void *arg, bool *report, struct caloris_err *err)
{
    struct run run = {options, body, arg};
    if (report)
        *report = true;
    if (options->transport == CALORIS_TRANSPORT_THREADS && options->ranks > 1)
        return caloris_comm_run_threads(options->ranks, run_rank, &run, err);

    struct caloris_comm *comm = options->transport == CALORIS_TRANSPORT_THREADS
                                    ? caloris_comm_open_self(err)
                                    : caloris_comm_open_mpi(err);
    if (!comm)
        return -1;
    if (report)
        *report = caloris_comm_rank(comm) == 0;
    int rc = run_rank(comm, &run, err);
    caloris_comm_close(comm);
    return rc;
}

const struct caloris_engine_facts *caloris_engine_facts(const struct caloris_engine *engine)
{
    return &engine->facts;
}

void caloris_engine_counters(const struct caloris_engine *engine,
                             struct caloris_engine_counters *out)
{
    *out = engine->counters;
}
