/* How a rank comes up: config, buffers, weights, each agreed upon by all. */
#include "worker/engine_impl.h"

#include "base/err.h"
#include "base/time.h"
#include "worker/comm/comm.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    if (caloris_memory_limits(&engine->options, &engine->config, &engine->stored, err) < 0)
        return -1;
    return caloris_calibrate_wanted(&engine->options, &engine->stored)
               ? caloris_sample_make(&engine->options, &engine->config, &engine->sample, err)
               : 0;
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
    engine->nn.profile.on = engine->options.profile;
    const size_t reduced = engine->options.max_step_rows * engine->config.hidden;
    if (caloris_comm_scratch_bytes(engine->comm, reduced) > engine->nn.comm_scratch_bytes)
        return caloris_err_set(err, CALORIS_INTERNAL, "all-reduce scratch is larger than planned");
    caloris_nn_prepare(&engine->nn);
    if (engine->rank != 0)
        return 0;

    engine->shares = calloc((size_t)engine->ranks, sizeof(*engine->shares));
    engine->compared = calloc((size_t)engine->ranks, (engine->config.hidden + 1) * sizeof(float));
    if (!engine->shares || !engine->compared)
        return caloris_err_sys(err, "shares of %d ranks", engine->ranks);
    for (int rank = 0; rank < engine->ranks; rank++) {
        if (caloris_memory_share(&engine->options, &engine->config, NULL, engine->ranks, rank,
                                 &engine->shares[rank], err) < 0)
            return -1;
    }
    caloris_memory_balance(engine->shares, engine->ranks);
    return 0;
}

static int largest_of_ranks(void *arg, float *x, size_t n, struct caloris_err *err)
{
    struct caloris_engine *engine = arg;
    return caloris_comm_allreduce_max_f32(engine->comm, x, n, engine->compared, err);
}

static void count_loaded(void *arg, uint64_t bytes)
{
    struct caloris_engine *engine = arg;
    caloris_comm_loaded(engine->comm, bytes);
}

/* Outliers for the load; all ranks come out alike. */
static int calibrate(struct caloris_engine *engine, struct caloris_calibration **calibration,
                     struct caloris_err *err)
{
    bool lost = false;
    *calibration = NULL;
    if (engine->sample.rows == 0)
        return 0;
    const uint64_t start = caloris_time_ns();
    *calibration = caloris_calibrate(engine->options.model_dir, &engine->config, &engine->sample,
                                     engine->comm, engine->pool, NULL, &lost, err);
    caloris_sample_free(&engine->sample);
    if (!*calibration)
        return lost ? caloris_engine_lose(engine, err) : -1;
    engine->facts.calibrate_s = (double)(caloris_time_ns() - start) * 1e-9;
    for (size_t i = 0; i <= engine->config.layers * CALORIS_LAYER_PRODUCTS; i++) {
        engine->facts.outlier_columns += (*calibration)->of[i].n;
        engine->facts.outlier_matrices += (*calibration)->of[i].whole;
    }
    struct caloris_err mine = {0};
    int rc = 0;
    for (int rank = 0; engine->shares && rc == 0 && rank < engine->ranks; rank++) {
        const double load = engine->shares[rank].load;
        rc = caloris_memory_share(&engine->options, &engine->config, *calibration, engine->ranks,
                                  rank, &engine->shares[rank], &mine);
        engine->shares[rank].load = load; /* relative to the others since */
    }
    return caloris_engine_agree(engine, rc, &mine, err);
}

static int load_weights(struct caloris_engine *engine,
                        const struct caloris_calibration *calibration, struct caloris_err *err)
{
    const struct caloris_engine_options *o = &engine->options;
    const enum caloris_format format = caloris_memory_format(o);
    const struct caloris_weights_peers peers = {largest_of_ranks, count_loaded, engine};
    uint64_t bytes = 0;
    if (o->synthetic)
        return caloris_weights_invent(&engine->config, &engine->nn.split, format, engine->pool,
                                      half_of_memory(engine), &engine->weights, &bytes, err);
    int rc = caloris_weights_load(o->model_dir, &engine->config, &engine->nn.split, format,
                                  calibration, engine->pool, &peers, &engine->weights, err);
    free(engine->compared);
    engine->compared = NULL;
    return rc;
}

