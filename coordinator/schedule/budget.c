/* How many rows a step should have on this machine. */
#include "coordinator/schedule/schedule.h"

#include "base/err.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    CANVAS_ROWS = 128, /* of a canvas, where slots allow: rows of several requests, as in service */
    REPEATS = 3,       /* at least; the best of them counts */
    SPENT_MS = 20,     /* on one count, at least */
    LONG_MS = 50,      /* steps that take longer are not repeated */
    ENOUGH_MS = 8000,  /* of measuring altogether: no step is begun that would take longer */
    STRIDE = 4,        /* in the list of counts, of the first walk through it */
    PERCENT_OF_BEST = 95,
    CHEAP_ROWS = 8,
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

const char *caloris_row_budget_warning(const struct caloris_row_budget *budget,
                                       char text[CALORIS_ROW_WARNING])
{
    if (budget->timed >= budget->most)
        return NULL;
    snprintf(text, CALORIS_ROW_WARNING,
             "no step of more than %zu rows was timed: %zu would have taken the timing beyond %d s "
             "(row-budget says a budget of your own)",
             budget->timed, budget->most, ENOUGH_MS / 1000);
    return text;
}

/* Canvases of rows rows in all, admitted, computed whole and released. The logits of every second
 * row are wanted: of a block's rows about so many are masked, in the mean over its steps. */
struct probe {
    struct caloris_admission *admissions;
    struct caloris_span *spans;
    struct caloris_want *wants;
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
        .wants = calloc(rows, sizeof(*probe->wants)),
        .slots = calloc(slots, sizeof(*probe->slots)),
        .ids = calloc(rows, sizeof(*probe->ids)),
    };
    if (probe->admissions && probe->spans && probe->wants && probe->slots && probe->ids)
        return 0;
    return caloris_err_set(err, CALORIS_NO_MEMORY, "no memory to time steps of %zu rows", rows);
}

static void free_probe(struct probe *probe)
{
    free(probe->admissions);
    free(probe->spans);
    free(probe->wants);
    free(probe->slots);
    free(probe->ids);
}

static int time_step(struct caloris_engine *engine, struct probe *probe, size_t rows,
                     double *seconds, struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct caloris_step_result result;
    size_t each = (rows + facts->max_requests - 1) / facts->max_requests, n = 0, wanted = 0;
    if (each < CANVAS_ROWS)
        each = facts->max_canvas < CANVAS_ROWS ? facts->max_canvas : CANVAS_ROWS;
    for (size_t first = 0; first < rows; first += each, n++) {
        const size_t left = rows - first;
        const uint32_t length = (uint32_t)(left < each ? left : each);
        probe->slots[n] = (uint32_t)n;
        probe->admissions[n] = (struct caloris_admission){
            .slot = (uint32_t)n, .length = length, .ids_first = (uint32_t)first};
        probe->spans[n] = (struct caloris_span){.slot = (uint32_t)n, .count = length};
        for (uint32_t i = 0; i < length; i += 2)
            probe->wants[wanted++] = (struct caloris_want){(uint32_t)n, i, CALORIS_NO_PARTNER, 0};
    }
    const struct caloris_rule rule = {.best = 1};
    const struct caloris_step_plan enter = {
        .admissions = probe->admissions, .n_admissions = n, .ids = probe->ids, .n_ids = rows};
    const struct caloris_step_plan compute = {.spans = probe->spans,
                                              .n_spans = n,
                                              .wants = probe->wants,
                                              .n_wants = wanted,
                                              .rules = &rule,
                                              .n_rules = 1};
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
    double spent = 0;
    for (int i = 0; i < REPEATS || spent * 1e3 < SPENT_MS; i++) {
        double seconds;
        if (time_step(engine, probe, rate->rows, &seconds, err) < 0)
            return -1;
        if (i == 0 || seconds < rate->seconds)
            rate->seconds = seconds;
        spent += seconds;
        if (seconds * 1e3 > LONG_MS)
            break;
    }
    return 0;
}

/* What has been timed, by place in the list of counts. */
struct walk {
    struct caloris_engine *engine;
    struct probe probe;
    uint64_t start_ns;
    struct caloris_row_rate rates[CALORIS_ROW_RATES];
    bool timed[CALORIS_ROW_RATES];
};

static const size_t counts[CALORIS_ROW_RATES] = {1,  2,  4,  6,   8,   12,  16,  24, 32,
                                                 48, 64, 96, 128, 192, 256, 384, 512};

/* Times count i, unless that would take too long, going by the largest smaller one that was timed:
 * then *late. */
static int time_count(struct walk *walk, size_t i, bool *late, struct caloris_err *err)
{
    double expected = 0;
    for (size_t k = 0; k < i; k++) {
        if (walk->timed[k])
            expected = walk->rates[k].seconds * (double)counts[i] / (double)counts[k];
    }
    if (counts[i] <= CHEAP_ROWS) /* waits for memory: not so many times as long */
        expected = 0;
    const double left = ENOUGH_MS * 1e-3 - (double)(caloris_time_ns() - walk->start_ns) * 1e-9;
    *late = left < expected;
    if (*late || walk->timed[i])
        return 0;
    walk->rates[i].rows = counts[i];
    walk->timed[i] = true;
    return time_rows(walk->engine, &walk->probe, &walk->rates[i], err);
}

/* The rates so far, fewest rows first. */
static void collect(const struct walk *walk, struct caloris_row_budget *budget)
{
    budget->n = 0;
    for (size_t i = 0; i < CALORIS_ROW_RATES; i++) {
        if (walk->timed[i])
            budget->rates[budget->n++] = walk->rates[i];
    }
    budget->timed = budget->n > 0 ? budget->rates[budget->n - 1].rows : 0;
    budget->rows = caloris_row_budget_of(budget->rates, budget->n);
}

/* Between the count that will do and the largest below it that will not: halves what is left of the
 * list. */
static int narrow(struct walk *walk, struct caloris_row_budget *budget, struct caloris_err *err)
{
    for (;;) {
        size_t below = 0, enough = 0;
        bool late;
        collect(walk, budget);
        while (counts[enough] < budget->rows)
            enough++;
        for (size_t i = 0; i < enough; i++)
            below = walk->timed[i] ? i : below;
        if (enough - below < 2)
            return 0;
        if (time_count(walk, (below + enough) / 2, &late, err) < 0)
            return -1;
        if (late)
            return 0;
    }
}

int caloris_row_budget_measure(struct caloris_engine *engine, struct caloris_row_budget *budget,
                               struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct walk walk = {.engine = engine, .start_ns = caloris_time_ns()};
    double seconds;
    size_t most = facts->max_canvas * facts->max_requests, last = CALORIS_ROW_RATES - 1;
    *budget = (struct caloris_row_budget){0};
    most = most < facts->max_step_rows ? most : facts->max_step_rows;
    while (counts[last] > most)
        last--;
    budget->most = counts[last];
    int rc = make_probe(&walk.probe, facts, counts[last], err);
    if (rc == 0)
        rc = time_step(engine, &walk.probe, 1, &seconds, err); /* the first one warms up */
    bool late = false;
    for (size_t i = 0; rc == 0 && !late; i = last - i < STRIDE ? last : i + STRIDE) {
        rc = time_count(&walk, i, &late, err);
        if (i == last)
            break;
    }
    if (rc == 0)
        rc = narrow(&walk, budget, err);
    free_probe(&walk.probe);
    budget->seconds = (double)(caloris_time_ns() - walk.start_ns) * 1e-9;
    return rc;
}
