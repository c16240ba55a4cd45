/* tests/bench/step: seconds of a whole denoising step of a made-up model, uncached or on a cached
 * context, and beside it a bare OpenBLAS sgemm of the same matrices with as many threads. CSV on
 * stdout.
 *
 *   step [--synthetic llada-1b|llada-8b] [--weights FORMAT] [--isa NAME] [--ranks N] [--threads T]
 *        [--steps K] [--head ROWS] [--context TOKENS] [rows …]
 *   mpirun -n N step --mpi …
 *
 * --context: the rows are the last of a canvas so much longer, whose K/V are kept; else they are a
 * canvas. Layers cycle through as many distinct weights as fit in half of memory; the bare
 * products, which are made for fp32 only, too. roofline_s is the larger of operations / peak
 * (attention's as bf16, where K and V are) and bytes of weights and K/V / bandwidth, both measured
 * after the steps (peak.h). Shares are of the ranks' mean.
 */
#include "base/err.h"
#include "base/time.h"
#include "tests/bench/bench.h"
#include "tests/bench/peak.h"
#include "worker/engine.h"
#include "worker/kernels/kernels.h"
#include "worker/pool/pool.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 16, MAX_STEPS = 64, MAX_COPIES = 32, BLAS_SPINS_MS = 50 };
static const size_t copies_bytes =
    (size_t)1 << 30; /* of each matrix, for the bare products: more than any cache */

struct bench {
    size_t rows[MAX_ROWS], n_rows;
    int steps;
    size_t head_rows, context;
    const char *shape;
};

/* ---- the bare products ----------------------------------------------------------------------- */

/* Median seconds of x [rows, in] times a matrix [out, in], over matrices that no cache holds. */
static double bare_product(size_t rows, size_t out, size_t in, int repeats)
{
    float *copy[MAX_COPIES];
    size_t copies = 0;
    float *x = bench_numbers(rows * in), *y = bench_numbers(rows * out);
    while (copies < MAX_COPIES &&
           (copies < 2 || copies * out * in * sizeof(float) < copies_bytes)) {
        copy[copies] = bench_numbers(out * in);
        if (!copy[copies])
            break;
        copies++;
    }
    double seconds[MAX_STEPS];
    for (int i = -1; x && y && copies && i < repeats; i++) {
        const uint64_t start = caloris_time_ns();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)out, (int)in, 1.0f, x,
                    (int)in, copy[(size_t)(i + 1) % copies], (int)in, 0.0f, y, (int)out);
        if (i >= 0)
            seconds[i] = (double)(caloris_time_ns() - start) * 1e-9;
    }
    while (copies > 0)
        free(copy[--copies]);
    free(x);
    free(y);
    return bench_median(seconds, (size_t)repeats);
}

static double bare_step(const struct caloris_model_facts *m, size_t rows, size_t head_rows,
                        int threads)
{
    enum { REPEATS = 5 };
    const size_t d = m->hidden, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    openblas_set_num_threads(threads);
    const double layer =
        bare_product(rows, q + 2 * kv, d, REPEATS) + bare_product(rows, d, q, REPEATS) +
        bare_product(rows, 2 * m->ffn, d, REPEATS) + bare_product(rows, d, m->ffn, REPEATS);
    const double head = bare_product(head_rows, m->vocab, d, REPEATS);
    openblas_set_num_threads(1);
    caloris_time_sleep_ms(BLAS_SPINS_MS); /* its threads spin a while on the cores that ours need */
    return (double)m->layers * layer + head;
}

/* ---- our step -------------------------------------------------------------------------------- */

static double operations_of_matrices(const struct caloris_model_facts *m, size_t rows,
                                     size_t head_rows)
{
    const double d = (double)m->hidden, hd = (double)m->head_dim;
    const double matrices =
        d * hd * (double)(2 * m->heads + 2 * m->kv_heads) + 3 * d * (double)m->ffn;
    return 2 * (double)m->layers * (double)rows * matrices +
           2 * d * (double)m->vocab * (double)head_rows;
}

/* Scores and mixing. */
static double operations_of_attention(const struct caloris_model_facts *m, size_t rows, size_t keys)
{
    return 4 * (double)m->layers * (double)rows * (double)keys * (double)(m->heads * m->head_dim);
}

static double bytes_of_weights(const struct caloris_model_facts *m, enum caloris_format format)
{
    const size_t d = m->hidden, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    const size_t layer =
        caloris_matrix_bytes(format, q + 2 * kv, d) + caloris_matrix_bytes(format, d, q) +
        caloris_matrix_bytes(format, 2 * m->ffn, d) + caloris_matrix_bytes(format, d, m->ffn);
    return (double)m->layers * (double)layer + (double)caloris_matrix_bytes(format, m->vocab, d);
}

static double bytes_of_keys(const struct caloris_model_facts *m, enum caloris_format format,
                            size_t keys)
{
    const double each = format == CALORIS_FORMAT_FP32 ? 4 : 2;
    return 2 * each * (double)m->layers * (double)keys * (double)(m->kv_heads * m->head_dim);
}

