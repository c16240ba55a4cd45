/* Every kernel this CPU can run, against formulas in double precision and against the other
 * kernels. */
#include "tests/unit/kernels_support.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- conversion
 * -------------------------------------------------------------------------------------- */

/* By the definition of the formats: (-1)^sign * 2^(exponent - bias) * 1.mantissa. */
static double half_value(uint32_t bits, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
    int exponent = (int)(bits >> mantissa_bits) & top;
    double mantissa = (double)(bits & ((1u << mantissa_bits) - 1)) / (double)(1 << mantissa_bits);
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == top)
        return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias);
    return sign * ldexp(1 + mantissa, exponent - bias);
}

static void all_halves_convert(void **state)
{
    (void)state;
    enum { ALL = 65536 };
    static const struct {
        enum caloris_dtype dtype;
        int exponent_bits, mantissa_bits;
    } cases[] = {{CALORIS_DTYPE_BF16, 8, 7}, {CALORIS_DTYPE_F16, 5, 10}};
    unsigned char *bytes = malloc(2 * ALL + 1);
    float *found = malloc(ALL * sizeof(*found));
    assert_true(bytes && found);
    for (size_t odd = 0; odd < 2; odd++) { /* any alignment */
        for (size_t i = 0; i < ALL; i++) {
            uint16_t half = (uint16_t)i;
            memcpy(bytes + odd + 2 * i, &half, sizeof(half));
        }
        for (size_t c = 0; c < 2; c++) {
            caloris_convert_to_f32(cases[c].dtype, bytes + odd, found, ALL);
            for (size_t i = 0; i < ALL; i++) {
                double wanted =
                    half_value((uint32_t)i, cases[c].exponent_bits, cases[c].mantissa_bits);
                check_near("half", "any", i, (double)found[i], wanted, 0);
                assert_int_equal(!signbit(found[i]), i < 0x8000);
            }
        }
    }
    free(bytes);
    free(found);
    assert_int_equal(caloris_dtype_bytes(CALORIS_DTYPE_F32), 4);
    assert_int_equal(caloris_dtype_bytes(CALORIS_DTYPE_BF16), 2);
    assert_int_equal(caloris_dtype_bytes(CALORIS_DTYPE_F16), 2);
}

static void floats_convert_to_themselves(void **state)
{
    (void)state;
    const float x[] = {0.0f, -0.0f, 1.5f, INFINITY, FLT_TRUE_MIN, -FLT_MAX};
    unsigned char bytes[sizeof(x) + 3];
    float y[6];
    memcpy(bytes + 3, x, sizeof(x));
    caloris_convert_to_f32(CALORIS_DTYPE_F32, bytes + 3, y, 6);
    assert_memory_equal(x, y, sizeof(x));
    caloris_convert_to_f32(CALORIS_DTYPE_F32, NULL, NULL, 0);
}

/* ---- matrices
 * ---------------------------------------------------------------------------------------- */

static void sizes_of_matrices(void **state)
{
    (void)state;
    static const struct {
        size_t out, in, bytes;
    } cases[] = {
        {0, 0, 0},
        {0, 7, 0},
        {1, 1, 64},
        {17, 33, 2304},
        {4, 4, 64},
        {4096, 12288, 201326592},
        {SIZE_MAX, 2, SIZE_MAX},
        {SIZE_MAX / 4, 1, SIZE_MAX},
        {(size_t)1 << 40, (size_t)1 << 40, SIZE_MAX},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t bytes = caloris_matrix_bytes(CALORIS_FORMAT_FP32, cases[i].out, cases[i].in);
        assert_true(bytes == cases[i].bytes);
    }
}

static struct caloris_matrix made_matrix(size_t out, size_t in, const float *numbers)
{
    struct caloris_matrix matrix;
    size_t bytes = caloris_matrix_bytes(CALORIS_FORMAT_FP32, out, in);
    void *memory = aligned_alloc(64, bytes ? bytes : 64);
    assert_non_null(memory);
    caloris_matrix_place(&matrix, CALORIS_FORMAT_FP32, out, in, memory);
    size_t first = out / 3; /* in two parts */
    caloris_matrix_fill(&matrix, first, out - first, numbers + first * in, CALORIS_DTYPE_F32);
    caloris_matrix_fill(&matrix, 0, first, numbers, CALORIS_DTYPE_F32);
    return matrix;
}

static const struct {
    size_t rows, out, in;
} products[] = {
    {1, 1, 1},     {0, 5, 5},     {5, 0, 5},     {5, 5, 0},     {1, 7, 3},      {3, 1, 129},
    {17, 33, 5},   {33, 17, 31},  {4, 4, 64},    {5, 6, 70},    {24, 100, 300}, {25, 100, 300},
    {64, 96, 512}, {70, 301, 65}, {130, 3, 200}, {2, 1000, 16}, {200, 257, 33}, {1, 300, 4097},
};
enum { PRODUCTS = sizeof(products) / sizeof(products[0]) };

