/* worker/nn/nn.h: one rank's part of a forward pass over a mixed bag of rows.
 *
 * The dense pre-norm transformer of LLaDA (docs/MODELS.md): embedding and head sharded by
 * vocabulary, attention by heads, FFN by columns; two all-reduces a layer. Rows of all canvases go
 * through each matrix in one product; attention sees one canvas at a time. Nothing is allocated
 * here: the caller places the buffers.
 *
 * Shapes: R = rows of the step, d = hidden, hd = head_dim; of this rank h query heads, k KV heads,
 * f FFN columns, v vocabulary rows. */
#ifndef CALORIS_NN_H
#define CALORIS_NN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/engine.h"
#include "worker/model/model.h"

struct caloris_comm;
struct caloris_err;
struct caloris_pool;

struct caloris_nn_limits {
    size_t rows;      /* of one step */
    size_t positions; /* of one canvas */
    size_t canvases;  /* of one step */
    size_t kv_tokens; /* positions whose K/V are kept */
    int threads, ranks;
    enum caloris_format format; /* of the matrices, FP32 among them or not */
};

/* A stopwatch that is always on some phase. */
struct caloris_nn_profile {
    bool on;
    uint64_t lap_ns; /* when the phase at hand began */
    struct caloris_phase_cost phase[CALORIS_PHASES];
};

struct caloris_nn {
    struct caloris_nn_profile profile;
    float *const *largest; /* NULL, or [CALORIS_PHASES]: where a calibration counts inputs */
    const struct caloris_model_config *config;
    struct caloris_model_split split;
    struct caloris_nn_limits limits;
    const struct caloris_weights *weights;
    struct caloris_comm *comm;
    struct caloris_pool *pool;

    float *x; /* [R, d] residual stream, the same on every rank */
    float *n; /* [R, d] normed input; partial sums of a matrix that all-reduces */
    /* [R, (h + 2 k) hd] Q, K, V of each row, then [R, h hd] attention output; or [R, 2 f], then
     * [R, f]. */
    float *wide;
    /* K and V, fp32, or bf16 where the matrices are not fp32: [layers, 2 k, kv_tokens, hd] those
     * of cached canvases; [2 k, R, hd] of the others, of one layer. */
    unsigned char *kv, *passing_kv;
    enum caloris_dtype kv_dtype;
    float *rope; /* [positions, hd] */
    float *attention_scratch;
    void *gemm_scratch; /* rows as the weight formats want them */
    float *apart;       /* [R, outliers] columns of rows that are multiplied apart */
    void *comm_scratch;
    size_t comm_scratch_bytes;
    uint32_t *kv_of;                     /* [h] */
    struct caloris_attention *attention; /* [canvases] */

    float *tile;                       /* logits of a tile of head rows and vocabulary */
    struct caloris_summary *summaries; /* [R] of this rank's vocabulary slice */
    struct caloris_candidate *best;    /* [R, CALORIS_MAX_BEST] */
};

/* Lays the buffers out from memory on (64-byte aligned; NULL: only measures). *bytes is what they
 * take; *kv_bytes is the part of it that keeps keys and values. */
int caloris_nn_place(struct caloris_nn *nn, const struct caloris_model_config *config,
                     const struct caloris_model_split *split,
                     const struct caloris_nn_limits *limits, void *memory, uint64_t *bytes,
                     uint64_t *kv_bytes, struct caloris_err *err);

/* The stopwatch: from now on; and: what went by since the last lap was this phase, with that many
 * operations and bytes. */
void caloris_nn_start(struct caloris_nn *nn);
void caloris_nn_lap(struct caloris_nn *nn, enum caloris_phase phase, double operations,
                    double bytes);

/* y = x * matrixᵀ and a lap of that phase. What is apart of the matrix's columns is multiplied by
 * itself; x is changed for that and put back. */
