#include "worker/engine_impl.h"

#include "base/err.h"
#include "base/log.h"
#include "base/time.h"
#include "worker/comm/comm.h"
#include "worker/kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What rank 0 asks of all ranks; what follows it depends on op. */
enum op { OP_STEP = 1, OP_LOGITS, OP_PROFILE, OP_RESTART, OP_STOP };

struct order {
    uint32_t op;
    uint32_t best;  /* STEP: candidates of each summary */
    uint64_t bytes; /* STEP: of the packed plan; LOGITS: ids */
};

/* ---- one step on every rank ------------------------------------------------------------------ */

/* Forks begin with the K/V of another canvas, as they were before this step. */
static void copy_kept(struct caloris_engine *engine, const struct caloris_step_plan *plan)
{
    for (size_t i = 0; i < plan->n_admissions; i++) {
        const struct caloris_admission *a = &plan->admissions[i];
        if (a->forked)
            caloris_nn_copy_kept(&engine->nn, engine->step.slot[a->from].kv_first, a->kv_first,
                                 a->length);
    }
}

/* What the longest operation of a step of so many rows should take, by the longest so far. Before
 * the first, and without much trust: the whole step at 1 GFLOP/s. */
static uint64_t expected_ns(const struct caloris_engine *engine, uint64_t rows)
{
    if (engine->longest_rows == 0)
        return 2 * rows * caloris_model_parameters(&engine->config) / (uint64_t)engine->ranks;
    return engine->longest_ns / engine->longest_rows *
           (rows > engine->longest_rows ? rows : engine->longest_rows);
}

static void learn(struct caloris_engine *engine, uint64_t rows)
{
    const uint64_t ns = caloris_comm_longest_ns(engine->comm);
    if (rows > 0 && ns > engine->longest_ns) {
        engine->longest_ns = ns;
        engine->longest_rows = rows;
    }
    caloris_comm_at(engine->comm, CALORIS_COMM_IDLE, 0);
    const struct caloris_phase_cost *phase = engine->nn.profile.phase;
    const struct caloris_comm_work work = {
        .compute_s = engine->counters.compute_s,
        .attention_s = phase[CALORIS_PHASE_QKV].seconds + phase[CALORIS_PHASE_ATTENTION].seconds +
                       phase[CALORIS_PHASE_O].seconds,
        .mlp_s = phase[CALORIS_PHASE_GATE_UP].seconds + phase[CALORIS_PHASE_SWIGLU].seconds +
                 phase[CALORIS_PHASE_DOWN].seconds,
        .head_s = phase[CALORIS_PHASE_HEAD].seconds,
        .step_rows = rows,
    };
    caloris_comm_did(engine->comm, &work);
}

static int compute_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                        size_t best, struct caloris_err *err)
{
    struct caloris_nn_rows rows;
    struct caloris_comm_counters before, after;
    const uint64_t start = caloris_time_ns();
    caloris_comm_counters(engine->comm, &before);
    size_t planned = 0;
    for (size_t i = 0; i < plan->n_spans; i++)
        planned += plan->spans[i].count;
    caloris_comm_at(engine->comm, CALORIS_COMM_STEP, expected_ns(engine, planned));

    caloris_nn_start(&engine->nn);
    caloris_step_apply(&engine->step, plan, &rows);
    copy_kept(engine, plan);
    caloris_nn_lap(&engine->nn, CALORIS_PHASE_REST, 0, 0);
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
                            err) < 0 ||
        caloris_comm_gather(engine->comm, engine->nn.best,
                            plan->n_wants * best * sizeof(*engine->nn.best),
                            engine->memory.gathered_best, err) < 0)
        return -1;
    caloris_nn_lap(&engine->nn, CALORIS_PHASE_REST, 0, 0);
    learn(engine, rows.rows);
    return 0;
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
    for (size_t i = 0; i < plan->n_rules; i++) {
        const size_t asked = caloris_rule_candidates(&plan->rules[i]);
        best = asked > best ? asked : best;
    }
    struct order order = {OP_STEP, (uint32_t)best, caloris_step_pack(&engine->step, plan)};
    if (caloris_comm_broadcast_idle(engine->comm, &order, sizeof(order), err) < 0 ||
        caloris_comm_broadcast(engine->comm, engine->step.plan, order.bytes, err) < 0 ||
        compute_step(engine, plan, best, err) < 0)
        return caloris_engine_lose(engine, err);
    if (merge_step(engine, plan, best, err) < 0)
        return -1;
    *result = (struct caloris_step_result){engine->memory.summaries, engine->memory.best, best};
    return 0;
}

