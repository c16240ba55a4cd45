/* Units of packed matrices, and the checksum that shard files have: a matrix that is put together
 * of units cut elsewhere is the one that the same numbers were packed into. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/size.h"
#include "tests/unit/kernels_support.h"
#include "worker/kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct caloris_matrix make(enum caloris_format format, size_t out, size_t in)
{
    struct caloris_matrix matrix;
    const size_t bytes = caloris_matrix_bytes(format, out, in);
    void *memory = aligned_alloc(64, bytes + 64);
    assert_non_null(memory);
    memset(memory, 0, bytes + 64);
    caloris_matrix_place(&matrix, format, out, in, memory);
    return matrix;
}

/* The matrix of these numbers. */
static struct caloris_matrix pack(enum caloris_format format, size_t out, size_t in,
                                  const float *numbers)
{
    struct caloris_matrix matrix = make(format, out, in);
    for (size_t i = 0; matrix.scale && i < out; i++) {
        float absmax = 0;
        caloris_matrix_absmax(numbers + i * in, CALORIS_DTYPE_F32, 1, in, &absmax);
        matrix.scale[i] = caloris_matrix_scale(absmax);
    }
    caloris_matrix_fill(&matrix, 0, out, numbers, CALORIS_DTYPE_F32);
    return matrix;
}

/* A matrix [out, in] cut into units along its rows or columns, and put together in a larger one
 * from [row, col] on; the larger one's other numbers come from elsewhere. */
static const struct {
    size_t out, in;
    size_t unit; /* rows or columns of one */
    bool deep;   /* cut along the columns */
    size_t larger_out, larger_in, row, col;
} cases[] = {
    {32, 64, 16, false, 32, 64, 0, 0},     /* all in place */
    {48, 64, 16, false, 80, 64, 16, 0},    /* whole panels, further down */
    {48, 64, 12, false, 80, 64, 12, 0},    /* heads of 12 rows: panels are shared */
    {40, 20, 16, false, 67, 20, 27, 0},    /* ragged, and behind a ragged neighbour */
    {33, 64, 16, true, 33, 128, 0, 64},    /* columns that stand in groups */
    {17, 88, 16, true, 17, 104, 0, 16},    /* the last unit is short */
    {20, 42, 6, true, 20, 60, 0, 18},      /* heads of 6 columns: groups are shared */
    {5, 90, 10, true, 9, 99, 4, 9},        /* nothing fits anything */
    {16, 4100, 4100, true, 16, 4100, 0, 0} /* sums of more lines than 16 bits hold */
};

/* Bit for bit the same products. INT4 has several ways to pad with zeros. */
static bool alike(const struct caloris_matrix *a, const struct caloris_matrix *b)
{
    enum { ROWS = 3 };
    const size_t bytes = caloris_gemm_scratch_bytes(a->format, ROWS, a->in, 3);
    float *x = rolled(ROWS * a->in, 1);
    float *y = calloc(2 * ROWS * a->out, sizeof(*y)), *z = y + ROWS * a->out;
    void *scratch = aligned_alloc(64, caloris_size_round_up(bytes + 1, 64));
    assert_true(y && scratch);
    caloris_gemm(pool, a, x, a->in, ROWS, y, a->out, 0, scratch);
    caloris_gemm(pool, b, x, a->in, ROWS, z, a->out, 0, scratch);
    const bool same = memcmp(y, z, ROWS * a->out * sizeof(*y)) == 0;
    free(x);
    free(y);
    free(scratch);
    return same && (a->format == CALORIS_FORMAT_INT4 ||
                    memcmp(a->data, b->data, caloris_matrix_bytes(a->format, a->out, a->in)) == 0);
}

static bool whole_runs(size_t i)
{
    return cases[i].col % CALORIS_INT4_RUN == 0 &&
           (!cases[i].deep || cases[i].unit % CALORIS_INT4_RUN == 0 ||
            cases[i].unit == cases[i].in);
}

static void check_case(enum caloris_format format, size_t i)
{
    const size_t out = cases[i].out, in = cases[i].in, unit = cases[i].unit;
    const size_t all_out = cases[i].larger_out, all_in = cases[i].larger_in;
    const size_t units = ((cases[i].deep ? in : out) + unit - 1) / unit;
    float *numbers = rolled(all_out * all_in, 3);
    struct caloris_matrix wanted = pack(format, all_out, all_in, numbers);
    struct caloris_matrix found = make(format, all_out, all_in);
    if (found.scale)
        memcpy(found.scale, wanted.scale, all_out * sizeof(float));
    /* Row by row, but for the rectangle, which comes in units. */
    for (size_t r = 0; r < all_out; r++) {
        const bool beside = r >= cases[i].row && r < cases[i].row + out;
        const size_t parts[2][2] = {{0, beside ? cases[i].col : all_in},
                                    {beside ? cases[i].col + in : all_in, all_in}};
        for (int p = 0; p < 2; p++) {
            const size_t n = parts[p][1] - parts[p][0];
            if (n == 0)
                continue;
            void *part = malloc(caloris_unit_bytes(format, 1, n));
            caloris_unit_get(&wanted, r, parts[p][0], 1, n, part);
            caloris_unit_put(&found, r, parts[p][0], 0, 0, 1, 1, n, part);
            free(part);
        }
    }
    const size_t unit_out = cases[i].deep ? out : unit, unit_in = cases[i].deep ? unit : in;
    const size_t bytes = caloris_unit_bytes(format, unit_out, unit_in);
    assert_int_equal(bytes % 64, 0);
    char *cut = malloc(units * bytes);
    size_t whole = 0, out_last = unit_out, in_last = unit_in;
    for (size_t u = 0; u < units; u++) {
        const size_t left = (cases[i].deep ? in : out) - u * unit;
        out_last = !cases[i].deep && left < unit ? left : unit_out;
        in_last = cases[i].deep && left < unit ? left : unit_in;
        caloris_unit_get(&wanted, cases[i].row + (cases[i].deep ? 0 : u * unit),
                         cases[i].col + (cases[i].deep ? u * unit : 0), out_last, in_last,
                         cut + u * bytes);
        whole += out_last == unit_out && in_last == unit_in;
    }
    const size_t down = cases[i].deep ? 0 : unit, right = cases[i].deep ? unit : 0;
    caloris_unit_put(&found, cases[i].row, cases[i].col, down, right, whole, unit_out, unit_in,
                     cut);
    if (whole < units)
        caloris_unit_put(&found, cases[i].row + whole * down, cases[i].col + whole * right, 0, 0, 1,
                         out_last, in_last, cut + whole * bytes);
    if (!alike(&found, &wanted))
        fail_msg("%s, case %zu: put together otherwise than packed", caloris_format_name(format),
                 i);
    free(cut);
    free(numbers);
    free(found.data);
    free(wanted.data);
}

