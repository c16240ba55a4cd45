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

/* As asked for, outliers aside. */
static enum caloris_format plain_format(const struct caloris_model_config *config,
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

const struct caloris_outliers *
caloris_weights_outliers(const struct caloris_model_config *config, enum caloris_role role,
                         size_t layer, enum caloris_format format,
                         const struct caloris_calibration *calibration)
{
    if (!caloris_format_scaled(plain_format(config, role, format)))
        calibration = NULL;
    return caloris_calibration_of(calibration, caloris_role_product(role), layer);
}

enum caloris_format caloris_weights_format(const struct caloris_model_config *config,
                                           enum caloris_role role, size_t layer,
                                           enum caloris_format format,
                                           const struct caloris_calibration *calibration)
{
    return caloris_weights_outliers(config, role, layer, format, calibration)->whole
               ? CALORIS_FORMAT_BF16
               : plain_format(config, role, format);
}

/* What everything is laid out from. */
struct layout {
    const struct caloris_model_config *config;
    const struct caloris_model_split *split;
    enum caloris_format format;
    const struct caloris_calibration *calibration;
};

/* The matrix [out, in] of a product, whose columns are those from in_first on of the unsplit one,
 * and what of it is apart. role: one of its tensors. */
static void take_product(struct caloris_arena *arena, const struct layout *layout,
                         enum caloris_role role, size_t l, size_t out, size_t in, size_t in_first,
                         struct caloris_matrix *matrix, struct caloris_apart *apart)
{
    const enum caloris_format format =
        caloris_weights_format(layout->config, role, l, layout->format, layout->calibration);
    const struct caloris_outliers *outliers =
        caloris_weights_outliers(layout->config, role, l, layout->format, layout->calibration);
    size_t first = 0, n = 0;
    take_matrix(arena, matrix, format, out, in);
    while (first < outliers->n && outliers->column[first] < in_first)
        first++;
    while (first + n < outliers->n && outliers->column[first + n] < in_first + in)
        n++;
    *apart = (struct caloris_apart){.n = n};
    if (n == 0)
        return;
    apart->column = caloris_arena_take(arena, n, sizeof(*apart->column));
    for (size_t i = 0; apart->column && i < n; i++)
        apart->column[i] = outliers->column[first + i] - (uint32_t)in_first;
    take_matrix(arena, &apart->matrix, CALORIS_FORMAT_BF16, out, n);
}

static void take_layer(struct caloris_arena *arena, const struct layout *layout, size_t l,
                       struct caloris_layer_weights *layer)
{
    const struct caloris_model_split *split = layout->split;
    const size_t d = layout->config->hidden, hd = layout->config->head_dim;
    const size_t q = split->heads * hd, kv = split->kv_heads * hd;
    layer->attn_norm = caloris_arena_take(arena, d, sizeof(float));
    take_product(arena, layout, CALORIS_ROLE_Q, l, q + 2 * kv, d, 0, &layer->qkv,
                 &layer->apart[CALORIS_PRODUCT_QKV]);
    take_product(arena, layout, CALORIS_ROLE_O, l, d, q, split->head_first * hd, &layer->o,
                 &layer->apart[CALORIS_PRODUCT_O]);
    layer->ffn_norm = caloris_arena_take(arena, d, sizeof(float));
    take_product(arena, layout, CALORIS_ROLE_GATE, l, 2 * split->ffn, d, 0, &layer->gate_up,
                 &layer->apart[CALORIS_PRODUCT_GATE_UP]);
    take_product(arena, layout, CALORIS_ROLE_DOWN, l, d, split->ffn, split->ffn_first, &layer->down,
                 &layer->apart[CALORIS_PRODUCT_DOWN]);
}

/* The order of things in memory; one function for counting and for laying out. */
static void take_all(struct caloris_arena *arena, const struct layout *layout, size_t distinct,
                     struct caloris_weights *weights)
{
    const struct caloris_model_config *config = layout->config;
    const struct caloris_model_split *split = layout->split;
    struct caloris_layer_weights counted;
    size_t d = config->hidden;
    weights->memory = caloris_arena_take(arena, 1, sizeof(*weights->memory));
    weights->layer = caloris_arena_take(arena, config->layers, sizeof(*weights->layer));
    take_matrix(arena, &weights->embed, CALORIS_FORMAT_FP32, split->vocab, d);
    for (size_t i = 0; i < distinct; i++)
        take_layer(arena, layout, i, arena->base ? &weights->layer[i] : &counted);
    weights->final_norm = caloris_arena_take(arena, d, sizeof(float));
    if (config->tied)
        weights->head = weights->embed;
    else
        take_product(arena, layout, CALORIS_ROLE_HEAD, 0, split->vocab, d, 0, &weights->head,
                     &weights->head_apart);
    if (!arena->base)
        return;
    for (size_t i = distinct; i < config->layers; i++)
        weights->layer[i] = weights->layer[i % distinct];
}

size_t caloris_weights_bytes(const struct caloris_model_config *config,
                             const struct caloris_model_split *split, enum caloris_format format,
                             const struct caloris_calibration *calibration, size_t distinct)
{
    const struct layout layout = {config, split, format, calibration};
    struct caloris_arena arena = {0};
    struct caloris_weights counted;
    memset(&counted, 0, sizeof(counted));
    take_all(&arena, &layout, distinct, &counted);
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
                            const struct caloris_calibration *calibration, size_t distinct,
                            struct caloris_weights *weights, struct caloris_err *err)
{
    const struct layout layout = {config, split, format, calibration};
    memset(weights, 0, sizeof(*weights));
    size_t bytes = caloris_weights_bytes(config, split, format, calibration, distinct);
    if (bytes == SIZE_MAX)
        return caloris_weights_too_large(format, err);
    struct caloris_arena arena = {.base = caloris_arena_map(bytes, "weights", err)};
    if (!arena.base)
        return -1;
    take_all(&arena, &layout, distinct, weights);
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
