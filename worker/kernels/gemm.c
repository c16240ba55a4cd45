#include "worker/kernels/table.h"

#include "base/size.h"
#include "worker/pool/pool.h"

#include <limits.h>

/* One call of caloris_gemm: rows are cut in row_tiles, outputs in out_tiles; index = out tile *
 * row_tiles + row tile, so that threads that run side by side read the same weights. */
struct job {
    struct caloris_gemm_tile whole;
    const struct caloris_matrix_kernels *kernels;
    size_t row_tiles, out_tiles;
};

enum {
    TILE_UNIT = 32,          /* tile edges: whole register blocks of any kernel */
    TILES_PER_THREAD = 2,    /* slack for a thread that the machine slows down */
    MIN_TILE_MACS = 1 << 20, /* below some 10 us a tile is not worth handing out */
};

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Every tile packs its rows of x and its share of the weights anew: of the ways to get `wanted`
 * tiles, the one with the fewest numbers packed. */
static void choose_grid(struct job *job, size_t wanted)
{
    size_t rows = job->whole.rows, out = job->whole.out_count;
    size_t most_rows = caloris_size_ceil_div(rows, TILE_UNIT),
           most_out = caloris_size_ceil_div(out, TILE_UNIT);
    double best = 0;
    for (size_t row_tiles = 1; row_tiles <= min(wanted, most_rows); row_tiles++) {
        size_t out_tiles = min(caloris_size_ceil_div(wanted, row_tiles), most_out);
        double packed = (double)rows * (double)out_tiles + (double)out * (double)row_tiles;
        double short_of = (double)wanted / (double)(row_tiles * out_tiles);
        double cost = packed * (short_of > 1 ? short_of : 1);
        if (row_tiles == 1 || cost < best) {
            best = cost;
            job->row_tiles = row_tiles;
            job->out_tiles = out_tiles;
        }
    }
}

/* Part i of n in `parts` parts of whole tile units, as even as they get. */
static void part(size_t n, size_t parts, size_t i, size_t *first, size_t *count)
{
    size_t units = caloris_size_ceil_div(n, TILE_UNIT);
    size_t begin = min(n, units * i / parts * TILE_UNIT);
    size_t end = min(n, units * (i + 1) / parts * TILE_UNIT);
    *first = begin;
    *count = end - begin;
}

static void run_tile(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct job *job = arg;
    struct caloris_gemm_tile tile = job->whole;
    size_t row_first;
    part(job->whole.rows, job->row_tiles, index % job->row_tiles, &row_first, &tile.rows);
    part(job->whole.out_count, job->out_tiles, index / job->row_tiles, &tile.out_first,
         &tile.out_count);
    if (tile.rows == 0 || tile.out_count == 0)
        return;
    tile.x += row_first * tile.x_stride;
    tile.y += row_first * tile.y_stride;
    job->kernels->gemm(&tile);
}

void caloris_gemm(struct caloris_pool *pool, const struct caloris_matrix *matrix, const float *x,
                  size_t x_stride, size_t rows, float *y, size_t y_stride, float beta,
                  void *scratch)
{
    if (rows == 0 || matrix->out == 0)
        return;
    struct job job = {
        .whole = {.matrix = matrix,
                  .x = x,
                  .y = y,
                  .x_stride = x_stride,
                  .y_stride = y_stride,
                  .rows = rows,
                  .out_first = 0,
                  .out_count = matrix->out,
                  .beta = beta},
        .kernels = caloris_matrix_kernels(matrix->format),
        .row_tiles = 1,
        .out_tiles = 1,
    };
    if (job.kernels->block_rows > 0) {
        caloris_gemm_panels(pool, job.kernels, &job.whole, NULL, scratch);
        return;
    }
    size_t threads = (size_t)caloris_pool_threads(pool);
    double macs = (double)rows * (double)matrix->out * (double)matrix->in;
    size_t worth = macs < (double)MIN_TILE_MACS * (double)threads * TILES_PER_THREAD
                       ? (size_t)(macs / MIN_TILE_MACS)
                       : threads * TILES_PER_THREAD;
    if (threads > 1 && worth > 1)
        choose_grid(&job, worth);
    caloris_pool_run(pool, job.row_tiles * job.out_tiles, run_tile, &job);
}

void caloris_gemm_made(struct caloris_pool *pool, const struct caloris_matrix *matrix,
                       const struct caloris_made_rows *made, size_t rows, float *y, size_t y_stride,
                       void *scratch)
{
    const struct caloris_gemm_tile whole = {
        .matrix = matrix, .y = y, .y_stride = y_stride, .rows = rows, .out_count = matrix->out};
    caloris_gemm_panels(pool, caloris_matrix_kernels(matrix->format), &whole, made, scratch);
}
