/* How many rows a step should have on this machine. */
#include "coordinator/schedule/schedule.h"

#include "base/err.h"
#include "base/time.h"

#include <stdlib.h>

enum {
    CANVAS_ROWS = 128, /* of a canvas, where slots allow: rows of several requests, as in service */
    REPEATS = 3,       /* the best of them counts */
    LONG_MS = 50,      /* steps that take longer are not repeated */
    ENOUGH_MS = 20000, /* of measuring altogether */
    PERCENT_OF_BEST = 95,
};

size_t caloris_row_budget_of(const struct caloris_row_rate *rates, size_t n)
{
    double best = 0;
    for (size_t i = 0; i < n; i++) {
        const double rate = (double)rates[i].rows / rates[i].seconds;
        best = rate > best ? rate : best;
    }
    for (size_t i = 0; i < n; i++) {
        if ((double)rates[i].rows / rates[i].seconds * 100 >= best * PERCENT_OF_BEST)
            return rates[i].rows;
    }
    return 0;
}

/* Canvases of rows rows in all, admitted, computed whole and released. */
struct probe {
    struct caloris_admission *admissions;
    struct caloris_span *spans;
    uint32_t *slots;
    int32_t *ids;
};

static int make_probe(struct probe *probe, const struct caloris_engine_facts *facts, size_t rows,
                      struct caloris_err *err)
{
    const size_t slots = facts->max_requests;
    *probe = (struct probe){
        .admissions = calloc(slots, sizeof(*probe->admissions)),
        .spans = calloc(slots, sizeof(*probe->spans)),
        .slots = calloc(slots, sizeof(*probe->slots)),
        .ids = calloc(rows, sizeof(*probe->ids)),
    };
    if (probe->admissions && probe->spans && probe->slots && probe->ids)
        return 0;
    return caloris_err_set(err, CALORIS_NO_MEMORY, "no memory to time steps of %zu rows", rows);
}

static void free_probe(struct probe *probe)
{
    free(probe->admissions);
    free(probe->spans);
    free(probe->slots);
    free(probe->ids);
}

static int time_step(struct caloris_engine *engine, struct probe *probe, size_t rows,
                     double *seconds, struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct caloris_step_result result;
    size_t each = (rows + facts->max_requests - 1) / facts->max_requests, n = 0;
    if (each < CANVAS_ROWS)
        each = facts->max_canvas < CANVAS_ROWS ? facts->max_canvas : CANVAS_ROWS;
    for (size_t first = 0; first < rows; first += each, n++) {
        const size_t left = rows - first;
        const uint32_t length = (uint32_t)(left < each ? left : each);
        probe->slots[n] = (uint32_t)n;
        probe->admissions[n] = (struct caloris_admission){
            .slot = (uint32_t)n, .length = length, .ids_first = (uint32_t)first};
        probe->spans[n] = (struct caloris_span){.slot = (uint32_t)n, .count = length};
    }
    const struct caloris_step_plan enter = {
        .admissions = probe->admissions, .n_admissions = n, .ids = probe->ids, .n_ids = rows};
    const struct caloris_step_plan compute = {.spans = probe->spans, .n_spans = n};
    const struct caloris_step_plan leave = {.releases = probe->slots, .n_releases = n};
    if (caloris_engine_step(engine, &enter, &result, err) < 0)
        return -1;
    const uint64_t start = caloris_time_ns();
    if (caloris_engine_step(engine, &compute, &result, err) < 0)
        return -1;
    *seconds = (double)(caloris_time_ns() - start + 1) * 1e-9;
    return caloris_engine_step(engine, &leave, &result, err);
}

static int time_rows(struct caloris_engine *engine, struct probe *probe,
                     struct caloris_row_rate *rate, struct caloris_err *err)
{
    for (int i = 0; i < REPEATS; i++) {
        double seconds;
        if (time_step(engine, probe, rate->rows, &seconds, err) < 0)
            return -1;
        if (i == 0 || seconds < rate->seconds)
            rate->seconds = seconds;
        if (seconds * 1e3 > LONG_MS)
            break;
    }
    return 0;
}

int caloris_row_budget_measure(struct caloris_engine *engine, struct caloris_row_budget *budget,
                               struct caloris_err *err)
{
    static const size_t counts[CALORIS_ROW_RATES] = {1,  2,  3,  4,  6,   8,   12,  16,  24,
                                                     32, 48, 64, 96, 128, 192, 256, 384, 512};
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    const uint64_t start = caloris_time_ns();
    struct probe probe;
    double seconds;
    *budget = (struct caloris_row_budget){0};
    size_t most = facts->max_canvas * facts->max_requests;
    most = most < facts->max_step_rows ? most : facts->max_step_rows;
    int rc = make_probe(&probe, facts, counts[CALORIS_ROW_RATES - 1], err);
    if (rc == 0)
        rc = time_step(engine, &probe, 1, &seconds, err); /* the first one warms up */
    for (size_t i = 0; rc == 0 && i < CALORIS_ROW_RATES && counts[i] <= most; i++) {
        struct caloris_row_rate *rate = &budget->rates[budget->n++];
        rate->rows = counts[i];
        rc = time_rows(engine, &probe, rate, err);
        if ((caloris_time_ns() - start) / 1000000 > ENOUGH_MS)
            break;
    }
    free_probe(&probe);
    budget->rows = caloris_row_budget_of(budget->rates, budget->n);
    budget->seconds = (double)(caloris_time_ns() - start) * 1e-9;
    return rc;
}
