/* tests/unit/kernels_support.h: a pool, numbers, and every instruction set in turn. */
#ifndef CALORIS_TESTS_KERNELS_SUPPORT_H
#define CALORIS_TESTS_KERNELS_SUPPORT_H

#include "worker/kernels/kernels.h"

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

/* Fails unless both have the same bits; NaN is NaN. */
void same_float(const char *what, const char *isa, size_t at, float found, float wanted);

/* 64-byte aligned, and no zeros. Free with free. */
void *memory_of(size_t bytes);

/* The matrix of these numbers, filled in two parts, the last first. Free its data. */
struct caloris_matrix made(enum caloris_format format, size_t out, size_t in, const float *numbers);

/* caloris_gemm with scratch of its own. */
void multiply(const struct caloris_matrix *matrix, const float *x, size_t x_stride, size_t rows,
              float *y, size_t y_stride, float beta);

/* Weight k of output o of an int4 matrix, by the picture in docs/KERNELS.md. */
int int4_weight(const struct caloris_matrix *matrix, size_t o, size_t k);

/* Calls check(isa) with each instruction set forced that this CPU has; says which it has not. */
void on_every_isa(void (*check)(const char *isa));

#endif
