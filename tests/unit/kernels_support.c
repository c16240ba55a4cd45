#include "tests/unit/kernels_support.h"

#include "base/err.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct caloris_pool *pool;

static uint32_t dice;

/* In [-1, 1). */
float roll(void)
{
    dice = dice * 1664525 + 1013904223;
    return (float)(int32_t)dice * 0x1p-31f;
}

float *rolled(size_t n, float scale)
{
    float *x = malloc((n ? n : 1) * sizeof(*x));
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = roll() * scale;
    return x;
}

float *filled(size_t n, float value)
{
    float *x = malloc((n ? n : 1) * sizeof(*x));
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = value;
    return x;
}

/* NaN is near NaN and infinity near itself; else |found - wanted| <= tolerance. */
static bool is_near(double found, double wanted, double tolerance)
{
    if (isnan(wanted) || isnan(found))
        return isnan(wanted) && isnan(found);
    return found == wanted || fabs(found - wanted) <= tolerance;
}

void check_near(const char *what, const char *isa, size_t at, double found, double wanted,
                double tolerance)
{
    if (!is_near(found, wanted, tolerance))
        fail_msg("%s, %s kernels, number %zu: %.9g, not %.9g within %g", what, isa, at, found,
                 wanted, tolerance);
}

void *memory_of(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    assert_non_null(memory);
    memset(memory, 0xa5, bytes); /* whoever relies on zeros shall see */
    return memory;
}

struct caloris_matrix made(enum caloris_format format, size_t out, size_t in, const float *numbers)
{
    struct caloris_matrix matrix;
    caloris_matrix_place(&matrix, format, out, in,
                         memory_of(caloris_matrix_bytes(format, out, in)));
    for (size_t o = 0; o < out && matrix.scale; o++) {
        float absmax = 0;
        caloris_matrix_absmax(numbers + o * in, CALORIS_DTYPE_F32, 1, in / 3, &absmax);
        caloris_matrix_absmax(numbers + o * in + in / 3, CALORIS_DTYPE_F32, 1, in - in / 3,
                              &absmax);
        matrix.scale[o] = caloris_matrix_scale(absmax);
    }
    size_t first = out / 3;
    caloris_matrix_fill(&matrix, first, out - first, numbers + first * in, CALORIS_DTYPE_F32);
    caloris_matrix_fill(&matrix, 0, first, numbers, CALORIS_DTYPE_F32);
    return matrix;
}

void multiply(const struct caloris_matrix *matrix, const float *x, size_t x_stride, size_t rows,
              float *y, size_t y_stride, float beta)
{
    size_t bytes =
        caloris_gemm_scratch_bytes(matrix->format, rows, matrix->in, caloris_pool_threads(pool));
    void *scratch = memory_of(bytes);
    caloris_gemm(pool, matrix, x, x_stride, rows, y, y_stride, beta, scratch);
    free(scratch);
}

int int4_weight(const struct caloris_matrix *matrix, size_t o, size_t k)
{
    const size_t blocks = (matrix->in + 63) / 64, line = k % 64 / 8, run = k % 64 / 16;
    const unsigned char *block = (const unsigned char *)matrix->data +
                                 o / 16 * (64 + blocks * 576) + 64 + k / 64 * 576 + o % 16 * 4;
    const unsigned char what = block[run], two = block[64 + line * 64 + k % 4];
    return ((k % 8 < 4 ? two & 15 : two >> 4) - what / 16) * (what % 16 + 1);
}

void same_float(const char *what, const char *isa, size_t at, float found, float wanted)
{
    if (isnan(found) && isnan(wanted))
        return;
    if (memcmp(&found, &wanted, sizeof(found)) != 0)
        fail_msg("%s, %s kernels, number %zu: %a, not %a", what, isa, at, (double)found,
                 (double)wanted);
}

/* Calls check(isa) with each instruction set forced that this CPU has; says which it has not. */
void on_every_isa(void (*check)(const char *isa))
{
    const char *isa;
    bool runs_here;
    for (size_t i = 0; (isa = caloris_kernels_isa(i, &runs_here)); i++) {
        struct caloris_err err;
        if (!runs_here) {
            assert_int_equal(caloris_kernels_force(isa, &err), -1);
            print_message("not run, this CPU lacks it: %s\n", isa);
            continue;
        }
        assert_int_equal(caloris_kernels_force(isa, &err), 0);
        dice = 1;
        check(isa);
    }
}

int start_pool(void **state)
{
    (void)state;
    caloris_kernels_init();
    pool = caloris_pool_new(3, NULL);
    return pool ? 0 : -1;
}

int stop_pool(void **state)
{
    (void)state;
    caloris_pool_free(pool);
    return 0;
}
