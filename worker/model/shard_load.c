/* Reading a rank's units from a shard file: a few MiB at a time, each unit checked before it is put
 * in place. */
#include "worker/model/shard.h"

#include "base/err.h"
#include "base/file.h"
#include "worker/pool/pool.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Read at a time, unless a unit is longer. */
enum { READ_BYTES = 4 << 20 };

/* A tensor's common part (units 0), or some of its units. */
struct task {
    uint32_t tensor;
    size_t first, units;
};

struct loading {
    const struct caloris_shard *shard;
    const struct caloris_pieces *pieces;
    const struct caloris_weights_peers *peers; /* may be NULL */
    const struct task *task;
    char *staging; /* [threads, staging_bytes] */
    size_t staging_bytes;
    _Atomic uint64_t bytes_read;
    atomic_bool failed;
    struct caloris_err err; /* of the thread that set failed */
};

/* The units that a rank with this piece has: [*first, + n). */
static size_t units_of(const struct caloris_piece *piece, size_t *first)
{
    const size_t from = piece->sliced ? piece->col_first : piece->row_first;
    const size_t count = piece->sliced ? piece->cols : piece->rows;
    *first = 0;
    if (piece->unit == 0 || piece->rows == 0 || piece->cols == 0)
        return 0;
    *first = from / piece->unit;
    return count / piece->unit + (count % piece->unit != 0);
}

/* Scales are read by whoever has rows, of no columns even. */
static uint64_t common_of(const struct caloris_shard_tensor *tensor,
                          const struct caloris_piece *piece)
{
    return piece->rows > 0 ? tensor->common_bytes : 0;
}

uint64_t caloris_shard_bytes(const struct caloris_shard *shard, const struct caloris_pieces *pieces)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        size_t first;
        bytes += common_of(&shard->tensor[i], &pieces->piece[i]) +
                 units_of(&pieces->piece[i], &first) * shard->tensor[i].unit_bytes;
    }
    return bytes;
}

/* ---- one read -------------------------------------------------------------------------------- */

static int check(const struct loading *loading, const struct caloris_shard_tensor *tensor,
                 const char *what, size_t index, const void *bytes, uint64_t n, uint64_t offset,
                 struct caloris_err *err)
{
    const uint32_t wanted = loading->shard->check[index];
    const uint32_t found = caloris_crc32c(0, bytes, n);
    if (found == wanted)
        return 0;
    return caloris_err_set(err, CALORIS_BAD_MODEL,
                           "%s: %s, %s, %" PRIu64 " bytes at byte %" PRIu64 ": checksum %08" PRIx32
                           ", should be %08" PRIx32 ": the file is damaged",
                           loading->shard->path, tensor->name, what, n, offset, found, wanted);
}

static int read_bytes(struct loading *loading, const struct caloris_shard_tensor *tensor,
                      void *staging, uint64_t n, uint64_t offset, struct caloris_err *err)
{
    if (caloris_file_read_at(loading->shard->fd, loading->shard->path, staging, n, offset, err) < 0)
        return caloris_err_prefix(err, "%s", tensor->name);
    atomic_fetch_add(&loading->bytes_read, n);
    if (loading->peers && loading->peers->loaded)
        loading->peers->loaded(loading->peers->arg, n);
    return 0;
}

/* from [all outliers, rows of the tensor]: of those that are this rank's columns, its rows. */
static void place_apart(const struct caloris_shard_tensor *tensor,
                        const struct caloris_piece *piece, const char *from)
{
    struct caloris_apart *apart = piece->apart;
    const uint16_t *columns = (const uint16_t *)(const void *)from;
    uint16_t row[CALORIS_OUTLIERS_MOST];
    size_t first = 0;
    while (tensor->outliers->column[first] < piece->col_first)
        first++;
    columns += first * tensor->piece->rows + piece->row_first;
    for (size_t r = 0; r < piece->rows; r++) {
        for (size_t i = 0; i < apart->n; i++)
            row[i] = columns[i * tensor->piece->rows + r];
        caloris_matrix_fill(&apart->matrix, piece->to_row + r, 1, row, CALORIS_DTYPE_BF16);
    }
}

static int load_common(struct loading *loading, const struct caloris_shard_tensor *tensor,
                       const struct caloris_piece *piece, char *staging, struct caloris_err *err)
{
    if (read_bytes(loading, tensor, staging, tensor->common_bytes, tensor->offset, err) < 0 ||
        check(loading, tensor, piece->vector ? "all of it" : "scales", tensor->check_first, staging,
              tensor->common_bytes, tensor->offset, err) < 0)
        return -1;
    const float *numbers = (const float *)(const void *)staging + piece->row_first;
    float *to = piece->vector ? piece->vector : piece->matrix->scale + piece->to_row;
    memcpy(to, numbers, piece->rows * sizeof(float));
    if (piece->apart && piece->apart->n > 0)
        place_apart(tensor, piece, staging + caloris_shard_apart_at(tensor));
    return 0;
}

