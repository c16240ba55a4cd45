/* Products with BF16, INT8 and INT4 matrices, as the formulas stand. */
#include "worker/kernels/pack.h"
#include "worker/kernels/table.h"

/* The 4 bytes that the sum of output o starts from, and those of its group g. */
static const unsigned char *start_of(const struct caloris_matrix *matrix, size_t o)
{
    return (const unsigned char *)matrix->data +
           o / PANEL_OUTS * caloris_panel_bytes(matrix->format, matrix->in) +
           o % PANEL_OUTS * GROUP_BYTES;
}

static const unsigned char *group_of(const struct caloris_matrix *matrix, size_t o, size_t g)
{
    return start_of(matrix, o) + (g + 1) * LINE_BYTES;
}

/* Number i of that group as int8. */
static int weight_at(const struct caloris_matrix *matrix, size_t o, size_t g, size_t i)
{
    if (matrix->format == CALORIS_FORMAT_INT8)
        return (int8_t)group_of(matrix, o, g)[i];
    const unsigned char *runs =
        start_of(matrix, o) + LINE_BYTES + g / BLOCK_GROUPS * INT4_BLOCK_BYTES;
    const unsigned char two = runs[(1 + g % BLOCK_GROUPS / 2) * LINE_BYTES + i];
    return caloris_int4_number(runs[g % BLOCK_GROUPS / RUN_GROUPS], g % 2 ? two >> 4 : two & 15);
}

static float sum_int8(const struct caloris_matrix *matrix, size_t o, const unsigned char *row)
{
    uint32_t sum; /* wraps around on the way, never in the end */
    int32_t total;
    memcpy(&sum, start_of(matrix, o), sizeof(sum));
    for (size_t g = 0; g < caloris_panel_groups(matrix->format, matrix->in); g++) {
        for (size_t i = 0; i < GROUP_BYTES; i++)
            sum += (uint32_t)(row[g * GROUP_BYTES + i] * weight_at(matrix, o, g, i));
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
