/* Products with bf16, int8 and int4 matrices on every instruction set, against what the formats
 * say. */
#include "base/err.h"
#include "tests/unit/kernels_support.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BF16 = CALORIS_FORMAT_BF16, INT8 = CALORIS_FORMAT_INT8, INT4 = CALORIS_FORMAT_INT4 };

/* ---- what goes in ---------------------------------------------------------------------------- */

/* Rows of a matrix and of activations: some of each kind. */
enum kind { RANDOM, EXTREME, TINY, HUGE_NUMBERS, DENORMAL, KINDS };

static float number_of(enum kind kind, size_t row)
{
    float x = roll();
    switch (kind) {
    case RANDOM:
        return row % 7 == 3 ? 0 : x * (row % 5 == 1 ? 1e-3f : 3);
    case EXTREME: /* all at the largest magnitude, of one sign in every fourth row */
        return row % 4 == 0 ? 2.5f : x < 0 ? -2.5f : 2.5f;
    case TINY: /* on both sides of where a row counts as zero */
        return x * (row % 2 ? 0x1p-99f : 0x1p-102f);
    case HUGE_NUMBERS:
        return x * (row % 2 ? FLT_MAX : 1e18f);
    case DENORMAL:
        return x * (row % 2 ? 1e-40f : 1e-36f);
    case KINDS:
        break;
    }
    return x;
}

static float *numbers_of(enum kind kind, size_t rows, size_t stride)
{
    float *x = filled(rows * stride, 0);
    for (size_t i = 0; i < rows * stride; i++)
        x[i] = number_of(kind, i / stride);
    return x;
}

/* ---- what should come out -------------------------------------------------------------------- */

/* The numbers of a row in ±127 and what they are multiples of. */
static float quantised(const float *x, size_t n, int8_t *q)
{
    float most = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(x[i]));
        finite = finite && isfinite(x[i]);
    }
    bool usable = finite && most >= 0x1p-100f;
    for (size_t i = 0; i < n; i++)
        q[i] = usable ? (int8_t)lrintf(x[i] * (127 / most)) : 0;
    return usable ? most / 127 : finite ? 0 : NAN;
}

static void quantised_weights(const float *w, size_t n, float scale, int8_t *q)
{
    for (size_t i = 0; i < n; i++) {
        float ratio = scale >= 0x1p-100f && isfinite(scale) ? w[i] / scale : 0;
        q[i] = (int8_t)lrintf(fminf(fmaxf(ratio, -127), 127));
    }
}

/* Those of output o. w: what the matrix was filled from. */
static void weights_of(const struct caloris_matrix *matrix, size_t o, const float *w, int8_t *q)
{
    if (matrix->format == CALORIS_FORMAT_INT8)
        quantised_weights(w, matrix->in, matrix->scale[o], q);
    for (size_t k = 0; matrix->format == CALORIS_FORMAT_INT4 && k < matrix->in; k++) {
        assert_in_range(int4_weight(matrix, o, k) + 127, 0, 254);
        q[k] = (int8_t)int4_weight(matrix, o, k);
    }
}

/* Products of all rows of x with all of w [out, in], exactly this in every instruction set:
 * [rows, out]. Free with free. */
static float *exact_products(const struct caloris_matrix *matrix, const float *w, const float *x,
                             size_t x_stride, size_t rows)
{
    const size_t in = matrix->in, out = matrix->out;
    int8_t *qx = malloc(rows * in + 1), *qw = malloc(in + 1);
    float *y = filled(rows * out, 0), *x_scale = filled(rows, 0);
    assert_true(qx && qw);
    for (size_t r = 0; r < rows; r++)
        x_scale[r] = quantised(x + r * x_stride, in, qx + r * in);
    for (size_t o = 0; o < out; o++) {
        weights_of(matrix, o, w ? w + o * in : NULL, qw);
        for (size_t r = 0; r < rows; r++) {
            int64_t sum = 0;
            for (size_t i = 0; i < in; i++)
                sum += qx[r * in + i] * qw[i];
            y[r * out + o] = (float)sum * x_scale[r] * matrix->scale[o];
        }
    }
    free(qx);
    free(qw);
    free(x_scale);
    return y;
}

