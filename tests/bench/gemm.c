/* tests/bench/gemm: our matrix products against the roofline of this machine, on the matrices of
 * LLaDA-8B and LLaDA-1B. CSV on stdout.
 *
 * gemm [-t threads] [-f fp32|bf16|int8|int4] [-i isa] [-m model/matrix] [rows | first-last …]
 * gemm -l [-r rounds] … [first-last]
 *
 * A line's product, a bare loop of the fastest instruction for its format, a loop that only reads
 * memory and (fp32) a bare OpenBLAS sgemm with all threads take turns; the figures are medians.
 * Weights cycle through more memory than any cache holds. of_roofline is the larger of operations /
 * peak and bytes / bandwidth as a share of the time taken; bytes are the weights, x and y once.
 * of_roofline_best is the same of the fastest product, loop and reading: on a machine that others
 * use too the medians of one line may have met different weather. of_peak_cpu is operations / peak
 * by the processor time of the threads (where the bound is compute), which stands still while
 * others have the cores.
 *
 * -l, the ladder: every number of rows (1-512), in rounds, so that whoever else uses the machine
 * meets all of them, and of each the best round by wall clock and by processor time. No number of
 * rows should take longer than the next multiple of 16, to_next_16 is their ratio; to_previous that
 * to one row less. The worst of both, by processor time, are named on stderr.
 */
#include "base/err.h"
#include "base/time.h"
#include "tests/bench/bench.h"
#include "tests/bench/peak.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <cblas.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REPEATS = 41, MIN_REPEATS = 7, MAX_COPIES = 128, ROUNDS = 9 };
static const size_t weights_bytes = (size_t)384 << 20, stream_bytes = (size_t)64 << 20;
static const double seconds_per_line = 0.8;

/* OpenBLAS's own threads spin for 2^26 cycles after a call, on the cores that ours need next. */
enum { blas_spins_ms = 50 };

static const struct {
    const char *name;
    size_t out, in;
} shapes[] = {
    {"llada-8b/qkv", 3 * 4096, 4096},      {"llada-8b/o", 4096, 4096},
    {"llada-8b/gate+up", 2 * 12288, 4096}, {"llada-8b/down", 4096, 12288},
    {"llada-1b/qkv", 3 * 2048, 2048},      {"llada-1b/o", 2048, 2048},
    {"llada-1b/gate+up", 2 * 5632, 2048},  {"llada-1b/down", 2048, 5632},
};

struct bench {
    struct caloris_pool *pool;
    enum caloris_format format;
    const char *isa, *only; /* a shape or the beginning of one */
    int rounds;             /* of the ladder; 0: none */
    char machine[BENCH_MACHINE];
};

struct product {
    struct caloris_matrix matrix[MAX_COPIES];
    size_t copies, turn, rows;
    float *x, *y;
    void *scratch;
};

static void free_product(struct product *p)
{
    for (size_t i = 0; i < p->copies; i++)
        free(p->matrix[i].data);
    free(p->x);
    free(p->y);
    free(p->scratch);
}

/* The first copy is made from numbers, the others from it. */
static int add_copy(struct product *p, enum caloris_format format, size_t out, size_t in)
{
    size_t bytes = caloris_matrix_bytes(format, out, in);
    void *data = aligned_alloc((size_t)2 << 20, (bytes + ((size_t)2 << 20) - 1) >> 21 << 21);
    if (!data)
        return -1;
    struct caloris_matrix *matrix = &p->matrix[p->copies++];
    caloris_matrix_place(matrix, format, out, in, data);
    if (p->copies > 1) {
        memcpy(data, p->matrix[0].data, bytes);
        return 0;
    }
    float *numbers = bench_numbers(out * in);
    for (size_t i = 0; i < out && matrix->scale; i++)
        matrix->scale[i] = caloris_matrix_scale(1);
    if (numbers)
        caloris_matrix_fill(matrix, 0, out, numbers, CALORIS_DTYPE_F32);
    free(numbers);
    return numbers ? 0 : -1;
}

