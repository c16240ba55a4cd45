#include "worker/model/limits.h"
#include "worker/model/pieces.h"

#include "base/err.h"
#include "worker/pool/pool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* The sides of tensors, by how they are dealt to ranks. */
enum axis { AXIS_NONE, AXIS_HIDDEN, AXIS_Q, AXIS_KV, AXIS_FFN, AXIS_VOCAB, AXES };

struct extent {
    size_t whole, first, count;
    size_t unit; /* dealt together; 0: not dealt */
};

/* Each tensor: [rows, cols], a vector where cols is NONE; the member of the weights that it goes
 * to; and the tensors' axes that stand above it in that member. */
static const struct {
    enum axis rows, cols;
    size_t member;
    enum axis above[2];
} parts[CALORIS_ROLES] = {
#define WHOLE(member) offsetof(struct caloris_weights, member)
#define LAYER(member) offsetof(struct caloris_layer_weights, member)
    [CALORIS_ROLE_EMBED] = {AXIS_VOCAB, AXIS_HIDDEN, WHOLE(embed), {AXIS_NONE}},
    [CALORIS_ROLE_FINAL_NORM] = {AXIS_HIDDEN, AXIS_NONE, WHOLE(final_norm), {AXIS_NONE}},
    [CALORIS_ROLE_HEAD] = {AXIS_VOCAB, AXIS_HIDDEN, WHOLE(head), {AXIS_NONE}},
    [CALORIS_ROLE_ATTN_NORM] = {AXIS_HIDDEN, AXIS_NONE, LAYER(attn_norm), {AXIS_NONE}},
    [CALORIS_ROLE_Q] = {AXIS_Q, AXIS_HIDDEN, LAYER(qkv), {AXIS_NONE}},
    [CALORIS_ROLE_K] = {AXIS_KV, AXIS_HIDDEN, LAYER(qkv), {AXIS_Q}},
    [CALORIS_ROLE_V] = {AXIS_KV, AXIS_HIDDEN, LAYER(qkv), {AXIS_Q, AXIS_KV}},
    [CALORIS_ROLE_O] = {AXIS_HIDDEN, AXIS_Q, LAYER(o), {AXIS_NONE}},
    [CALORIS_ROLE_FFN_NORM] = {AXIS_HIDDEN, AXIS_NONE, LAYER(ffn_norm), {AXIS_NONE}},
    [CALORIS_ROLE_GATE] = {AXIS_FFN, AXIS_HIDDEN, LAYER(gate_up), {AXIS_NONE}},
    [CALORIS_ROLE_UP] = {AXIS_FFN, AXIS_HIDDEN, LAYER(gate_up), {AXIS_FFN}},
    [CALORIS_ROLE_DOWN] = {AXIS_HIDDEN, AXIS_FFN, LAYER(down), {AXIS_NONE}},
#undef WHOLE
#undef LAYER
};

static const struct {
    const char *name;
    enum caloris_dtype dtype;
} readable[] = {
    {"F32", CALORIS_DTYPE_F32},
    {"BF16", CALORIS_DTYPE_BF16},
    {"F16", CALORIS_DTYPE_F16},
};

/* What the list is made of and from. */
struct listing {
    const struct caloris_family *family;
    const char *dir;
    const struct caloris_tensors *tensors;
    bool *known; /* [n_tensors] belongs to the model */
    struct extent extent[AXES];
};

static void measure(const struct caloris_model_config *config,
                    const struct caloris_model_split *split, struct extent extent[AXES])
{
    size_t hd = config->head_dim;
    const size_t unit = CALORIS_SPLIT_UNIT;
    extent[AXIS_NONE] = (struct extent){1, 0, 1, 0};
    extent[AXIS_HIDDEN] = (struct extent){config->hidden, 0, config->hidden, 0};
    extent[AXIS_Q] =
        (struct extent){config->heads * hd, split->head_first * hd, split->heads * hd, hd};
    extent[AXIS_KV] =
        (struct extent){config->kv_heads * hd, split->kv_head_first * hd, split->kv_heads * hd, hd};
    extent[AXIS_FFN] = (struct extent){config->ffn, split->ffn_first, split->ffn, unit};
    extent[AXIS_VOCAB] = (struct extent){config->vocab, split->vocab_first, split->vocab, unit};
}

