/* Writing a shard file: tensor by tensor, rows packed by the pool, units cut from them. */
#include "worker/model/load.h"
#include "worker/model/shard.h"

#include "base/err.h"
#include "base/file.h"
#include "base/size.h"
#include "worker/pool/pool.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SLAB_BYTES = 32 << 20, /* of packed numbers made at a time, where a tensor may be cut */
    TASK_ROWS = 16,        /* threads do not meet in a panel */
};

/* ‖W - Ŵ‖² and ‖W‖² of a row. */
struct row_error {
    double off, all;
};

struct writing {
    struct caloris_shard *shard;
    struct caloris_loading loading;
    struct caloris_pool *pool;
    size_t threads;
    char path[PATH_MAX]; /* of the file in the making */
    int fd;
    const struct caloris_sharding *told;
    uint64_t done_bytes;

    /* The tensor at hand, and the rows of it that are packed. */
    const struct caloris_shard_tensor *tensor;
    const struct caloris_piece *piece;
    struct caloris_matrix slab;
    void *slab_memory;
    size_t row, rows;
    float *scale;            /* [rows of the tensor] */
    struct row_error *error; /* [rows of the tensor] */
    uint16_t *apart;         /* [outliers, rows of the tensor] */
    char *units;             /* those cut from the slab */
    size_t unit_first;
    void *staging; /* [threads] of a task's rows: as in the file, in fp32 and as packed */
    size_t staging_bytes;
    atomic_bool failed;
    struct caloris_err err; /* of the thread that set failed */
};

static void run(struct writing *w, size_t n, void (*task)(void *arg, size_t index, int thread))
{
    if (w->pool) {
        caloris_pool_run(w->pool, n, task, w);
        return;
    }
    for (size_t i = 0; i < n; i++)
        task(w, i, 0);
}

/* ---- packing rows ---------------------------------------------------------------------------- */

static int pack_rows(struct writing *w, size_t first, size_t n, char *staging,
                     struct caloris_err *err)
{
    const struct caloris_piece *piece = w->piece;
    const size_t cols = piece->cols, numbers = n * cols;
    float *given = (float *)(void *)(staging + TASK_ROWS * cols * sizeof(float));
    float *packed = given + TASK_ROWS * cols;
    if (caloris_load_rows(&w->loading, piece, w->row + first, n, staging, err) < 0)
        return -1;
    caloris_convert_to_f32(piece->dtype, staging, given, numbers);
    if (w->slab.scale) {
        float absmax[TASK_ROWS] = {0};
        caloris_matrix_absmax(given, CALORIS_DTYPE_F32, n, cols, absmax);
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(absmax[i]))
                return caloris_err_set(err, CALORIS_BAD_MODEL,
                                       "%s: row %zu holds what is not a finite number",
                                       w->tensor->name, w->row + first + i);
            w->slab.scale[first + i] = caloris_matrix_scale(absmax[i]);
            w->scale[w->row + first + i] = w->slab.scale[first + i];
        }
    }
    const struct caloris_outliers *outliers = w->tensor->outliers;
    for (size_t i = 0; i < outliers->n; i++) {
        uint16_t *column = w->apart + i * piece->rows + w->row + first;
        for (size_t r = 0; r < n; r++)
            caloris_round_row(given + r * cols + outliers->column[i], 1, column + r);
    }
    caloris_matrix_fill(&w->slab, first, n, given, CALORIS_DTYPE_F32);
    caloris_matrix_read(&w->slab, first, n, packed);
    for (size_t i = 0; i < n; i++) {
        struct row_error e = {0, 0};
        for (size_t j = i * cols; j < (i + 1) * cols; j++) {
            const double number = (double)given[j], off = (double)packed[j] - number;
            e.off += off * off;
            e.all += number * number;
        }
        w->error[w->row + first + i] = e;
    }
    return 0;
}

static void pack_task(void *arg, size_t index, int thread)
{
    struct writing *w = arg;
    struct caloris_err err = {0};
    const size_t first = index * TASK_ROWS;
    const size_t n = w->rows - first < TASK_ROWS ? w->rows - first : TASK_ROWS;
    if (atomic_load(&w->failed))
        return;
    char *staging = (char *)w->staging + (size_t)thread * w->staging_bytes;
    if (pack_rows(w, first, n, staging, &err) < 0 && !atomic_exchange(&w->failed, true))
        w->err = err;
}

static void cut_task(void *arg, size_t index, int thread)
{
    struct writing *w = arg;
    const struct caloris_shard_tensor *tensor = w->tensor;
    const size_t unit = w->unit_first + index;
    char *to = w->units + index * tensor->unit_bytes;
    size_t rows, cols;
    (void)thread;
    caloris_shard_unit(tensor, unit, &rows, &cols);
    memset(to, 0, tensor->unit_bytes);
    if (w->piece->sliced)
        caloris_unit_get(&w->slab, 0, unit * w->piece->unit, rows, cols, to);
    else
        caloris_unit_get(&w->slab, unit * w->piece->unit - w->row, 0, rows, cols, to);
    w->shard->check[tensor->check_first + (tensor->common_bytes > 0) + unit] =
        caloris_crc32c(0, to, tensor->unit_bytes);
}

