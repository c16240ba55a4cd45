/* Products with BF16, INT8 and INT4 matrices: rows are packed once, then panels are dealt. */
#include "worker/kernels/panels.h"
#include "worker/kernels/table.h"

#include "base/size.h"
#include "worker/pool/pool.h"

#include <assert.h>

enum {
    SUMS_BYTES = SUM_ROWS * TILE_PANELS * LINE_BYTES,       /* of one thread */
    OPENED_BYTES = TILE_PANELS * SLICE_GROUPS * LINE_BYTES, /* of one thread, for INT4 */
    TASKS_PER_THREAD = 4,     /* slack for a thread that is slowed down */
    MIN_TASK_BYTES = 1 << 17, /* weights of a task: below some 10 us it is not worth handing out */
    MIN_TASK_MACS = 1 << 21,
    PACK_NUMBERS = 1 << 15, /* of a task that packs rows */
};

static_assert(OPENED_BYTES >= SLICE_GROUPS / BLOCK_GROUPS * OPENED_RUNS_LINES * LINE_BYTES,
              "kernels that open to runs take one panel at a time");

/* What stands in scratch: packed rows, their scales; of each thread sums, what is opened, a row. */
struct job {
    struct caloris_gemm_tile whole;
    const struct caloris_made_rows *made; /* or NULL */
    const struct caloris_matrix_kernels *kernels;
    unsigned char *packed;
    float *row_scale;
    char *sums;
    size_t row_bytes, thread_bytes;
    size_t blocks_per_task;      /* of packing */
    size_t row_tiles, out_tiles; /* of the product */
};

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t scale_bytes(size_t rows)
{
    return caloris_size_round_up(rows * sizeof(float), 64);
}

/* Of one thread: where it has a row that is made, and all. */
static size_t row_at(enum caloris_format format)
{
    return SUMS_BYTES + (format == CALORIS_FORMAT_INT4 ? OPENED_BYTES : 0);
}

static size_t thread_bytes(enum caloris_format format, size_t in)
{
    return row_at(format) + caloris_size_round_up(in * sizeof(float), LINE_BYTES);
}

size_t caloris_gemm_scratch_bytes(enum caloris_format format, size_t max_rows, size_t max_in,
                                  int threads)
{
    size_t packed, of_threads, bytes;
    if (format == CALORIS_FORMAT_FP32)
        return 0;
    if (max_in > SIZE_MAX / 8 || max_rows > SIZE_MAX / 8 ||
        !caloris_size_mul(max_rows, caloris_row_bytes(format, max_in), &packed) ||
        !caloris_size_mul((size_t)threads, thread_bytes(format, max_in), &of_threads) ||
        !caloris_size_add(packed, of_threads, &bytes) ||
        !caloris_size_add(bytes, scale_bytes(max_rows), &bytes))
        return SIZE_MAX;
    return bytes;
}

static void pack_blocks(void *arg, size_t index, int thread)
{
    const struct job *job = arg;
    const struct caloris_gemm_tile *whole = &job->whole;
    float *made =
        (float *)(job->sums + (size_t)thread * job->thread_bytes + row_at(whole->matrix->format));
    const size_t first = index * job->blocks_per_task;
    const size_t together = (job->kernels->row_groups ? job->kernels->row_groups : 1) * GROUP_BYTES;
    for (size_t b = first; b < min(whole->all_blocks, first + job->blocks_per_task); b++) {
        size_t row, rows;
        caloris_size_deal(whole->rows, whole->all_blocks, b, &row, &rows);
        for (size_t r = 0; r < rows; r++) {
            const float *x = job->made ? made : whole->x + (row + r) * whole->x_stride;
            if (job->made)
                caloris_make_row(job->made, row + r, whole->matrix->in, made);
            job->kernels->pack(x, whole->matrix->in,
                               job->packed + row * job->row_bytes + r * together, rows * together,
                               &job->row_scale[row + r]);
        }
    }
}

