/* tests/bench/attention: attention alone, of one canvas of a made-up layer: queries × keys, with K
 * and V in fp32 and in bf16, as they stand when they are kept. CSV on stdout.
 *
 *   attention [-t THREADS] [-i ISA] [-h HEADS] [-g KV_HEADS] [-d HEAD_DIM] [QUERIESxKEYS …]
 *
 * of_roofline: the larger of operations / peak of the dtype's products and bytes / bandwidth, over
 * the seconds; both measured in turn with the calls, and the best of each counts: neighbours on the
 * machine only ever make things slower. of_peak_cpu is operations / peak by the processor time of
 * the threads, which stands still while neighbours have the cores. Every call works on other keys,
 * more than any cache holds. What share of a step it is, bench_step prints.
 */
#include "base/err.h"
#include "base/time.h"
#include "tests/bench/bench.h"
#include "tests/bench/peak.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_SHAPES = 32, REPEATS = 25 };
static const size_t kept_bytes = (size_t)1 << 28; /* of K and V, gone through in turn */

struct bench {
    int threads;
    size_t heads, kv_heads, head_dim;
    struct caloris_pool *pool;
    float *numbers; /* kept_bytes of them */
    float *scratch;
    uint32_t *kv_of;
};

static double smallest(const double *x, int n)
{
    double least = x[0];
    for (int i = 1; i < n; i++)
        least = x[i] < least ? x[i] : least;
    return least;
}

/* Processor time of the whole process, shared out among its threads. */
static double cpu_seconds(const struct bench *b)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return ((double)now.tv_sec + (double)now.tv_nsec * 1e-9) / b->threads;
}

static int measure(const struct bench *b, const char *isa, enum caloris_dtype dtype, size_t queries,
                   size_t keys)
{
    const size_t width = b->heads * b->head_dim, kv = 2 * b->kv_heads * b->head_dim;
    const size_t canvas_bytes = keys * kv * caloris_dtype_bytes(dtype);
    const size_t canvases = kept_bytes / canvas_bytes;
    const enum caloris_format format =
        dtype == CALORIS_DTYPE_F32 ? CALORIS_FORMAT_FP32 : CALORIS_FORMAT_BF16;
    float *q = bench_numbers(queries * width), *out = bench_numbers(queries * width);
    double seconds[REPEATS], operation_s[REPEATS], byte_s[REPEATS];
    double cpu_s[REPEATS], operation_cpu_s[REPEATS];
    char machine[BENCH_MACHINE];
    if (!q || !out || canvases == 0) {
        fprintf(stderr, "attention: %zu x %zu is too large\n", queries, keys);
        free(q);
        free(out);
        return -1;
    }
    for (int i = -1; i < REPEATS; i++) { /* the first warms up */
        const char *k = (const char *)b->numbers + (size_t)(i + 1) % canvases * canvas_bytes;
        const struct caloris_attention canvas = {
            .q = q,
            .k = k,
            .v = k + canvas_bytes / 2,
            .out = out,
            .kv_dtype = dtype,
            .q_rows = queries,
            .kv_rows = keys,
            .q_stride = width,
            .kv_stride = b->head_dim,
            .kv_head_stride = keys * b->head_dim,
            .out_stride = width,
            .heads = b->heads,
            .head_dim = b->head_dim,
            .kv_of = b->kv_of,
        };
        uint64_t start = caloris_time_ns();
        double cpu = cpu_seconds(b);
        caloris_attend(b->pool, &canvas, 1, b->scratch);
        if (i < 0)
            continue;
        seconds[i] = (double)(caloris_time_ns() - start) * 1e-9;
        cpu_s[i] = cpu_seconds(b) - cpu;
        start = caloris_time_ns();
        cpu = cpu_seconds(b);
        operation_s[i] = 1 / bench_peak(b->pool, format);
        operation_cpu_s[i] =
            operation_s[i] * (cpu_seconds(b) - cpu) / ((double)(caloris_time_ns() - start) * 1e-9);
        byte_s[i] = 1 / bench_bandwidth(b->pool, b->numbers, kept_bytes);
    }
    const double operations = 4 * (double)queries * (double)keys * (double)width;
    const double bytes = (double)canvas_bytes + 2 * (double)(queries * width) * sizeof(float);
    const double of_operations = operations * smallest(operation_s, REPEATS);
    const double of_bytes = bytes * smallest(byte_s, REPEATS);
    const double roofline = of_operations > of_bytes ? of_operations : of_bytes;
    const double best = smallest(seconds, REPEATS), median = bench_median(seconds, REPEATS);
    const double by_cpu = operations * bench_median(operation_cpu_s, REPEATS);
    printf("%s,%s,%s,%s,%d,%zu,%zu,%zu,%zu,%zu,%.6f,%.6f,%.1f,%s,%.6f,%.3f,%.3f,%.3f\n",
           bench_machine(machine), bench_commit(), isa,
           dtype == CALORIS_DTYPE_F32 ? "fp32" : "bf16", b->threads, b->heads, b->kv_heads,
           b->head_dim, queries, keys, median, best, operations / best * 1e-9,
           bench_peak_instruction(format), roofline, roofline / median, roofline / best,
           by_cpu / bench_median(cpu_s, REPEATS));
    fflush(stdout);
    free(q);
    free(out);
    return 0;
}

