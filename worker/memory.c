#include "worker/memory.h"
#include "worker/calibrate.h"

#include "base/arena.h"
#include "base/err.h"
#include "worker/pool/pool.h"

#include <stdio.h>
#include <string.h>

enum {
    DEFAULT_ROWS =
        2048, /* of a step, where canvases allow: products of that size run at full speed */
    MOST_REQUESTS = 65536,
    MOST_ROWS = 1 << 24,
    DEFAULT_KEPT = 8192, /* positions with K/V, where canvases are short */
    DEFAULT_KEPT_CANVASES = 2,
    MOST_KEPT = 1 << 30,
};

int caloris_memory_config(const struct caloris_engine_options *options,
                          struct caloris_model_config *config, struct caloris_err *err)
{
    if (options->synthetic)
        return caloris_model_config_synthetic(options->synthetic, config, err);
    return caloris_model_config_load(options->model_dir, config, err);
}

void caloris_memory_facts(const struct caloris_model_config *config,
                          const struct caloris_stored *stored, struct caloris_model_facts *facts)
{
    *facts = (struct caloris_model_facts){
        .layers = config->layers,
        .hidden = config->hidden,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .ffn = config->ffn,
        .vocab = config->vocab,
        .max_sequence = config->max_sequence,
        .mask_id = config->mask_id,
        .eos_id = config->eos_id,
        .parameters = caloris_model_parameters(config),
        .packed = stored->there,
    };
    snprintf(facts->family, sizeof(facts->family), "%s", config->family);
}

const char *caloris_engine_format(size_t i)
{
    return i < CALORIS_FORMATS ? caloris_format_name((enum caloris_format)i) : NULL;
}

enum caloris_format caloris_memory_format(const struct caloris_engine_options *options)
{
    enum caloris_format format = CALORIS_FORMAT_FP32;
    if (options->weights)
        caloris_format_parse(options->weights, &format, NULL);
    return format;
}

/* What the caller said, or the folder's shard file; both may say the same. */
static int choose_format(struct caloris_engine_options *options, struct caloris_stored *stored,
                         struct caloris_err *err)
{
    enum caloris_format format;
    *stored = (struct caloris_stored){0};
    if (!options->synthetic && caloris_shard_find(options->model_dir, stored, err) < 0)
        return -1;
    if (!options->weights)
        options->weights =
            stored->there ? caloris_format_name(stored->format) : caloris_engine_format(0);
    if (caloris_format_parse(options->weights, &format, err) < 0)
        return -1;
    if (stored->there && format != stored->format)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "weights as %s: %s/%s holds them as %s; shard the model again, or "
                               "leave the format to the file",
                               options->weights, options->model_dir, CALORIS_SHARD_FILE,
                               caloris_format_name(stored->format));
    return 0;
}

int caloris_memory_limits(struct caloris_engine_options *options,
                          const struct caloris_model_config *config, struct caloris_stored *stored,
                          struct caloris_err *err)
{
    if (choose_format(options, stored, err) < 0)
        return -1;
    if (options->max_canvas == 0)
        options->max_canvas = config->max_sequence;
    if (options->max_canvas > config->max_sequence)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "max-canvas %zu: the model was made for at most %zu tokens",
                               options->max_canvas, config->max_sequence);
    if (options->max_requests == 0 || options->max_requests > MOST_REQUESTS)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "max-requests %zu is not in 1 … %d",
                               options->max_requests, MOST_REQUESTS);
    if (options->max_step_rows == 0) {
        /* Room for a guided request of the longest canvas, and for several short ones. */
        const size_t pair = options->max_canvas * (options->max_requests > 1 ? 2 : 1);
        const size_t all = options->max_canvas * options->max_requests;
        options->max_step_rows = all < DEFAULT_ROWS    ? all
                                 : pair > DEFAULT_ROWS ? pair
                                                       : DEFAULT_ROWS;
    }
    if (options->kv_tokens == 0) {
        const size_t all = options->max_canvas * options->max_requests;
        const size_t some = options->max_canvas * DEFAULT_KEPT_CANVASES;
        options->kv_tokens = some > DEFAULT_KEPT ? some : DEFAULT_KEPT;
        if (options->kv_tokens > all)
            options->kv_tokens = all;
    }
    if (options->kv_tokens > MOST_KEPT)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "kv-tokens %zu: at most %d",
                               options->kv_tokens, MOST_KEPT);
    if (options->max_step_rows < options->max_canvas || options->max_step_rows > MOST_ROWS)
        return caloris_err_set(
            err, CALORIS_BAD_CONFIG,
            "max-step-rows %zu: at least the longest canvas (%zu) and at most %d",
            options->max_step_rows, options->max_canvas, MOST_ROWS);
    return 0;
}

