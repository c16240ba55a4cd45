/* worker/kernels/few_vector.h: y = x * matrixᵀ for a few rows of x. Included by rows_vector.h.
 *
 * With few rows the product is bound by reading the weights. sgemm first copies them into panels,
 * which costs more than the product; here they are read once, straight from where they lie, as dot
 * products of a block of rows of x with a block of rows of the matrix. A row's bits do not depend
 * on how many rows there are.
 */
#ifndef CALORIS_KERNELS_FEW_VECTOR_H
#define CALORIS_KERNELS_FEW_VECTOR_H

#include "worker/kernels/table.h"
#include "worker/kernels/vector.h"

enum {
    DOT_ROWS = 4, /* register block: DOT_ROWS x DOT_OUTS accumulators */
    DOT_OUTS = LANES == 16 ? 4 : 2,
    DOT_DEPTH = 4096, /* so much of each row at a time: FEW_ROWS of them stay in the second cache */
};

/* The first n < LANES numbers, zeros behind. */
static inline vec load_some(const float *from, size_t n)
{
    float lanes[LANES] = {0};
    memcpy(lanes, from, n * sizeof(float));
    return vec_load(lanes);
}

static inline float sum_of_lanes(vec v)
{
    float lanes[LANES];
    vec_store(lanes, v);
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    }
    return lanes[0];
}

/* y[r][o] = x[r] · w[o] + beta y[r][o] over n numbers; rows and outs are constants at each call. */
static inline __attribute__((always_inline)) void
dot_block(size_t rows, size_t outs, const float *x, size_t x_stride, const float *w,
          size_t w_stride, size_t n, float beta, float *y, size_t y_stride)
{
    vec sum[DOT_ROWS][DOT_OUTS];
    for (size_t r = 0; r < rows; r++) {
        for (size_t o = 0; o < outs; o++)
            sum[r][o] = vec_all(0);
    }
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec right[DOT_OUTS];
        for (size_t o = 0; o < outs; o++)
            right[o] = vec_load(w + o * w_stride + i);
        for (size_t r = 0; r < rows; r++) {
            vec left = vec_load(x + r * x_stride + i);
            for (size_t o = 0; o < outs; o++)
                sum[r][o] = vec_fma(left, right[o], sum[r][o]);
        }
    }
    for (size_t r = 0; r < rows && i < n; r++) {
        vec left = load_some(x + r * x_stride + i, n - i);
        for (size_t o = 0; o < outs; o++)
            sum[r][o] = vec_fma(left, load_some(w + o * w_stride + i, n - i), sum[r][o]);
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t o = 0; o < outs; o++) {
            float *to = y + r * y_stride + o;
            float dot = sum_of_lanes(sum[r][o]);
            *to = beta == 0 ? dot : dot + beta * *to;
        }
    }
}

/* All rows and outputs of a tile, over n numbers of the depth. */
static void few_slice(const struct caloris_gemm_tile *tile, size_t depth_first, size_t n,
                      float beta)
{
    size_t in = tile->matrix->in, end = tile->out_first + tile->out_count;
    size_t x_stride = tile->x_stride, y_stride = tile->y_stride;
    const float *weights = (const float *)tile->matrix->data + depth_first;
    for (size_t o = tile->out_first; o < end;) {
        size_t outs = end - o >= DOT_OUTS ? DOT_OUTS : 1;
        for (size_t r = 0; r < tile->rows;) {
            size_t rows = tile->rows - r >= DOT_ROWS ? DOT_ROWS : 1;
            const float *x = tile->x + r * x_stride + depth_first, *w = weights + o * in;
            float *y = tile->y + r * y_stride + o;
            if (rows > 1 && outs > 1)
                dot_block(DOT_ROWS, DOT_OUTS, x, x_stride, w, in, n, beta, y, y_stride);
            else if (rows > 1)
                dot_block(DOT_ROWS, 1, x, x_stride, w, in, n, beta, y, y_stride);
            else if (outs > 1)
                dot_block(1, DOT_OUTS, x, x_stride, w, in, n, beta, y, y_stride);
            else
                dot_block(1, 1, x, x_stride, w, in, n, beta, y, y_stride);
            r += rows;
        }
        o += outs;
    }
}

static void few(const struct caloris_gemm_tile *tile)
{
    size_t in = tile->matrix->in, done = 0;
    do { /* once at least: with beta 0, y becomes zero even where there is nothing to add */
        size_t n = in - done < DOT_DEPTH ? in - done : DOT_DEPTH;
        few_slice(tile, done, n, done == 0 ? tile->beta : 1);
        done += n;
    } while (done < in);
}

#endif
