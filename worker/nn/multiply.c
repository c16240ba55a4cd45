/* Products with weights, and what a calibration sees of them. */
#include "worker/nn/nn.h"

#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <math.h>

struct move {
    const struct caloris_apart *apart;
    float *x, *aside; /* [rows, in], [rows, n] */
    size_t in;
};

static void move_aside(void *arg, size_t row, int thread)
{
    const struct move *move = arg;
    float *x = move->x + row * move->in, *aside = move->aside + row * move->apart->n;
    (void)thread;
    for (size_t i = 0; i < move->apart->n; i++) {
        aside[i] = x[move->apart->column[i]];
        x[move->apart->column[i]] = 0;
    }
}

static void move_back(void *arg, size_t row, int thread)
{
    const struct move *move = arg;
    float *x = move->x + row * move->in, *aside = move->aside + row * move->apart->n;
    (void)thread;
    for (size_t i = 0; i < move->apart->n; i++)
        x[move->apart->column[i]] = aside[i];
}

void caloris_nn_largest(const float *x, size_t rows, size_t n, float *max)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < n; i++)
            max[i] = fmaxf(max[i], fabsf(x[r * n + i]));
    }
}

static void lap_product(struct caloris_nn *nn, enum caloris_phase phase,
                        const struct caloris_matrix *matrix, const struct caloris_apart *apart,
                        size_t rows)
{
    if (!nn->profile.on)
        return;
    const double in = (double)(matrix->in + apart->n), out = (double)matrix->out;
    const double r = (double)rows;
    double weights = (double)caloris_matrix_bytes(matrix->format, matrix->out, matrix->in);
    if (apart->n > 0)
        weights += (double)caloris_matrix_bytes(CALORIS_FORMAT_BF16, matrix->out, apart->n);
    caloris_nn_lap(nn, phase, 2 * r * in * out, weights + r * (in + out) * sizeof(float));
}

void caloris_nn_multiply(struct caloris_nn *nn, enum caloris_phase phase,
                         const struct caloris_matrix *matrix, const struct caloris_apart *apart,
                         float *x, size_t rows, float *y, size_t y_stride)
{
    struct move move = {apart, x, nn->apart, matrix->in};
    if (nn->largest)
        caloris_nn_largest(x, rows, matrix->in, nn->largest[phase]);
    if (apart->n > 0)
        caloris_pool_run(nn->pool, rows, move_aside, &move);
    caloris_gemm(nn->pool, matrix, x, matrix->in, rows, y, y_stride, 0, nn->gemm_scratch);
    if (apart->n > 0) {
        caloris_gemm(nn->pool, &apart->matrix, nn->apart, apart->n, rows, y, y_stride, 1,
                     nn->gemm_scratch);
        caloris_pool_run(nn->pool, rows, move_back, &move);
    }
    lap_product(nn, phase, matrix, apart, rows);
}

/* made, as rows of memory. */
static void make_rows(struct caloris_nn *nn, const struct caloris_made_rows *made, size_t in,
                      size_t rows, float *x)
{
    const double numbers = (double)(rows * in);
    if (!made->norm) {
        caloris_swiglu(nn->pool, made->x, rows, in, x);
        caloris_nn_lap(nn, CALORIS_PHASE_SWIGLU, 5 * numbers, 3 * numbers * sizeof(float));
        return;
    }
    if (made->added)
        caloris_add(nn->pool, made->x, made->added, rows * in);
    caloris_rmsnorm(nn->pool, made->x, made->norm, made->eps, rows, in, x);
    caloris_nn_lap(nn, CALORIS_PHASE_NORMS, (made->added ? 5 : 4) * numbers,
                   (made->added ? 5 : 2) * numbers * sizeof(float));
}

void caloris_nn_multiply_made(struct caloris_nn *nn, enum caloris_phase phase,
                              const struct caloris_matrix *matrix,
                              const struct caloris_apart *apart,
                              const struct caloris_made_rows *made, float *x, size_t rows, float *y,
                              size_t y_stride)
{
    if (matrix->format == CALORIS_FORMAT_FP32 || apart->n > 0 || nn->largest) {
        make_rows(nn, made, matrix->in, rows, x);
        caloris_nn_multiply(nn, phase, matrix, apart, x, rows, y, y_stride);
        return;
    }
    caloris_gemm_made(nn->pool, matrix, made, rows, y, y_stride, nn->gemm_scratch);
    lap_product(nn, phase, matrix, apart, rows);
}
