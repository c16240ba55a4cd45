#include "worker/model/memory.h"

#include "base/arena.h"
#include "base/err.h"
#include "base/size.h"

#include <string.h>
#include <unistd.h>

/* Stands at the start of the memory that it describes. */
struct caloris_weights_memory {
    size_t bytes;
};

static void take_matrix(struct caloris_arena *arena, struct caloris_matrix *matrix,
                        enum caloris_format format, size_t out, size_t in)
{
    void *at = caloris_arena_take(arena, caloris_matrix_bytes(format, out, in), 1);
    if (at)
        caloris_matrix_place(matrix, format, out, in, at);
}

enum caloris_format caloris_weights_format(const struct caloris_model_config *config,
                                           enum caloris_role role, enum caloris_format format)
{
    switch (role) {
    case CALORIS_ROLE_EMBED:
    case CALORIS_ROLE_FINAL_NORM:
    case CALORIS_ROLE_ATTN_NORM:
    case CALORIS_ROLE_FFN_NORM:
        return CALORIS_FORMAT_FP32;
    case CALORIS_ROLE_O:
        /* A rank's columns begin with a head: on a run only if heads are whole runs. */
        if (format == CALORIS_FORMAT_INT4 && config->head_dim % CALORIS_INT4_RUN != 0)
            return CALORIS_FORMAT_INT8;
        return format;
    default:
        return format;
    }
}

static void take_layer(struct caloris_arena *arena, const struct caloris_model_config *config,
                       const struct caloris_model_split *split, enum caloris_format format,
                       struct caloris_layer_weights *layer)
{
    size_t d = config->hidden;
    size_t q = split->heads * config->head_dim;
    size_t kv = split->kv_heads * config->head_dim;
    layer->attn_norm = caloris_arena_take(arena, d, sizeof(float));
    take_matrix(arena, &layer->qkv, format, q + 2 * kv, d);
    take_matrix(arena, &layer->o, caloris_weights_format(config, CALORIS_ROLE_O, format), d, q);
    layer->ffn_norm = caloris_arena_take(arena, d, sizeof(float));
    take_matrix(arena, &layer->gate_up, format, 2 * split->ffn, d);
    take_matrix(arena, &layer->down, format, d, split->ffn);
}

/* The order of things in memory; one function for counting and for laying out. */
static void take_all(struct caloris_arena *arena, const struct caloris_model_config *config,
                     const struct caloris_model_split *split, enum caloris_format format,
                     size_t distinct, struct caloris_weights *weights)
{
    struct caloris_layer_weights counted;
    size_t d = config->hidden;
    weights->memory = caloris_arena_take(arena, 1, sizeof(*weights->memory));
    weights->layer = caloris_arena_take(arena, config->layers, sizeof(*weights->layer));
    take_matrix(arena, &weights->embed, CALORIS_FORMAT_FP32, split->vocab, d);
    for (size_t i = 0; i < distinct; i++)
        take_layer(arena, config, split, format, arena->base ? &weights->layer[i] : &counted);
    weights->final_norm = caloris_arena_take(arena, d, sizeof(float));
    if (config->tied)
        weights->head = weights->embed;
    else
        take_matrix(arena, &weights->head, format, split->vocab, d);
    if (!arena->base)
        return;
    for (size_t i = distinct; i < config->layers; i++)
        weights->layer[i] = weights->layer[i % distinct];
}

size_t caloris_weights_bytes(const struct caloris_model_config *config,
                             const struct caloris_model_split *split, enum caloris_format format,
                             size_t distinct)
{
    struct caloris_arena arena = {0};
    struct caloris_weights counted;
    memset(&counted, 0, sizeof(counted));
    take_all(&arena, config, split, format, distinct, &counted);
    if (arena.overflow)
        return SIZE_MAX;
    return caloris_size_round_up(arena.used, (size_t)sysconf(_SC_PAGESIZE));
}

int caloris_weights_too_large(enum caloris_format format, struct caloris_err *err)
{
    return caloris_err_set(
        err, CALORIS_BAD_MODEL,
        "weights as %s: a matrix of this model is too large (int8, int4: at most "
        "%d columns on a rank)",
        caloris_format_name(format), CALORIS_INT8_DEPTH);
}

int caloris_weights_reserve(const struct caloris_model_config *config,
                            const struct caloris_model_split *split, enum caloris_format format,
                            size_t distinct, struct caloris_weights *weights,
                            struct caloris_err *err)
{
    memset(weights, 0, sizeof(*weights));
    size_t bytes = caloris_weights_bytes(config, split, format, distinct);
    if (bytes == SIZE_MAX)
        return caloris_weights_too_large(format, err);
    struct caloris_arena arena = {.base = caloris_arena_map(bytes, "weights", err)};
    if (!arena.base)
        return -1;
    take_all(&arena, config, split, format, distinct, weights);
    weights->memory->bytes = bytes;
    return 0;
}

void caloris_weights_free(struct caloris_weights *weights)
{
    if (!weights)
        return;
    if (weights->memory)
        caloris_arena_unmap(weights->memory, weights->memory->bytes);
    memset(weights, 0, sizeof(*weights));
}
