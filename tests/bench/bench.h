/* tests/bench/bench.h: what every benchmark prints of its machine, and how it takes a median. */
#ifndef CALORIS_BENCH_H
#define CALORIS_BENCH_H

#include <stddef.h>

/* The CPU's model name without commas. Returns text. */
enum { BENCH_MACHINE = 96 };
const char *bench_machine(char text[BENCH_MACHINE]);

/* The commit it was built from, as of the last configuration. */
const char *bench_commit(void);

/* Sorts x [n]. */
double bench_median(double *x, size_t n);

/* Numbers in (-1, 1), none zero or denormal; malloc'd, 64-byte aligned; NULL without memory. */
float *bench_numbers(size_t n);

#endif