/* One walk, to measure (base NULL) and to place; the bytes it took. */
static int walk(char *base, struct caloris_memory *memory,
                const struct caloris_engine_options *options,
                const struct caloris_model_config *config, const struct caloris_model_split *split,
                int ranks, int rank, struct caloris_nn *nn, struct caloris_step_state *step,
                uint64_t *kv_bytes, struct caloris_err *err)
{
    const size_t rows = options->max_step_rows;
    const struct caloris_nn_limits nn_limits = {
        .rows = rows,
        .positions = options->max_canvas,
        .canvases = options->max_requests,
        .kv_tokens = options->kv_tokens,
        .threads = options->threads,
        .ranks = ranks,
        .format = caloris_memory_format(options),
    };
    const struct caloris_step_limits step_limits = {
        .requests = options->max_requests,
        .canvas = options->max_canvas,
        .rows = rows,
        .kv_tokens = options->kv_tokens,
        .vocab = config->vocab,
    };
    struct caloris_arena arena = {base, 0, false};
    uint64_t bytes;
    if (caloris_nn_place(nn, config, split, &nn_limits, base, &bytes, kv_bytes, err) < 0)
        return -1;
    caloris_arena_take(&arena, 1, bytes);
    if (caloris_step_place(step, &step_limits, base ? base + arena.used : NULL, &bytes, err) < 0)
        return -1;
    caloris_arena_take(&arena, 1, bytes);
    if (rank == 0) {
        const size_t all = rows * (size_t)ranks;
        const size_t best = CALORIS_MAX_BEST * sizeof(struct caloris_candidate);
        memory->gathered = caloris_arena_take(&arena, all, sizeof(struct caloris_summary));
        memory->gathered_best = caloris_arena_take(&arena, all, best);
        memory->summaries = caloris_arena_take(&arena, rows, sizeof(struct caloris_summary));
        memory->best = caloris_arena_take(&arena, rows, best);
    }
    memory->bytes = arena.used;
    return caloris_arena_check(&arena, "work buffers", err);
}

int caloris_memory_place(struct caloris_memory *memory,
                         const struct caloris_engine_options *options,
                         const struct caloris_model_config *config,
                         const struct caloris_model_split *split, int ranks, int rank, bool map,
                         struct caloris_nn *nn, struct caloris_step_state *step, uint64_t *kv_bytes,
                         struct caloris_err *err)
{
    memset(memory, 0, sizeof(*memory));
    if (walk(NULL, memory, options, config, split, ranks, rank, nn, step, kv_bytes, err) < 0)
        return -1;
    if (!map)
        return 0;
    char what[128];
    snprintf(what, sizeof(what),
             "work buffers (max-step-rows %zu, max-canvas %zu, max-requests %zu)",
             options->max_step_rows, options->max_canvas, options->max_requests);
    memory->base = caloris_arena_map(memory->bytes, what, err);
    if (!memory->base)
        return -1;
    return walk(memory->base, memory, options, config, split, ranks, rank, nn, step, kv_bytes, err);
}

void caloris_memory_free(struct caloris_memory *memory)
{
    caloris_arena_unmap(memory->base, memory->bytes);
    memset(memory, 0, sizeof(*memory));
}

/* Multiply-adds of one row through every matrix of the rank, the head included. */
static double multiply_adds(const struct caloris_model_config *c,
                            const struct caloris_model_split *s)
{
    const double d = (double)c->hidden, hd = (double)c->head_dim;
    const double attention = d * hd * (double)(2 * s->heads + 2 * s->kv_heads);
    const double ffn = 3 * d * (double)s->ffn;
    return (double)c->layers * (attention + ffn) + d * (double)s->vocab;
}

int caloris_memory_share(const struct caloris_engine_options *options,
                         const struct caloris_model_config *config,
                         const struct caloris_calibration *calibration, int ranks, int rank,
                         struct caloris_rank_share *share, struct caloris_err *err)
{
    struct caloris_model_split split;
    struct caloris_memory memory;
    struct caloris_nn nn;
    struct caloris_step_state step;
    caloris_model_split(config, ranks, rank, &split);
    *share = (struct caloris_rank_share){
        .head_first = split.head_first,
        .heads = split.heads,
        .kv_head_first = split.kv_head_first,
        .kv_heads = split.kv_heads,
        .ffn_first = split.ffn_first,
        .ffn = split.ffn,
        .vocab_first = split.vocab_first,
        .vocab = split.vocab,
        .load = multiply_adds(config, &split),
    };
    if (caloris_memory_place(&memory, options, config, &split, ranks, rank, false, &nn, &step,
                             &share->kv_bytes, err) < 0)
        return -1;
    share->work_bytes = memory.bytes - share->kv_bytes;
    if (options->synthetic)
        return 0; /* as much as half of the memory holds: known when it is made */
    const enum caloris_format format = caloris_memory_format(options);
    struct caloris_stored stored;
    if (caloris_shard_find(options->model_dir, &stored, err) < 0 ||
        caloris_weights_plan(options->model_dir, config, &split, format, calibration,
                             &share->weight_bytes, &share->read_bytes, err) < 0)
        return -1;
    share->plain_weight_bytes = share->weight_bytes;
    if (!calibration && caloris_calibrate_wanted(options, &stored))
        share->weight_bytes = caloris_weights_most(config, &split, format);
    return 0;
}

void caloris_memory_balance(struct caloris_rank_share *shares, int ranks)
{
    double total = 0;
    for (int rank = 0; rank < ranks; rank++)
        total += shares[rank].load;
    for (int rank = 0; rank < ranks; rank++)
        shares[rank].load *= ranks / total;
}

int caloris_engine_plan(struct caloris_engine_options *options, struct caloris_model_facts *facts,
                        struct caloris_rank_share *shares, struct caloris_err *err)
{
    struct caloris_model_config config;
    struct caloris_stored stored;
    if (caloris_memory_config(options, &config, err) < 0 ||
        caloris_memory_limits(options, &config, &stored, err) < 0)
        return -1;
    if (options->threads == 0)
        options->threads = caloris_pool_cores(options->ranks);
    caloris_memory_facts(&config, &stored, facts);
    for (int rank = 0; rank < options->ranks; rank++) {
        if (caloris_memory_share(options, &config, NULL, options->ranks, rank, &shares[rank], err) <
            0)
            return -1;
    }
    caloris_memory_balance(shares, options->ranks);
    return 0;
}
