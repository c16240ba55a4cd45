/* tests/bench/peak.h: what this machine can do at best: bare instruction loops, and a loop that
 * only reads memory. */
#ifndef CALORIS_BENCH_PEAK_H
#define CALORIS_BENCH_PEAK_H

#include <stddef.h>

#include "worker/kernels/kernels.h"

struct caloris_pool;

/* The fastest instruction that this CPU has for products in that format, and its operations (a
 * multiplication and an addition are two) a second with all threads, in a run of some ms. */
const char *bench_peak_instruction(enum caloris_format format);
double bench_peak(struct caloris_pool *pool, enum caloris_format format);

/* Bytes a second that all threads read of bytes at from. */
double bench_bandwidth(struct caloris_pool *pool, const void *from, size_t bytes);

#endif