static int make_product(struct product *p, const struct bench *b, size_t shape, size_t max_rows)
{
    size_t out = shapes[shape].out, in = shapes[shape].in;
    size_t scratch =
        caloris_gemm_scratch_bytes(b->format, max_rows, in, caloris_pool_threads(b->pool));
    *p = (struct product){.x = bench_numbers(max_rows * in), .y = bench_numbers(max_rows * out)};
    p->scratch = aligned_alloc(64, (scratch + 64) / 64 * 64);
    int failed = !p->x || !p->y || !p->scratch;
    while (!failed && p->copies < MAX_COPIES &&
           (p->copies < 2 || p->copies * caloris_matrix_bytes(b->format, out, in) < weights_bytes))
        failed = add_copy(p, b->format, out, in);
    if (failed) {
        fprintf(stderr, "gemm: out of memory\n");
        free_product(p);
    }
    return failed ? -1 : 0;
}

static double seconds_since(uint64_t start)
{
    return (double)(caloris_time_ns() - start) * 1e-9;
}

/* Processor time of the whole process, shared out among its threads. */
static double cpu_seconds(const struct bench *b)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return ((double)now.tv_sec + (double)now.tv_nsec * 1e-9) / caloris_pool_threads(b->pool);
}

/* Operations a second of processor time. */
static double peak_by_cpu(const struct bench *b, double *by_clock)
{
    const uint64_t start = caloris_time_ns();
    const double cpu = cpu_seconds(b);
    *by_clock = bench_peak(b->pool, b->format);
    return *by_clock * seconds_since(start) / (cpu_seconds(b) - cpu);
}

static double ours(const struct bench *b, struct product *p)
{
    const struct caloris_matrix *m = &p->matrix[p->turn++ % p->copies];
    uint64_t start = caloris_time_ns();
    caloris_gemm(b->pool, m, p->x, m->in, p->rows, p->y, m->out, 0, p->scratch);
    return seconds_since(start);
}

static double bare_blas(const struct bench *b, struct product *p)
{
    const struct caloris_matrix *m = &p->matrix[p->turn++ % p->copies];
    openblas_set_num_threads(caloris_pool_threads(b->pool));
    uint64_t start = caloris_time_ns();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->rows, (int)m->out, (int)m->in,
                1.0f, p->x, (int)m->in, m->data, (int)m->in, 0.0f, p->y, (int)m->out);
    double seconds = seconds_since(start);
    openblas_set_num_threads(1);
    caloris_time_sleep_ms(blas_spins_ms);
    return seconds;
}

static double stream(const struct bench *b, const struct product *p)
{
    const struct caloris_matrix *m = &p->matrix[p->turn % p->copies];
    size_t bytes = caloris_matrix_bytes(m->format, m->out, m->in);
    return bench_bandwidth(b->pool, m->data, bytes < stream_bytes ? bytes : stream_bytes);
}

/* The roofline; peak 0: unknown. */
static double least_seconds(double operations, double bytes, double peak, double bandwidth)
{
    double by_peak = peak > 0 ? operations / peak : 0, by_memory = bytes / bandwidth;
    return by_peak > by_memory ? by_peak : by_memory;
}

