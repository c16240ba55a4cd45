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
