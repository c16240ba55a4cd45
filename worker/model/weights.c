#include "worker/model/load.h"
#include "worker/model/memory.h"
#include "worker/model/shard.h"

#include "base/err.h"
#include "base/file.h"

#include <math.h>

/* The bytes that a rank reads, of its units or of tensors, and keeps in memory. */
static int plan_bytes(const char *dir, const struct caloris_model_config *config,
                      const struct caloris_model_split *split, bool stored,
                      enum caloris_format format, const struct caloris_calibration *calibration,
                      uint64_t *memory_bytes, uint64_t *read_bytes, struct caloris_err *err)
{
    struct caloris_pieces pieces = {0};
    struct caloris_shard *shard = stored ? caloris_shard_open(dir, config, err) : NULL;
    struct caloris_tensors *tensors = stored ? NULL : caloris_tensors_open(dir, err);
    int rc = shard || tensors
                 ? caloris_pieces_list(config, split, config->layers, dir, tensors, &pieces, err)
                 : -1;
    if (rc == 0)
        *memory_bytes = caloris_weights_bytes(
            config, split, format, shard ? shard->calibration : calibration, config->layers);
    if (rc == 0)
        *read_bytes = shard ? caloris_shard_bytes(shard, &pieces) : caloris_pieces_bytes(&pieces);
    caloris_pieces_free(&pieces);
    caloris_shard_close(shard);
    caloris_tensors_close(tensors);
    return rc;
}

int caloris_weights_plan(const char *dir, const struct caloris_model_config *config,
                         const struct caloris_model_split *split, enum caloris_format format,
                         const struct caloris_calibration *calibration, uint64_t *memory_bytes,
                         uint64_t *read_bytes, struct caloris_err *err)
{
    struct caloris_stored stored;
    if (caloris_shard_find(dir, &stored, err) < 0 ||
        plan_bytes(dir, config, split, stored.there, format, calibration, memory_bytes, read_bytes,
                   err) < 0)
        return -1;
    return *memory_bytes == SIZE_MAX ? caloris_weights_too_large(format, err) : 0;
}

uint64_t caloris_weights_most(const struct caloris_model_config *config,
                              const struct caloris_model_split *split, enum caloris_format format)
{
    const enum caloris_format most = caloris_format_scaled(format) ? CALORIS_FORMAT_BF16 : format;
    return caloris_weights_bytes(config, split, most, NULL, config->layers);
}

/* Whole rows stand together in the file and are one read; slices of columns are one read each, so
 * that nothing is read that is not wanted. */
int caloris_load_rows(struct caloris_loading *loading, const struct caloris_piece *piece,
                      size_t row, size_t n, void *to, struct caloris_err *err)
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
        if (caloris_file_read_at(file->fd, file->path, (char *)to + i * bytes, bytes,
                                 offset + i * stride, err) < 0)
            return caloris_err_prefix(err, "%s", piece->tensor->name);
        atomic_fetch_add(&loading->bytes_read, bytes);
        if (loading->peers && loading->peers->loaded)
            loading->peers->loaded(loading->peers->arg, bytes);
    }
    return 0;
}

int caloris_load_scales(const struct caloris_loading *loading, const struct caloris_piece *piece,
                        size_t row, size_t n, const float *absmax, struct caloris_err *err)
{
    float *scale = piece->matrix->scale + piece->to_row + row;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(absmax[i]))
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: %s: row %zu holds what is not a finite number",
                                   loading->tensors->files[piece->tensor->file].path,
                                   piece->tensor->name, piece->row_first + row + i);
        scale[i] = caloris_matrix_scale(absmax[i]);
    }
    return 0;
}

void caloris_load_apart(const struct caloris_piece *piece, size_t row, size_t n, const void *from)
{
    struct caloris_apart *apart = piece->apart;
    const size_t item = caloris_dtype_bytes(piece->dtype);
    float numbers[CALORIS_OUTLIERS_MOST];
    if (!apart || apart->n == 0)
        return;
    for (size_t r = 0; r < n; r++) {
        const char *cells = (const char *)from + r * piece->cols * item;
        for (size_t i = 0; i < apart->n; i++)
            caloris_convert_to_f32(piece->dtype, cells + apart->column[i] * item, &numbers[i], 1);
        caloris_matrix_fill(&apart->matrix, piece->to_row + row + r, 1, numbers, CALORIS_DTYPE_F32);
    }
}

/* Rows of a matrix, whole ones where the format has scales. */
static int place_rows(struct caloris_loading *loading, const struct caloris_piece *piece,
                      size_t row, size_t n, const char *staging, struct caloris_err *err)
{
    enum { AT_ONCE = 256 };
    const size_t row_bytes = piece->cols * caloris_dtype_bytes(piece->dtype);
    for (size_t at = 0; piece->matrix->scale && at < n; at += AT_ONCE) {
        float absmax[AT_ONCE] = {0};
        const size_t some = n - at < AT_ONCE ? n - at : AT_ONCE;
        caloris_matrix_absmax(staging + at * row_bytes, piece->dtype, some, piece->cols, absmax);
        if (caloris_load_scales(loading, piece, row + at, some, absmax, err) < 0)
            return -1;
    }
    caloris_matrix_fill(piece->matrix, piece->to_row + row, n, staging, piece->dtype);
    caloris_load_apart(piece, row, n, staging);
    return 0;
}