/* The nearest number with 8 bits of mantissa, ties to the even one. */
static double as_bf16(float x)
{
    int exponent;
    frexp((double)x, &exponent);
    double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 8);
    double rounded = rint((double)x / unit) * unit;
    return fabs(rounded) > ldexp(255, 120) ? copysign((double)INFINITY, rounded) : rounded;
}

/* Below this, instruction sets may take numbers for zero (vdpbf16ps does). */
static double flushed(double x)
{
    return fabs(x) < (double)FLT_MIN ? 0 : x;
}

/* ---- products -------------------------------------------------------------------------------- */

static const struct {
    size_t rows, out, in;
} products[] = {{1, 1, 1},     {0, 5, 5},      {5, 0, 5},     {5, 5, 0},     {1, 7, 3},
                {3, 1, 129},   {17, 33, 5},    {33, 17, 31},  {4, 16, 64},   {5, 32, 128},
                {14, 48, 300}, {25, 100, 300}, {64, 96, 512}, {70, 301, 65}, {300, 3, 200},
                {2, 1000, 16}, {30, 257, 33},  {1, 40, 4097}, {29, 31, 520}, {15, 64, 1030},
                {7, 15, 2047}, {13, 130, 1024}};
enum { PRODUCTS = sizeof(products) / sizeof(products[0]) };

static void check_exact_product(const char *isa, size_t c, enum kind kind, float beta,
                                enum caloris_format format)
{
    const size_t rows = products[c].rows, out = products[c].out, in = products[c].in;
    const size_t x_stride = in + 3, y_stride = out + 5;
    float *w = numbers_of(kind == TINY ? EXTREME : kind, out, in);
    float *x = numbers_of(kind, rows, x_stride);
    float *y = beta == 0 ? filled(rows * y_stride, NAN) : rolled(rows * y_stride, 1);
    float *before = filled(rows * y_stride, 0);
    memcpy(before, y, rows * y_stride * sizeof(float));
    struct caloris_matrix matrix = made(format, out, in, w);
    float *exact = exact_products(&matrix, w, x, x_stride, rows);
    multiply(&matrix, x, x_stride, rows, y, y_stride, beta);
    for (size_t i = 0; i < rows * y_stride; i++) {
        size_t r = i / y_stride, o = i % y_stride;
        float wanted = before[i];
        if (o < out) {
            wanted = exact[r * out + o];
            if (beta != 0)
                wanted += before[i];
        }
        same_float(caloris_format_name(format), isa, i, y[i], wanted);
    }
    free(matrix.data);
    free(w);
    free(x);
    free(y);
    free(exact);
    free(before);
}

static void check_exact(const char *isa)
{
    for (size_t i = 0; i < 2 * PRODUCTS; i++) {
        const size_t c = i / 2;
        const enum caloris_format format = i % 2 ? CALORIS_FORMAT_INT4 : CALORIS_FORMAT_INT8;
        check_exact_product(isa, c, RANDOM, 0, format);
        check_exact_product(isa, c, RANDOM, 1, format);
        for (int kind = EXTREME; kind < KINDS && products[c].rows * products[c].out < 4000; kind++)
            check_exact_product(isa, c, (enum kind)kind, 0, format);
    }
}

static void integer_products_are_exact(void **state)
{
    (void)state;
    on_every_isa(check_exact);
}

/* Panels written by hand: every byte that a run may have, and every number in ±127 that it offers.
 */