/* One product with strides wider than the rows, old numbers of y kept (beta 1) or not even read
 * (beta 0, NaN). */
static void check_product(const char *isa, size_t rows, size_t out, size_t in, float beta)
{
    size_t x_stride = in + 3, y_stride = out + 5;
    float *numbers = rolled(out * in, 1), *x = rolled(rows * x_stride, 1);
    float *y = beta == 0 ? filled(rows * y_stride, NAN) : rolled(rows * y_stride, 1);
    float *before = malloc((rows * y_stride + 1) * sizeof(float));
    assert_non_null(before);
    memcpy(before, y, rows * y_stride * sizeof(float));
    struct caloris_matrix matrix = made_matrix(out, in, numbers);
    caloris_gemm(pool, &matrix, x, x_stride, rows, y, y_stride, beta, NULL);
    for (size_t r = 0; r < rows; r++) {
        for (size_t o = 0; o < y_stride; o++) {
            size_t at = r * y_stride + o;
            if (o >= out) { /* not ours */
                assert_memory_equal(&y[at], &before[at], sizeof(float));
                continue;
            }
            double wanted = beta == 0 ? 0 : (double)before[at], size = 1;
            for (size_t i = 0; i < in; i++) {
                double term = (double)x[r * x_stride + i] * (double)numbers[o * in + i];
                wanted += term;
                size += fabs(term);
            }
            check_near("product", isa, at, (double)y[at], wanted, size * FLT_EPSILON * 4);
        }
    }
    free(matrix.data);
    free(numbers);
    free(x);
    free(y);
    free(before);
}

static void check_products(const char *isa)
{
    for (size_t i = 0; i < PRODUCTS; i++) {
        check_product(isa, products[i].rows, products[i].out, products[i].in, 0);
        check_product(isa, products[i].rows, products[i].out, products[i].in, 1);
    }
}

static void products_are_right(void **state)
{
    (void)state;
    on_every_isa(check_products);
}

/* A NaN or infinity of one row shows in that row, everywhere, and in no other: for few rows and for
 * many. */
static void check_special_products(const char *isa)
{
    enum { OUT = 70, IN = 50 };
    static const size_t row_counts[] = {1, 5, 40};
    static const float special[] = {NAN, INFINITY, -INFINITY};
    for (size_t c = 0; c < 9; c++) {
        size_t rows = row_counts[c / 3], hit = rows / 2;
        float *numbers = filled(OUT * IN, 1), *x = rolled(rows * IN, 1), *y = filled(rows * OUT, 0);
        struct caloris_matrix matrix = made_matrix(OUT, IN, numbers);
        x[hit * IN + 7] = special[c % 3];
        caloris_gemm(pool, &matrix, x, IN, rows, y, OUT, 0, NULL);
        for (size_t i = 0; i < rows * OUT; i++) {
            if (i / OUT == hit)
                check_near("special", isa, i, (double)y[i], (double)special[c % 3], 0);
            else
                assert_true(isfinite(y[i]));
        }
        free(matrix.data);
        free(numbers);
        free(x);
        free(y);
    }
}

static void nan_goes_through_products(void **state)
{
    (void)state;
    on_every_isa(check_special_products);
}

/* Few rows: our own kernel, whose rows have the same bits alone and in company. */
static void check_row_alone(const char *isa)
{
    enum { ROWS = 23, OUT = 203, IN = 301 };
    float *numbers = rolled(OUT * IN, 1), *x = rolled(ROWS * IN, 1);
    float *together = filled(ROWS * OUT, 0), *alone = filled(OUT, 0);
    struct caloris_matrix matrix = made_matrix(OUT, IN, numbers);
    caloris_gemm(pool, &matrix, x, IN, ROWS, together, OUT, 0, NULL);
    for (size_t r = 0; r < ROWS; r++) {
        caloris_gemm(pool, &matrix, x + r * IN, IN, 1, alone, OUT, 0, NULL);
        if (memcmp(alone, together + r * OUT, OUT * sizeof(float)) != 0)
            fail_msg("%s kernels: row %zu differs from itself alone", isa, r);
    }
    free(matrix.data);
    free(numbers);
    free(x);
    free(together);
    free(alone);
}

static void a_few_rows_have_the_bits_of_each(void **state)
{
    (void)state;
    on_every_isa(check_row_alone);
}

/* ---- rows
 * -------------------------------------------------------------------------------------------- */