int caloris_engine_agree(struct caloris_engine *engine, int rc, const struct caloris_err *mine,
                         struct caloris_err *err)
{
    return caloris_comm_agree(engine->comm, rc < 0 ? mine : NULL, err);
}

int caloris_engine_lose(struct caloris_engine *engine, struct caloris_err *err)
{
    engine->lost = true;
    caloris_err_prefix(err, "rank %d on %s", engine->rank, caloris_comm_host(engine->comm));
    return -1;
}

/* All that decides what a rank computes and how much it sends: two ranks of one world differ in
 * none of it. */
enum { TERMS_TEXT = 400 };

static void describe_terms(const struct caloris_engine *engine, char text[TERMS_TEXT])
{
    char from[96] = "";
    if (engine->sample.rows > 0)
        snprintf(from, sizeof(from), " calibrated on %zu ids %08" PRIx32, engine->sample.rows,
                 engine->sample.check);
    if (engine->stored.there)
        snprintf(from, sizeof(from), " of shard file %08" PRIx32, engine->stored.check);
    const struct caloris_model_config *c = &engine->config;
    const struct caloris_engine_options *o = &engine->options;
    snprintf(text, TERMS_TEXT,
             "%s of %zu layers x %zu, %zu/%zu heads x %zu, FFN %zu, vocabulary %zu%s, norm_eps %g, "
             "rope_theta %g, weights as %s%s; %zu requests, %zu tokens a canvas, %zu rows a step, "
             "%zu tokens of K/V",
             c->family, c->layers, c->hidden, c->heads, c->kv_heads, c->head_dim, c->ffn, c->vocab,
             c->tied ? " tied" : "", (double)c->norm_eps, c->rope_theta,
             caloris_format_name(caloris_memory_format(o)), from, o->max_requests, o->max_canvas,
             o->max_step_rows, o->kv_tokens);
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
    if (caloris_engine_agree(engine, rc, &verdict, err) < 0)
        return -1;
    if (caloris_comm_gather(engine->comm, &mine, sizeof(mine), all, err) < 0) {
        free(all);
        return caloris_engine_lose(engine, err);
    }
    for (int rank = 1; rc == 0 && all && rank < engine->ranks; rank++) {
        if (strcmp(all[rank].text, mine.text) != 0)
            rc = caloris_err_set(&verdict, CALORIS_BAD_MODEL,
                                 "rank %d on %.60s has another model: %s; here: %s", rank,
                                 all[rank].host, all[rank].text, mine.text);
    }
    free(all);
    return caloris_engine_agree(engine, rc, &verdict, err);
}

/* Tells rank 0 when some rank owns fewer cores than it has threads: the classic ten-fold slowdown
 * of default bindings. */
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
    if (caloris_engine_agree(engine, rc, &no_memory, err) < 0)
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
    return rc < 0 ? caloris_engine_lose(engine, err) : 0;
}

/* Instruction sets that this rank may use: a bit for each of caloris_kernels_isa. */
static uint32_t usable_isas(const struct caloris_engine_options *o)
{
    uint32_t usable = 0;
    const char *name;
    bool runs, beyond = false;
    for (size_t i = 0; i < 32 && (name = caloris_kernels_isa(i, &runs)); i++) {
        usable |= runs && !beyond ? 1u << i : 0;
        beyond |= o->isa && strcmp(name, o->isa) == 0;
    }
    return usable;
}

/* bits is not 0. */
static uint32_t strongest(uint32_t bits)
{
    return 31u - (uint32_t)__builtin_clz(bits);
}

/* All ranks compute by the strongest kernels that all of them have: CPUs of a cluster may differ,
 * and what a row becomes must not depend on who computes it. */
