/* Products in AMX, against the reference: on this CPU if it has AMX, else emulated instruction by
 * instruction (tests/tools/amx_emulate.h), the very code that runs where there is AMX. */
#include "tests/tools/amx_emulate.h"
#include "tests/unit/kernels_support.h"
#include "worker/kernels/kernels.h"
#include "worker/kernels/table.h"
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

#if defined(__x86_64__)
enum { AMX = CALORIS_CPU_AMX_INT8 | CALORIS_CPU_AMX_BF16 };

static bool emulated;

/* At the start of each test: cmocka takes SIGILL for itself before it. */
static void begin(void **state)
{
    (void)state;
    if (emulated)
        assert_int_equal(amx_emulate(), 0);
}

/* ---- the instructions themselves ------------------------------------------------------------- */

struct config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* 3 rows of 2 groups times 2 groups of 4 columns, by every instruction that multiplies bytes. */
static void dot_by(const char *name, int32_t found[12])
{
    static const struct config config = {.palette = 1, .row_bytes = {16, 8, 16}, .rows = {3, 3, 2}};
    struct config seen;
    uint8_t around[9][16] = {{0}}, w[2][64], (*const x)[16] = around + 6;
    for (size_t i = 0; i < 24; i++)
        x[i / 8][i % 8] = (uint8_t)(200 + 29 * i);
    for (size_t i = 0; i < 32; i++)
        w[i / 16][i % 16] = (uint8_t)(100 + 37 * i);
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
    __asm__ volatile("sttilecfg %0" : "=m"(seen));
    assert_memory_equal(&seen, &config, sizeof(config));
    __asm__ volatile("tilezero %%tmm0" ::);
    /* a base with a displacement, and registers of the upper eight */
    register size_t stride __asm__("r13") = 16;
    register const uint8_t *rows __asm__("r12") = around[0];
    __asm__ volatile("tileloaddt1 96(%0,%1,1), %%tmm1" ::"r"(rows), "r"(stride) : "memory");
    __asm__ volatile("tileloadd (%0,%1,2), %%tmm2" ::"r"(w), "r"((size_t)32) : "memory");
    if (strcmp(name, "tdpbssd") == 0)
        __asm__ volatile("tdpbssd %%tmm2, %%tmm1, %%tmm0" ::);
    else if (strcmp(name, "tdpbsud") == 0)
        __asm__ volatile("tdpbsud %%tmm2, %%tmm1, %%tmm0" ::);
    else if (strcmp(name, "tdpbusd") == 0)
        __asm__ volatile("tdpbusd %%tmm2, %%tmm1, %%tmm0" ::);
    else
        __asm__ volatile("tdpbuud %%tmm2, %%tmm1, %%tmm0" ::);
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" ::"r"(found), "r"((size_t)16) : "memory");
    __asm__ volatile("tilerelease" ::);
}

static void instructions_do_what_the_manual_says(void **state)
{
    begin(state);
    static const struct {
        const char *name;
        bool x_signed, w_signed;
    } cases[] = {{"tdpbssd", true, true},
                 {"tdpbsud", true, false},
                 {"tdpbusd", false, true},
                 {"tdpbuud", false, false}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        int32_t found[12];
        dot_by(cases[c].name, found);
        for (size_t i = 0; i < 12; i++) {
            int32_t wanted = 0;
            for (size_t k = 0; k < 8; k++) {
                const uint8_t x = (uint8_t)(200 + 29 * (i / 4 * 8 + k));
                const uint8_t w = (uint8_t)(100 + 37 * (k / 4 * 16 + i % 4 * 4 + k % 4));
                wanted += (cases[c].x_signed ? (int8_t)x : x) * (cases[c].w_signed ? (int8_t)w : w);
            }
            if (found[i] != wanted)
                fail_msg("%s: number %zu is %d, not %d", cases[c].name, i, found[i], wanted);
        }
    }
}

/* ---- products -------------------------------------------------------------------------------- */

static void multiply_by(const struct caloris_matrix_kernels *kernels,
                        const struct caloris_matrix *matrix, const float *x, size_t rows, float *y,
                        size_t y_stride, float beta)
{
    const struct caloris_gemm_tile whole = {
        .matrix = matrix,
        .x = x,
        .y = y,
        .x_stride = matrix->in,
        .y_stride = y_stride,
        .rows = rows,
        .out_count = matrix->out,
        .beta = beta,
    };
    void *scratch = memory_of(
        caloris_gemm_scratch_bytes(matrix->format, rows, matrix->in, caloris_pool_threads(pool)));
    caloris_gemm_panels(pool, kernels, &whole, NULL, scratch);
    free(scratch);
}