static void check_every_run(const char *isa)
{
    enum { ROWS = 3, OUT = 48, IN = 4096, BLOCK = 576 };
    struct caloris_matrix matrix;
    float *x = filled(ROWS * IN, 0), *y = filled(ROWS * OUT, 0);
    unsigned char *data = memory_of(caloris_matrix_bytes(CALORIS_FORMAT_INT4, OUT, IN));
    caloris_matrix_place(&matrix, CALORIS_FORMAT_INT4, OUT, IN, data);
    for (size_t o = 0; o < OUT; o++) {
        unsigned char *panel = data + o / 16 * (64 + IN / 64 * BLOCK) + o % 16 * 4;
        int32_t start = 0;
        for (size_t k = 0; k < IN; k++) {
            unsigned char *block = panel + 64 + k / 64 * BLOCK;
            unsigned char *two = block + 64 + k % 64 / 8 * 64 + k % 4;
            const int run = (int)((o * (IN / 16) + k / 16) * 37 % 256);
            const int reach = 127 / (run % 16 + 1);
            int u = (int)((k * 5 + k / 16 + o) % 16);
            u = u - run / 16 > reach    ? run / 16 + reach
                : u - run / 16 < -reach ? run / 16 - reach
                                        : u;
            block[k % 64 / 16] = (unsigned char)run;
            *two = (unsigned char)(k % 8 < 4 ? (*two & 0xf0) | u : (*two & 15) | u << 4);
            start -= 128 * (u - run / 16) * (run % 16 + 1);
        }
        memcpy(panel, &start, sizeof(start));
        matrix.scale[o] = 1;
    }
    for (size_t i = 0; i < ROWS * IN; i++)
        x[i] = (float)((int)(i * 7919 % 255) - 127);
    float *exact = exact_products(&matrix, NULL, x, IN, ROWS);
    multiply(&matrix, x, IN, ROWS, y, OUT, 0);
    for (size_t i = 0; i < ROWS * OUT; i++)
        same_float("every run", isa, i, y[i], exact[i]);
    free(exact);
    free(data);
    free(x);
    free(y);
}

static void every_run_opens(void **state)
{
    (void)state;
    on_every_isa(check_every_run);
}

/* The largest sum that there is, of either sign. */
static void check_deepest_as(const char *isa, enum caloris_format format)
{
    enum { ROWS = 3, OUT = 17, IN = CALORIS_INT8_DEPTH };
    float *w = filled((size_t)OUT * IN, 1), *x = filled((size_t)ROWS * IN, 127);
    float *y = filled(ROWS * OUT, 0);
    for (size_t i = 0; i < IN; i++)
        x[IN + i] = -127;
    struct caloris_matrix matrix = made(format, OUT, IN, w);
    for (size_t o = 0; o < OUT; o++)
        matrix.scale[o] = 1;
    const int number = format == CALORIS_FORMAT_INT4 ? int4_weight(&matrix, 0, 0) : 127;
    assert_true(number >= 126); /* 127 is no multiple */
    multiply(&matrix, x, IN, ROWS, y, OUT, 0);
    for (size_t i = 0; i < ROWS * OUT; i++)
        same_float("deepest", isa, i, y[i], (i / OUT == 1 ? -127.0f : 127.0f) * (float)number * IN);
    free(matrix.data);
    free(w);
    free(x);
    free(y);
}

static void check_deepest(const char *isa)
{
    check_deepest_as(isa, CALORIS_FORMAT_INT8);
    check_deepest_as(isa, CALORIS_FORMAT_INT4);
}

static void the_largest_sums_fit(void **state)
{
    (void)state;
    on_every_isa(check_deepest);
}

static void check_bf16_product(const char *isa, size_t c, enum kind kind, float beta)
{
    const size_t rows = products[c].rows, out = products[c].out, in = products[c].in;
    const size_t x_stride = in + 3, y_stride = out + 5;
    float *w = numbers_of(kind == TINY ? EXTREME : kind == HUGE_NUMBERS ? TINY : kind, out, in);
    float *x = numbers_of(kind, rows, x_stride);
    float *y = beta == 0 ? filled(rows * y_stride, NAN) : rolled(rows * y_stride, 1);
    float *before = filled(rows * y_stride, 0);
    memcpy(before, y, rows * y_stride * sizeof(float));
    struct caloris_matrix matrix = made(CALORIS_FORMAT_BF16, out, in, w);
    multiply(&matrix, x, x_stride, rows, y, y_stride, beta);
    for (size_t i = 0; i < rows * y_stride; i++) {
        size_t r = i / y_stride, o = i % y_stride;
        if (o >= out) {
            assert_memory_equal(&y[i], &before[i], sizeof(float));
            continue;
        }
        double wanted = beta == 0 ? 0 : (double)before[i], size = fabs(wanted), lost = 0;
        for (size_t k = 0; k < in; k++) {
            double left = as_bf16(x[r * x_stride + k]), right = as_bf16(w[o * in + k]);
            double term = left * right;
            wanted += term;
            size += fabs(term);
            /* what taking small numbers for zero loses, and a sum on the way that is small */
            lost += fabs(term - flushed(left) * flushed(right)) + (double)FLT_MIN;
        }
        /* each of in additions, in any order, rounds a sum that is at most size */
        check_near("bf16 product", isa, i, (double)y[i], wanted,
                   size * FLT_EPSILON * (2 + sqrt((double)in)) + lost);
    }
    free(matrix.data);
    free(w);
    free(x);
    free(y);
    free(before);
}

