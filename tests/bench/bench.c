#include "tests/bench/bench.h"

#include "tests/bench/commit.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *bench_machine(char text[BENCH_MACHINE])
{
    char line[256];
    snprintf(text, BENCH_MACHINE, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof(line), f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(text, BENCH_MACHINE, "%.90s", colon + 2);
        break;
    }
    if (f)
        fclose(f);
    for (char *comma = text; (comma = strchr(comma, ',')) != NULL;)
        *comma = ';';
    return text;
}

const char *bench_commit(void)
{
    return CALORIS_COMMIT;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *x, size_t n)
{
    qsort(x, n, sizeof(*x), by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

float *bench_numbers(size_t n)
{
    float *x = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
    uint32_t state = 1;
    for (size_t i = 0; x && i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(state >> 8) / (float)(1 << 23) - 0.9999f;
    }
    return x;
}
