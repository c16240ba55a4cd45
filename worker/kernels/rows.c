/* Row kernels over the pool: what is cut into which tasks. The arithmetic is in the tables. */
#include "worker/kernels/table.h"

#include "base/size.h"
#include "worker/pool/pool.h"

#include <math.h>

/* Numbers per task: some 10 us of work, so that small steps wake nobody. */
enum { TASK_NUMBERS = 1 << 15 };

struct row_job {
    const struct caloris_row_kernels *kernels;
    size_t rows, rows_per_task;
    size_t n;
    const float *in, *weight;
    float *out;
    float eps;
    size_t stride, heads, head_dim, rotary;
    const uint32_t *position;
};

/* Cuts rows of `numbers` numbers into tasks and runs them. */
static void run_rows(struct caloris_pool *pool, struct row_job *job, size_t numbers,
                     caloris_pool_task_fn task)
{
    if (job->rows == 0 || numbers == 0)
        return;
    job->kernels = caloris_rows();
    job->rows_per_task = numbers < TASK_NUMBERS ? TASK_NUMBERS / numbers : 1;
    size_t tasks = job->rows / job->rows_per_task + (job->rows % job->rows_per_task != 0);
    caloris_pool_run(pool, tasks, task, job);
}

static size_t rows_end(const struct row_job *job, size_t index)
{
    size_t first = index * job->rows_per_task;
    return job->rows - first < job->rows_per_task ? job->rows : first + job->rows_per_task;
}

static void rmsnorm_task(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct row_job *job = arg;
    for (size_t r = index * job->rows_per_task; r < rows_end(job, index); r++)
        job->kernels->rmsnorm(job->in + r * job->n, job->weight, job->eps, job->n,
                              job->out + r * job->n);
}

void caloris_rmsnorm(struct caloris_pool *pool, const float *x, const float *w, float eps,
                     size_t rows, size_t n, float *y)
{
    struct row_job job = {.rows = rows, .n = n, .in = x, .weight = w, .eps = eps, .out = y};
    run_rows(pool, &job, n, rmsnorm_task);
}

void caloris_rope_table(double theta, size_t rotary, size_t positions, float *table)
{
    size_t half = rotary / 2;
    for (size_t p = 0; p < positions; p++) {
        for (size_t j = 0; j < half; j++) {
            double angle = (double)p * pow(theta, -(double)(2 * j) / (double)rotary);
            table[p * rotary + j] = (float)cos(angle);
            table[p * rotary + half + j] = (float)sin(angle);
        }
    }
}

static void rope_task(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct row_job *job = arg;
    for (size_t r = index * job->rows_per_task; r < rows_end(job, index); r++)
        job->kernels->rope(job->out + r * job->stride, job->heads, job->head_dim, job->rotary / 2,
                           job->in + job->position[r] * job->rotary);
}

void caloris_rope(struct caloris_pool *pool, float *x, size_t stride, size_t rows, size_t heads,
                  size_t head_dim, size_t rotary, const uint32_t *position, const float *table)
{
    struct row_job job = {
        .rows = rows,
        .in = table,
        .out = x,
        .stride = stride,
        .heads = heads,
        .head_dim = head_dim,
        .rotary = rotary,
        .position = position,
    };
    run_rows(pool, &job, heads * rotary, rope_task);
}

static void swiglu_task(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct row_job *job = arg;
    for (size_t r = index * job->rows_per_task; r < rows_end(job, index); r++) {
        const float *gate = job->in + r * 2 * job->n;
        job->kernels->swiglu(gate, gate + job->n, job->n, job->out + r * job->n);
    }
}

void caloris_swiglu(struct caloris_pool *pool, const float *gate_up, size_t rows, size_t n,
                    float *y)
{
    struct row_job job = {.rows = rows, .n = n, .in = gate_up, .out = y};
    run_rows(pool, &job, n, swiglu_task);
}

static void add_task(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct row_job *job = arg;
    size_t first = index * job->rows_per_task;
    job->kernels->add(job->out + first, job->in + first, rows_end(job, index) - first);
}

void caloris_add(struct caloris_pool *pool, float *x, const float *y, size_t n)
{
    struct row_job job = {.rows = n, .in = y, .out = x};
    run_rows(pool, &job, 1, add_task);
}

void caloris_make_row(const struct caloris_made_rows *made, size_t row, size_t n, float *to)
{
    const struct caloris_row_kernels *kernels = caloris_rows();
    if (!made->norm) {
        const float *gate = made->x + row * 2 * n;
        kernels->swiglu(gate, gate + n, n, to);
        return;
    }
    if (made->added)
        kernels->add(made->x + row * n, made->added + row * n, n);
    kernels->rmsnorm(made->x + row * n, made->norm, made->eps, n, to);
}

struct attend_job {
    const struct caloris_row_kernels *kernels;
    const struct caloris_attention *canvas;
    float *scratch;
};

static size_t query_tiles(const struct caloris_attention *canvas)
{
    return canvas->q_rows / CALORIS_QUERY_TILE + (canvas->q_rows % CALORIS_QUERY_TILE != 0);
}

/* Task index counts the query tiles of each head of each canvas. */
static void attend_task(void *arg, size_t index, int thread)
{
    const struct attend_job *job = arg;
    const struct caloris_attention *canvas = job->canvas;
    while (index >= canvas->heads * query_tiles(canvas)) {
        index -= canvas->heads * query_tiles(canvas);
        canvas++;
    }
    size_t tiles = query_tiles(canvas);
    size_t first = index % tiles * CALORIS_QUERY_TILE;
    size_t left = canvas->q_rows - first;
    job->kernels->attend(
        canvas, index / tiles, first, left < CALORIS_QUERY_TILE ? left : CALORIS_QUERY_TILE,
        job->scratch + (size_t)thread * caloris_attention_scratch(canvas->head_dim));
}

size_t caloris_attend_dim(size_t head_dim)
{
    return caloris_size_round_up(head_dim, CALORIS_ATTEND_DIM_UNIT);
}

size_t caloris_attention_scratch(size_t head_dim)
{
    size_t dim = caloris_attend_dim(head_dim);
    return 2 * dim * CALORIS_KEY_TILE + CALORIS_QUERY_TILE * (CALORIS_KEY_TILE + dim / 2 + dim + 3);
}

void caloris_attend(struct caloris_pool *pool, const struct caloris_attention *canvas,
                    size_t canvases, float *scratch)
{
    struct attend_job job = {.kernels = caloris_rows(), .canvas = canvas, .scratch = scratch};
    size_t tasks = 0;
    for (size_t c = 0; c < canvases; c++)
        tasks += canvas[c].heads * query_tiles(&canvas[c]);
    caloris_pool_run(pool, tasks, attend_task, &job);
}
