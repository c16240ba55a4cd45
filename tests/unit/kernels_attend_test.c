/* Attention, the choice of kernels, and what is said of OpenBLAS. */
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
#include <unistd.h>

#include <cmocka.h>

/* ---- attention
 * --------------------------------------------------------------------------------------- */

enum { MOST_HEADS = 8, PAD = 3 };

/* K and V are read as one dtype or the other; every test goes over both. */
static enum caloris_dtype kv_dtype;

struct canvas {
    struct caloris_attention a;
    float *q, *k, *v;
    uint16_t *half; /* K, then V, as bf16 */
    size_t kv_numbers;
    uint32_t kv_of[MOST_HEADS];
};

static const struct {
    size_t q_rows, kv_rows, heads, kv_heads, head_dim;
    float spread; /* of q: how far scores lie apart */
} shapes[] = {
    {1, 1, 1, 1, 1, 1},      {1, 64, 2, 2, 16, 3},   {64, 1, 2, 1, 8, 1},
    {3, 65, 4, 2, 17, 3},    {65, 63, 3, 3, 33, 1},  {70, 130, 8, 2, 64, 9},
    {33, 200, 2, 1, 128, 4}, {5, 300, 2, 2, 96, 60}, {130, 7, 6, 3, 20, 1000},
    {2, 129, 1, 1, 144, 1},  {0, 5, 2, 2, 8, 1},     {128, 128, 2, 2, 5, 2},
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static struct canvas made_canvas(size_t shape)
{
    size_t heads = shapes[shape].heads, kv_heads = shapes[shape].kv_heads;
    size_t dim = shapes[shape].head_dim;
    struct canvas c = {.a = {.q_rows = shapes[shape].q_rows,
                             .kv_rows = shapes[shape].kv_rows,
                             .q_stride = heads * dim + PAD,
                             .kv_stride = 2 * kv_heads * dim + PAD,
                             .kv_head_stride = dim,
                             .out_stride = heads * dim + 2 * PAD,
                             .heads = heads,
                             .head_dim = dim}};
    c.a.q = c.q = rolled(c.a.q_rows * c.a.q_stride, shapes[shape].spread);
    c.kv_numbers = c.a.kv_rows * c.a.kv_stride;
    if (shape % 2 == 1) { /* head by head instead of row by row */
        c.a.kv_stride = dim + 1;
        c.a.kv_head_stride = c.a.kv_rows * (dim + 1);
    }
    c.k = rolled(c.kv_numbers, 1);
    c.v = rolled(c.kv_numbers, 1);
    c.half = calloc(2 * c.kv_numbers, sizeof(*c.half));
    assert_non_null(c.half);
    c.a.out = filled(c.a.q_rows * c.a.out_stride, NAN);
    for (size_t h = 0; h < heads; h++)
        c.kv_of[h] = (uint32_t)(h * kv_heads / heads);
    return c;
}

static void free_canvas(struct canvas *c)
{
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->half);
    free(c->a.out);
}

static void attend(struct canvas *canvases, size_t n)
{
    struct caloris_attention list[SHAPES];
    size_t scratch = 0;
    for (size_t i = 0; i < n; i++) {
        struct canvas *c = &canvases[i];
        const size_t numbers = c->kv_numbers;
        c->a.kv_of = c->kv_of;
        c->a.kv_dtype = kv_dtype;
        c->a.k = c->k;
        c->a.v = c->v;
        if (kv_dtype == CALORIS_DTYPE_BF16) {
            caloris_round_row(c->k, numbers, c->half);
            caloris_round_row(c->v, numbers, c->half + numbers);
            c->a.k = c->half;
            c->a.v = c->half + numbers;
        }
        list[i] = c->a;
        size_t one = caloris_attention_scratch(c->a.head_dim);
        scratch = one > scratch ? one : scratch;
    }
    float *memory = filled(scratch * (size_t)caloris_pool_threads(pool), NAN);
    caloris_attend(pool, list, n, memory);
    free(memory);
}

/* As attention with that dtype reads it. */
static double as_read(float x)
{
    uint16_t half;
    if (kv_dtype == CALORIS_DTYPE_BF16) {
        caloris_round_row(&x, 1, &half);
        caloris_convert_to_f32(CALORIS_DTYPE_BF16, &half, &x, 1);
    }
    return (double)x;
}