/* ---- raw logits ------------------------------------------------------------------------------ */

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
    if (caloris_engine_agree(engine, rc, &mine, err) < 0) {
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
    caloris_comm_at(engine->comm, CALORIS_COMM_LOADING, 0); /* the sink may be slow */
    caloris_nn_start(&engine->nn);
    if (caloris_nn_forward(&engine->nn, &rows, err) < 0) {
        caloris_engine_lose(engine, err);
        goto out;
    }
    bool sink_failed = false;
    for (size_t first = 0; first < n; first += block) {
        const size_t count = n - first < block ? n - first : block;
        caloris_nn_start(&engine->nn); /* what the sink does is its own */
        caloris_nn_logits(&engine->nn, first, count, engine->nn.tile);
        if (caloris_comm_gather(engine->comm, engine->nn.tile, count * slice * sizeof(float),
                                gathered, err) < 0) {
            caloris_engine_lose(engine, err);
            goto out;
        }
        if (engine->rank != 0 || sink_failed)
            continue;
        join_slices(engine, gathered, count * slice, count, logits);
        sink_failed = sink(arg, logits, count, err) < 0;
    }
    rc = sink_failed ? -1 : 0;
    caloris_comm_at(engine->comm, CALORIS_COMM_IDLE, 0);
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
        return caloris_engine_lose(engine, err);
    return compute_logits(engine, n, sink, arg, err);
}

/* ---- the profile ----------------------------------------------------------------------------- */

/* From now on. */
static void restart_profile(struct caloris_engine *engine)
{
    memset(engine->nn.profile.phase, 0, sizeof(engine->nn.profile.phase));
    engine->before_profile = engine->counters;
}

static int send_profile(struct caloris_engine *engine, struct caloris_rank_profile *all,
                        struct caloris_err *err)
{
    const struct caloris_engine_counters *now = &engine->counters;
    const struct caloris_engine_counters *before = &engine->before_profile;
    struct caloris_rank_profile mine = {
        .counters = {
            .steps = now->steps - before->steps,
            .rows = now->rows - before->rows,
            .head_rows = now->head_rows - before->head_rows,
            .bytes_read = now->bytes_read - before->bytes_read,
            .allreduce_bytes = now->allreduce_bytes - before->allreduce_bytes,
            .compute_s = now->compute_s - before->compute_s,
            .allreduce_s = now->allreduce_s - before->allreduce_s,
            .wait_s = now->wait_s - before->wait_s,
        }};
    memcpy(mine.phase, engine->nn.profile.phase, sizeof(mine.phase));
    return caloris_comm_gather(engine->comm, &mine, sizeof(mine), all, err);
}

int caloris_engine_profile(struct caloris_engine *engine, struct caloris_rank_profile *profiles,
                           struct caloris_err *err)
{
    struct order order = {profiles ? OP_PROFILE : OP_RESTART, 0, 0};
    if (engine->lost)
        return caloris_err_set(err, CALORIS_PEER_LOST, "no profile: a rank is lost");
    if (caloris_comm_broadcast_idle(engine->comm, &order, sizeof(order), err) < 0 ||
        (profiles && send_profile(engine, profiles, err) < 0))
        return caloris_engine_lose(engine, err);
    if (!profiles)
        restart_profile(engine);
    return 0;
}

/* ---- the world ------------------------------------------------------------------------------- */

