#include "worker/kernels/table.h"

#include <cblas.h>
#include <limits.h>

void caloris_gemm_f32_ref(const struct caloris_gemm_tile *tile)
{
    size_t in = tile->matrix->in;
    const float *weights = tile->matrix->data;
    for (size_t r = 0; r < tile->rows; r++) {
        const float *x = tile->x + r * tile->x_stride;
        float *y = tile->y + r * tile->y_stride;
        for (size_t o = tile->out_first; o < tile->out_first + tile->out_count; o++) {
            const float *w = weights + o * in;
            float sum = 0;
            for (size_t i = 0; i < in; i++)
                sum += x[i] * w[i];
            y[o] = tile->beta == 0 ? sum : sum + tile->beta * y[o];
        }
    }
}

/* Up to so many rows, reading the weights in place beats packing them (measured: docs/KERNELS.md).
 * */
enum { FEW_ROWS = 48 };

/* Called inside pool tasks: OpenBLAS itself runs on this thread alone (blas.c). */
void caloris_gemm_f32_blas(const struct caloris_gemm_tile *tile)
{
    size_t in = tile->matrix->in;
    const float *weights = tile->matrix->data;
    if (in == 0 || in > INT_MAX || tile->rows > INT_MAX || tile->out_count > INT_MAX ||
        tile->x_stride > INT_MAX || tile->y_stride > INT_MAX) {
        caloris_gemm_f32_ref(tile);
        return;
    }
    if (tile->rows <= FEW_ROWS) {
        caloris_rows()->few(tile);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tile->rows, (int)tile->out_count,
                (int)in, 1.0f, tile->x, (int)tile->x_stride, weights + tile->out_first * in,
                (int)in, tile->beta, tile->y + tile->out_first, (int)tile->y_stride);
}
