/* Products with BF16 and INT8 matrices, as the formulas stand. */
#include "worker/kernels/pack.h"
#include "worker/kernels/table.h"

/* The 4 bytes of group g of output o, and the 4 bytes that its sum starts from. */
static const unsigned char *group_of(const struct caloris_matrix *matrix, size_t o, size_t g)
{
    const unsigned char *panel = (const unsigned char *)matrix->data +
                                 o / PANEL_OUTS * caloris_panel_bytes(matrix->format, matrix->in);
    return panel + (g + 1) * LINE_BYTES + o % PANEL_OUTS * GROUP_BYTES;
}

static const unsigned char *start_of(const struct caloris_matrix *matrix, size_t o)
{
    return group_of(matrix, o, 0) - LINE_BYTES;
}

static float sum_int8(const struct caloris_matrix *matrix, size_t o, const unsigned char *row)
{
    uint32_t sum; /* wraps around on the way, never in the end */
    int32_t total;
    memcpy(&sum, start_of(matrix, o), sizeof(sum));
    for (size_t g = 0; g < caloris_panel_groups(matrix->format, matrix->in); g++) {
        const unsigned char *w = group_of(matrix, o, g);
        for (size_t i = 0; i < GROUP_BYTES; i++)
            sum += (uint32_t)(row[g * GROUP_BYTES + i] * (int8_t)w[i]);
    }
    memcpy(&total, &sum, sizeof(total));
    return (float)total;
}

static float bf16_at(const unsigned char *from)
{
    float x;
    caloris_convert_to_f32(CALORIS_DTYPE_BF16, from, &x, 1);
    return x;
}

/* The second number of a group before the first: the order of vdpbf16ps. A product of two bf16 is
 * an fp32 number, so that it does not matter who fuses it with the sum. */
static float sum_bf16(const struct caloris_matrix *matrix, size_t o, const unsigned char *row)
{
    float sum = 0;
    for (size_t g = 0; g < caloris_panel_groups(matrix->format, matrix->in); g++) {
        const unsigned char *w = group_of(matrix, o, g), *x = row + g * GROUP_BYTES;
        sum += bf16_at(x + 2) * bf16_at(w + 2);
        sum += bf16_at(x) * bf16_at(w);
    }
    return sum;
}

static void gemm_int8(const struct caloris_gemm_tile *tile)
{
    const size_t row_bytes = caloris_row_bytes(tile->matrix->format, tile->matrix->in);
    for (size_t r = 0; r < tile->rows; r++) {
        const unsigned char *row = tile->packed + r * row_bytes; /* a block each */
        float *y = tile->y + r * tile->y_stride;
        for (size_t o = tile->out_first; o < tile->out_first + tile->out_count; o++) {
            float sum =
                sum_int8(tile->matrix, o, row) * tile->row_scale[r] * tile->matrix->scale[o];
            y[o] = tile->beta == 0 ? sum : sum + tile->beta * y[o];
        }
    }
}

static void gemm_bf16(const struct caloris_gemm_tile *tile)
{
    const size_t row_bytes = caloris_row_bytes(tile->matrix->format, tile->matrix->in);
    for (size_t r = 0; r < tile->rows; r++) {
        const unsigned char *row = tile->packed + r * row_bytes; /* a block each */
        float *y = tile->y + r * tile->y_stride;
        for (size_t o = tile->out_first; o < tile->out_first + tile->out_count; o++) {
            float sum = sum_bf16(tile->matrix, o, row);
            y[o] = tile->beta == 0 ? sum : sum + tile->beta * y[o];
        }
    }
}

const struct caloris_matrix_kernels caloris_bf16_ref = {
    .isa = CALORIS_ISA_REF,
    .name = "ref",
    .gemm = gemm_bf16,
    .block_rows = 1,
    .pack = pack_bf16,
};
const struct caloris_matrix_kernels caloris_int8_ref = {
    .isa = CALORIS_ISA_REF,
    .name = "ref",
    .gemm = gemm_int8,
    .block_rows = 1,
    .pack = pack_int8,
};
