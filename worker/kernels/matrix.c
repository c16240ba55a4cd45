#include "worker/kernels/panels.h"
#include "worker/kernels/round.h"

#include "base/err.h"
#include "base/size.h"

#include <stdint.h>
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

/* ---- panels ---------------------------------------------------------------------------------- */

static size_t panels(size_t out)
{
    return out / PANEL_OUTS + (out % PANEL_OUTS != 0);
}

static size_t bytes_of_panels(enum caloris_format format, size_t out, size_t in)
{
    size_t bytes;
    if (in > SIZE_MAX / LINE_BYTES / 2 ||
        !caloris_size_mul(panels(out), caloris_panel_bytes(format, in), &bytes))
        return SIZE_MAX;
    return bytes;
}

static size_t bytes_bf16(size_t out, size_t in)
{
    return bytes_of_panels(CALORIS_FORMAT_BF16, out, in);
}

static size_t bytes_scaled(enum caloris_format format, size_t out, size_t in)
{
    size_t data = bytes_of_panels(format, out, in), scales, bytes;
    if (in > CALORIS_INT8_DEPTH ||
        !caloris_size_mul(panels(out), PANEL_OUTS * sizeof(float), &scales) ||
        !caloris_size_add(data, scales, &bytes))
        return SIZE_MAX;
    return bytes;
}

static size_t bytes_int8(size_t out, size_t in)
{
    return bytes_scaled(CALORIS_FORMAT_INT8, out, in);
}

static size_t bytes_int4(size_t out, size_t in)
{
    return bytes_scaled(CALORIS_FORMAT_INT4, out, in);
}

enum { CHUNK = 1024 }; /* numbers converted at a time: whole blocks of any format */

/* n numbers, whole blocks, as they stand in the lines of one output. */
static int32_t encode_bf16(const float *x, size_t n, float scale, void *to)
{
    (void)scale;
    for (size_t i = 0; i < n; i++)
        ((uint16_t *)to)[i] = caloris_round_bf16(x[i]);
    return 0;
}

/* x in units of scale, in ±127. */
static void in_units(const float *x, size_t n, float scale, float *to)
{
    /* Such a scale is that of a channel of (next to) nothing, or of one that holds what is not a
     * number: the scale itself then says so. */
    if (!(scale >= CALORIS_INT8_LEAST && scale <= FLT_MAX)) {
        memset(to, 0, n * sizeof(*to));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const float ratio = x[i] / scale;
        to[i] = ratio > 127 ? 127 : ratio < -127 ? -127 : ratio == ratio ? ratio : 0;
    }
}

/* Returns the sum of the numbers stored. */
static int32_t encode_int8(const float *x, size_t n, float scale, void *to)
{
    float units[CHUNK];
    int8_t *q = to;
    int32_t sum = 0;
    in_units(x, n, scale, units);
    for (size_t i = 0; i < n; i++) {
        const int32_t rounded = caloris_round_int(units[i]);
        q[i] = (int8_t)rounded;
        sum += rounded;
    }
    return sum;
}

/* Returns the sum of the numbers that the stored ones stand for. */
static int32_t encode_int4(const float *x, size_t n, float scale, void *to)
{
    float units[CHUNK];
    unsigned char *block = to;
    int32_t sum = 0;
    in_units(x, n, scale, units);
    for (size_t at = 0; at < n; at += BLOCK_GROUPS * GROUP_BYTES) {
        unsigned char u[BLOCK_GROUPS * GROUP_BYTES];
        for (size_t i = 0; i < sizeof(u); i += RUN) {
            const unsigned char run = caloris_int4_encode(units + at + i, u + i);
            *block++ = run;
            for (size_t j = 0; j < RUN; j++)
                sum += caloris_int4_number(run, u[i + j]);
        }
        for (size_t i = 0; i < sizeof(u); i += 2 * GROUP_BYTES) {
            for (size_t j = 0; j < GROUP_BYTES; j++)
                *block++ = (unsigned char)(u[i + j] | u[i + GROUP_BYTES + j] << 4);
        }
    }
    return sum;
}

static int32_t (*const encodings[])(const float *x, size_t n, float scale, void *to) = {
    [CALORIS_FORMAT_BF16] = encode_bf16,
    [CALORIS_FORMAT_INT8] = encode_int8,
    [CALORIS_FORMAT_INT4] = encode_int4,
};

/* One output: its 4 bytes of every line, and what its sums start from. */
static void fill_output(struct caloris_matrix *matrix, size_t out, const unsigned char *from,
                        enum caloris_dtype dtype)
{
    const size_t in = matrix->in, block_lines = caloris_block_bytes(matrix->format) / LINE_BYTES;
    const size_t block_numbers =
        caloris_panel_groups(matrix->format, 1) * caloris_group_numbers(matrix->format);
    const float scale = matrix->scale ? matrix->scale[out] : 1;
    unsigned char *start = (unsigned char *)matrix->data +
                           out / PANEL_OUTS * caloris_panel_bytes(matrix->format, in) +
                           out % PANEL_OUTS * GROUP_BYTES;
    unsigned char *to = start + LINE_BYTES;
    int32_t sum = 0;
    for (size_t at = 0; at < in; at += CHUNK) {
        float numbers[CHUNK];
        unsigned char packed[CHUNK * 2];
        const size_t n = in - at < CHUNK ? in - at : CHUNK;
        const size_t whole = caloris_size_round_up(n, block_numbers);
        caloris_convert_to_f32(dtype, from + at * caloris_dtype_bytes(dtype), numbers, n);
        memset(numbers + n, 0, (whole - n) * sizeof(*numbers));
        sum += encodings[matrix->format](numbers, whole, scale, packed);
        for (size_t i = 0; i < whole / block_numbers * block_lines; i++, to += LINE_BYTES)
            memcpy(to, packed + i * GROUP_BYTES, GROUP_BYTES);
    }
    sum *= -ROW_OFFSET;
    memcpy(start, &sum, sizeof(sum)); /* BF16: 0, which is 0.0 too */
}