static int find_dtype(struct caloris_piece *piece, const char *path, struct caloris_err *err)
{
    const struct caloris_tensor *tensor = piece->tensor;
    for (size_t i = 0; i < sizeof(readable) / sizeof(readable[0]); i++) {
        if (strcmp(readable[i].name, tensor->dtype) == 0) {
            piece->dtype = readable[i].dtype;
            return 0;
        }
    }
    return caloris_err_set(err, CALORIS_BAD_MODEL,
                           "%s: %s: dtype %s is not supported, F32, BF16 and F16 are", path,
                           tensor->name, tensor->dtype);
}

/* Finds the piece's tensor and holds it against the config. */
static int look_up(const struct listing *listing, struct caloris_piece *piece,
                   struct caloris_err *err)
{
    char name[CALORIS_TENSOR_NAME];
    caloris_family_tensor(listing->family, piece->role, piece->layer, name);
    const struct caloris_tensor *tensor = caloris_tensors_find(listing->tensors, name);
    if (!tensor)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: tensor %s is missing", listing->dir,
                               name);
    const char *path = listing->tensors->files[tensor->file].path;
    listing->known[tensor - listing->tensors->tensors] = true;
    piece->tensor = tensor;

    enum axis cols = parts[piece->role].cols;
    size_t wanted[2] = {listing->extent[parts[piece->role].rows].whole, piece->whole_cols};
    size_t dims = cols == AXIS_NONE ? 1 : 2;
    if (tensor->dims != dims || memcmp(tensor->shape, wanted, dims * sizeof(wanted[0])) != 0) {
        char is[CALORIS_TENSOR_SHAPE_TEXT], should[CALORIS_TENSOR_SHAPE_TEXT];
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %s: shape is %s, config.json wants %s",
                               path, name,
                               caloris_tensor_shape_text(tensor->shape, tensor->dims, is),
                               caloris_tensor_shape_text(wanted, dims, should));
    }
    if (find_dtype(piece, path, err) < 0)
        return -1;
    /* The limits of config.json see to it; an arithmetic that reads past the staging buffer must
     * not depend on them. */
    if (piece->cols > CALORIS_STAGING_BYTES / caloris_dtype_bytes(piece->dtype))
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %s: a row of %zu columns is too long",
                               path, name, piece->cols);
    return 0;
}

void caloris_pieces_attach(struct caloris_pieces *pieces, struct caloris_weights *weights)
{
    for (size_t i = 0; i < pieces->n; i++) {
        struct caloris_piece *piece = &pieces->piece[i];
        bool of_layer = piece->role >= CALORIS_ROLE_FIRST_OF_LAYER;
        char *owner = of_layer ? (char *)&weights->layer[piece->layer] : (char *)weights;
        void *member = owner + parts[piece->role].member;
        if (parts[piece->role].cols == AXIS_NONE)
            piece->vector = *(float **)member;
        else
            piece->matrix = member;
        const enum caloris_product product = caloris_role_product(piece->role);
        if (product == CALORIS_PRODUCT_HEAD)
            piece->apart = &weights->head_apart;
        else if (product != CALORIS_NO_PRODUCT)
            piece->apart = &weights->layer[piece->layer].apart[product];
    }
}

static int add(const struct listing *listing, enum caloris_role role, size_t layer,
               struct caloris_pieces *pieces, struct caloris_err *err)
{
    const struct extent *rows = &listing->extent[parts[role].rows];
    const struct extent *cols = &listing->extent[parts[role].cols];
    struct caloris_piece piece = {
        .role = role,
        .layer = layer,
        .sliced = parts[role].cols == AXIS_Q || parts[role].cols == AXIS_FFN,
        .row_first = rows->first,
        .rows = rows->count,
        .col_first = cols->first,
        .cols = cols->count,
        .whole_cols = cols->whole,
    };
    piece.unit = piece.sliced ? cols->unit : rows->unit;
    for (size_t i = 0; i < 2; i++) {
        if (parts[role].above[i] != AXIS_NONE)
            piece.to_row += listing->extent[parts[role].above[i]].count;
    }
    if (listing->tensors && look_up(listing, &piece, err) < 0)
        return -1;
    pieces->piece[pieces->n++] = piece;
    return 0;
}

