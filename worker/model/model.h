/* worker/model/model.h: what a model folder says, how it is dealt to ranks, and one rank's
 * weights in memory.
 *
 * A folder holds config.json and *.safetensors (one file, or several with
 * model.safetensors.index.json). Everything is checked against the config before a byte of
 * weights is read: an unknown or missing tensor, a wrong shape or dtype, offsets that overlap or
 * leave the file are errors that name file and tensor. Format facts: docs/MODELS.md.
 */
#ifndef CALORIS_MODEL_H
#define CALORIS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/engine.h"
#include "worker/kernels/kernels.h"

struct caloris_err;
struct caloris_pool;

/* ---- config.json ------------------------------------------------------------------------- */

struct caloris_model_config {
    char family[32]; /* "llada" */
    size_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    size_t max_sequence;
    float norm_eps;
    double rope_theta;
    bool tied;               /* the head is the embedding table */
    int32_t mask_id, eos_id; /* -1: not said */
};

int caloris_model_config_load(const char *dir, struct caloris_model_config *config,
                              struct caloris_err *err);

/* A made-up model of this name ("llada-1b", "llada-8b"). */
int caloris_model_config_synthetic(const char *name, struct caloris_model_config *config,
                                   struct caloris_err *err);

uint64_t caloris_model_parameters(const struct caloris_model_config *config);

/* ---- the split --------------------------------------------------------------------------- */

/* What one rank has: whole query heads, FFN columns and vocabulary rows in units of 16, as even
 * as they get over any number of ranks. A count may be 0. */

struct caloris_model_split {
    size_t head_first, heads;       /* query heads */
    size_t kv_head_first, kv_heads; /* that these read: replicated where ranks share one */
    size_t ffn_first, ffn;
    size_t vocab_first, vocab;
};

void caloris_model_split(const struct caloris_model_config *config, int ranks, int rank,
                         struct caloris_model_split *split);

/* ---- inputs that one scale a row cannot hold ---------------------------------------------- */

/* A few inputs of a product may be hundreds of times larger than all others, those of down above
 * all (arXiv 2508.14896): with one INT8 scale for a row the others would be lost. Where a forward
 * pass over sample ids shows such inputs, their columns are multiplied apart, in BF16; where there
 * are many, the whole matrix is BF16. The choice belongs to the model, not to the split. */
enum caloris_product {
    CALORIS_PRODUCT_QKV,
    CALORIS_PRODUCT_O,
    CALORIS_PRODUCT_GATE_UP,
    CALORIS_PRODUCT_DOWN,
    CALORIS_LAYER_PRODUCTS,
    CALORIS_PRODUCT_HEAD = CALORIS_LAYER_PRODUCTS, /* of no layer */
    CALORIS_NO_PRODUCT,
};

struct caloris_outliers {
    bool whole;       /* the matrix is BF16 */
    uint32_t n;       /* else: columns that are apart */
    uint32_t *column; /* [n] of the unsplit matrix, ascending */
};

struct caloris_calibration {
    size_t layers;
    struct caloris_outliers *of; /* [layers * CALORIS_LAYER_PRODUCTS + 1], the head's last */
};

/* No outliers anywhere. NULL and err without memory; free with caloris_calibration_free. */
struct caloris_calibration *caloris_calibration_new(size_t layers, struct caloris_err *err);
void caloris_calibration_free(struct caloris_calibration *calibration); /* NULL is fine */

/* NULL: a calibration without outliers. layer counts not for the head. */
const struct caloris_outliers *caloris_calibration_of(const struct caloris_calibration *calibration,
                                                      enum caloris_product product, size_t layer);

/* The same, to be filled in. */
struct caloris_outliers *caloris_calibration_at(const struct caloris_calibration *calibration,
                                                enum caloris_product product, size_t layer);

/* Columns that may be apart, of so many. */
enum { CALORIS_OUTLIERS_MOST = 256 }; /* of any number */
size_t caloris_outliers_most(size_t in);

/* Chooses from the largest magnitudes of the product's inputs, max [in]. */
int caloris_calibration_choose(struct caloris_calibration *calibration,
                               enum caloris_product product, size_t layer, const float *max,
                               size_t in, struct caloris_err *err);

/* ---- one rank's weights ------------------------------------------------------------------ */

/* Columns of a rank's matrix whose products are computed apart: what the matrix itself holds there
 * meets zeros. */
struct caloris_apart {
    size_t n;
    uint32_t *column;             /* [n] of the rank's matrix, ascending */
    struct caloris_matrix matrix; /* [out, n] BF16 */
};

/* d = hidden, hd = head_dim, and of this rank: h query heads, k KV heads, f FFN columns, v
 * vocabulary rows. A count may be 0. */
struct caloris_layer_weights {
    float *attn_norm;              /* [d] */
    struct caloris_matrix qkv;     /* [(h + 2 k) hd, d]: rows of Q, then K, then V */
    struct caloris_matrix o;       /* [d, h hd] */
    float *ffn_norm;               /* [d] */
    struct caloris_matrix gate_up; /* [2 f, d]: gate rows, then up rows */
    struct caloris_matrix down;    /* [d, f] */
    struct caloris_apart apart[CALORIS_LAYER_PRODUCTS];
};