static const struct {
    size_t rows, out, in;
} products[] = {
    {1, 1, 1},     {1, 16, 64},  {5, 5, 0},      {2, 33, 65},   {15, 48, 127},   {16, 32, 128},
    {17, 64, 300}, {31, 100, 5}, {32, 130, 640}, {33, 17, 33},  {70, 301, 65},   {300, 3, 200},
    {3, 40, 4097}, {30, 257, 1}, {29, 31, 1030}, {7, 15, 2047}, {257, 64, 1100},
};
enum { PRODUCTS = sizeof(products) / sizeof(products[0]) };

/* What a row of kind `row` is made of: like any, of one sign at its largest, zero, tiny, huge. */
static float *rows_of(size_t rows, size_t in)
{
    static const float scales[] = {1, 3, 0, 0x1p-110f, 1e30f, 1e-41f};
    float *x = rolled(rows * in, 1);
    for (size_t i = 0; i < rows * in; i++) {
        const size_t kind = i / in % 6;
        x[i] = kind == 1 ? 3 : x[i] * scales[kind];
    }
    return x;
}

static void check_exact(size_t c, enum caloris_format format, float beta)
{
    const size_t rows = products[c].rows, out = products[c].out, in = products[c].in;
    const size_t y_stride = out + 3;
    float *w = rows_of(out, in), *x = rows_of(rows, in), *y = rolled(rows * y_stride, 1);
    float *wanted = filled(rows * y_stride, 0);
    memcpy(wanted, y, rows * y_stride * sizeof(*y));
    struct caloris_matrix matrix = made(format, out, in, w);
    multiply_by(&caloris_int8_ref, &matrix, x, rows, wanted, y_stride, beta);
    multiply_by(&caloris_int8_amx, &matrix, x, rows, y, y_stride, beta);
    for (size_t i = 0; i < rows * y_stride; i++) {
        if (memcmp(&y[i], &wanted[i], sizeof(*y)) != 0)
            fail_msg("%s, %zu x %zu x %zu: number %zu is %a, not %a", caloris_format_name(format),
                     rows, out, in, i, (double)y[i], (double)wanted[i]);
    }
    free(matrix.data);
    free(w);
    free(x);
    free(y);
    free(wanted);
}

static void integers_are_those_of_the_reference(void **state)
{
    begin(state);
    for (size_t c = 0; c < PRODUCTS; c++) {
        check_exact(c, CALORIS_FORMAT_INT8, 0);
        check_exact(c, CALORIS_FORMAT_INT8, 1);
        check_exact(c, CALORIS_FORMAT_INT4, 0);
    }
}

/* The nearest bf16, ties to even; of numbers that are not huge. */
static float as_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* In the order that the manual gives tdpbf16ps: by 32 numbers, the even and the odd ones apart. */
static float in_tiles(const float *x, const float *w, size_t in)
{
    float sum = 0;
    for (size_t first = 0; first < in; first += 32) {
        float part[2] = {0, 0};
        for (size_t i = first; i < in && i < first + 32; i++)
            part[i % 2] = amx_emulate_fma(as_bf16(x[i]), as_bf16(w[i]), part[i % 2]);
        sum = amx_emulate_fma(1, sum, amx_emulate_fma(1, part[0], part[1]));
    }
    return sum;
}

static void check_bf16(size_t c, float beta)
{
    const size_t rows = products[c].rows, out = products[c].out, in = products[c].in;
    float *w = rolled(out * in, 1), *x = rolled(rows * in, 2), *y = rolled(rows * out, 1);
    float *before = filled(rows * out, 0);
    memcpy(before, y, rows * out * sizeof(*y));
    for (size_t i = 0; i < rows * in; i += 37)
        x[i] *= 1e-38f; /* subnormal, some of them */
    struct caloris_matrix matrix = made(CALORIS_FORMAT_BF16, out, in, w);
    multiply_by(&caloris_bf16_amx, &matrix, x, rows, y, out, beta);
    for (size_t i = 0; i < rows * out; i++) {
        const float *left = x + i / out * in, *right = w + i % out * in;
        double wanted = 0, size = 0;
        for (size_t k = 0; k < in; k++) {
            const double term = (double)as_bf16(left[k]) * (double)as_bf16(right[k]);
            wanted += term;
            size += fabs(term);
        }
        /* As all bf16 kernels: each addition rounds a sum that is at most size. */
        const double off = beta == 0 ? 0 : (double)before[i];
        check_near("bf16 in tiles", "amx", i, (double)y[i], wanted + off,
                   (size + fabs(off)) * FLT_EPSILON * (2 + sqrt((double)in)) + (double)FLT_MIN);
        const float exactly = in_tiles(left, right, in);
        if (emulated && y[i] != (beta == 0 ? exactly : exactly + before[i]))
            fail_msg("%zu x %zu x %zu: number %zu is %a, in the order of tiles %a", rows, out, in,
                     i, (double)y[i], (double)exactly);
    }
    free(matrix.data);
    free(w);
    free(x);
    free(y);
    free(before);
}