/* ---- one tensor ------------------------------------------------------------------------------ */

static int write_at(struct writing *w, const void *bytes, uint64_t n, uint64_t offset,
                    struct caloris_err *err)
{
    const char *from = bytes;
    while (n > 0) {
        const ssize_t put = pwrite(w->fd, from, n < SLAB_BYTES ? n : SLAB_BYTES, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return caloris_err_sys(err, "%s: writing %" PRIu64 " bytes", w->path, n);
        from += put;
        offset += (uint64_t)put;
        n -= (uint64_t)put;
    }
    return 0;
}

static int write_common(struct writing *w, const void *numbers, struct caloris_err *err)
{
    const struct caloris_shard_tensor *tensor = w->tensor;
    char *common = calloc(1, tensor->common_bytes);
    if (!common)
        return caloris_err_sys(err, "%s: %" PRIu64 " bytes", tensor->name, tensor->common_bytes);
    memcpy(common, numbers, w->piece->rows * sizeof(float));
    if (tensor->outliers->n > 0)
        memcpy(common + caloris_shard_apart_at(tensor), w->apart,
               tensor->outliers->n * w->piece->rows * sizeof(*w->apart));
    w->shard->check[tensor->check_first] = caloris_crc32c(0, common, tensor->common_bytes);
    int rc = write_at(w, common, tensor->common_bytes, tensor->offset, err);
    free(common);
    return rc;
}

static int write_vector(struct writing *w, struct caloris_err *err)
{
    const size_t rows = w->piece->rows;
    float *numbers = malloc(rows * (sizeof(*numbers) + caloris_dtype_bytes(w->piece->dtype)));
    if (!numbers)
        return caloris_err_sys(err, "%s: %zu numbers", w->tensor->name, rows);
    int rc = caloris_load_rows(&w->loading, w->piece, 0, rows, numbers + rows, err);
    if (rc == 0) {
        caloris_convert_to_f32(w->piece->dtype, numbers + rows, numbers, rows);
        rc = write_common(w, numbers, err);
    }
    free(numbers);
    return rc;
}

/* Rows [w->row, + w->rows): read, packed, cut into units and written. Of a sliced tensor they are
 * all rows, and all units come of them; else they are whole units. */
static int write_slab(struct writing *w, struct caloris_err *err)
{
    const struct caloris_shard_tensor *tensor = w->tensor;
    const size_t units = w->piece->sliced
                             ? tensor->units
                             : w->rows / w->piece->unit + (w->rows % w->piece->unit != 0);
    caloris_matrix_place(&w->slab, tensor->format, w->rows, w->piece->cols, w->slab_memory);
    w->unit_first = w->piece->sliced ? 0 : w->row / w->piece->unit;
    run(w, (w->rows + TASK_ROWS - 1) / TASK_ROWS, pack_task);
    if (atomic_load(&w->failed)) {
        if (err)
            *err = w->err;
        return -1;
    }
    run(w, units, cut_task);
    const uint64_t bytes = units * tensor->unit_bytes;
    if (write_at(w, w->units, bytes,
                 tensor->offset + tensor->common_bytes + w->unit_first * tensor->unit_bytes,
                 err) < 0)
        return -1;
    w->done_bytes += bytes;
    return w->told->progress
               ? w->told->progress(w->told->arg, w->done_bytes, w->shard->file_bytes, err)
               : 0;
}

static size_t rows_at_a_time(const struct caloris_shard_tensor *tensor)
{
    const struct caloris_piece *piece = tensor->piece;
    if (piece->sliced)
        return piece->rows;
    const size_t units = tensor->unit_bytes < SLAB_BYTES ? SLAB_BYTES / tensor->unit_bytes : 1;
    const size_t rows = units * piece->unit;
    return rows < piece->rows ? rows : piece->rows;
}

static int write_matrix(struct writing *w, struct caloris_err *err)
{
    const struct caloris_piece *piece = w->piece;
    const size_t most = rows_at_a_time(w->tensor);
    const size_t units = piece->sliced ? w->tensor->units : most / piece->unit + 1;
    const size_t row_bytes = 3 * TASK_ROWS * piece->cols * sizeof(float);
    int rc = -1;
    const size_t slab_bytes = caloris_matrix_bytes(w->tensor->format, most, piece->cols);
    w->slab_memory = slab_bytes < SIZE_MAX ? aligned_alloc(64, slab_bytes) : NULL;
    w->units = malloc(units * w->tensor->unit_bytes);
    w->staging_bytes = row_bytes;
    w->staging = aligned_alloc(64, w->threads * row_bytes);
    w->scale = calloc(piece->rows, sizeof(*w->scale));
    w->error = calloc(piece->rows, sizeof(*w->error));
    w->apart = calloc(w->tensor->outliers->n * piece->rows + 1, sizeof(*w->apart));
    if (!w->slab_memory || !w->units || !w->staging || !w->scale || !w->error || !w->apart) {
        caloris_err_sys(err, "%s as %s", w->tensor->name, caloris_format_name(w->tensor->format));
        goto out;
    }
    rc = 0;
    for (w->row = 0; rc == 0 && w->row < piece->rows; w->row += w->rows) {
        w->rows = piece->rows - w->row < most ? piece->rows - w->row : most;
        rc = write_slab(w, err);
    }
    if (rc == 0 && w->tensor->common_bytes > 0)
        rc = write_common(w, w->scale, err);
out:
    free(w->slab_memory);
    free(w->units);
    free(w->staging);
    free(w->scale);
    free(w->apart);
    w->slab_memory = w->staging = NULL;
    w->units = NULL;
    w->scale = NULL;
    w->apart = NULL;
    return rc;
}

static double relative_error(const struct writing *w)
{
    struct row_error sum = {0, 0};
    for (size_t i = 0; w->error && i < w->piece->rows; i++) {
        sum.off += w->error[i].off;
        sum.all += w->error[i].all;
    }
    return sum.all > 0 ? sqrt(sum.off / sum.all) : 0;
}

static int write_tensors(struct writing *w, const struct caloris_pieces *pieces,
                         struct caloris_err *err)
{
    for (size_t i = 0; i < pieces->n; i++) {
        w->tensor = &w->shard->tensor[i];
        w->piece = &pieces->piece[i];
        const bool matrix = w->tensor->units > 0;
        int rc = matrix ? write_matrix(w, err) : write_vector(w, err);
        w->done_bytes += w->tensor->common_bytes;
        const struct caloris_sharded_tensor done = {
            .name = w->tensor->name,
            .format = matrix ? caloris_format_name(w->tensor->format) : NULL,
            .rows = w->piece->rows,
            .cols = w->piece->cols,
            .outliers = w->tensor->outliers->n,
            .relative_error = relative_error(w),
        };
        free(w->error);
        w->error = NULL;
        if (rc == 0 && w->told->tensor)
            rc = w->told->tensor(w->told->arg, &done, err);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* ---- the file -------------------------------------------------------------------------------- */

static int finish(struct writing *w, const struct caloris_model_config *config,
                  struct caloris_err *err)
{
    void *start = caloris_shard_start(w->shard, config, err);
    if (!start)
        return -1;
    int rc = write_at(w, start, w->shard->data_start, 0, err);
    free(start);
    if (rc < 0)
        return -1;
    if (fchmod(w->fd, 0644) < 0 || fsync(w->fd) < 0 || rename(w->path, w->shard->path) < 0)
        return caloris_err_sys(err, "%s", w->shard->path);
    w->path[0] = '\0';
    return 0;
}

static int open_new(struct writing *w, struct caloris_err *err)
{
    const int length = snprintf(w->path, sizeof(w->path), "%s.XXXXXX", w->shard->path);
    if (length < 0 || (size_t)length >= sizeof(w->path)) {
        w->path[0] = '\0';
        return caloris_err_set(err, CALORIS_IO, "path too long: %.100s…", w->shard->path);
    }
    w->fd = mkstemp(w->path);
    if (w->fd < 0) {
        w->path[0] = '\0';
        return caloris_err_sys(err, "%s", w->shard->path);
    }
    return 0;
}

int caloris_shard_write(const char *dir, const struct caloris_model_config *config,
                        enum caloris_format format, struct caloris_calibration *calibration,
                        struct caloris_pool *pool, const char *out_dir,
                        const struct caloris_sharding *told, struct caloris_err *err)
{
    struct writing w = {.fd = -1, .pool = pool, .told = told};
    struct caloris_pieces pieces = {0};
    struct caloris_model_split split;
    int rc = -1;
    w.threads = pool ? (size_t)caloris_pool_threads(pool) : 1;
    caloris_model_split(config, 1, 0, &split);
    w.loading.format = format;
    w.loading.tensors = caloris_tensors_open(dir, err);
    if (!w.loading.tensors || caloris_pieces_list(config, &split, config->layers, dir,
                                                  w.loading.tensors, &pieces, err) < 0)
        goto out;
    w.shard = caloris_shard_lay_out(out_dir, config, format, calibration, err);
    calibration = NULL;
    if (!w.shard || open_new(&w, err) < 0)
        goto out;
    /* Says how long the start will be; its checksums come last. */
    void *start = caloris_shard_start(w.shard, config, err);
    free(start);
    if (!start)
        goto out;
    w.done_bytes = w.shard->data_start;
    if (write_tensors(&w, &pieces, err) < 0 || finish(&w, config, err) < 0)
        goto out;
    rc = 0;
out:
    if (w.fd >= 0)
        close(w.fd);
    if (w.path[0])
        unlink(w.path);
    caloris_calibration_free(calibration);
    caloris_shard_close(w.shard);
    caloris_pieces_free(&pieces);
    caloris_tensors_close(w.loading.tensors);
    return rc;
}
