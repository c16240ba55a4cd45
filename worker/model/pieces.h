/* worker/model/pieces.h: what one rank takes of each tensor, and where it goes. Inside
 * worker/model only.
 *
 * The plan counts the bytes of this list and the loader reads it, so that they cannot differ.
 */
#ifndef CALORIS_MODEL_PIECES_H
#define CALORIS_MODEL_PIECES_H

#include "worker/model/family.h"
#include "worker/model/model.h"
#include "worker/model/safetensors.h"

/* Rows [row_first, + rows) and columns [col_first, + cols) of a tensor [*, whole_cols]; a vector
 * has one column. */
struct caloris_piece {
    enum caloris_role role;
    size_t layer;
    bool sliced; /* ranks hold columns of it: nobody sees a whole row */
    size_t unit; /* rows, or columns where sliced, that are dealt together; 0: all have all */
    size_t row_first, rows;
    size_t col_first, cols, whole_cols;

    /* In a file; tensor is NULL for invented weights. */
    const struct caloris_tensor *tensor;
    enum caloris_dtype dtype;

    /* In memory, once attached: rows [to_row, + rows) of a matrix, or a vector. */
    struct caloris_matrix *matrix;
    struct caloris_apart *apart; /* of the matrix's columns; NULL: an embedding, a vector */
    float *vector;
    size_t to_row;
};

struct caloris_pieces {
    struct caloris_piece *piece;
    size_t n;
};

/* The list for `layers` layers of the model, equally long on every rank: a piece may be empty.
 * tensors: where to look
 * them up; every tensor of the model, of other ranks' too, must be there with the right shape
 * and a readable dtype, and no other. NULL: nothing is looked up. Free with caloris_pieces_free. */
int caloris_pieces_list(const struct caloris_model_config *config,
                        const struct caloris_model_split *split, size_t layers, const char *dir,
                        const struct caloris_tensors *tensors, struct caloris_pieces *pieces,
                        struct caloris_err *err);

/* Says where in memory each piece goes: weights are laid out. */
void caloris_pieces_attach(struct caloris_pieces *pieces, struct caloris_weights *weights);

/* Tensor bytes that the list takes from files. */
uint64_t caloris_pieces_bytes(const struct caloris_pieces *pieces);

void caloris_pieces_free(struct caloris_pieces *pieces);

/* Bytes of the staging buffer that each thread works through, freed when all is done: a row
 * always fits. */
enum { CALORIS_STAGING_BYTES = 1 << 20 };

/* Calls each(piece, staging, arg) for every piece that is not empty, on the pool's threads when
 * there is one. The first failure stops the rest and is returned. */
int caloris_pieces_run(const struct caloris_pieces *pieces, struct caloris_pool *pool,
                       int (*each)(const struct caloris_piece *piece, void *staging, void *arg,
                                   struct caloris_err *err),
                       void *arg, struct caloris_err *err);

#endif