static void measure(const struct bench *b, struct product *p, const char *shape)
{
    double seconds[MAX_REPEATS], peaks[MAX_REPEATS], streams[MAX_REPEATS], blas[MAX_REPEATS];
    double cpu[MAX_REPEATS], cpu_peaks[MAX_REPEATS];
    const struct caloris_matrix *m = &p->matrix[0];
    size_t n = 0;
    uint64_t start = caloris_time_ns();
    ours(b, p);
    for (; n < MAX_REPEATS && (n < MIN_REPEATS || seconds_since(start) < seconds_per_line); n++) {
        cpu_peaks[n] = peak_by_cpu(b, &peaks[n]);
        streams[n] = stream(b, p);
        p->turn++;
        ours(b, p); /* the caches as a product leaves them */
        cpu[n] = cpu_seconds(b);
        seconds[n] = ours(b, p);
        cpu[n] = cpu_seconds(b) - cpu[n];
        if (b->format == CALORIS_FORMAT_FP32)
            blas[n] = bare_blas(b, p);
    }
    const double operations = 2.0 * (double)p->rows * (double)m->out * (double)m->in;
    const double bytes = (double)caloris_matrix_bytes(m->format, m->out, m->in) +
                         (double)(p->rows * (m->in + m->out) * sizeof(float));
    const double peak = bench_median(peaks, n), bandwidth = bench_median(streams, n);
    const double took = bench_median(seconds, n);
    const bool computes = peak > 0 && operations / peaks[n - 1] > bytes / streams[n - 1];
    printf("%s,%s,%s,%d,%s,%s,%s,%zu,%zu,%zu,%.1f,%s,%.1f,%.1f,%.1f,%s,%.3f,%.3f,", b->machine,
           b->isa, bench_commit(), caloris_pool_threads(b->pool), caloris_kernels_blas(),
           caloris_format_name(b->format), shape, p->rows, m->out, m->in, took * 1e6,
           bench_peak_instruction(b->format), operations / took * 1e-9, peak * 1e-9,
           bandwidth * 1e-9, computes ? "compute" : "memory",
           least_seconds(operations, bytes, peak, bandwidth) / took,
           least_seconds(operations, bytes, peaks[n - 1], streams[n - 1]) / seconds[0]);
    if (computes)
        printf("%.3f", operations / bench_median(cpu_peaks, n) / bench_median(cpu, n));
    printf(",");
    if (b->format == CALORIS_FORMAT_FP32)
        printf("%.1f", operations / bench_median(blas, n) * 1e-9);
    printf("\n");
    fflush(stdout);
}

/* ---- every number of rows -------------------------------------------------------------------- */

struct rung {
    double us, cpu_us; /* the best round */
};

static double to(const struct rung *rung, const struct rung *other)
{
    return rung->cpu_us / other->cpu_us;
}

/* A line for each number of rows from first to last; ladder[0] is that of first, and they go on to
 * a multiple of 16. */
static void print_ladder(const struct bench *b, const struct product *p, const char *shape,
                         const struct rung *ladder, size_t first, size_t last)
{
    size_t slowest = first, steepest = first;
    double slow = 0, steep = 0;
    for (size_t rows = first; rows <= last; rows++) {
        const struct rung *mine = &ladder[rows - first];
        const struct rung *next = &ladder[(rows + 15) / 16 * 16 - first];
        const double to_next = to(mine, next);
        const double to_previous = rows > first ? to(mine, mine - 1) : 1;
        if (to_next > slow && mine != next) {
            slow = to_next;
            slowest = rows;
        }
        if (to_previous > steep) {
            steep = to_previous;
            steepest = rows;
        }
        printf("%s,%s,%s,%d,%s,%s,%zu,%zu,%zu,%.1f,%.1f,%.3f,%.3f,%.3f\n", b->machine, b->isa,
               bench_commit(), caloris_pool_threads(b->pool), caloris_format_name(b->format), shape,
               rows, p->matrix[0].out, p->matrix[0].in, mine->us, mine->cpu_us, mine->us / next->us,
               to_next, to_previous);
    }
    fprintf(stderr,
            "%s %s: worst of %zu-%zu rows: %zu take %.3f of the next multiple of 16, "
            "%zu take %.3f of one row less\n",
            caloris_format_name(b->format), shape, first, last, slowest, slow, steepest, steep);
}