/* softmax(q kᵀ / √d) v in double. */
static void check_output(const char *isa, const struct canvas *c, size_t r, size_t h)
{
    const struct caloris_attention *a = &c->a;
    size_t dim = a->head_dim, kv = c->kv_of[h] * a->kv_head_stride;
    double *score = malloc(a->kv_rows * sizeof(*score)), peak = -(double)INFINITY, mass = 0,
           size = 0;
    assert_non_null(score);
    for (size_t j = 0; j < a->kv_rows; j++) {
        double terms = 0;
        score[j] = 0;
        for (size_t d = 0; d < dim; d++) {
            double term = as_read(a->q[r * a->q_stride + h * dim + d]) *
                          as_read(c->k[j * a->kv_stride + kv + d]) / sqrt((double)dim);
            score[j] += term;
            terms += fabs(term);
        }
        size = isfinite(terms) ? fmax(size, terms) : size;
        peak = fmax(peak, score[j]);
    }
    for (size_t j = 0; j < a->kv_rows; j++)
        mass += exp(score[j] - peak);
    /* The error of a score is relative to its terms, and a score is an exponent. */
    double tolerance = FLT_EPSILON * (4 + 4 * size);
    /* Of a mean of numbers below 1 whose weights, and so their sum, are off by 2^-9 at most. */
    if (kv_dtype == CALORIS_DTYPE_BF16)
        tolerance += 0x1p-8;
    for (size_t d = 0; d < dim; d++) {
        double wanted = 0;
        for (size_t j = 0; j < a->kv_rows; j++)
            wanted += exp(score[j] - peak) / mass * as_read(c->v[j * a->kv_stride + kv + d]);
        size_t at = r * a->out_stride + h * dim + d;
        check_near("attention", isa, at, (double)a->out[at], wanted, tolerance);
    }
    free(score);
}

static void check_attention(const char *isa)
{
    for (size_t shape = 0; shape < SHAPES; shape++) {
        struct canvas c = made_canvas(shape);
        attend(&c, 1);
        for (size_t r = 0; r < c.a.q_rows; r++) {
            for (size_t h = 0; h < c.a.heads; h++)
                check_output(isa, &c, r, h);
            for (size_t i = c.a.heads * c.a.head_dim; i < c.a.out_stride; i++)
                assert_true(isnan(c.a.out[r * c.a.out_stride + i])); /* not ours */
        }
        free_canvas(&c);
    }
}

/* With K and V as fp32 and as bf16. */
static void on_every_isa_and_dtype(void (*check)(const char *isa))
{
    for (int bf16 = 0; bf16 < 2; bf16++) {
        kv_dtype = bf16 ? CALORIS_DTYPE_BF16 : CALORIS_DTYPE_F32;
        on_every_isa(check);
    }
}

static void attention_is_right(void **state)
{
    (void)state;
    on_every_isa_and_dtype(check_attention);
}

/* Three canvases in one step; a row of the middle one has the same bits as when it is the only row
 * of the step. */
static void check_company(const char *isa)
{
    struct canvas three[] = {made_canvas(5), made_canvas(5), made_canvas(5)};
    three[0].a.kv_rows = 129;
    three[2].a.q_rows = 11;
    attend(three, 3);
    struct canvas one = three[1];
    size_t width = one.a.heads * one.a.head_dim;
    one.a.out = filled(width, 0);
    one.a.q_rows = 1;
    for (size_t r = 0; r < three[1].a.q_rows; r++) {
        one.a.q = three[1].q + r * one.a.q_stride;
        attend(&one, 1);
        if (memcmp(one.a.out, three[1].a.out + r * one.a.out_stride, width * sizeof(float)) != 0)
            fail_msg("%s kernels: query row %zu differs from itself alone", isa, r);
    }
    free(one.a.out);
    for (size_t i = 0; i < 3; i++)
        free_canvas(&three[i]);
}

static void a_row_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    on_every_isa_and_dtype(check_company);
}