static const size_t widths[] = {1, 2, 15, 16, 17, 33, 64, 100, 127, 4096};
enum { WIDTHS = sizeof(widths) / sizeof(widths[0]) };

static void check_rmsnorm(const char *isa)
{
    static const float scales[] = {1, 1e-20f, 1e25f}; /* squares leave the range of float */
    for (size_t c = 0; c < 3 * WIDTHS; c++) {
        size_t n = widths[c / 3], rows = 11;
        const float eps = 1e-5f;
        float *x = rolled(rows * n, scales[c % 3]), *w = rolled(n, 2), *y = filled(rows * n, 0);
        x[3 * n] = NAN;
        caloris_rmsnorm(pool, x, w, eps, rows, n, y);
        for (size_t i = 0; i < rows * n; i++) {
            double square = 0;
            for (size_t j = 0; j < n; j++)
                square += (double)x[i / n * n + j] * (double)x[i / n * n + j];
            double wanted =
                (double)x[i] / sqrt(square / (double)n + (double)eps) * (double)w[i % n];
            check_near("rmsnorm", isa, i, (double)y[i], wanted, fabs(wanted) * 3 * FLT_EPSILON);
        }
        caloris_rmsnorm(pool, x, w, eps, rows, n, x); /* in place */
        assert_memory_equal(x, y, 3 * n * sizeof(float));
        free(x);
        free(w);
        free(y);
    }
}

static void check_rope(const char *isa)
{
    enum { POSITIONS = 50, HEADS = 3, ROWS = 9 };
    static const struct {
        size_t head_dim, rotary;
    } cases[] = {{2, 2}, {6, 6}, {64, 64}, {128, 128}, {96, 32}, {40, 20}, {16, 0}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        size_t dim = cases[c].head_dim, rotary = cases[c].rotary, stride = HEADS * dim + 7;
        float *x = rolled(ROWS * stride, 1), *y = malloc(ROWS * stride * sizeof(float));
        float *table = filled(POSITIONS * rotary, 0);
        uint32_t position[ROWS];
        assert_non_null(y);
        memcpy(y, x, ROWS * stride * sizeof(float));
        for (uint32_t r = 0; r < ROWS; r++)
            position[r] = (r * 31) % POSITIONS;
        caloris_rope_table(500000.0, rotary, POSITIONS, table);
        caloris_rope(pool, y, stride, ROWS, HEADS, dim, rotary, position, table);
        for (size_t i = 0; i < ROWS * stride; i++) {
            size_t r = i / stride, d = i % stride % dim, half = rotary / 2;
            double wanted = (double)x[i];
            if (i % stride < HEADS * dim && d < rotary) {
                size_t j = d % half;
                double angle = position[r] * pow(500000.0, -2.0 * (double)j / (double)rotary);
                double a = (double)x[i - d + j], b = (double)x[i - d + half + j];
                wanted =
                    d < half ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle);
            }
            check_near("rope", isa, i, (double)y[i], wanted, d < rotary ? 4e-7 : 0);
        }
        free(x);
        free(y);
        free(table);
    }
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static void check_swiglu(const char *isa)
{
    static const float special[] = {0.0f,    -0.0f,   NAN,      INFINITY, -INFINITY, 88.8f, -87.5f,
                                    -88.8f,  -95.0f,  -103.9f,  -104.5f,  -1e30f,    1e30f, 1e-40f,
                                    -1e-40f, FLT_MAX, -FLT_MAX, 17.5f,    -17.5f};
    enum { SPECIAL = sizeof(special) / sizeof(special[0]), ROWS = 5 };
    for (size_t c = 0; c < WIDTHS; c++) {
        size_t n = widths[c];
        float *gate_up = rolled(ROWS * 2 * n, 20), *y = filled(ROWS * n, 0);
        for (size_t i = 0; i < n && n > SPECIAL; i++)
            gate_up[2 * n + i] = special[i % SPECIAL];
        caloris_swiglu(pool, gate_up, ROWS, n, y);
        for (size_t i = 0; i < ROWS * n; i++) {
            float gate = gate_up[i / n * 2 * n + i % n], up = gate_up[i / n * 2 * n + n + i % n];
            double wanted = gate == -INFINITY ? (double)NAN : silu((double)gate) * (double)up;
            wanted = fabs(wanted) > (double)FLT_MAX ? copysign((double)INFINITY, wanted) : wanted;
            /* exp(gate) may be subnormal, and its half a unit is then multiplied by both */
            double least = (1 + fabs((double)gate)) * (1 + fabs((double)up)) * (double)FLT_TRUE_MIN;
            check_near("swiglu", isa, i, (double)y[i], wanted,
                       fabs(wanted) * 8 * FLT_EPSILON + least);
        }
        free(gate_up);
        free(y);
    }
}

