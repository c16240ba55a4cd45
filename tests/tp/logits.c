#include "tests/tp/logits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "tests/unit/model_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