/* Ranks 1 …: what rank 0 orders, until it stops. */
static int serve(struct caloris_engine *engine, struct caloris_err *err)
{
    for (;;) {
        struct order order;
        if (caloris_comm_broadcast_idle(engine->comm, &order, sizeof(order), err) < 0)
            return caloris_engine_lose(engine, err);
        switch (order.op) {
        case OP_STEP: {
            struct caloris_step_plan plan;
            if (caloris_comm_broadcast(engine->comm, engine->step.plan, order.bytes, err) < 0)
                return caloris_engine_lose(engine, err);
            caloris_step_unpack(&engine->step, &plan);
            if (compute_step(engine, &plan, order.best, err) < 0)
                return caloris_engine_lose(engine, err);
            break;
        }
        case OP_LOGITS:
            if (caloris_comm_broadcast(engine->comm, engine->step.ids,
                                       order.bytes * sizeof(int32_t), err) < 0)
                return caloris_engine_lose(engine, err);
            /* Short of memory, all go on: rank 0 says what comes next. */
            if (compute_logits(engine, order.bytes, NULL, NULL, err) < 0 && engine->lost)
                return -1;
            break;
        case OP_PROFILE:
            if (send_profile(engine, NULL, err) < 0)
                return caloris_engine_lose(engine, err);
            break;
        case OP_RESTART:
            restart_profile(engine);
            break;
        default: {
            struct caloris_err last;
            if (caloris_comm_broadcast(engine->comm, &last, sizeof(last), err) < 0)
                return caloris_engine_lose(engine, err);
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
    const struct caloris_err *failed; /* before the world was there; or NULL */
};

static int watch(struct caloris_engine *engine, struct caloris_err *err)
{
    const struct caloris_engine_options *options = &engine->options;
    const struct caloris_comm_watch how = {.silent_ms = options->silent_ms,
                                           .stands_ms = options->stands_ms,
                                           .leave = options->lost,
                                           .asked = options->asked,
                                           .ask = options->ask};
    caloris_comm_at(engine->comm, CALORIS_COMM_LOADING, 0);
    if (!options->lost)
        return 0;
    if (caloris_comm_watch(engine->comm, &how, engine->watch_warning, err) < 0)
        return caloris_engine_lose(engine, err);
    engine->facts.watch_warning = engine->watch_warning[0] ? engine->watch_warning : NULL;
    return 0;
}

static int run_rank(struct caloris_comm *comm, void *arg, struct caloris_err *err)
{
    const struct run *run = arg;
    const struct caloris_engine_options *options = run->options;
    struct caloris_err mine = {0};
    const struct caloris_err *failed = run->failed;
    struct caloris_engine *engine = calloc(1, sizeof(*engine));
    if (!engine) {
        caloris_err_sys(&mine, "engine");
        failed = &mine;
    }
    if (caloris_comm_agree(comm, failed, err) < 0) {
        free(engine);
        return -1;
    }
    engine->options = *options;
    engine->comm = comm;
    engine->rank = caloris_comm_rank(comm);
    engine->ranks = caloris_comm_size(comm);
    if (options->transport == CALORIS_TRANSPORT_MPI)
        caloris_log_set_rank(engine->rank, engine->ranks); /* this process is one rank */
    int rc = watch(engine, err);
    if (rc == 0)
        rc = caloris_engine_open(engine, err);
    if (rc == 0)
        rc = engine->rank == 0 ? lead(engine, run->body, run->arg, err) : serve(engine, err);
    const bool lost = engine->lost;
    caloris_engine_close(engine);
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
    /* Kernels are the process's, ranks may be its threads: chosen before there are any. */
    struct caloris_err unforced;
    const bool forced = !options->isa || caloris_kernels_force(options->isa, &unforced) == 0;
    struct run run = {options, body, arg, forced ? NULL : &unforced};
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

bool caloris_engine_rank_figures(const struct caloris_engine *engine, int rank,
                                 struct caloris_rank_figures *out)
{
    struct caloris_comm_figures told;
    if (!caloris_comm_figures(engine->comm, rank, &told))
        return false;
    *out = (struct caloris_rank_figures){
        .compute_s = told.compute_s,
        .allreduce_s = told.allreduce_s,
        .wait_s = told.wait_s,
        .attention_s = told.attention_s,
        .mlp_s = told.mlp_s,
        .head_s = told.head_s,
        .steps = told.steps,
        .rows = told.rows,
        .allreduce_bytes = told.sent_bytes,
    };
    memcpy(out->steps_by_rows, told.steps_by_rows, sizeof(out->steps_by_rows));
    return true;
}

void caloris_engine_counters(const struct caloris_engine *engine,
                             struct caloris_engine_counters *out)
{
    *out = engine->counters;
}