/* Seconds that no program on these cores could stay below, or 0 when it could not be measured. */
static double roofline(const struct caloris_engine_facts *facts, size_t rows, size_t keys,
                       size_t head_rows)
{
    enum { REPEATS = 7, STREAM_BYTES = 1 << 28 };
    const struct caloris_model_facts *m = &facts->model;
    double peak[REPEATS], peak_attention[REPEATS], bandwidth[REPEATS];
    enum caloris_format format;
    struct caloris_pool *pool = caloris_pool_new(facts->ranks * facts->threads, NULL);
    float *memory = bench_numbers(STREAM_BYTES / sizeof(float));
    double seconds = 0;
    if (pool && memory && caloris_format_parse(facts->format, &format, NULL) == 0) {
        const enum caloris_format of_attention =
            format == CALORIS_FORMAT_FP32 ? CALORIS_FORMAT_FP32 : CALORIS_FORMAT_BF16;
        for (int i = 0; i < REPEATS; i++) {
            peak[i] = bench_peak(pool, format);
            peak_attention[i] = bench_peak(pool, of_attention);
            bandwidth[i] = bench_bandwidth(pool, memory, STREAM_BYTES);
        }
        const double of_bytes = (bytes_of_weights(m, format) + bytes_of_keys(m, format, keys)) /
                                bench_median(bandwidth, REPEATS);
        seconds = operations_of_matrices(m, rows, head_rows) / bench_median(peak, REPEATS) +
                  operations_of_attention(m, rows, keys) / bench_median(peak_attention, REPEATS);
        seconds = seconds > of_bytes ? seconds : of_bytes;
    }
    free(memory);
    caloris_pool_free(pool);
    return seconds;
}

/* Seconds of all ranks in one phase, and in all. */
static int seconds_of(struct caloris_engine *engine, enum caloris_phase phase, double *in_phase,
                      double *in_all, struct caloris_err *err)
{
    const int ranks = caloris_engine_facts(engine)->ranks;
    struct caloris_rank_profile *profile = calloc((size_t)ranks, sizeof(*profile));
    if (!profile)
        return caloris_err_sys(err, "profile of %d ranks", ranks);
    const int rc = caloris_engine_profile(engine, profile, err);
    *in_phase = *in_all = 0;
    for (int rank = 0; rank < ranks; rank++) {
        *in_phase += profile[rank].phase[phase].seconds;
        for (int i = 0; i < CALORIS_PHASES; i++)
            *in_all += profile[rank].phase[i].seconds;
    }
    free(profile);
    return rc;
}

struct timed {
    double seconds[MAX_STEPS];
    double compute, reduce, wait; /* of rank 0 */
    double attention, all;        /* of all ranks */
};

/* The first step computes all of the canvas, and warms up; the others are timed. */
static int time_steps(struct caloris_engine *engine, const struct bench *b, size_t rows,
                      struct timed *t, struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    const size_t head_rows = rows < b->head_rows ? rows : b->head_rows;
    const size_t length = b->context + rows;
    int32_t *ids = calloc(length, sizeof(*ids));
    struct caloris_want *wants = calloc(head_rows, sizeof(*wants));
    if (!ids || !wants) {
        free(ids);
        free(wants);
        return caloris_err_sys(err, "%zu rows", rows);
    }
    for (size_t i = 0; i < length; i++)
        ids[i] = (int32_t)(i * 2654435761u % facts->model.vocab);
    for (size_t i = 0; i < head_rows; i++)
        wants[i] = (struct caloris_want){0, (uint32_t)(b->context + i), CALORIS_NO_PARTNER, 0};
    const struct caloris_admission admission = {.length = (uint32_t)length,
                                                .cached = b->context > 0};
    struct caloris_span span = {0, 0, (uint32_t)length};
    const struct caloris_rule rule = {.best = 1};
    const uint32_t release = 0;
    struct caloris_step_plan plan = {
        .admissions = &admission,
        .n_admissions = 1,
        .ids = ids,
        .n_ids = length,
        .spans = &span,
        .n_spans = 1,
        .wants = wants,
        .n_wants = head_rows,
        .rules = &rule,
        .n_rules = 1,
    };
    struct caloris_engine_counters before, after;
    struct caloris_step_result result;
    double attention = 0, all = 0;
    int rc = caloris_engine_step(engine, &plan, &result, err);
    if (rc == 0)
        rc = seconds_of(engine, CALORIS_PHASE_ATTENTION, &attention, &all, err);
    caloris_engine_counters(engine, &before);
    plan.n_admissions = plan.n_ids = 0;
    span = (struct caloris_span){0, (uint32_t)b->context, (uint32_t)rows};
    for (int i = 0; rc == 0 && i < b->steps; i++) {
        const uint64_t start = caloris_time_ns();
        rc = caloris_engine_step(engine, &plan, &result, err);
        t->seconds[i] = (double)(caloris_time_ns() - start) * 1e-9;
    }
    caloris_engine_counters(engine, &after);
    if (rc == 0)
        rc = seconds_of(engine, CALORIS_PHASE_ATTENTION, &t->attention, &t->all, err);
    t->attention -= attention;
    t->all -= all;
    t->compute = after.compute_s - before.compute_s;
    t->reduce = after.allreduce_s - before.allreduce_s;
    t->wait = after.wait_s - before.wait_s;
    plan = (struct caloris_step_plan){.releases = &release, .n_releases = 1};
    if (rc == 0)
        rc = caloris_engine_step(engine, &plan, &result, err);
    free(ids);
    free(wants);
    return rc;
}