static void check_bf16(const char *isa)
{
    for (size_t c = 0; c < PRODUCTS; c++) {
        check_bf16_product(isa, c, RANDOM, 0);
        check_bf16_product(isa, c, RANDOM, 1);
        for (int kind = EXTREME; kind < KINDS && products[c].rows * products[c].out < 4000; kind++)
            check_bf16_product(isa, c, (enum kind)kind, 0);
    }
}

static void bf16_products_are_right(void **state)
{
    (void)state;
    on_every_isa(check_bf16);
}

/* Sums of bf16 products have the same bits as the reference's wherever nothing is subnormal; but
 * for AMX, which sums in tiles (kernels_amx_test.c). */
static float *bits_of_reference;

static void check_same_bits(const char *isa)
{
    enum { ROWS = 19, OUT = 53, IN = 1111 };
    float *w = rolled((size_t)OUT * IN, 1), *x = rolled((size_t)ROWS * IN, 1);
    float *y = filled(ROWS * OUT, 0);
    struct caloris_matrix matrix = made(CALORIS_FORMAT_BF16, OUT, IN, w);
    multiply(&matrix, x, IN, ROWS, y, OUT, 0);
    if (strcmp(isa, "amx") == 0) {
        free(y);
        y = NULL;
    } else if (!bits_of_reference) {
        assert_string_equal(isa, "ref");
        bits_of_reference = y;
        y = NULL;
    }
    for (size_t i = 0; y && i < ROWS * OUT; i++)
        same_float("bf16 against the reference", isa, i, y[i], bits_of_reference[i]);
    free(matrix.data);
    free(w);
    free(x);
    free(y);
}

static void bf16_sums_are_ordered(void **state)
{
    (void)state;
    on_every_isa(check_same_bits);
    free(bits_of_reference);
    bits_of_reference = NULL;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void check_special(const char *isa)
{
    enum { OUT = 70, IN = 150 };
    static const size_t row_counts[] = {1, 5, 40};
    static const float special[] = {NAN, INFINITY, -INFINITY};
    for (size_t c = 0; c < 27; c++) {
        enum caloris_format format = (enum caloris_format)(BF16 + c / 9);
        size_t rows = row_counts[c / 3 % 3], hit = rows / 2;
        float *w = filled(OUT * IN, 1), *x = rolled(rows * IN, 1), *y = filled(rows * OUT, 0);
        struct caloris_matrix matrix = made(format, OUT, IN, w);
        x[hit * IN + 77] = special[c % 3];
        float wanted = format == CALORIS_FORMAT_BF16 ? special[c % 3] : NAN;
        multiply(&matrix, x, IN, rows, y, OUT, 0);
        for (size_t i = 0; i < rows * OUT; i++) {
            if (i / OUT == hit)
                check_near("special", isa, i, (double)y[i], (double)wanted, 0);
            else
                assert_true(isfinite(y[i]));
        }
        free(matrix.data);
        free(w);
        free(x);
        free(y);
    }
}

static void what_is_no_number_stays_in_its_row(void **state)
{
    (void)state;
    on_every_isa(check_special);
}

/* The bits of each row alone, in the company of some and of many. */
static void check_company(const char *isa)
{
    enum { ROWS = 301, OUT = 83, IN = 555 };
    static const size_t counts[] = {2, 13, 14, 15, 33, 64, 257, ROWS};
    float *w = rolled(OUT * IN, 1), *x = rolled(ROWS * IN, 1);
    float *together = filled(ROWS * OUT, 0), *alone = filled(ROWS * OUT, 0);
    for (int format = BF16; format <= INT4; format++) {
        struct caloris_matrix matrix = made((enum caloris_format)format, OUT, IN, w);
        for (size_t r = 0; r < ROWS; r++)
            multiply(&matrix, x + r * IN, IN, 1, alone + r * OUT, OUT, 0);
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            size_t first = ROWS - counts[c];
            multiply(&matrix, x + first * IN, IN, counts[c], together, OUT, 0);
            if (memcmp(together, alone + first * OUT, counts[c] * OUT * sizeof(float)) != 0)
                fail_msg("%s kernels: among %zu rows, one differs from itself alone", isa,
                         counts[c]);
        }
        free(matrix.data);
    }
    free(w);
    free(x);
    free(together);
    free(alone);
}