static int check_no_others(const struct listing *listing, struct caloris_err *err)
{
    for (size_t i = 0; i < listing->tensors->n_tensors; i++) {
        const struct caloris_tensor *tensor = &listing->tensors->tensors[i];
        if (!listing->known[i])
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: unknown tensor %.150s: %s with this config.json has none",
                                   listing->tensors->files[tensor->file].path, tensor->name,
                                   listing->family->name);
    }
    return 0;
}

int caloris_pieces_list(const struct caloris_model_config *config,
                        const struct caloris_model_split *split, size_t layers, const char *dir,
                        const struct caloris_tensors *tensors, struct caloris_pieces *pieces,
                        struct caloris_err *err)
{
    struct listing listing = {.dir = dir, .tensors = tensors};
    int rc = -1;
    *pieces = (struct caloris_pieces){0};
    listing.family = caloris_family_named(config->family, err);
    if (!listing.family)
        return -1;
    measure(config, split, listing.extent);
    pieces->piece = calloc(CALORIS_ROLES * (layers + 1), sizeof(*pieces->piece));
    listing.known = calloc(tensors ? tensors->n_tensors + 1 : 1, sizeof(*listing.known));
    if (!pieces->piece || !listing.known) {
        caloris_err_sys(err, "list of the tensors of %zu layers", layers);
        goto out;
    }
    for (enum caloris_role role = 0; role < CALORIS_ROLE_FIRST_OF_LAYER; role++) {
        if (role == CALORIS_ROLE_HEAD && config->tied)
            continue;
        if (add(&listing, role, 0, pieces, err) < 0)
            goto out;
    }
    for (size_t layer = 0; layer < layers; layer++) {
        for (enum caloris_role role = CALORIS_ROLE_FIRST_OF_LAYER; role < CALORIS_ROLES; role++) {
            if (add(&listing, role, layer, pieces, err) < 0)
                goto out;
        }
    }
    if (tensors && check_no_others(&listing, err) < 0)
        goto out;
    rc = 0;
out:
    free(listing.known);
    if (rc < 0)
        caloris_pieces_free(pieces);
    return rc;
}

uint64_t caloris_pieces_bytes(const struct caloris_pieces *pieces)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        const struct caloris_piece *piece = &pieces->piece[i];
        bytes += (uint64_t)piece->rows * piece->cols * caloris_dtype_bytes(piece->dtype);
    }
    return bytes;
}

void caloris_pieces_free(struct caloris_pieces *pieces)
{
    free(pieces->piece);
    *pieces = (struct caloris_pieces){0};
}

struct run {
    const struct caloris_pieces *pieces;
    char *staging; /* [threads, CALORIS_STAGING_BYTES] */
    int (*each)(const struct caloris_piece *, void *staging, void *arg, struct caloris_err *);
    void *arg;
    atomic_bool failed;
    struct caloris_err err; /* of the thread that set failed */
};

static void run_one(void *arg, size_t index, int thread)
{
    struct run *run = arg;
    const struct caloris_piece *piece = &run->pieces->piece[index];
    if (atomic_load(&run->failed) || piece->rows == 0 || piece->cols == 0)
        return;
    struct caloris_err err = {0};
    char *staging = run->staging + (size_t)thread * CALORIS_STAGING_BYTES;
    if (run->each(piece, staging, run->arg, &err) == 0)
        return;
    if (!atomic_exchange(&run->failed, true))
        run->err = err;
}

int caloris_pieces_run(const struct caloris_pieces *pieces, struct caloris_pool *pool,
                       int (*each)(const struct caloris_piece *piece, void *staging, void *arg,
                                   struct caloris_err *err),
                       void *arg, struct caloris_err *err)
{
    size_t threads = pool ? (size_t)caloris_pool_threads(pool) : 1;
    struct run run = {.pieces = pieces, .each = each, .arg = arg};
    run.staging = aligned_alloc(64, threads * CALORIS_STAGING_BYTES);
    if (!run.staging)
        return caloris_err_sys(err, "%zu staging buffers for weights", threads);
    if (pool) {
        caloris_pool_run(pool, pieces->n, run_one, &run);
    } else {
        for (size_t i = 0; i < pieces->n; i++)
            run_one(&run, i, 0);
    }
    free(run.staging);
    if (!atomic_load(&run.failed))
        return 0;
    if (err)
        *err = run.err;
    return -1;
}