int caloris_load_piece(const struct caloris_piece *piece, void *staging, void *arg,
                       struct caloris_err *err)
{
    struct caloris_loading *loading = arg;
    size_t most = CALORIS_STAGING_BYTES / (piece->cols * caloris_dtype_bytes(piece->dtype));
    if (piece->sliced && caloris_format_scaled(piece->matrix->format))
        return 0;
    for (size_t row = 0; row < piece->rows; row += most) {
        size_t n = piece->rows - row < most ? piece->rows - row : most;
        if (caloris_load_rows(loading, piece, row, n, staging, err) < 0)
            return -1;
        if (!piece->matrix)
            caloris_convert_to_f32(piece->dtype, staging, piece->vector + row, n);
        else if (place_rows(loading, piece, row, n, staging, err) < 0)
            return -1;
    }
    return 0;
}

/* All that a rank can do by itself. */
static int load_alone(const char *dir, const struct caloris_model_config *config,
                      const struct caloris_model_split *split,
                      const struct caloris_calibration *calibration,
                      struct caloris_loading *loading, struct caloris_pool *pool,
                      struct caloris_pieces *pieces, struct caloris_weights *weights,
                      struct caloris_err *err)
{
    struct caloris_tensors *tensors = caloris_tensors_open(dir, err);
    loading->tensors = tensors;
    /* Files that do not fit the config are told before memory is taken for them. */
    if (!tensors ||
        caloris_pieces_list(config, split, config->layers, dir, tensors, pieces, err) < 0)
        return -1;
    if (caloris_weights_reserve(config, split, loading->format, calibration, config->layers,
                                weights, err) < 0)
        return -1;
    caloris_pieces_attach(pieces, weights);
    return caloris_pieces_run(pieces, pool, caloris_load_piece, loading, err);
}

static int load_stored(const char *dir, const struct caloris_model_config *config,
                       const struct caloris_model_split *split, enum caloris_format format,
                       struct caloris_pool *pool, const struct caloris_weights_peers *peers,
                       struct caloris_weights *weights, struct caloris_err *err)
{
    struct caloris_pieces pieces = {0};
    struct caloris_shard *shard = caloris_shard_open(dir, config, err);
    int rc = -1;
    if (!shard)
        return -1;
    if (shard->format != format) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s holds %s, not %s", shard->path,
                        caloris_format_name(shard->format), caloris_format_name(format));
        goto out;
    }
    if (caloris_pieces_list(config, split, config->layers, dir, NULL, &pieces, err) < 0 ||
        caloris_weights_reserve(config, split, format, shard->calibration, config->layers, weights,
                                err) < 0)
        goto out;
    caloris_pieces_attach(&pieces, weights);
    rc = caloris_shard_load(shard, &pieces, pool, peers, &weights->bytes_read, err);
out:
    caloris_pieces_free(&pieces);
    caloris_shard_close(shard);
    return rc;
}

static int load_tensors(const char *dir, const struct caloris_model_config *config,
                        const struct caloris_model_split *split, enum caloris_format format,
                        const struct caloris_calibration *calibration, struct caloris_pool *pool,
                        const struct caloris_weights_peers *peers, struct caloris_weights *weights,
                        struct caloris_err *err)
{
    struct caloris_pieces pieces = {0};
    struct caloris_loading loading = {.format = format, .peers = peers};
    bool left = false;
    int rc = load_alone(dir, config, split, calibration, &loading, pool, &pieces, weights, err);
    if (caloris_format_scaled(format)) {
        rc = caloris_load_meet(peers, rc, &left, err);
        if (rc == 0 && !left)
            rc = caloris_load_sliced(&loading, &pieces, pool, peers, &left, err);
    }
    weights->bytes_read = loading.bytes_read;
    caloris_pieces_free(&pieces);
    caloris_tensors_close(loading.tensors);
    return rc;
}

int caloris_weights_load(const char *dir, const struct caloris_model_config *config,
                         const struct caloris_model_split *split, enum caloris_format format,
                         const struct caloris_calibration *calibration, struct caloris_pool *pool,
                         const struct caloris_weights_peers *peers, struct caloris_weights *weights,
                         struct caloris_err *err)
{
    struct caloris_stored stored;
    *weights = (struct caloris_weights){0};
    if (caloris_shard_find(dir, &stored, err) < 0)
        return -1;
    int rc = stored.there
                 ? load_stored(dir, config, split, format, pool, peers, weights, err)
                 : load_tensors(dir, config, split, format, calibration, pool, peers, weights, err);
    if (rc < 0)
        caloris_weights_free(weights);
    return rc;
}