static void rows_do_not_depend_on_their_company(void **state)
{
    (void)state;
    on_every_isa(check_company);
}

/* Rows made on the way give the bits of rows that were made before; what is added stays, also where
 * there is nothing to multiply. */
static void check_made(const char *isa)
{
    enum { ROWS = 37, IN = 203 };
    static const size_t outs[] = {0, 61};
    float *norm = rolled(IN, 1), *added = rolled(ROWS * IN, 1), *x = rolled(ROWS * 2 * IN, 2);
    float *sum = filled(ROWS * IN, 0), *before = filled(ROWS * IN, 0),
          *begin = filled(ROWS * IN, 0);
    for (size_t c = 0; c < 12; c++) {
        const enum caloris_format format = (enum caloris_format)(BF16 + c / 4);
        const size_t out = outs[c / 2 % 2];
        const bool gated = c % 2;
        float *w = rolled(61 * IN, 1), *y = filled(ROWS * 61, 7), *wanted = filled(ROWS * 61, 7);
        struct caloris_matrix matrix = made(format, out, IN, w);
        const struct caloris_made_rows rows = {
            .x = x, .added = gated ? NULL : added, .norm = gated ? NULL : norm, .eps = 1e-5f};
        memcpy(begin, x, ROWS * IN * sizeof(float));
        memcpy(sum, x, ROWS * IN * sizeof(float));
        if (gated) {
            caloris_swiglu(pool, x, ROWS, IN, before);
        } else {
            caloris_add(pool, sum, added, ROWS * IN);
            caloris_rmsnorm(pool, sum, norm, 1e-5f, ROWS, IN, before);
        }
        multiply(&matrix, before, IN, ROWS, wanted, 61, 0);
        void *scratch =
            memory_of(caloris_gemm_scratch_bytes(format, ROWS, IN, caloris_pool_threads(pool)));
        caloris_gemm_made(pool, &matrix, &rows, ROWS, y, 61, scratch);
        for (size_t i = 0; i < ROWS * 61; i++)
            same_float(gated ? "made by SwiGLU" : "made by RMSNorm", isa, i, y[i], wanted[i]);
        for (size_t i = 0; i < ROWS * IN; i++)
            same_float("what is added", isa, i, x[i], sum[i]);
        memcpy(x, begin, ROWS * IN * sizeof(float));
        free(scratch);
        free(matrix.data);
        free(w);
        free(y);
        free(wanted);
    }
    free(norm);
    free(added);
    free(x);
    free(sum);
    free(before);
    free(begin);
}

static void rows_are_made_on_the_way(void **state)
{
    (void)state;
    on_every_isa(check_made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_products_are_exact),
        cmocka_unit_test(every_run_opens),
        cmocka_unit_test(the_largest_sums_fit),
        cmocka_unit_test(bf16_products_are_right),
        cmocka_unit_test(bf16_sums_are_ordered),
        cmocka_unit_test(what_is_no_number_stays_in_its_row),
        cmocka_unit_test(rows_do_not_depend_on_their_company),
        cmocka_unit_test(rows_are_made_on_the_way),
    };
    return cmocka_run_group_tests(tests, start_pool, stop_pool);
}