static void run_tile(void *arg, size_t index, int thread)
{
    const struct job *job = arg;
    const struct caloris_gemm_tile *whole = &job->whole;
    struct caloris_gemm_tile tile = *whole;
    size_t panel_first, panel_count, row_first, row_end, last_rows;
    caloris_size_deal(whole->all_blocks, job->row_tiles, index % job->row_tiles, &tile.block_first,
                      &tile.row_blocks);
    caloris_size_deal(whole->rows, whole->all_blocks, tile.block_first, &row_first, &last_rows);
    caloris_size_deal(whole->rows, whole->all_blocks, tile.block_first + tile.row_blocks - 1,
                      &row_end, &last_rows);
    /* Pairs of panels, because kernels take them by two. */
    caloris_size_deal(caloris_size_ceil_div(whole->out_count, 2 * PANEL_OUTS), job->out_tiles,
                      index / job->row_tiles, &panel_first, &panel_count);
    tile.rows = row_end + last_rows - row_first;
    tile.out_first = panel_first * 2 * PANEL_OUTS;
    tile.out_count = min(panel_count * 2 * PANEL_OUTS, whole->out_count - tile.out_first);
    tile.y += row_first * tile.y_stride;
    tile.packed = job->packed + row_first * job->row_bytes;
    tile.row_scale = job->row_scale + row_first;
    tile.sums = job->sums + (size_t)thread * job->thread_bytes;
    tile.opened = (unsigned char *)tile.sums + SUMS_BYTES;
    job->kernels->gemm(&tile);
}

/* Outputs are cut before rows: weights, which come from memory, are then read once for each
 * TILE_ROWS rows. Rows are cut further only where the panels do not go round. */
static void choose_grid(struct job *job, size_t threads)
{
    const struct caloris_gemm_tile *whole = &job->whole;
    size_t pairs = caloris_size_ceil_div(whole->out_count, 2 * PANEL_OUTS);
    double weights =
        (double)pairs * 2 * (double)caloris_panel_bytes(whole->matrix->format, whole->matrix->in);
    double macs = (double)whole->rows * (double)whole->out_count * (double)whole->matrix->in;
    double worth = weights / MIN_TASK_BYTES > macs / MIN_TASK_MACS ? weights / MIN_TASK_BYTES
                                                                   : macs / MIN_TASK_MACS;
    size_t most = threads * TASKS_PER_THREAD;
    size_t wanted = threads == 1 ? 1 : worth < (double)most ? (size_t)worth + 1 : most;
    job->row_tiles = caloris_size_ceil_div(whole->rows, TILE_ROWS);
    job->out_tiles = min(pairs, caloris_size_ceil_div(wanted, job->row_tiles));
    if (job->out_tiles * job->row_tiles < wanted)
        job->row_tiles = min(whole->all_blocks, caloris_size_ceil_div(wanted, job->out_tiles));
}

void caloris_gemm_panels(struct caloris_pool *pool, const struct caloris_matrix_kernels *kernels,
                         const struct caloris_gemm_tile *whole,
                         const struct caloris_made_rows *made, void *scratch)
{
    struct job job = {.whole = *whole, .made = made, .kernels = kernels, .packed = scratch};
    job.row_bytes = caloris_row_bytes(whole->matrix->format, whole->matrix->in);
    job.row_scale = (float *)(job.packed + whole->rows * job.row_bytes);
    job.sums = (char *)job.row_scale + scale_bytes(whole->rows);
    job.thread_bytes = thread_bytes(whole->matrix->format, whole->matrix->in);
    job.whole.all_rows = whole->rows;
    job.whole.all_blocks = caloris_size_ceil_div(whole->rows, kernels->block_rows);
    job.blocks_per_task = PACK_NUMBERS / (whole->matrix->in * kernels->block_rows + 1) + 1;
    caloris_pool_run(pool, caloris_size_ceil_div(job.whole.all_blocks, job.blocks_per_task),
                     pack_blocks, &job);
    if (whole->rows == 0 || whole->out_count == 0)
        return;
    choose_grid(&job, (size_t)caloris_pool_threads(pool));
    caloris_pool_run(pool, job.row_tiles * job.out_tiles, run_tile, &job);
}
