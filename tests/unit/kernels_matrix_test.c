/* Matrices as they are filled, cut and sized, whatever multiplies them. */
#include "base/err.h"
#include "tests/unit/kernels_support.h"
#include "worker/kernels/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Squared errors of a run, in units of its scale: as it stands, and the least that any zero and
 * step could have. */
static void errors_of_run(const struct caloris_matrix *matrix, size_t o, size_t k, const float *w,
                          double *found, double *least)
{
    const double scale = (double)matrix->scale[o];
    *found = 0;
    *least = INFINITY;
    for (size_t i = k; i < k + 16 && i < matrix->in; i++) {
        const double off = int4_weight(matrix, o, i) - (double)w[i] / scale;
        *found += off * off;
    }
    for (int run = 0; run < 256; run++) {
        const int step = run % 16 + 1, zero = run / 16, reach = 127 / step;
        double sum = 0;
        for (size_t i = k; i < k + 16 && i < matrix->in; i++) {
            double at = rint((double)w[i] / scale / step);
            at = fmin(fmax(at, zero < reach ? -zero : -reach),
                      15 - zero < reach ? 15 - zero : reach);
            const double off = at * step - (double)w[i] / scale;
            sum += off * off;
        }
        *least = fmin(*least, sum);
    }
}

static void runs_are_chosen_well(void **state)
{
    (void)state;
    enum { OUT = 40, IN = 1000 };
    float *w = filled(OUT * IN, 0);
    for (size_t i = 0; i < OUT * IN; i++) { /* from even to heavy tails */
        const float x = roll();
        w[i] = i / IN < 10   ? x
               : i / IN < 20 ? x * x * x
               : i / IN < 30 ? (x + roll() + roll())
                             : 1 + x;
        w[i] *= i / IN % 10 == 7 && i % 97 == 0 ? 30 : 1;
    }
    struct caloris_matrix matrix = made(CALORIS_FORMAT_INT4, OUT, IN, w);
    double found = 0, least = 0, here, possible;
    for (size_t o = 0; o < OUT; o++) {
        for (size_t k = 0; k < IN; k += 16) {
            errors_of_run(&matrix, o, k, w + o * IN, &here, &possible);
            if (here > 2 * possible + 1)
                fail_msg("run %zu of output %zu: error %g, possible %g", k / 16, o, here, possible);
            found += here;
            least += possible;
        }
    }
    printf("int4: squared error %.4f times the least\n", found / least);
    assert_true(found < 1.03 * least);
    free(matrix.data);
    free(w);
}

/* Columns of a matrix that begin on a run are what they are in the whole matrix. */
static void columns_are_those_of_the_whole(void **state)
{
    (void)state;
    enum { OUT = 21, IN = 400 };
    static const size_t cuts[] = {0, 16, 48, 144, 160, 336, IN};
    float *w = rolled(OUT * IN, 1), *part = filled(OUT * IN, 0);
    struct caloris_matrix whole = made(CALORIS_FORMAT_INT4, OUT, IN, w);
    for (size_t c = 0; c + 1 < sizeof(cuts) / sizeof(cuts[0]); c++) {
        const size_t in = cuts[c + 1] - cuts[c];
        struct caloris_matrix slice;
        caloris_matrix_place(&slice, CALORIS_FORMAT_INT4, OUT, in,
                             memory_of(caloris_matrix_bytes(CALORIS_FORMAT_INT4, OUT, in)));
        for (size_t o = 0; o < OUT; o++) {
            slice.scale[o] = whole.scale[o];
            memcpy(part + o * in, w + o * IN + cuts[c], in * sizeof(float));
        }
        caloris_matrix_fill(&slice, 0, OUT, part, CALORIS_DTYPE_F32);
        for (size_t i = 0; i < OUT * in; i++)
            assert_int_equal(int4_weight(&slice, i / in, i % in),
                             int4_weight(&whole, i / in, cuts[c] + i % in));
        free(slice.data);
    }
    free(whole.data);
    free(w);
    free(part);
}

static void check_views(const char *isa)
{
    enum { ROWS = 9, OUT = 115, IN = 77 };
    static const struct {
        size_t first, n;
    } views[] = {{0, 115}, {0, 16}, {16, 7}, {32, 83}, {112, 3}, {48, 0}};
    float *w = rolled(OUT * IN, 1), *x = rolled(ROWS * IN, 1);
    float *whole = filled(ROWS * OUT, 0);
    for (int format = 0; format < CALORIS_FORMATS; format++) {
        struct caloris_matrix matrix = made((enum caloris_format)format, OUT, IN, w);
        multiply(&matrix, x, IN, ROWS, whole, OUT, 0);
        for (size_t v = 0; v < sizeof(views) / sizeof(views[0]); v++) {
            float *part = filled(ROWS * OUT, 5);
            struct caloris_matrix view = caloris_matrix_rows(&matrix, views[v].first, views[v].n);
            assert_int_equal(view.out, views[v].n);
            multiply(&view, x, IN, ROWS, part, OUT, 0);
            for (size_t i = 0; i < ROWS * OUT; i++) {
                size_t o = i % OUT;
                float wanted = o < views[v].n ? whole[i + views[v].first] : 5;
                if (format == CALORIS_FORMAT_FP32) /* sums may be taken in another order */
                    check_near("view", isa, i, (double)part[i], (double)wanted, 1e-4);
                else
                    same_float("view", isa, i, part[i], wanted);
            }
            free(part);
        }
        free(matrix.data);
    }
    free(w);
    free(x);
    free(whole);
}

static void views_are_rows_of_the_matrix(void **state)
{
    (void)state;
    on_every_isa(check_views);
}