/* The places behind the last output, once that one comes: zeros stand for zeros. */
static void fill_behind(struct caloris_matrix *matrix)
{
    const size_t used = matrix->out % PANEL_OUTS * GROUP_BYTES;
    const size_t panel_bytes = caloris_panel_bytes(matrix->format, matrix->in);
    unsigned char *panel = (unsigned char *)matrix->data + matrix->out / PANEL_OUTS * panel_bytes;
    for (size_t at = 0; used > 0 && at < panel_bytes; at += LINE_BYTES)
        memset(panel + at + used, 0, LINE_BYTES - used);
}

static void fill_panels(struct caloris_matrix *matrix, size_t out_first, size_t n, const void *from,
                        enum caloris_dtype dtype)
{
    const size_t row_bytes = matrix->in * caloris_dtype_bytes(dtype);
    for (size_t i = 0; i < n; i++)
        fill_output(matrix, out_first + i, (const unsigned char *)from + i * row_bytes, dtype);
    if (n > 0 && out_first + n == matrix->out)
        fill_behind(matrix);
}

/* ---- the door -------------------------------------------------------------------------------- */

/* How a format stands in memory, whatever kernel reads it. */
static const struct {
    const char *name;
    size_t (*bytes)(size_t out, size_t in);
    void (*fill)(struct caloris_matrix *matrix, size_t out_first, size_t n, const void *from,
                 enum caloris_dtype dtype);
} layouts[CALORIS_FORMATS] = {
    [CALORIS_FORMAT_FP32] = {"fp32", bytes_f32, fill_f32},
    [CALORIS_FORMAT_BF16] = {"bf16", bytes_bf16, fill_panels},
    [CALORIS_FORMAT_INT8] = {"int8", bytes_int8, fill_panels},
    [CALORIS_FORMAT_INT4] = {"int4", bytes_int4, fill_panels},
};

const char *caloris_format_name(enum caloris_format format)
{
    return layouts[format].name;
}

int caloris_format_parse(const char *name, enum caloris_format *format, struct caloris_err *err)
{
    for (int i = 0; i < CALORIS_FORMATS; i++) {
        if (strcmp(layouts[i].name, name) != 0)
            continue;
        *format = (enum caloris_format)i;
        return 0;
    }
    return caloris_err_set(err, CALORIS_USAGE,
                           "weights as \"%.40s\" are unknown: fp32, bf16, int8 or int4", name);
}

bool caloris_format_scaled(enum caloris_format format)
{
    return format == CALORIS_FORMAT_INT8 || format == CALORIS_FORMAT_INT4;
}

size_t caloris_matrix_bytes(enum caloris_format format, size_t out, size_t in)
{
    return layouts[format].bytes(out, in);
}

void caloris_matrix_place(struct caloris_matrix *matrix, enum caloris_format format, size_t out,
                          size_t in, void *memory)
{
    *matrix = (struct caloris_matrix){.format = format, .out = out, .in = in, .data = memory};
    if (caloris_format_scaled(format))
        matrix->scale = (float *)((char *)memory + bytes_of_panels(format, out, in));
}

void caloris_matrix_fill(struct caloris_matrix *matrix, size_t out_first, size_t n,
                         const void *from, enum caloris_dtype dtype)
{
    layouts[matrix->format].fill(matrix, out_first, n, from, dtype);
}

void caloris_matrix_absmax(const void *from, enum caloris_dtype dtype, size_t n_rows, size_t in,
                           float *absmax)
{
    const unsigned char *bytes = from;
    for (size_t r = 0; r < n_rows; r++) {
        uint32_t most = caloris_magnitude(absmax[r]);
        for (size_t at = 0; at < in; at += CHUNK) {
            float numbers[CHUNK];
            size_t n = in - at < CHUNK ? in - at : CHUNK;
            caloris_convert_to_f32(dtype, bytes + (r * in + at) * caloris_dtype_bytes(dtype),
                                   numbers, n);
            uint32_t here = caloris_largest(numbers, n);
            most = here > most ? here : most;
        }
        memcpy(&absmax[r], &most, sizeof(most));
    }
}

float caloris_matrix_scale(float absmax)
{
    return absmax == 0 ? 1 : absmax / 127;
}

struct caloris_matrix caloris_matrix_rows(const struct caloris_matrix *matrix, size_t first,
                                          size_t n)
{
    struct caloris_matrix part = *matrix;
    size_t bytes = matrix->format == CALORIS_FORMAT_FP32
                       ? first * matrix->in * sizeof(float)
                       : first / PANEL_OUTS * caloris_panel_bytes(matrix->format, matrix->in);
    part.out = n;
    part.data = (char *)matrix->data + bytes;
    if (part.scale)
        part.scale += first;
    return part;
}
