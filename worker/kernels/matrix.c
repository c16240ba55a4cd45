#include "worker/kernels/table.h"

#include "base/size.h"
#include "worker/pool/pool.h"

#include <limits.h>
#include <string.h>

static size_t bytes_f32(size_t out, size_t in)
{
    size_t numbers, bytes;
    if (!caloris_size_mul(out, in, &numbers) || !caloris_size_mul(numbers, sizeof(float), &bytes))
        return SIZE_MAX;
    return caloris_size_round_up(bytes, 64);
}

static void fill_f32(struct caloris_matrix *matrix, size_t out_first, size_t n, const void *from,
                     enum caloris_dtype dtype)
{
    float *to = matrix->data;
    caloris_convert_to_f32(dtype, from, to + out_first * matrix->in, n * matrix->in);
}

/* How a format stands in memory, whatever kernel reads it. */
static const struct {
    size_t (*bytes)(size_t out, size_t in);
    void (*fill)(struct caloris_matrix *matrix, size_t out_first, size_t n, const void *from,
                 enum caloris_dtype dtype);
} layouts[] = {
    [CALORIS_FORMAT_FP32] = {bytes_f32, fill_f32},
};

size_t caloris_matrix_bytes(enum caloris_format format, size_t out, size_t in)
{
    return layouts[format].bytes(out, in);
}

void caloris_matrix_place(struct caloris_matrix *matrix, enum caloris_format format, size_t out,
                          size_t in, void *memory)
{
    *matrix = (struct caloris_matrix){.format = format, .out = out, .in = in, .data = memory};
}

void caloris_matrix_fill(struct caloris_matrix *matrix, size_t out_first, size_t n,
                         const void *from, enum caloris_dtype dtype)
{
    layouts[matrix->format].fill(matrix, out_first, n, from, dtype);
}