static int climb(const struct bench *b, struct product *p, const char *shape, size_t first,
                 size_t last)
{
    const size_t most = (last + 15) / 16 * 16;
    struct rung *ladder = calloc(most - first + 1, sizeof(*ladder));
    if (!ladder)
        return -1;
    p->rows = most;
    ours(b, p);
    for (int round = 0; round < b->rounds; round++) {
        for (p->rows = first; p->rows <= most; p->rows++) {
            struct rung *rung = &ladder[p->rows - first];
            const double cpu = cpu_seconds(b), us = ours(b, p) * 1e6;
            const double cpu_us = (cpu_seconds(b) - cpu) * 1e6;
            rung->us = round == 0 || us < rung->us ? us : rung->us;
            rung->cpu_us = round == 0 || cpu_us < rung->cpu_us ? cpu_us : rung->cpu_us;
        }
    }
    print_ladder(b, p, shape, ladder, first, last);
    free(ladder);
    return 0;
}

/* "64" or "1-512". */
static int parse_rows(const char *text, size_t *first, size_t *last)
{
    char *end;
    *first = *last = strtoul(text, &end, 10);
    if (*end == '-')
        *last = strtoul(end + 1, &end, 10);
    return *end != '\0' || *first < 1 || *last < *first || *last > 1 << 16 ? -1 : 0;
}

static int run(const struct bench *b, char **rows, int n)
{
    static char *few_and_many[] = {"1", "2", "4", "8", "16", "32", "64", "128", "256", "512"};
    static char *all[] = {"1-512"};
    size_t first, last, most = 0;
    if (n == 0) {
        rows = b->rounds > 0 ? all : few_and_many;
        n = b->rounds > 0 ? 1 : sizeof(few_and_many) / sizeof(few_and_many[0]);
    }
    for (int i = 0; i < n; i++) {
        if (parse_rows(rows[i], &first, &last) < 0) {
            fprintf(stderr, "gemm: %s is no number of rows\n", rows[i]);
            return 2;
        }
        most = last > most ? last : most;
    }
    puts(b->rounds > 0
             ? "machine,isa,commit,threads,format,matrix,rows,out,in,best_us,best_cpu_us,"
               "to_next_16,to_next_16_cpu,to_previous_cpu"
             : "machine,isa,commit,threads,blas,format,matrix,rows,out,in,us,instruction,gflops,"
               "peak_gflops,bandwidth_gbs,bound,of_roofline,of_roofline_best,of_peak_cpu,"
               "bare_blas_gflops");
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        struct product p;
        if (strncmp(shapes[s].name, b->only, strlen(b->only)) != 0)
            continue;
        if (make_product(&p, b, s, (most + 15) / 16 * 16) < 0)
            return 1;
        for (int i = 0; i < n; i++) {
            parse_rows(rows[i], &first, &last);
            if (b->rounds > 0 && climb(b, &p, shapes[s].name, first, last) < 0)
                return 1;
            for (p.rows = first; b->rounds == 0 && p.rows <= last; p.rows++)
                measure(b, &p, shapes[s].name);
        }
        free_product(&p);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct caloris_err err;
    struct bench b = {.isa = "best", .only = "llada-8b"};
    int threads = caloris_pool_cores(1), option, failed = 0;
    caloris_kernels_init();
    while (!failed && (option = getopt(argc, argv, "t:f:i:m:lr:")) != -1) {
        if (option == 't')
            threads = atoi(optarg);
        else if (option == 'f')
            failed = caloris_format_parse(optarg, &b.format, &err) < 0;
        else if (option == 'i')
            failed = caloris_kernels_force(b.isa = optarg, &err) < 0;
        else if (option == 'm')
            b.only = optarg;
        else if (option == 'l')
            b.rounds = b.rounds > 0 ? b.rounds : ROUNDS;
        else if (option == 'r')
            b.rounds = atoi(optarg);
        else
            return 2;
    }
    if (!failed && caloris_kernels_blas_warning())
        fprintf(stderr, "gemm: %s\n", caloris_kernels_blas_warning());
    if (!failed)
        failed = (b.pool = caloris_pool_new(threads, &err)) == NULL;
    if (failed) {
        fprintf(stderr, "gemm: %s\n", err.text);
        return 2;
    }
    bench_machine(b.machine);
    int rc = run(&b, argv + optind, argc - optind);
    caloris_pool_free(b.pool);
    return rc;
}