static int measure(struct caloris_engine *engine, const struct bench *b, size_t rows,
                   struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    const struct caloris_model_facts *m = &facts->model;
    const size_t head_rows = rows < b->head_rows ? rows : b->head_rows, keys = b->context + rows;
    struct timed t;
    char machine[BENCH_MACHINE];
    if (time_steps(engine, b, rows, &t, err) < 0)
        return -1;
    const double all = t.compute + t.reduce + t.wait;
    const double step = bench_median(t.seconds, (size_t)b->steps);
    const double least = roofline(facts, rows, keys, head_rows);
    const double operations =
        operations_of_matrices(m, rows, head_rows) + operations_of_attention(m, rows, keys);
    printf("%s,%s,%s,%s,%s,%s,%d,%d,%zu,%zu,%zu,%.4f,%.4f,%.3f,%.3f,%.3f,%.3f,%.1f,%.4f,%.3f,",
           bench_machine(machine), facts->blas, bench_commit(), b->shape, facts->format,
           facts->kernels, facts->ranks, facts->threads, rows, b->context, head_rows, step,
           t.seconds[0], t.compute / all, t.reduce / all, t.wait / all, t.attention / t.all,
           operations / step * 1e-9, least, step / least);
    if (strcmp(facts->format, "fp32") == 0) {
        const double bare = bare_step(m, rows, head_rows, facts->ranks * facts->threads);
        printf("%.4f,%.3f", bare, bare / step);
    } else {
        printf(",");
    }
    printf("\n");
    fflush(stdout);
    return 0;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct bench *b = arg;
    puts("machine,blas,commit,shape,weights,kernels,ranks,threads,rows,context,head_rows,step_s,"
         "best_s,compute_share,allreduce_share,wait_share,attention_share,gflops,roofline_s,"
         "times_roofline,bare_sgemm_s,ratio_to_sgemm");
    for (size_t i = 0; i < b->n_rows; i++) {
        if (measure(engine, b, b->rows[i], err) < 0)
            return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct bench b = {
        .rows = {32, 64, 128, 256}, .n_rows = 4, .steps = 5, .head_rows = 32, .shape = "llada-1b"};
    struct caloris_engine_options options = {
        .transport = CALORIS_TRANSPORT_THREADS, .ranks = 1, .max_requests = 1, .profile = true};
    size_t given = 0;
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--mpi") == 0)
            options.transport = CALORIS_TRANSPORT_MPI;
        else if (strcmp(argv[i], "--synthetic") == 0 && ++i)
            b.shape = next;
        else if (strcmp(argv[i], "--weights") == 0 && ++i)
            options.weights = next;
        else if (strcmp(argv[i], "--isa") == 0 && ++i)
            options.isa = next;
        else if (strcmp(argv[i], "--ranks") == 0 && ++i)
            options.ranks = atoi(next);
        else if (strcmp(argv[i], "--threads") == 0 && ++i)
            options.threads = atoi(next);
        else if (strcmp(argv[i], "--steps") == 0 && ++i)
            b.steps = atoi(next) < MAX_STEPS ? atoi(next) : MAX_STEPS;
        else if (strcmp(argv[i], "--head") == 0 && ++i)
            b.head_rows = (size_t)atoi(next);
        else if (strcmp(argv[i], "--context") == 0 && ++i)
            b.context = (size_t)atoi(next);
        else if (atoi(argv[i]) > 0 && given < MAX_ROWS)
            b.rows[given++] = (size_t)atoi(argv[i]);
        else {
            fprintf(stderr,
                    "usage: step [--mpi] [--synthetic llada-1b|llada-8b] [--weights FORMAT] "
                    "[--isa NAME] [--ranks N] [--threads T] [--steps K] [--head ROWS] "
                    "[--context TOKENS] [rows …]\n");
            return 2;
        }
    }
    if (given)
        b.n_rows = given;
    for (size_t i = 0; i < b.n_rows; i++)
        options.max_canvas = b.rows[i] > options.max_canvas ? b.rows[i] : options.max_canvas;
    options.max_canvas += b.context;
    options.synthetic = b.shape;
    struct caloris_err err = {0};
    bool report = true;
    if (b.steps < 1 || b.head_rows < 1 ||
        caloris_engine_run(&options, body, &b, &report, &err) < 0) {
        if (report)
            fprintf(stderr, "step: %s\n", err.text[0] ? err.text : "bad arguments");
        return 1;
    }
    return 0;
}