static void check_add(const char *isa)
{
    static const size_t sizes[] = {0, 1, 15, 17, 1000, 100003};
    for (size_t c = 0; c < sizeof(sizes) / sizeof(sizes[0]); c++) {
        size_t n = sizes[c];
        float *x = rolled(n, 1), *y = rolled(n, 1), *sum = rolled(n, 1);
        for (size_t i = 0; i < n; i++)
            sum[i] = x[i] + y[i];
        caloris_add(pool, x, y, n);
        if (memcmp(x, sum, n * sizeof(float)) != 0)
            fail_msg("add, %s kernels, %zu numbers", isa, n);
        free(x);
        free(y);
        free(sum);
    }
}

static void check_rows(const char *isa)
{
    check_rmsnorm(isa);
    check_rope(isa);
    check_swiglu(isa);
    check_add(isa);
}

static void rows_are_right(void **state)
{
    (void)state;
    on_every_isa(check_rows);
}

/* ---- sums over logits
 * -------------------------------------------------------------------------------- */

static void check_argmax(const char *isa)
{
    for (size_t c = 0; c < 3 * WIDTHS; c++) {
        size_t n = widths[c / 3];
        float *x = rolled(n, 5);
        for (size_t i = 0; i < n && c % 3 == 1; i++) /* many ties */
            x[i] = i < n / 3 ? -INFINITY : (float)(i % 2);
        for (size_t i = 0; i < n && c % 3 == 2; i++)
            x[i] = -INFINITY;
        size_t wanted = 0;
        for (size_t i = 0; i < n; i++)
            wanted = x[i] > x[wanted] ? i : wanted;
        if (caloris_argmax(x, n) != wanted)
            fail_msg("argmax, %s kernels: %zu of %zu, not %zu", isa, caloris_argmax(x, n), n,
                     wanted);
        for (size_t i = n; i-- > 0;) { /* a NaN is the largest, the first of them wins */
            x[i] = NAN;
            assert_int_equal(caloris_argmax(x, n), i);
            i = i > 100 ? i - 97 : i;
        }
        free(x);
    }
}

static void check_exp_sums(const char *isa)
{
    static const float below_scale[] = {1, 20, 120, 1000};
    for (size_t c = 0; c < 4 * WIDTHS; c++) {
        size_t n = widths[c / 4];
        float *x = rolled(n, below_scale[c % 4]), max = below_scale[c % 4];
        if (n > 20)
            x[19] = -INFINITY;
        double sum = 0.25, moment = -0.5, wanted = 0.25, wanted_moment = -0.5;
        for (size_t i = 0; i < n; i++) {
            double below = (double)(x[i] - max), weight = exp(below);
            wanted += weight;
            wanted_moment += isinf(below) ? 0 : below * weight;
        }
        caloris_exp_sums(x, n, max, &sum, &moment);
        check_near("exp sum", isa, n, sum, wanted, wanted * 6 * FLT_EPSILON);
        check_near("moment", isa, n, moment, wanted_moment, fabs(wanted_moment) * 6 * FLT_EPSILON);
        x[n / 2] = NAN;
        caloris_exp_sums(x, n, max, &sum, &moment);
        assert_true(isnan(sum) && isnan(moment));
        free(x);
    }
    double sum = 3, moment = 4;
    caloris_exp_sums(NULL, 0, 1, &sum, &moment);
    assert_true(sum == 3 && moment == 4);
}

static void check_guide(const char *isa)
{
    float *x = rolled(1001, 3), *u = rolled(1001, 3), *y = malloc(1001 * sizeof(float));
    assert_non_null(y);
    memcpy(y, x, 1001 * sizeof(float));
    caloris_guide(y, u, 1.5f, 1001);
    for (size_t i = 0; i < 1001; i++) {
        double wanted = (double)u[i] + 2.5 * ((double)x[i] - (double)u[i]);
        check_near("guide", isa, i, (double)y[i], wanted, 4e-6);
    }
    free(x);
    free(u);
    free(y);
}

static void check_sums(const char *isa)
{
    check_argmax(isa);
    check_exp_sums(isa);
    check_guide(isa);
}

static void sums_are_right(void **state)
{
    (void)state;
    on_every_isa(check_sums);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_halves_convert),
        cmocka_unit_test(floats_convert_to_themselves),
        cmocka_unit_test(sizes_of_matrices),
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(nan_goes_through_products),
        cmocka_unit_test(a_few_rows_have_the_bits_of_each),
        cmocka_unit_test(rows_are_right),
        cmocka_unit_test(sums_are_right),
    };
    return cmocka_run_group_tests(tests, start_pool, stop_pool);
}