/* What is not a number must not vanish in a maximum, and -infinity is a score like others. */
static void check_special(const char *isa)
{
    static const struct {
        float q, k; /* k: of key 70, in the second tile */
        bool nan;
    } cases[] = {{NAN, 1, true},
                 {1, NAN, true},
                 {1, INFINITY, true},
                 {1, -INFINITY, false},
                 {INFINITY, 1, true}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct canvas canvas = made_canvas(11);
        canvas.a.heads = 1;
        size_t dim = canvas.a.head_dim;
        for (size_t d = 0; d < dim; d++) {
            canvas.q[3 * canvas.a.q_stride + d] = 0.5f;
            for (size_t j = 0; j < canvas.a.kv_rows; j++)
                canvas.k[j * canvas.a.kv_stride + d] = 0.25f;
        }
        canvas.q[3 * canvas.a.q_stride] = cases[c].q;
        canvas.k[70 * canvas.a.kv_stride] = cases[c].k;
        attend(&canvas, 1);
        for (size_t d = 0; d < dim; d++)
            assert_int_equal(isnan(canvas.a.out[3 * canvas.a.out_stride + d]) != 0, cases[c].nan);
        if (cases[c].q == 1 && cases[c].k == -INFINITY) /* the other keys share the weight */
            check_near("without key 70", isa, 0, (double)canvas.a.out[3 * canvas.a.out_stride], 0,
                       1);
        free_canvas(&canvas);
    }
    struct canvas first = made_canvas(11); /* nothing but -infinity in the whole first tile */
    first.a.heads = 1;
    for (size_t r = 0; r < first.a.q_rows; r++)
        first.q[r * first.a.q_stride] = 1;
    for (size_t j = 0; j < 64; j++)
        first.k[j * first.a.kv_stride] = -INFINITY;
    attend(&first, 1);
    for (size_t r = 0; r < first.a.q_rows; r++)
        check_output(isa, &first, r, 0);
    free_canvas(&first);
}

static void nan_goes_through_attention(void **state)
{
    (void)state;
    on_every_isa_and_dtype(check_special);
}

/* ---- rounding
 * ---------------------------------------------------------------------------------------- */

