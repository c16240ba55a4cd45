#include "worker/model/memory.h"
#include "worker/model/model.h"
#include "worker/model/pieces.h"

#include "base/err.h"
#include "base/file.h"

#include <stdatomic.h>

int caloris_weights_plan(const char *dir, const struct caloris_model_config *config,
                         const struct caloris_model_split *split, uint64_t *memory_bytes,
                         uint64_t *read_bytes, struct caloris_err *err)
{
    struct caloris_pieces pieces;
    struct caloris_tensors *tensors = caloris_tensors_open(dir, err);
    if (!tensors)
        return -1;
    int rc = caloris_pieces_list(config, split, config->layers, dir, tensors, &pieces, err);
    if (rc == 0) {
        *memory_bytes = caloris_weights_bytes(config, split, config->layers);
        *read_bytes = caloris_pieces_bytes(&pieces);
        caloris_pieces_free(&pieces);
    }
    caloris_tensors_close(tensors);
    return rc;
}

struct loading {
    const struct caloris_tensors *tensors;
    _Atomic uint64_t bytes_read;
};

/* Rows [row, row + n) of the piece, packed one behind the other into staging. Whole rows stand
 * together in the file and are one read; slices of columns are one read each, so that nothing is
 * read that is not wanted. */
static int read_rows(struct loading *loading, const struct caloris_piece *piece, size_t row,
                     size_t n, char *staging, struct caloris_err *err)
{
    const struct caloris_tensor_file *file = &loading->tensors->files[piece->tensor->file];
    size_t item = caloris_dtype_bytes(piece->dtype);
    size_t bytes = piece->cols * item;
    size_t reads = n;
    uint64_t stride = (uint64_t)piece->whole_cols * item;
    uint64_t offset =
        piece->tensor->offset + (piece->row_first + row) * stride + piece->col_first * item;
    if (piece->cols == piece->whole_cols) {
        bytes *= n;
        reads = 1;
    }
    for (size_t i = 0; i < reads; i++) {
        if (caloris_file_read_at(file->fd, file->path, staging + i * bytes, bytes,
                                 offset + i * stride, err) < 0)
            return caloris_err_prefix(err, "%s", piece->tensor->name);
        atomic_fetch_add(&loading->bytes_read, bytes);
    }
    return 0;
}

static int read_piece(const struct caloris_piece *piece, void *staging, void *arg,
                      struct caloris_err *err)
{
    struct loading *loading = arg;
    size_t most = CALORIS_STAGING_BYTES / (piece->cols * caloris_dtype_bytes(piece->dtype));
    for (size_t row = 0; row < piece->rows; row += most) {
        size_t n = piece->rows - row < most ? piece->rows - row : most;
        if (read_rows(loading, piece, row, n, staging, err) < 0)
            return -1;
        if (piece->matrix)
            caloris_matrix_fill(piece->matrix, piece->to_row + row, n, staging, piece->dtype);
        else
            caloris_convert_to_f32(piece->dtype, staging, piece->vector + row, n);
    }
    return 0;
}

int caloris_weights_load(const char *dir, const struct caloris_model_config *config,
                         const struct caloris_model_split *split, struct caloris_pool *pool,
                         struct caloris_weights *weights, struct caloris_err *err)
{
    struct caloris_pieces pieces = {0};
    struct loading loading = {0};
    int rc = -1;
    *weights = (struct caloris_weights){0};
    struct caloris_tensors *tensors = caloris_tensors_open(dir, err);
    if (!tensors)
        return -1;
    loading.tensors = tensors;
    /* Files that do not fit the config are told before memory is taken for them. */
    if (caloris_pieces_list(config, split, config->layers, dir, tensors, &pieces, err) < 0)
        goto out;
    if (caloris_weights_reserve(config, split, config->layers, weights, err) < 0)
        goto out;
    caloris_pieces_attach(&pieces, weights);
    if (caloris_pieces_run(&pieces, pool, read_piece, &loading, err) < 0)
        goto out;
    weights->bytes_read = loading.bytes_read;
    rc = 0;
out:
    caloris_pieces_free(&pieces);
    caloris_tensors_close(tensors);
    if (rc < 0)
        caloris_weights_free(weights);
    return rc;
}
