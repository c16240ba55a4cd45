/* worker/model/load.h: reading pieces of tensors into matrices. Inside worker/model only. */
#ifndef CALORIS_MODEL_LOAD_H
#define CALORIS_MODEL_LOAD_H

#include "worker/model/pieces.h"

#include <stdatomic.h>

struct caloris_loading {
    struct caloris_tensors *tensors; /* open while loading */
    enum caloris_format format;
    const struct caloris_weights_peers *peers; /* may be NULL */
    _Atomic uint64_t bytes_read;
};

/* Rows [row, row + n) of the piece, packed one behind the other, to `to`. */
int caloris_load_rows(struct caloris_loading *loading, const struct caloris_piece *piece,
                      size_t row, size_t n, void *to, struct caloris_err *err);

/* A whole piece, unless a scale needs what other ranks have of its rows (caloris_load_sliced); arg
 * is the loading: for caloris_pieces_run. */
int caloris_load_piece(const struct caloris_piece *piece, void *staging, void *arg,
                       struct caloris_err *err);

/* What is apart of n rows from `row` on, which stand at from as in the file. */
void caloris_load_apart(const struct caloris_piece *piece, size_t row, size_t n, const void *from);

/* The INT8 scales of rows [row, row + n) from the largest magnitudes of the whole tensor's rows. A
 * magnitude that is not a number is an error that names tensor and row. */
int caloris_load_scales(const struct caloris_loading *loading, const struct caloris_piece *piece,
                        size_t row, size_t n, const float *absmax, struct caloris_err *err);

/* Whether all ranks came this far: rc is what this rank did. *left: another one failed. Returns rc,
 * or -1 when they could not meet. Collective when there are peers. */
int caloris_load_meet(const struct caloris_weights_peers *peers, int rc, bool *left,
                      struct caloris_err *err);

/* INT8: the pieces that are slices of rows, a block of rows at a time, in step with the other
 * ranks: each reads its columns and holds them until the largest number of each whole row is
 * known. Collective when there are peers. *left: another rank failed, and all left. */
int caloris_load_sliced(struct caloris_loading *loading, const struct caloris_pieces *pieces,
                        struct caloris_pool *pool, const struct caloris_weights_peers *peers,
                        bool *left, struct caloris_err *err);

#endif
