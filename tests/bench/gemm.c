/* tests/bench/gemm: our fp32 matrix product against a bare OpenBLAS sgemm with all threads, on the
 * matrices of LLaDA-1B and LLaDA-8B. CSV on stdout. Weights cycle through more memory than any
 * cache holds; ours and the bare one take turns; the figures are medians.
 *
 * gemm [threads] [rows …]
 */
#include "base/err.h"
#include "base/time.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REPEATS = 15, MAX_COPIES = 64 };
static const size_t weights_bytes = (size_t)512 << 20;
static const double seconds_per_line = 1.5;

/* OpenBLAS's own threads spin for 2^26 cycles after a call, on the cores that ours need next. */
enum { blas_spins_ms = 50 };

static const struct {
    const char *model, *matrix;
    size_t out, in;
} shapes[] = {
    {"llada-1b", "qkv", 3 * 2048, 2048},      {"llada-1b", "o", 2048, 2048},
    {"llada-1b", "gate+up", 2 * 5632, 2048},  {"llada-1b", "down", 2048, 5632},
    {"llada-8b", "qkv", 3 * 4096, 4096},      {"llada-8b", "o", 4096, 4096},
    {"llada-8b", "gate+up", 2 * 12288, 4096}, {"llada-8b", "down", 4096, 12288},
};

static const size_t default_rows[] = {1, 4, 16, 32, 64, 128, 256, 512};

struct bench {
    struct caloris_pool *pool;
    int threads;
    const char *machine;
};

/* Numbers in (-1, 1), of no consequence but that none is zero or denormal. */
static void make_up(float *x, size_t n)
{
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(state >> 8) / (float)(1 << 23) - 0.9999f;
    }
}

static float *numbers(size_t n)
{
    float *x = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
    if (x)
        make_up(x, n);
    return x;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof(*x), by_value);
    return x[n / 2];
}

static void bare(const struct bench *b, const struct caloris_matrix *m, const float *x, size_t rows,
                 float *y)
{
    openblas_set_num_threads(b->threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)m->out, (int)m->in, 1.0f,
                x, (int)m->in, m->data, (int)m->in, 0.0f, y, (int)m->out);
    openblas_set_num_threads(1);
}

static void ours(const struct bench *b, const struct caloris_matrix *m, const float *x, size_t rows,
                 float *y)
{
    caloris_gemm(b->pool, m, x, m->in, rows, y, m->out, 0, NULL);
}

static double timed(void (*product)(const struct bench *, const struct caloris_matrix *,
                                    const float *, size_t, float *),
                    const struct bench *b, const struct caloris_matrix *m, const float *x,
                    size_t rows, float *y)
{
    uint64_t start = caloris_time_ns();
    product(b, m, x, rows, y);
    return (double)(caloris_time_ns() - start) * 1e-9;
}

static int measure(const struct bench *b, size_t shape, size_t rows)
{
    size_t out = shapes[shape].out, in = shapes[shape].in, copies = 0;
    float *x = numbers(rows * in), *y = numbers(rows * out);
    struct caloris_matrix matrix[MAX_COPIES];
    while (copies < MAX_COPIES &&
           (copies < 2 || copies * out * in * sizeof(float) < weights_bytes)) {
        float *data = numbers(out * in);
        if (!x || !y || !data) {
            fprintf(stderr, "gemm: out of memory\n");
            return -1;
        }
        caloris_matrix_place(&matrix[copies++], CALORIS_FORMAT_FP32, out, in, data);
    }
    double ours_s[MAX_REPEATS], bare_s[MAX_REPEATS], spent = 0;
    int n = 0;
    size_t turn = 0;
    for (; n < MAX_REPEATS && (n < 3 || spent < seconds_per_line); n++) {
        caloris_time_sleep_ms(blas_spins_ms);
        uint64_t start = caloris_time_ns();
        ours(b, &matrix[turn++ % copies], x, rows, y);
        ours_s[n] = timed(ours, b, &matrix[turn++ % copies], x, rows, y);
        bare(b, &matrix[turn++ % copies], x, rows, y);
        bare_s[n] = timed(bare, b, &matrix[turn++ % copies], x, rows, y);
        spent += (double)(caloris_time_ns() - start) * 1e-9;
    }
    double flop = 2.0 * (double)rows * (double)out * (double)in;
    double rate = flop / median(ours_s, n) * 1e-9, bare_rate = flop / median(bare_s, n) * 1e-9;
    printf("%s,%s,%d,%s,%s,%zu,%zu,%zu,%.1f,%.1f,%.3f\n", b->machine, openblas_get_corename(),
           b->threads, shapes[shape].model, shapes[shape].matrix, rows, out, in, rate, bare_rate,
           rate / bare_rate);
    fflush(stdout);
    for (size_t i = 0; i < copies; i++)
        free(matrix[i].data);
    free(x);
    free(y);
    return 0;
}

/* "AMD EPYC", without commas. */
static const char *machine_name(char *line, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    const char *name = "unknown";
    while (file && fgets(line, (int)size, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        colon[strcspn(colon, "\n")] = '\0';
        for (char *c = colon; *c; c++)
            *c = *c == ',' ? ';' : *c;
        name = colon + 2;
        break;
    }
    if (file)
        fclose(file);
    return name;
}

int main(int argc, char **argv)
{
    char line[256];
    struct caloris_err err;
    struct bench b = {.threads = argc > 1 ? atoi(argv[1]) : caloris_pool_cores(1),
                      .machine = machine_name(line, sizeof(line))};
    caloris_kernels_init();
    if (caloris_kernels_blas_warning())
        fprintf(stderr, "gemm: %s\n", caloris_kernels_blas_warning());
    b.pool = caloris_pool_new(b.threads, &err);
    if (!b.pool) {
        fprintf(stderr, "gemm: %s\n", err.text);
        return 2;
    }
    size_t count = argc > 2 ? (size_t)argc - 2 : sizeof(default_rows) / sizeof(default_rows[0]);
    int failed = 0;
    printf("machine,openblas_core,threads,model,matrix,rows,out,in,gflops,bare_gflops,ratio\n");
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]) && !failed; s++) {
        for (size_t r = 0; r < count && !failed; r++)
            failed = measure(&b, s, argc > 2 ? strtoul(argv[r + 2], NULL, 10) : default_rows[r]);
    }
    caloris_pool_free(b.pool);
    return failed ? 1 : 0;
}