static void bf16_rounds_as_stated(void **state)
{
    begin(state);
    for (size_t c = 0; c < PRODUCTS; c++) {
        check_bf16(c, 0);
        check_bf16(c, 1);
    }
}

static void rows_do_not_depend_on_their_company(void **state)
{
    begin(state);
    enum { ROWS = 70, OUT = 50, IN = 1200 };
    static const size_t counts[] = {2, 16, 17, 33, ROWS};
    float *w = rolled(OUT * IN, 1), *x = rolled(ROWS * IN, 1);
    float *alone = filled(ROWS * OUT, 0), *together = filled(ROWS * OUT, 0);
    for (int format = CALORIS_FORMAT_BF16; format <= CALORIS_FORMAT_INT4; format++) {
        const struct caloris_matrix_kernels *kernels =
            format == CALORIS_FORMAT_BF16 ? &caloris_bf16_amx : &caloris_int8_amx;
        struct caloris_matrix matrix = made((enum caloris_format)format, OUT, IN, w);
        for (size_t r = 0; r < ROWS; r++)
            multiply_by(kernels, &matrix, x + r * IN, 1, alone + r * OUT, OUT, 0);
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            const size_t first = ROWS - counts[c];
            multiply_by(kernels, &matrix, x + first * IN, counts[c], together, OUT, 0);
            assert_memory_equal(together, alone + first * OUT, counts[c] * OUT * sizeof(float));
        }
        free(matrix.data);
    }
    free(w);
    free(x);
    free(alone);
    free(together);
}

static void what_is_no_number_stays_in_its_row(void **state)
{
    begin(state);
    enum { ROWS = 20, OUT = 40, IN = 100, HIT = 17 };
    float *w = filled(OUT * IN, 1), *x = rolled(ROWS * IN, 1), *y = filled(ROWS * OUT, 0);
    x[HIT * IN + 50] = NAN;
    for (int format = CALORIS_FORMAT_BF16; format <= CALORIS_FORMAT_INT4; format++) {
        struct caloris_matrix matrix = made((enum caloris_format)format, OUT, IN, w);
        multiply_by(format == CALORIS_FORMAT_BF16 ? &caloris_bf16_amx : &caloris_int8_amx, &matrix,
                    x, ROWS, y, OUT, 0);
        for (size_t i = 0; i < ROWS * OUT; i++)
            assert_true(isnan(y[i]) == (i / OUT == HIT));
        free(matrix.data);
    }
    free(w);
    free(x);
    free(y);
}

/* Emulated, or nothing of this was tested; and no thread keeps tiles. */
static void tiles_are_given_back(void **state)
{
    begin(state);
    print_message("%zu instructions of AMX were emulated\n", amx_emulated());
    assert_true(emulated == (amx_emulated() > 0));
    assert_int_equal(amx_emulated_threads_with_tiles(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instructions_do_what_the_manual_says),
        cmocka_unit_test(integers_are_those_of_the_reference),
        cmocka_unit_test(bf16_rounds_as_stated),
        cmocka_unit_test(rows_do_not_depend_on_their_company),
        cmocka_unit_test(what_is_no_number_stays_in_its_row),
        cmocka_unit_test(tiles_are_given_back),
    };
    emulated = (caloris_cpu() & AMX) != AMX;
    if (!(caloris_cpu() & CALORIS_CPU_AVX512)) {
        printf("amx: not run, this CPU lacks AVX-512, which the kernels use beside tiles\n");
        return 77;
    }
    printf("amx: %s\n", emulated ? "emulated, this CPU lacks it" : "on this CPU");
    return cmocka_run_group_tests(tests, start_pool, stop_pool);
}
#else
int main(void)
{
    printf("amx: not run, this CPU is of another kind\n");
    return 77;
}
#endif