struct caloris_weights {
    struct caloris_matrix embed;         /* [v, d]; FP32 whatever the format of the others */
    struct caloris_layer_weights *layer; /* [layers] */
    float *final_norm;                   /* [d] */
    struct caloris_matrix head;          /* [v, d]; the same memory as embed where tied */
    struct caloris_apart head_apart;
    uint64_t bytes_read;                   /* tensor bytes pread so far */
    struct caloris_weights_memory *memory; /* owned */
};

/* Bytes of one rank with its matrices in that format: in memory (exactly what caloris_weights_load
 * reserves with this calibration, which may be NULL; a shard file has its own), and of tensor data
 * read from files. */
int caloris_weights_plan(const char *dir, const struct caloris_model_config *config,
                         const struct caloris_model_split *split, enum caloris_format format,
                         const struct caloris_calibration *calibration, uint64_t *memory_bytes,
                         uint64_t *read_bytes, struct caloris_err *err);

/* The most of them in memory, whatever a calibration may choose: every matrix BF16. */
uint64_t caloris_weights_most(const struct caloris_model_config *config,
                              const struct caloris_model_split *split, enum caloris_format format);

/* The other ranks of the world, for what none of them knows alone: the largest number of a row of
 * which each holds some columns. */
struct caloris_weights_peers {
    /* x[i] = the largest of all ranks' x[i], i < n. Collective. */
    int (*max)(void *arg, float *x, size_t n, struct caloris_err *err);
    /* So many bytes more were read; from any thread. May be NULL. */
    void (*loaded)(void *arg, uint64_t bytes);
    void *arg;
};

/* Reads this rank's ranges, and nothing else of the tensors, once, by pread, on the pool's threads
 * when there is one. While it runs, each thread has 1 MiB of staging memory beyond the plan, and
 * an INT8 load holds up to CALORIS_WEIGHTS_HELD_BYTES more at a time.
 *
 * calibration: where to look for outliers (NULL: there are none); a shard file has its own.
 *
 * INT8 scales cover whole rows of the unsplit tensors: the same at every rank count. With peers
 * (NULL: this rank is the world) an INT8 load is collective, and when it fails on another rank it
 * ends here too, with 0: the caller agrees on the outcome. */
enum { CALORIS_WEIGHTS_HELD_BYTES = 32 << 20 };
int caloris_weights_load(const char *dir, const struct caloris_model_config *config,
                         const struct caloris_model_split *split, enum caloris_format format,
                         const struct caloris_calibration *calibration, struct caloris_pool *pool,
                         const struct caloris_weights_peers *peers, struct caloris_weights *weights,
                         struct caloris_err *err);

/* This rank's FP32 weights with one layer at a time, of safetensors: what a calibration computes
 * with, in models too large for FP32. weights->layer[i] is there after caloris_stream_layer(i) and
 * until the next one; the head is not. peers: for loaded; stays the
 * caller's until the end. NULL and err. */
struct caloris_stream;
struct caloris_stream *
caloris_stream_open(const char *dir, const struct caloris_model_config *config,
                    const struct caloris_model_split *split, struct caloris_pool *pool,
                    const struct caloris_weights_peers *peers, struct caloris_err *err);
const struct caloris_weights *caloris_stream_weights(const struct caloris_stream *stream);
int caloris_stream_layer(struct caloris_stream *stream, size_t layer, struct caloris_err *err);
void caloris_stream_close(struct caloris_stream *stream); /* NULL is fine */

/* ---- shard files: weights packed once ------------------------------------------------------ */

/* A folder with such a file needs no safetensors; plan and load take it from there, and an INT8
 * load is not collective then. */
#define CALORIS_SHARD_FILE "caloris.shard"

struct caloris_stored {
    bool there;
    enum caloris_format format;
    uint32_t check; /* two files with the same one hold the same */
};

/* What the folder's shard file says of itself, if it has one. */
int caloris_shard_find(const char *dir, struct caloris_stored *stored, struct caloris_err *err);

/* Packs the safetensors of dir into out_dir/CALORIS_SHARD_FILE, which appears when it is whole.
 * Holds one tensor at a time of those that ranks have columns of, some rows of the others. Takes
 * the calibration, which may be NULL, and frees it. */
int caloris_shard_write(const char *dir, const struct caloris_model_config *config,
                        enum caloris_format format, struct caloris_calibration *calibration,
                        struct caloris_pool *pool, const char *out_dir,
                        const struct caloris_sharding *told, struct caloris_err *err);

/* Invented weights (small, pseudo-random) for benchmarks. Layers share `distinct` different
 * ones, as many as fit in memory_limit (at least one). memory_bytes of caloris_weights_plan does
 * not apply: *bytes tells. Not collective. */
int caloris_weights_invent(const struct caloris_model_config *config,
                           const struct caloris_model_split *split, enum caloris_format format,
                           struct caloris_pool *pool, uint64_t memory_limit,
                           struct caloris_weights *weights, uint64_t *bytes,
                           struct caloris_err *err);

/* NULL-safe; a zeroed struct is fine. */
void caloris_weights_free(struct caloris_weights *weights);

#endif