static int prepare(struct bench *b, struct caloris_err *err)
{
    const size_t floats = (size_t)b->threads * caloris_attention_scratch(b->head_dim);
    b->pool = caloris_pool_new(b->threads, err);
    b->numbers = bench_numbers(kept_bytes / sizeof(float));
    b->scratch = bench_numbers(floats);
    b->kv_of = calloc(b->heads, sizeof(*b->kv_of));
    if (!b->pool || !b->numbers || !b->scratch || !b->kv_of)
        return -1;
    /* Halves that are bf16 numbers of the same size: the high half of a float is one, the low half
     * is made so, too. */
    for (size_t i = 0; i < kept_bytes / sizeof(float); i++) {
        uint32_t bits;
        memcpy(&bits, b->numbers + i, sizeof(bits));
        bits = (bits & 0xffff0000) | bits >> 16;
        memcpy(b->numbers + i, &bits, sizeof(bits));
    }
    for (size_t h = 0; h < b->heads; h++)
        b->kv_of[h] = (uint32_t)(h * b->kv_heads / b->heads);
    return 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: attention [-t THREADS] [-i ISA] [-h HEADS] [-g KV_HEADS] [-d HEAD_DIM] "
                    "[QUERIESxKEYS …]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct bench b = {.threads = 2, .heads = 32, .kv_heads = 32, .head_dim = 128};
    struct caloris_err err = {0};
    const char *isa = NULL;
    size_t shapes[MAX_SHAPES][2] = {{512, 512}, {32, 544}}, n = 2, given = 0;
    caloris_kernels_init();
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "-t") == 0 && ++i)
            b.threads = atoi(next);
        else if (strcmp(argv[i], "-i") == 0 && ++i)
            isa = next;
        else if (strcmp(argv[i], "-h") == 0 && ++i)
            b.heads = (size_t)atoi(next);
        else if (strcmp(argv[i], "-g") == 0 && ++i)
            b.kv_heads = (size_t)atoi(next);
        else if (strcmp(argv[i], "-d") == 0 && ++i)
            b.head_dim = (size_t)atoi(next);
        else if (given < MAX_SHAPES &&
                 sscanf(argv[i], "%zux%zu", &shapes[given][0], &shapes[given][1]) == 2 &&
                 shapes[given][0] > 0 && shapes[given][1] > 0)
            n = ++given;
        else
            return usage();
    }
    if (b.threads < 1 || b.kv_heads < 1 || b.heads < b.kv_heads || b.head_dim < 1)
        return usage();
    if ((isa && caloris_kernels_force(isa, &err) < 0) || prepare(&b, &err) < 0) {
        fprintf(stderr, "attention: %s\n", err.text[0] ? err.text : "no memory");
        return 1;
    }
    puts("machine,commit,isa,kv,threads,heads,kv_heads,head_dim,queries,keys,median_s,best_s,"
         "best_gflops,peak_instruction,roofline_s,of_roofline,of_roofline_best,"
         "of_peak_cpu");
    int status = 0;
    for (size_t i = 0; i < 2 * n && status == 0; i++)
        status = measure(&b, isa ? isa : "best", i % 2 ? CALORIS_DTYPE_BF16 : CALORIS_DTYPE_F32,
                         shapes[i / 2][0], shapes[i / 2][1]);
    caloris_pool_free(b.pool);
    free(b.numbers);
    free(b.scratch);
    free(b.kv_of);
    return status < 0;
}
