#include "tests/tp/logits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "tests/unit/model_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct caloris_engine_options logits_options(const char *dir, const char *weights, int ranks)
{
    return (struct caloris_engine_options){
        .model_dir = dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 1,
        .max_requests = 1,
        .max_canvas = 64,
        .weights = weights,
    };
}

void shard_model(const char *from, const char *weights, char *dir)
{
    const struct caloris_engine_options options = logits_options(from, weights, 1);
    const struct caloris_sharding silent = {0};
    struct caloris_err err = {0};
    char command[2 * MODEL_PATH + 64];
    model_make_dir(dir);
    model_copy(from, dir);
    snprintf(command, sizeof(command), "rm -f %s/*.safetensors %s/*.index.json", dir, dir);
    assert_int_equal(system(command), 0);
    expect_ok(caloris_engine_shard(&options, dir, &silent, &err), &err);
}

static int keep_rows(void *arg, const float *logits, size_t rows, struct caloris_err *err)
{
    struct logits *l = arg;
    (void)err;
    assert_true(l->row + rows <= l->n);
    memcpy(l->to + l->row * l->vocab, logits, rows * l->vocab * sizeof(float));
    l->row += rows;
    return 0;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct logits *l = arg;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct caloris_engine_counters counters;
    caloris_engine_counters(engine, &counters);
    l->bytes_read = counters.bytes_read;
    l->outlier_columns = facts->outlier_columns;
    l->outlier_matrices = facts->outlier_matrices;
    l->vocab = facts->model.vocab;
    l->to = calloc(l->n * l->vocab, sizeof(float));
    assert_non_null(l->to);
    return caloris_engine_logits(engine, l->ids, l->n, keep_rows, l, err);
}

void logits_run(const struct caloris_engine_options *options, const int32_t *ids, size_t n,
                struct logits *l)
{
    struct caloris_err err = {0};
    *l = (struct logits){.ids = ids, .n = n};
    expect_ok(caloris_engine_run(options, body, l, NULL, &err), &err);
    assert_int_equal(l->row, n);
}

void deviate(struct deviation *d, double a, double b)
{
    const double off = fabs(a - b);
    d->square += off * off;
    d->worst = !(off <= d->worst) ? off : d->worst;
    d->n++;
}

double deviation_rms(const struct deviation *d)
{
    return sqrt(d->square / (double)d->n);
}