static void units_make_the_matrix(void **state)
{
    (void)state;
    for (int f = 0; f < CALORIS_FORMATS; f++) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            if (f != CALORIS_FORMAT_INT4 || whole_runs(i))
                check_case((enum caloris_format)f, i);
        }
    }
}

static void sizes_that_do_not_fit(void **state)
{
    (void)state;
    for (int f = 0; f < CALORIS_FORMATS; f++) {
        assert_true(caloris_unit_bytes((enum caloris_format)f, SIZE_MAX / 2, 64) == SIZE_MAX);
        assert_true(caloris_unit_bytes((enum caloris_format)f, 64, SIZE_MAX / 2) == SIZE_MAX);
        assert_int_equal(caloris_unit_bytes((enum caloris_format)f, 0, 64), 0);
    }
}

/* What comes out is what rounding made of what went in. */
static void numbers_are_read_back(void **state)
{
    enum { OUT = 21, IN = 37 }; /* INT4: half of a step of 17 or less, and what clipping takes */
    static const double off[CALORIS_FORMATS] = {0, 0x1p-9, 0.5 / 127, 20.0 / 127};
    (void)state;
    float *numbers = rolled((size_t)OUT * IN, 1), back[OUT * IN];
    for (int f = 0; f < CALORIS_FORMATS; f++) {
        struct caloris_matrix matrix = pack((enum caloris_format)f, OUT, IN, numbers);
        caloris_matrix_read(&matrix, 0, 5, back);
        caloris_matrix_read(&matrix, 5, OUT - 5, back + (size_t)5 * IN);
        for (size_t i = 0; i < (size_t)OUT * IN; i++)
            check_near("number", caloris_format_name((enum caloris_format)f), i, (double)back[i],
                       (double)numbers[i], off[f] * 1.0001);
        free(matrix.data);
    }
    free(numbers);
}

/* RFC 3720, appendix B.4, and the check value of every catalogue of CRCs. */
static void checksums_are_the_known_ones(void **state)
{
    unsigned char zeros[32] = {0}, ones[32], up[32], down[32];
    (void)state;
    memset(ones, 0xff, sizeof(ones));
    for (unsigned char i = 0; i < 32; i++) {
        up[i] = i;
        down[i] = (unsigned char)(31 - i);
    }
    const struct {
        const void *bytes;
        size_t n;
        uint32_t check;
    } known[] = {
        {zeros, 32, 0x8a9136aa}, {ones, 32, 0x62a8ab43},       {up, 32, 0x46dd794e},
        {down, 32, 0x113fdb5c},  {"123456789", 9, 0xe3069283}, {"", 0, 0},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        assert_int_equal(caloris_crc32c(0, known[i].bytes, known[i].n), known[i].check);
        assert_int_equal(caloris_crc32c_plain(0, known[i].bytes, known[i].n), known[i].check);
    }
}

/* By the instruction, in three runs or fewer, or plainly; at once or piece by piece. */
static void checksums_do_not_depend_on_how(void **state)
{
    enum { N = 9000 };
    static unsigned char bytes[N];
    (void)state;
    for (size_t i = 0; i < N; i++)
        bytes[i] = (unsigned char)(i * i >> 3 ^ i);
    for (size_t n = 0; n < N; n += n < 70 ? 1 : 353) {
        for (size_t from = 0; from < 9 && from < n; from += 4) {
            const uint32_t fast = caloris_crc32c(0, bytes + from, n - from);
            assert_int_equal(fast, caloris_crc32c_plain(0, bytes + from, n - from));
            const size_t cut = (n - from) / 3;
            assert_int_equal(fast, caloris_crc32c(caloris_crc32c(0, bytes + from, cut),
                                                  bytes + from + cut, n - from - cut));
        }
    }
}

int main(void)
{
    caloris_kernels_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_make_the_matrix),
        cmocka_unit_test(sizes_that_do_not_fit),
        cmocka_unit_test(numbers_are_read_back),
        cmocka_unit_test(checksums_are_the_known_ones),
        cmocka_unit_test(checksums_do_not_depend_on_how),
    };
    return cmocka_run_group_tests(tests, start_pool, stop_pool);
}