void caloris_nn_multiply(struct caloris_nn *nn, enum caloris_phase phase,
                         const struct caloris_matrix *matrix, const struct caloris_apart *apart,
                         float *x, size_t rows, float *y, size_t y_stride);

/* The same of rows that are made for it. Where they have to stand somewhere, for fp32, for columns
 * apart or a calibration, they go to x [rows, in], which may be made->added, and making them is a
 * lap of another phase. */
void caloris_nn_multiply_made(struct caloris_nn *nn, enum caloris_phase phase,
                              const struct caloris_matrix *matrix,
                              const struct caloris_apart *apart,
                              const struct caloris_made_rows *made, float *x, size_t rows, float *y,
                              size_t y_stride);

/* max[i] = the larger of itself and the largest magnitude in column i of x [rows, n]; NaN counts
 * for nothing. */
void caloris_nn_largest(const float *x, size_t rows, size_t n, float *max);

/* Fills the tables; weights, comm and pool are set by then. */
void caloris_nn_prepare(struct caloris_nn *nn);

/* The rows of one canvas: consecutive rows of the step. A cached canvas keeps K/V at [kv_first,
 * kv_first + length). */
struct caloris_nn_canvas {
    size_t rows, length;
    bool cached;
    size_t kv_first;
};

/* The rows of a step: those of canvases, one after another. */
struct caloris_nn_rows {
    const int32_t *ids;       /* [R] */
    const uint32_t *position; /* [R] */
    const uint32_t *kv_row;   /* [R] where K/V of the row are kept, or CALORIS_NN_NOT_KEPT */
    const struct caloris_nn_canvas *canvas;
    size_t canvases, rows;
};
enum { CALORIS_NN_NOT_KEPT = UINT32_MAX };

/* K/V of count positions from `from` on, every layer's, also at `to`; the two are apart. */
void caloris_nn_copy_kept(struct caloris_nn *nn, size_t from, size_t to, size_t count);

/* The forward pass in its parts: x = embeddings; x through a layer. Collective. */
int caloris_nn_embed(struct caloris_nn *nn, const struct caloris_nn_rows *rows,
                     struct caloris_err *err);
int caloris_nn_layer(struct caloris_nn *nn, size_t layer, const struct caloris_nn_rows *rows,
                     struct caloris_err *err);

/* x = residual stream behind the last layer. Collective. */
int caloris_nn_forward(struct caloris_nn *nn, const struct caloris_nn_rows *rows,
                       struct caloris_err *err);

/* A row of x whose logits are wanted. */
struct caloris_nn_want {
    uint32_t row;      /* of x */
    uint32_t partner;  /* of x, or CALORIS_NO_PARTNER */
    uint32_t position; /* in its canvas: keys the noise */
    uint32_t rule;
};

/* Summaries [n] and candidates [n, best] of the wanted rows over this rank's slice of the
 * vocabulary, in nn->summaries and nn->best. Wanted rows and their partners are at most
 * `limits.rows`. *head_rows: how many rows went through the head. */
void caloris_nn_head(struct caloris_nn *nn, const struct caloris_nn_want *wants, size_t n,
                     const struct caloris_rule *rules, size_t best, uint64_t *head_rows);

/* Logits of rows [first, first + n) of x over this rank's slice: to [n, v]; uses n (the buffer) as
 * scratch. */
void caloris_nn_logits(struct caloris_nn *nn, size_t first, size_t n, float *to);

/* Floats of the buffer `tile`. */
size_t caloris_nn_tile_floats(void);

/* Merges the summaries of one row over `ranks` vocabulary slices, in rank order: from[rank *
 * stride], candidates at best_from + rank * best_stride. */
void caloris_nn_merge(const struct caloris_summary *from, size_t stride,
                      const struct caloris_candidate *best_from, size_t best_stride, int ranks,
                      const struct caloris_rule *rule, struct caloris_summary *to,
                      struct caloris_candidate *to_best);

#endif
