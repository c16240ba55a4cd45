/* Products with BF16 and INT8 matrices: rows are packed once, then panels of outputs are dealt. */
#include "worker/kernels/panels.h"
#include "worker/kernels/table.h"

#include "base/size.h"
#include "worker/pool/pool.h"

enum {
    SUMS_BYTES = TILE_ROWS * TILE_PANELS * LINE_BYTES, /* of one thread */
    TASKS_PER_THREAD = 4,                              /* slack for a thread that is slowed down */
    MIN_TASK_BYTES = 1 << 17, /* weights of a task: below some 10 us it is not worth handing out */
    MIN_TASK_MACS = 1 << 21,
    PACK_NUMBERS = 1 << 15, /* of a task that packs rows */
};

/* What stands in scratch: packed rows, their scales, sums of each thread. */
struct job {
    struct caloris_gemm_tile whole;
    const struct caloris_matrix_kernels *kernels;
    unsigned char *packed;
    float *row_scale;
    char *sums;
    size_t rows_per_task;        /* of packing */
    size_t row_tiles, out_tiles; /* of the product */
};

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

static size_t scale_bytes(size_t rows)
{
    return caloris_size_round_up(rows * sizeof(float), 64);
}

size_t caloris_gemm_scratch_bytes(enum caloris_format format, size_t max_rows, size_t max_in,
                                  int threads)
{
    size_t packed, sums, bytes;
    if (format == CALORIS_FORMAT_FP32)
        return 0;
    if (max_in > SIZE_MAX / 8 || max_rows > SIZE_MAX / 8 ||
        !caloris_size_mul(max_rows, caloris_row_bytes(format, max_in), &packed) ||
        !caloris_size_mul((size_t)threads, SUMS_BYTES, &sums) ||
        !caloris_size_add(packed, sums, &bytes) ||
        !caloris_size_add(bytes, scale_bytes(max_rows), &bytes))
        return SIZE_MAX;
    return bytes;
}

static void pack_rows(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct caloris_gemm_tile *whole = &job->whole;
    size_t first = index * job->rows_per_task;
    size_t end = min(whole->rows, first + job->rows_per_task);
    for (size_t r = first; r < end; r++)
        job->kernels->pack(whole->x + r * whole->x_stride, whole->matrix->in,
                           job->packed + r * whole->packed_stride, &job->row_scale[r]);
}

static void run_tile(void *arg, size_t index, int thread)
{
    const struct job *job = arg;
    struct caloris_gemm_tile tile = job->whole;
    size_t row_first, panel_first, panel_count;
    size_t all_panels = ceil_div(job->whole.out_count, PANEL_OUTS);
    /* Pairs of panels, because kernels take them by two. */
    caloris_size_deal(job->whole.rows, job->row_tiles, index % job->row_tiles, &row_first,
                      &tile.rows);
    caloris_size_deal(ceil_div(all_panels, 2), job->out_tiles, index / job->row_tiles, &panel_first,
                      &panel_count);
    tile.out_first = panel_first * 2 * PANEL_OUTS;
    tile.out_count = min(panel_count * 2 * PANEL_OUTS, job->whole.out_count - tile.out_first);
    tile.y += row_first * tile.y_stride;
    tile.packed = job->packed + row_first * tile.packed_stride;
    tile.row_scale = job->row_scale + row_first;
    tile.sums = job->sums + (size_t)thread * SUMS_BYTES;
    job->kernels->gemm(&tile);
}

/* Outputs are cut before rows: weights, which come from memory, are then read once for each
 * TILE_ROWS rows. Rows are cut further only where the panels do not go round. */
static void choose_grid(struct job *job, size_t threads)
{
    const struct caloris_gemm_tile *whole = &job->whole;
    size_t pairs = ceil_div(whole->out_count, 2 * PANEL_OUTS);
    double weights =
        (double)pairs * 2 * (double)caloris_panel_bytes(whole->matrix->format, whole->matrix->in);
    double macs = (double)whole->rows * (double)whole->out_count * (double)whole->matrix->in;
    double worth = weights / MIN_TASK_BYTES > macs / MIN_TASK_MACS ? weights / MIN_TASK_BYTES
                                                                   : macs / MIN_TASK_MACS;
    size_t most = threads * TASKS_PER_THREAD;
    size_t wanted = threads == 1 ? 1 : worth < (double)most ? (size_t)worth + 1 : most;
    job->row_tiles = ceil_div(whole->rows, TILE_ROWS);
    job->out_tiles = min(pairs, ceil_div(wanted, job->row_tiles));
    if (job->out_tiles * job->row_tiles < wanted)
        job->row_tiles = min(whole->rows, ceil_div(wanted, job->out_tiles));
}

void caloris_gemm_panels(struct caloris_pool *pool, const struct caloris_matrix_kernels *kernels,
                         const struct caloris_gemm_tile *whole, void *scratch)
{
    size_t in = whole->matrix->in;
    struct job job = {.whole = *whole, .kernels = kernels, .packed = scratch};
    job.whole.packed_stride = caloris_row_bytes(whole->matrix->format, in);
    job.row_scale = (float *)(job.packed + whole->rows * job.whole.packed_stride);
    job.sums = (char *)job.row_scale + scale_bytes(whole->rows);
    job.rows_per_task = in < PACK_NUMBERS ? PACK_NUMBERS / (in + 1) + 1 : 1;
    caloris_pool_run(pool, ceil_div(whole->rows, job.rows_per_task), pack_rows, &job);
    choose_grid(&job, (size_t)caloris_pool_threads(pool));
    caloris_pool_run(pool, job.row_tiles * job.out_tiles, run_tile, &job);
}
