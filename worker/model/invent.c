/* Weights made up in memory, for benchmarks of models that nobody has downloaded. */
#include "worker/model/memory.h"
#include "worker/model/model.h"
#include "worker/model/pieces.h"

#include "base/err.h"

#include <math.h>

/* splitmix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
 * OOPSLA 2014). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Uniform with variance 1/columns: activations keep their size from layer to layer. */
static float width_of(const struct caloris_piece *piece)
{
    return sqrtf(12.0f / (float)piece->whole_cols);
}

/* A number depends on its place in the whole tensor alone, so any split invents the same model. */
static void invent_row(const struct caloris_piece *piece, size_t row, float *to)
{
    uint64_t tensor = mix(((uint64_t)piece->layer << 8 | (uint64_t)piece->role) + 1);
    uint64_t key = mix(tensor + piece->row_first + row);
    float width = width_of(piece);
    uint64_t word = 0;
    for (size_t i = 0; i < piece->cols; i++) {
        /* Two neighbours of the tensor share a word. */
        size_t col = piece->col_first + i;
        if (i == 0 || col % 2 == 0)
            word = mix(key + col / 2 * 0x9e3779b97f4a7c15u);
        uint32_t bits = (uint32_t)(col % 2 == 0 ? word >> 40 : word & 0xffffff);
        to[i] = ((float)bits * 0x1p-24f - 0.5f) * width;
    }
}

static int invent_piece(const struct caloris_piece *piece, void *staging, void *arg,
                        struct caloris_err *err)
{
    (void)arg;
    (void)err;
    if (piece->vector) {
        for (size_t i = 0; i < piece->rows; i++)
            piece->vector[i] = 1;
        return 0;
    }
    if (piece->matrix->scale) { /* of the largest number that may come, whatever the split */
        for (size_t i = 0; i < piece->rows; i++)
            piece->matrix->scale[piece->to_row + i] = caloris_matrix_scale(width_of(piece) / 2);
    }
    float *rows = staging;
    size_t most = CALORIS_STAGING_BYTES / (piece->cols * sizeof(float));
    for (size_t row = 0; row < piece->rows; row += most) {
        size_t n = piece->rows - row < most ? piece->rows - row : most;
        for (size_t i = 0; i < n; i++)
            invent_row(piece, row + i, rows + i * piece->cols);
        caloris_matrix_fill(piece->matrix, piece->to_row + row, n, rows, CALORIS_DTYPE_F32);
    }
    return 0;
}

/* As many layers as fit, at least one. */
static size_t count_distinct(const struct caloris_model_config *config,
                             const struct caloris_model_split *split, enum caloris_format format,
                             uint64_t memory_limit)
{
    size_t distinct = config->layers;
    while (distinct > 1 &&
           caloris_weights_bytes(config, split, format, NULL, distinct) > memory_limit)
        distinct--;
    return distinct;
}

int caloris_weights_invent(const struct caloris_model_config *config,
                           const struct caloris_model_split *split, enum caloris_format format,
                           struct caloris_pool *pool, uint64_t memory_limit,
                           struct caloris_weights *weights, uint64_t *bytes,
                           struct caloris_err *err)
{
    struct caloris_pieces pieces;
    size_t distinct = count_distinct(config, split, format, memory_limit);
    if (caloris_weights_reserve(config, split, format, NULL, distinct, weights, err) < 0)
        return -1;
    int rc = caloris_pieces_list(config, split, distinct, "", NULL, &pieces, err);
    if (rc == 0) {
        caloris_pieces_attach(&pieces, weights);
        rc = caloris_pieces_run(&pieces, pool, invent_piece, NULL, err);
        caloris_pieces_free(&pieces);
    }
    if (rc < 0) {
        caloris_weights_free(weights);
        return -1;
    }
    *bytes = caloris_weights_bytes(config, split, format, NULL, distinct);
    return 0;
}