/* A matrix does not care what numbers its file had, nor in what pieces they came. */
static void files_of_any_dtype_fill(void **state)
{
    (void)state;
    enum { OUT = 37, IN = 1300 };
    static uint16_t halves[OUT * IN];
    static float numbers[OUT * IN];
    for (size_t i = 0; i < OUT * IN; i++)
        halves[i] = (uint16_t)(0x3c00 + i * 7919 % 500 + (i % 3 ? 0x8000 : 0));
    for (int dtype = CALORIS_DTYPE_BF16; dtype <= CALORIS_DTYPE_F16; dtype++) {
        caloris_convert_to_f32((enum caloris_dtype)dtype, halves, numbers, OUT * IN);
        for (int format = CALORIS_FORMAT_BF16; format < CALORIS_FORMATS; format++) {
            struct caloris_matrix one = made((enum caloris_format)format, OUT, IN, numbers), two;
            size_t bytes = caloris_matrix_bytes(one.format, OUT, IN);
            caloris_matrix_place(&two, one.format, OUT, IN, memory_of(bytes));
            for (size_t o = 0; o < OUT && two.scale; o++)
                two.scale[o] = one.scale[o];
            for (size_t o = OUT; o-- > 0;)
                caloris_matrix_fill(&two, o, 1, halves + o * IN, (enum caloris_dtype)dtype);
            size_t data = one.scale ? (size_t)((char *)one.scale - (char *)one.data) : bytes;
            assert_memory_equal(one.data, two.data, data);
            free(one.data);
            free(two.data);
        }
    }
}

static void largest_magnitudes(void **state)
{
    (void)state;
    const float rows[] = {1, -3, 2, -0.0f, 0, 0, NAN, 5, 6, 1, -INFINITY, 7};
    float found[4] = {0, 0, 1, 0};
    caloris_matrix_absmax(rows, CALORIS_DTYPE_F32, 4, 3, found);
    assert_true(found[0] == 3 && found[1] == 0 && isnan(found[2]) && found[3] == INFINITY);
    caloris_matrix_absmax(rows, CALORIS_DTYPE_F32, 4, 2,
                          found); /* {1 -3} {2 0} {0 0} {NaN 5} too */
    assert_true(found[0] == 3 && found[1] == 2 && isnan(found[2]) && isnan(found[3]));
    assert_true(caloris_matrix_scale(127) == 1 && caloris_matrix_scale(0) == 1);
    assert_true(isnan(caloris_matrix_scale(NAN)));
}

static void sizes_and_names(void **state)
{
    (void)state;
    static const struct {
        enum caloris_format format;
        size_t out, in, bytes;
    } cases[] = {
        {CALORIS_FORMAT_BF16, 0, 0, 0},
        {CALORIS_FORMAT_BF16, 1, 1, 17 * 64},
        {CALORIS_FORMAT_BF16, 17, 33, 2 * 33 * 64},
        {CALORIS_FORMAT_INT8, 1, 0, 64 + 64},
        {CALORIS_FORMAT_INT8, 1, 64, 17 * 64 + 64},
        {CALORIS_FORMAT_INT8, 16, 65, 33 * 64 + 64},
        {CALORIS_FORMAT_INT8, 4096, 4096, 4096 * 4096 + 256 * 128},
        {CALORIS_FORMAT_INT4, 1, 0, 64 + 64},
        {CALORIS_FORMAT_INT4, 17, 65, 2 * (64 + 2 * 576) + 2 * 64},
        {CALORIS_FORMAT_INT4, 4096, 4096, 4096 * 4096 / 64 * 36 + 256 * 128},
        {CALORIS_FORMAT_INT4, 1, (1 << 17) + 1, SIZE_MAX},
        {CALORIS_FORMAT_INT8, 1, (1 << 17) + 1, SIZE_MAX},
        {CALORIS_FORMAT_BF16, 16, SIZE_MAX, SIZE_MAX},
        {CALORIS_FORMAT_BF16, SIZE_MAX, 16, SIZE_MAX},
        {CALORIS_FORMAT_INT8, SIZE_MAX / 64, 4096, SIZE_MAX},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_true(caloris_matrix_bytes(cases[i].format, cases[i].out, cases[i].in) ==
                    cases[i].bytes);
    assert_int_equal(caloris_gemm_scratch_bytes(CALORIS_FORMAT_FP32, 1000, 1000, 4), 0);
    assert_true(caloris_gemm_scratch_bytes(CALORIS_FORMAT_INT8, SIZE_MAX / 2, 64, 1) == SIZE_MAX);
    assert_true(caloris_gemm_scratch_bytes(CALORIS_FORMAT_BF16, 1 << 30, SIZE_MAX / 9, 1) ==
                SIZE_MAX);
    for (int i = 0; i < CALORIS_FORMATS; i++) {
        enum caloris_format format;
        const char *name = caloris_format_name((enum caloris_format)i);
        assert_int_equal(caloris_format_parse(name, &format, NULL), 0);
        assert_int_equal(format, i);
    }
    struct caloris_err err;
    enum caloris_format format;
    assert_int_equal(caloris_format_parse("fp8", &format, &err), -1);
    assert_non_null(strstr(err.text, "\"fp8\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_chosen_well),
        cmocka_unit_test(columns_are_those_of_the_whole),
        cmocka_unit_test(views_are_rows_of_the_matrix),
        cmocka_unit_test(files_of_any_dtype_fill),
        cmocka_unit_test(largest_magnitudes),
        cmocka_unit_test(sizes_and_names),
    };
    return cmocka_run_group_tests(tests, start_pool, stop_pool);
}