static const struct {
    uint32_t from; /* bits of a float */
    uint16_t to;
} roundings[] = {
    {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82},
    {0xbf817fff, 0xbf81}, {0x80000000, 0x8000}, {0x00000001, 0x0000}, {0x00018000, 0x0002},
    {0x7f7f7fff, 0x7f7f}, {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
    {0x7f800001, 0x7fc0}, {0xffffffff, 0xffff}, {0x7fc00000, 0x7fc0}, {0x40490fdb, 0x4049},
};
enum { ROUNDINGS = sizeof(roundings) / sizeof(roundings[0]), MOST_ROUNDED = 2 * ROUNDINGS + 3 };

/* Any number of them, to another place and in place. */
static void check_rounding(const char *isa)
{
    for (size_t n = 0; n <= MOST_ROUNDED; n++) {
        float from[MOST_ROUNDED];
        uint16_t to[MOST_ROUNDED + 1] = {0};
        for (size_t i = 0; i < MOST_ROUNDED; i++)
            memcpy(&from[i], &roundings[i % ROUNDINGS].from, sizeof(from[i]));
        to[n] = 1234;
        caloris_round_row(from, n, to);
        caloris_round_row(from, n, (uint16_t *)(void *)from);
        assert_int_equal(to[n], 1234);
        for (size_t i = 0; i < n; i++) {
            if (to[i] != roundings[i % ROUNDINGS].to)
                fail_msg("%s kernels: %08x becomes %04x, not %04x", isa,
                         roundings[i % ROUNDINGS].from, to[i], roundings[i % ROUNDINGS].to);
        }
        assert_memory_equal(from, to, n * sizeof(*to));
    }
}

static void rows_are_rounded_to_bf16(void **state)
{
    (void)state;
    on_every_isa(check_rounding);
}

/* ---- the same bits
 * ------------------------------------------------------------------------------------ */

enum { ROWS = 7, WIDTH = 1003, OUTPUT = 4 * ROWS * WIDTH };

static void row_kernels(float *out)
{
    float *x = rolled(ROWS * 2 * WIDTH, 30), *table = filled(ROWS * 100, 0);
    uint32_t position[ROWS] = {0, 1, 2, 3, 4, 5, 6};
    double sums[2] = {0, 0};
    caloris_rmsnorm(pool, x, x, 1e-6f, ROWS, WIDTH, out);
    caloris_swiglu(pool, x, ROWS, WIDTH, out + ROWS * WIDTH);
    memcpy(out + 2 * ROWS * WIDTH, x, ROWS * WIDTH * sizeof(float));
    caloris_rope_table(1e4, 100, ROWS, table);
    caloris_rope(pool, out + 2 * ROWS * WIDTH, WIDTH, ROWS, 10, 100, 100, position, table);
    memcpy(out + 3 * ROWS * WIDTH, x + ROWS * WIDTH, ROWS * WIDTH * sizeof(float));
    caloris_guide(out + 3 * ROWS * WIDTH, x, 0.7f, WIDTH);
    caloris_add(pool, out + 3 * ROWS * WIDTH + WIDTH, x, WIDTH);
    caloris_exp_sums(x, WIDTH, 30, &sums[0], &sums[1]);
    memcpy(out + 3 * ROWS * WIDTH + 2 * WIDTH, sums, sizeof(sums));
    free(x);
    free(table);
}

static float *portable_bits;

static void check_bits(const char *isa)
{
    if (strcmp(isa, "ref") == 0)
        return;
    float *out = filled(OUTPUT, 0);
    row_kernels(out);
    if (!portable_bits) {
        portable_bits = out;
        return;
    }
    for (size_t i = 0; i < OUTPUT; i++) {
        if (memcmp(&out[i], &portable_bits[i], sizeof(float)) != 0)
            fail_msg("%s kernels, number %zu: %.9g, portable %.9g", isa, i, (double)out[i],
                     (double)portable_bits[i]);
    }
    free(out);
}

static void vector_kernels_agree_to_the_bit(void **state)
{
    (void)state;
    on_every_isa(check_bits);
    free(portable_bits);
}

/* ---- choice
 * ------------------------------------------------------------------------------------------- */

static void unknown_kernels_are_refused(void **state)
{
    (void)state;
    struct caloris_err err;
    assert_int_equal(caloris_kernels_force("sse9", &err), -1);
    assert_int_equal(err.code, CALORIS_USAGE);
    assert_non_null(strstr(err.text, "\"sse9\""));
    assert_string_equal(caloris_kernels_isa(0, NULL), "ref");
    assert_null(caloris_kernels_isa(1000, NULL));
}

static void has(const char *isa, bool *runs_here)
{
    const char *name;
    for (size_t i = 0; (name = caloris_kernels_isa(i, runs_here)); i++) {
        if (strcmp(name, isa) == 0)
            return;
    }
    *runs_here = false;
}

/* This program again, with OPENBLAS_CORETYPE set: prints what the library says of itself. */
static void ask(const char *coretype, char *line, size_t size)
{
    char self[512] = "", command[700];
    assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    snprintf(command, sizeof(command), "OPENBLAS_CORETYPE='%s' '%s' --blas", coretype, self);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, (int)size, pipe));
    assert_int_equal(pclose(pipe), 0);
}

static void a_core_below_the_cpu_is_said(void **state)
{
    (void)state;
    static const struct {
        const char *coretype, *needs, *says;
    } cases[] = {
        {"Prescott", "avx2", "Prescott"},
        {"Nehalem", "avx2", "OPENBLAS_CORETYPE=Nehalem is set"},
        {"Haswell", "avx512", "AVX-512"},
        {"SkylakeX", "avx512", "| fits"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool runs_here;
        char line[600] = "";
        has(cases[i].needs, &runs_here);
        if (!runs_here) {
            print_message("not run, this CPU lacks it: %s\n", cases[i].needs);
            continue;
        }
        ask(cases[i].coretype, line, sizeof(line));
        if (!strstr(line, "OpenBLAS 0.") || !strstr(line, cases[i].says))
            fail_msg("OPENBLAS_CORETYPE=%s: %s", cases[i].coretype, line);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--blas") == 0) {
        caloris_kernels_init();
        const char *warning = caloris_kernels_blas_warning();
        printf("%s | %s\n", caloris_kernels_blas(), warning ? warning : "fits");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_right),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_company),
        cmocka_unit_test(nan_goes_through_attention),
        cmocka_unit_test(rows_are_rounded_to_bf16),
        cmocka_unit_test(vector_kernels_agree_to_the_bit),
        cmocka_unit_test(unknown_kernels_are_refused),
        cmocka_unit_test(a_core_below_the_cpu_is_said),
    };
    return cmocka_run_group_tests(tests, start_pool, stop_pool);
}