static void put_units(const struct caloris_piece *piece, size_t at, size_t n, size_t rows,
                      size_t cols, const char *from)
{
    const size_t row_step = piece->sliced ? 0 : piece->unit;
    const size_t col_step = piece->sliced ? piece->unit : 0;
    caloris_unit_put(piece->matrix, piece->to_row + at * row_step, at * col_step, row_step,
                     col_step, n, rows, cols, from);
}

static int load_units(struct loading *loading, const struct caloris_shard_tensor *tensor,
                      const struct caloris_piece *piece, const struct task *task, char *staging,
                      struct caloris_err *err)
{
    const uint64_t bytes = task->units * tensor->unit_bytes;
    const uint64_t offset =
        tensor->offset + tensor->common_bytes + task->first * tensor->unit_bytes;
    size_t mine, rows, cols;
    if (read_bytes(loading, tensor, staging, bytes, offset, err) < 0)
        return -1;
    for (size_t i = 0; i < task->units; i++) {
        char what[64];
        snprintf(what, sizeof(what), "unit %zu of %zu", task->first + i, tensor->units);
        if (check(loading, tensor, what,
                  tensor->check_first + (tensor->common_bytes > 0) + task->first + i,
                  staging + i * tensor->unit_bytes, tensor->unit_bytes,
                  offset + i * tensor->unit_bytes, err) < 0)
            return -1;
    }
    units_of(piece, &mine);
    /* All are alike but the last of the tensor. */
    caloris_shard_unit(tensor, task->first + task->units - 1, &rows, &cols);
    const bool last_is_short = rows < tensor->unit_rows || cols < tensor->unit_cols;
    const size_t alike = task->units - last_is_short;
    put_units(piece, task->first - mine, alike, tensor->unit_rows, tensor->unit_cols, staging);
    if (last_is_short)
        put_units(piece, task->first - mine + alike, 1, rows, cols,
                  staging + alike * tensor->unit_bytes);
    return 0;
}

static void run_task(void *arg, size_t index, int thread)
{
    struct loading *loading = arg;
    const struct task *task = &loading->task[index];
    const struct caloris_shard_tensor *tensor = &loading->shard->tensor[task->tensor];
    const struct caloris_piece *piece = &loading->pieces->piece[task->tensor];
    char *staging = loading->staging + (size_t)thread * loading->staging_bytes;
    struct caloris_err err = {0};
    if (atomic_load(&loading->failed))
        return;
    int rc = task->units > 0 ? load_units(loading, tensor, piece, task, staging, &err)
                             : load_common(loading, tensor, piece, staging, &err);
    if (rc < 0 && !atomic_exchange(&loading->failed, true))
        loading->err = err;
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* Counts the tasks, or writes them down (task not NULL), in the order of the file. */
static size_t list_tasks(const struct caloris_shard *shard, const struct caloris_pieces *pieces,
                         struct task *task, size_t *longest)
{
    size_t n = 0;
    *longest = READ_BYTES;
    for (size_t i = 0; i < pieces->n; i++) {
        const struct caloris_shard_tensor *tensor = &shard->tensor[i];
        const uint64_t common = common_of(tensor, &pieces->piece[i]);
        size_t first, units = units_of(&pieces->piece[i], &first);
        const size_t most = tensor->unit_bytes > 0 && tensor->unit_bytes < READ_BYTES
                                ? READ_BYTES / tensor->unit_bytes
                                : 1;
        *longest = common > *longest ? common : *longest;
        *longest = units > 0 && tensor->unit_bytes > *longest ? tensor->unit_bytes : *longest;
        if (common > 0) {
            if (task)
                task[n] = (struct task){(uint32_t)i, 0, 0};
            n++;
        }
        for (size_t at = 0; at < units; at += most, n++) {
            if (task)
                task[n] =
                    (struct task){(uint32_t)i, first + at, units - at < most ? units - at : most};
        }
    }
    return n;
}

int caloris_shard_load(const struct caloris_shard *shard, const struct caloris_pieces *pieces,
                       struct caloris_pool *pool, const struct caloris_weights_peers *peers,
                       uint64_t *bytes_read, struct caloris_err *err)
{
    const size_t threads = pool ? (size_t)caloris_pool_threads(pool) : 1;
    struct loading loading = {.shard = shard, .pieces = pieces, .peers = peers};
    size_t n = list_tasks(shard, pieces, NULL, &loading.staging_bytes);
    struct task *task = calloc(n + 1, sizeof(*task));
    int rc = -1;
    loading.staging = aligned_alloc(64, threads * loading.staging_bytes);
    if (!task || !loading.staging) {
        caloris_err_sys(err, "%s: %zu buffers of %zu bytes", shard->path, threads,
                        loading.staging_bytes);
        goto out;
    }
    list_tasks(shard, pieces, task, &loading.staging_bytes);
    loading.task = task;
    if (pool) {
        caloris_pool_run(pool, n, run_task, &loading);
    } else {
        for (size_t i = 0; i < n; i++)
            run_task(&loading, i, 0);
    }
    rc = atomic_load(&loading.failed) ? -1 : 0;
    if (rc < 0 && err)
        *err = loading.err;
out:
    *bytes_read = loading.bytes_read;
    free(task);
    free(loading.staging);
    return rc;
}
