/* tests/unit/kernels_support.h: a pool, numbers, and every instruction set in turn. */
#ifndef CALORIS_TESTS_KERNELS_SUPPORT_H
#define CALORIS_TESTS_KERNELS_SUPPORT_H

#include <stddef.h>

struct caloris_pool;

extern struct caloris_pool *pool; /* of three threads */
int start_pool(void **state);
int stop_pool(void **state);

/* In [-1, 1); the same row of numbers for every instruction set. */
float roll(void);

/* n numbers in [-scale, scale), or all the same. Free with free. */
float *rolled(size_t n, float scale);
float *filled(size_t n, float value);

/* Fails unless |found - wanted| <= tolerance; NaN is near NaN and infinity near itself. */
void check_near(const char *what, const char *isa, size_t at, double found, double wanted,
                double tolerance);

/* Calls check(isa) with each instruction set forced that this CPU has; says which it has not. */
void on_every_isa(void (*check)(const char *isa));

#endif
