/* INT8 at load for matrices of which every rank holds some columns (attention output, down). A
 * scale covers a whole row of the unsplit tensor, so that it is the same at every rank count, and
 * no rank sees a whole row. Each byte is read once: a block of rows is held until the ranks have
 * compared. */
#include "worker/model/load.h"

#include "base/err.h"
#include "worker/pool/pool.h"

#include <stdlib.h>
#include <string.h>

enum { PANEL = 16 }; /* rows of a task: threads do not meet in a panel of outputs */

struct block {
    struct caloris_loading *loading;
    const struct caloris_piece *piece;
    size_t row, rows;
    char *held;    /* [rows, cols] as in the file */
    float *absmax; /* [rows] */
    atomic_bool failed;
    struct caloris_err err; /* of the thread that set failed */
};

static size_t rows_of_task(const struct block *block, size_t index, size_t *first)
{
    *first = index * PANEL;
    return block->rows - *first < PANEL ? block->rows - *first : PANEL;
}

static char *held_row(const struct block *block, size_t row)
{
    return block->held + row * block->piece->cols * caloris_dtype_bytes(block->piece->dtype);
}

static void read_task(void *arg, size_t index, int thread)
{
    struct block *block = arg;
    struct caloris_err err = {0};
    size_t first;
    const size_t n = rows_of_task(block, index, &first);
    (void)thread;
    if (atomic_load(&block->failed))
        return;
    if (caloris_load_rows(block->loading, block->piece, block->row + first, n,
                          held_row(block, first), &err) == 0)
        caloris_matrix_absmax(held_row(block, first), block->piece->dtype, n, block->piece->cols,
                              block->absmax + first);
    else if (!atomic_exchange(&block->failed, true))
        block->err = err;
}

static void fill_task(void *arg, size_t index, int thread)
{
    struct block *block = arg;
    size_t first;
    const size_t n = rows_of_task(block, index, &first);
    (void)thread;
    caloris_matrix_fill(block->piece->matrix, block->piece->to_row + block->row + first, n,
                        held_row(block, first), block->piece->dtype);
    caloris_load_apart(block->piece, block->row + first, n, held_row(block, first));
}

static void run(struct caloris_pool *pool, struct block *block,
                void (*task)(void *arg, size_t index, int thread))
{
    const size_t tasks = (block->rows + PANEL - 1) / PANEL;
    if (pool) {
        caloris_pool_run(pool, tasks, task, block);
        return;
    }
    for (size_t i = 0; i < tasks; i++)
        task(block, i, 0);
}

/* x[i] = the largest over the ranks; the one behind the last says whether any of them failed, so
 * that all leave together. */
static int compare(const struct caloris_weights_peers *peers, float *x, size_t n, int mine,
                   bool *left, struct caloris_err *err)
{
    if (!peers)
        return mine;
    x[n] = mine < 0 ? 1.0f : 0.0f;
    if (peers->max(peers->arg, x, n + 1, mine < 0 ? NULL : err) < 0)
        return -1;
    *left = mine == 0 && x[n] > 0;
    return mine;
}

int caloris_load_meet(const struct caloris_weights_peers *peers, int rc, bool *left,
                      struct caloris_err *err)
{
    float failed[1];
    *left = false;
    return compare(peers, failed, 0, rc, left, err);
}

static int load_block(struct block *block, struct caloris_pool *pool,
                      const struct caloris_weights_peers *peers, bool *left,
                      struct caloris_err *err)
{
    const bool some = block->piece->cols > 0;
    memset(block->absmax, 0, block->rows * sizeof(*block->absmax));
    if (some)
        run(pool, block, read_task);
    int mine = atomic_load(&block->failed) ? -1 : 0;
    if (mine < 0 && err)
        *err = block->err;
    if (mine == 0)
        mine = caloris_load_scales(block->loading, block->piece, block->row, block->rows,
                                   block->absmax, err);
    if (compare(peers, block->absmax, block->rows, mine, left, err) < 0)
        return -1;
    if (*left)
        return 0;
    if (caloris_load_scales(block->loading, block->piece, block->row, block->rows, block->absmax,
                            err) < 0)
        return -1;
    if (some)
        run(pool, block, fill_task);
    return 0;
}

/* The same on every rank, as is what is BF16 because of outliers. */
static bool held_here(const struct caloris_piece *piece)
{
    return piece->sliced && caloris_format_scaled(piece->matrix->format);
}

/* Rows that are held at a time: as many on every rank, whatever its share of the columns. */
static size_t rows_held(const struct caloris_piece *piece)
{
    const size_t most = CALORIS_WEIGHTS_HELD_BYTES / (piece->whole_cols * sizeof(float));
    const size_t panels = most / PANEL * PANEL;
    const size_t wanted = panels > 0 ? panels : PANEL;
    return piece->rows < wanted ? piece->rows : wanted;
}

int caloris_load_sliced(struct caloris_loading *loading, const struct caloris_pieces *pieces,
                        struct caloris_pool *pool, const struct caloris_weights_peers *peers,
                        bool *left, struct caloris_err *err)
{
    size_t held_bytes = 1, rows = 1;
    for (size_t i = 0; i < pieces->n; i++) {
        const struct caloris_piece *piece = &pieces->piece[i];
        if (!held_here(piece))
            continue;
        const size_t here = rows_held(piece);
        const size_t bytes = here * piece->cols * caloris_dtype_bytes(piece->dtype);
        rows = here > rows ? here : rows;
        held_bytes = bytes > held_bytes ? bytes : held_bytes;
    }
    struct block block = {.loading = loading};
    int rc = 0;
    block.held = malloc(held_bytes);
    block.absmax = calloc(rows + 1, sizeof(*block.absmax));
    if (!block.held || !block.absmax)
        rc = caloris_err_sys(err, "%zu bytes of weights to hold while loading", held_bytes);
    rc = caloris_load_meet(peers, rc, left, err);
    for (size_t i = 0; rc == 0 && !*left && i < pieces->n; i++) {
        block.piece = &pieces->piece[i];
        if (!held_here(block.piece))
            continue;
        const size_t most = rows_held(block.piece);
        for (size_t row = 0; rc == 0 && !*left && row < block.piece->rows; row += block.rows) {
            block.row = row;
            block.rows = block.piece->rows - row < most ? block.piece->rows - row : most;
            rc = load_block(&block, pool, peers, left, err);
        }
    }
    free(block.held);
    free(block.absmax);
    return rc;
}