static int agree_isa(struct caloris_engine *engine, struct caloris_err *err)
{
    struct {
        uint32_t usable;
        char host[64];
    } mine = {0}, *all = NULL;
    struct caloris_err verdict = {0};
    uint32_t common = UINT32_MAX;
    int rc = 0;
    mine.usable = usable_isas(&engine->options);
    snprintf(mine.host, sizeof(mine.host), "%s", caloris_comm_host(engine->comm));
    if (engine->rank == 0 && !(all = calloc((size_t)engine->ranks, sizeof(*all))))
        rc = caloris_err_sys(&verdict, "instruction sets of %d ranks", engine->ranks);
    if (caloris_engine_agree(engine, rc, &verdict, err) < 0)
        return -1;
    rc = caloris_comm_gather(engine->comm, &mine, sizeof(mine), all, err);
    for (int rank = 0; rc == 0 && all && rank < engine->ranks; rank++)
        common &= all[rank].usable;
    if (rc == 0)
        rc = caloris_comm_broadcast(engine->comm, &common, sizeof(common), err);
    for (int rank = 0; rc == 0 && all && rank < engine->ranks; rank++) {
        if (all[rank].usable == common || engine->isa_warning[0])
            continue;
        int weak = 0; /* the first that keeps the others back */
        while (strongest(all[weak].usable) > strongest(common) && weak + 1 < engine->ranks)
            weak++;
        snprintf(engine->isa_warning, sizeof(engine->isa_warning),
                 "all ranks use kernels up to %s, for the sake of rank %d on %s; rank %d on %s has "
                 "%s",
                 caloris_kernels_isa(strongest(common), NULL), weak, all[weak].host, rank,
                 all[rank].host, caloris_kernels_isa(strongest(all[rank].usable), NULL));
    }
    free(all);
    if (rc < 0)
        return caloris_engine_lose(engine, err);
    if (strongest(common) != strongest(mine.usable))
        rc = caloris_kernels_force(caloris_kernels_isa(strongest(common), NULL), &verdict);
    return caloris_engine_agree(engine, rc, &verdict, err);
}

static void fill_facts(struct caloris_engine *engine)
{
    struct caloris_engine_facts *facts = &engine->facts;
    caloris_memory_facts(&engine->config, &engine->stored, &facts->model);
    facts->ranks = engine->ranks;
    facts->threads = engine->options.threads;
    facts->transport = caloris_comm_transport(engine->comm);
    facts->blas = caloris_kernels_blas();
    facts->blas_warning = caloris_kernels_blas_warning();
    facts->max_requests = engine->options.max_requests;
    facts->max_canvas = engine->options.max_canvas;
    facts->max_step_rows = engine->options.max_step_rows;
    facts->format = caloris_format_name(caloris_memory_format(&engine->options));
    facts->kernels = caloris_kernels_name(caloris_memory_format(&engine->options));
    facts->kv_tokens = engine->options.kv_tokens;
    facts->shares = engine->shares;
}

int caloris_engine_open(struct caloris_engine *engine, struct caloris_err *err)
{
    struct caloris_err mine = {0};
    const uint64_t start = caloris_time_ns();
    caloris_kernels_init();
    if (engine->options.threads == 0) {
        int index, neighbours;
        caloris_comm_neighbours(engine->comm, &index, &neighbours);
        engine->options.threads = caloris_pool_cores(neighbours);
    }
    if (agree_isa(engine, err) < 0 ||
        caloris_engine_agree(engine, read_config(engine, &mine), &mine, err) < 0)
        return -1;
    if (compare_terms(engine, err) < 0)
        return -1;
    if (caloris_engine_agree(engine, make_buffers(engine, &mine), &mine, err) < 0)
        return -1;
    fill_facts(engine);
    if (engine->rank == 0 && engine->options.planned)
        engine->options.planned(&engine->facts);
    struct caloris_calibration *calibration;
    if (calibrate(engine, &calibration, err) < 0) {
        caloris_calibration_free(calibration);
        return -1;
    }
    int rc = load_weights(engine, calibration, &mine);
    caloris_calibration_free(calibration);
    if (caloris_engine_agree(engine, rc, &mine, err) < 0)
        return -1;
    if (compare_cores(engine, err) < 0)
        return -1;

    engine->counters.bytes_read = engine->weights.bytes_read;
    engine->facts.core_warning = engine->core_warning[0] ? engine->core_warning : NULL;
    engine->facts.isa_warning = engine->isa_warning[0] ? engine->isa_warning : NULL;
    engine->facts.load_s = (double)(caloris_time_ns() - start) * 1e-9;
    caloris_comm_at(engine->comm, CALORIS_COMM_IDLE, 0);
    return 0;
}

void caloris_engine_close(struct caloris_engine *engine)
{
    caloris_weights_free(&engine->weights);
    caloris_memory_free(&engine->memory);
    caloris_pool_free(engine->pool);
    free(engine->shares);
    free(engine->compared);
    caloris_sample_free(&engine->sample);
    free(engine);
}
