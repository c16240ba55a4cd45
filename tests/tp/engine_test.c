/* The engine against third-party logits, over any number of ranks: thread ranks here; MPI ranks in
 * tests/e2e/logits_mpi.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/json.h"
#include "worker/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int rank_counts[] = {1, 2, 3, 5, 7, 9};
enum { RANK_COUNTS = sizeof(rank_counts) / sizeof(rank_counts[0]) };

static const char *golden(char path[512], const char *model, const char *file)
{
    snprintf(path, 512, "%s/tests/golden/models/%s/%s", getenv("CALORIS_SOURCE_DIR"), model, file);
    return path;
}

static struct caloris_engine_options options_for(const char *dir, int ranks)
{
    return (struct caloris_engine_options){
        .model_dir = dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = ranks < 3 ? 2 : 1,
        .max_requests = 8,
        .max_canvas = 64,
        .max_step_rows = 256,
    };
}

/* ---- all logits ------------------------------------------------------------------------------ */

struct expected {
    const int32_t *ids;
    size_t n, vocab, row;
    float *logits;
    double worst;
};

static int compare_rows(void *arg, const float *logits, size_t rows, struct caloris_err *err)
{
    (void)err;
    struct expected *e = arg;
    assert_true(e->row + rows <= e->n);
    for (size_t i = 0; i < rows * e->vocab; i++) {
        double off = fabs((double)logits[i] - (double)e->logits[e->row * e->vocab + i]);
        if (!(off <= e->worst))
            e->worst = off;
    }
    e->row += rows;
    return 0;
}

static int logits_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct expected *e = arg;
    return caloris_engine_logits(engine, e->ids, e->n, compare_rows, e, err);
}

static float *read_floats(const char *path, size_t n)
{
    float *x = malloc(n * sizeof(float));
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(x, sizeof(float), n, f), n);
    fclose(f);
    return x;
}

static int32_t *read_ids(const json_t *array, size_t *n)
{
    *n = json_array_size(array);
    int32_t *ids = calloc(*n, sizeof(*ids));
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

static void check_logits(const char *model, const char *dir, const json_t *input, const char *file)
{
    char path[512];
    size_t n;
    int32_t *ids = read_ids(json_object_get(input, "ids"), &n);
    const size_t vocab =
        (size_t)json_integer_value(json_array_get(json_object_get(input, "shape"), 1));
    float *logits = read_floats(golden(path, model, file), n * vocab);
    for (int i = 0; i < RANK_COUNTS; i++) {
        struct expected e = {ids, n, vocab, 0, logits, 0};
        struct caloris_engine_options options = options_for(dir, rank_counts[i]);
        struct caloris_err err = {0};
        int rc = caloris_engine_run(&options, logits_body, &e, NULL, &err);
        if (rc != 0 || e.row != n || e.worst > 5e-4)
            fail_msg("%s, %s at %d ranks: %s, %zu of %zu rows, off by %g (5e-4 allowed)", dir, file,
                     rank_counts[i], err.text, e.row, n, e.worst);
    }
    free(ids);
    free(logits);
}

static void logits_are_those_of_the_reference(void **state)
{
    const char *model = *state;
    char path[512], dir[512], bf16[512];
    json_t *cases = caloris_json_load(golden(path, model, "cases.json"), 1 << 22, NULL);
    assert_non_null(cases);
    golden(dir, model, ".");
    golden(bf16, model, "bf16");
    const json_t *inputs = json_object_get(cases, "logits");
    for (size_t i = 0; i < json_array_size(inputs); i++) {
        const json_t *input = json_array_get(inputs, i);
        check_logits(model, dir, input, json_string_value(json_object_get(input, "file")));
        const char *rounded = json_string_value(json_object_get(input, "file_bf16_weights"));
        if (rounded)
            check_logits(model, bf16, input, rounded);
    }
    json_decref(cases);
}

/* ---- summaries against the logits they stand for --------------------------------------------- */

enum { VOCAB = 320, CANVAS = 31, BEST = 5 };

struct step_case {
    const float *logits; /* [CANVAS, VOCAB] */
    const int32_t *ids;
    int ranks;
};

static void check_summary(const float *x, const struct caloris_rule *rule,
                          const struct caloris_summary *s, const struct caloris_candidate *best)
{
    double max = -INFINITY, sum = 0, moment = 0;
    bool no_sum[VOCAB] = {false}, no_choice[VOCAB] = {false};
    for (uint32_t i = 0; i < rule->specials; i++) {
        no_sum[rule->special[i].id] |= (rule->special[i].flags & CALORIS_NO_SUM) != 0;
        no_choice[rule->special[i].id] |= (rule->special[i].flags & CALORIS_NO_CHOICE) != 0;
    }
    for (int v = 0; v < VOCAB; v++)
        max = !no_sum[v] && x[v] > max ? x[v] : max;
    for (int v = 0; v < VOCAB; v++) {
        if (no_sum[v])
            continue;
        sum += exp(x[v] - max);
        moment += (x[v] - max) * exp(x[v] - max);
    }
    assert_true(fabs(s->max - max) < 1e-3);
    assert_true(fabs(s->rest - (sum - 1)) < 2e-3 * sum);
    assert_true(fabs(s->moment - moment) < 2e-2 * (1 + fabs(moment)));
    for (uint32_t i = 0; i < rule->probes; i++)
        assert_true(fabsf(s->probe[i] - x[rule->probe[i]]) < 5e-4f);

    assert_int_equal(s->found, rule->best);
    bool taken[VOCAB] = {false};
    for (uint32_t k = 0; k < s->found; k++) {
        int top = -1;
        for (int v = 0; v < VOCAB; v++) {
            if (!no_choice[v] && !taken[v] && (top < 0 || x[v] > x[top]))
                top = v;
        }
        taken[best[k].id] = true;
        assert_false(no_choice[best[k].id]);
        assert_true(fabsf(best[k].logit - x[best[k].id]) < 5e-4f);
        assert_true(x[top] - x[best[k].id] < 1e-3f); /* the same, or as good as */
    }
}

/* Two requests of different rules and a bystander in one step, every row of them wanted. */
static int step_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct step_case *c = arg;
    int32_t ids[3 * CANVAS];
    struct caloris_admission admissions[3];
    struct caloris_span spans[3];
    struct caloris_want wants[2 * CANVAS];
    const struct caloris_rule rules[2] = {
        {.best = 1},
        {.best = BEST,
         .specials = 3,
         .special = {{109, CALORIS_NO_CHOICE | CALORIS_NO_SUM},
                     {191, CALORIS_NO_CHOICE},
                     {90, CALORIS_NO_SUM}},
         .probes = 2,
         .probe = {0, VOCAB - 1}},
    };
    for (uint32_t r = 0; r < 3; r++) {
        const uint32_t length = r == 2 ? 7 : CANVAS;
        admissions[r] =
            (struct caloris_admission){.slot = 2 * r, .length = length, .ids_first = r * CANVAS};
        spans[r] = (struct caloris_span){.slot = 2 * r, .first = 0, .count = length};
        memcpy(ids + r * CANVAS, c->ids, CANVAS * sizeof(int32_t));
    }
    for (uint32_t i = 0; i < 2 * CANVAS; i++)
        wants[i] = (struct caloris_want){i % 2, i / 2, CALORIS_NO_PARTNER, i % 2};
    struct caloris_step_plan plan = {
        .admissions = admissions,
        .n_admissions = 3,
        .ids = ids,
        .n_ids = 3 * CANVAS,
        .spans = spans,
        .n_spans = 3,
        .wants = wants,
        .n_wants = 2 * CANVAS,
        .rules = rules,
        .n_rules = 2,
    };
    struct caloris_step_result result;
    if (caloris_engine_step(engine, &plan, &result, err) < 0)
        return -1;
    assert_int_equal(result.best, BEST);
    for (uint32_t i = 0; i < 2 * CANVAS; i++)
        check_summary(c->logits + (i / 2) * VOCAB, &rules[i % 2], &result.summaries[i],
                      result.candidates + i * result.best);

    struct caloris_engine_counters counters;
    caloris_engine_counters(engine, &counters);
    assert_int_equal(counters.steps, 1);
    assert_int_equal(counters.rows, 2 * CANVAS + 7);
    assert_int_equal(counters.head_rows,
                     2 * CANVAS); /* the bystander's rows never went through the head */

    /* The same canvases again, a neighbour's ids changed: equal shapes, so bit for bit the same for
     * the others. */
    struct caloris_summary before[CANVAS];
    for (uint32_t i = 0; i < CANVAS; i++)
        before[i] = result.summaries[2 * i];
    struct caloris_write writes[CANVAS];
    for (uint32_t i = 0; i < CANVAS; i++)
        writes[i] = (struct caloris_write){2, i, (int32_t)(i * 7 % VOCAB)};
    plan.n_admissions = plan.n_ids = 0;
    plan.writes = writes;
    plan.n_writes = CANVAS;
    if (caloris_engine_step(engine, &plan, &result, err) < 0)
        return -1;
    for (uint32_t i = 0; i < CANVAS; i++)
        assert_memory_equal(&before[i], &result.summaries[2 * i], sizeof(before[i]));
    return 0;
}

/* Runs body over every rank count with the infilling input of a model and its recorded logits. */
static void with_infill(const char *model, caloris_engine_body_fn body)
{
    char path[512], dir[512];
    size_t n;
    json_t *cases = caloris_json_load(golden(path, model, "cases.json"), 1 << 22, NULL);
    const json_t *input = json_array_get(json_object_get(cases, "logits"), 1);
    int32_t *ids = read_ids(json_object_get(input, "ids"), &n);
    assert_int_equal(n, CANVAS);
    float *logits = read_floats(golden(path, model, "logits-infill.f32"), CANVAS * VOCAB);
    for (int i = 0; i < RANK_COUNTS; i++) {
        struct step_case c = {logits, ids, rank_counts[i]};
        struct caloris_engine_options options = options_for(golden(dir, model, "."), c.ranks);
        struct caloris_err err = {0};
        if (caloris_engine_run(&options, body, &c, NULL, &err) != 0)
            fail_msg("%d ranks: %s", c.ranks, err.text);
    }
    free(ids);
    free(logits);
    json_decref(cases);
}

static void summaries_stand_for_the_logits(void **state)
{
    with_infill(*state, step_body);
}

/* ---- guidance and noise ---------------------------------------------------------------------- */

static int guided_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct step_case *c = arg;
    int32_t ids[2 * CANVAS];
    memcpy(ids, c->ids, CANVAS * sizeof(int32_t));
    memcpy(ids + CANVAS, c->ids, CANVAS * sizeof(int32_t));
    const struct caloris_admission admissions[] = {
        {.slot = 0, .length = CANVAS}, {.slot = 1, .length = CANVAS, .ids_first = CANVAS}};
    const struct caloris_span spans[] = {{0, 0, CANVAS}, {1, 0, CANVAS}};
    const struct caloris_rule rules[] = {
        {.best = 1, .guidance = 3},
        {.best = 1,
         .likeliest = true,
         .temperature = 0.7f,
         .noise = {.seed = 11, .stream = CALORIS_NOISE_TOKEN, .step = 4}},
    };
    struct caloris_want wants[2 * CANVAS];
    for (uint32_t i = 0; i < CANVAS; i++) {
        wants[i] =
            (struct caloris_want){0, i, 1, 0}; /* guided by an equal canvas: nothing changes */
        wants[CANVAS + i] = (struct caloris_want){0, i, CALORIS_NO_PARTNER, 1};
    }
    const struct caloris_step_plan plan = {
        .admissions = admissions,
        .n_admissions = 2,
        .ids = ids,
        .n_ids = 2 * CANVAS,
        .spans = spans,
        .n_spans = 2,
        .wants = wants,
        .n_wants = 2 * CANVAS,
        .rules = rules,
        .n_rules = 2,
    };
    struct caloris_step_result result;
    if (caloris_engine_step(engine, &plan, &result, err) < 0)
        return -1;
    assert_int_equal(result.best, 2);
    int drawn = 0;
    for (uint32_t i = 0; i < CANVAS; i++) {
        const float *x = c->logits + i * VOCAB;
        const struct caloris_candidate *first = result.candidates + i * result.best;
        check_summary(x, &rules[0], &result.summaries[i], first);

        const struct caloris_candidate *sampled = result.candidates + (CANVAS + i) * result.best;
        double top = -INFINITY;
        int32_t id = -1;
        for (int32_t v = 0; v < VOCAB; v++) {
            double score =
                x[v] + (double)0.7f * caloris_noise_gumbel(&rules[1].noise, i, (uint32_t)v);
            if (score > top) {
                top = score;
                id = v;
            }
        }
        assert_int_equal(sampled->id, id);
        assert_true(fabs(sampled->score - top) < 1e-3);
        drawn += sampled->id != first->id;
        assert_int_equal(sampled[1].id, first->id); /* whatever was drawn */
        assert_true(fabs(sampled[1].score - first->score) < 1e-3);
    }
    assert_true(drawn > 0);
    return 0;
}

static void guidance_and_noise(void **state)
{
    with_infill(*state, guided_body);
}

/* ---- kept K/V -------------------------------------------------------------------------------- */

/* Rows of a cached canvas that did not change come out as they were, whichever of them are computed
 * again. */
static int kept_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct step_case *c = arg;
    const struct caloris_admission admission = {
        .slot = 3, .length = CANVAS, .cached = true, .kv_first = 100};
    const struct caloris_span whole = {3, 0, CANVAS},
                              parts[] = {{3, 2, 1}, {3, 7, 5}, {3, 12, 4}, {3, 30, 1}};
    const struct caloris_span overlap[] = {{3, 2, 4}, {3, 5, 1}};
    const struct caloris_rule rule = {.best = 2};
    const struct caloris_want wants[] = {{0, 2, CALORIS_NO_PARTNER, 0},
                                         {1, 11, CALORIS_NO_PARTNER, 0},
                                         {2, 12, CALORIS_NO_PARTNER, 0},
                                         {3, 30, CALORIS_NO_PARTNER, 0}};
    struct caloris_step_plan plan = {
        .admissions = &admission,
        .n_admissions = 1,
        .ids = c->ids,
        .n_ids = CANVAS,
        .spans = parts,
        .n_spans = 4,
        .rules = &rule,
        .n_rules = 1,
    };
    struct caloris_step_result result;
    assert_int_equal(caloris_engine_step(engine, &plan, &result, NULL), -1); /* nothing kept yet */
    plan.spans = &whole;
    plan.n_spans = 1;
    if (caloris_engine_step(engine, &plan, &result, err) < 0)
        return -1;
    plan = (struct caloris_step_plan){.spans = overlap, .n_spans = 2, .rules = &rule, .n_rules = 1};
    assert_int_equal(caloris_engine_step(engine, &plan, &result, NULL), -1);
    plan.spans = parts;
    plan.n_spans = 4;
    plan.wants = wants;
    plan.n_wants = 4;
    for (int again = 0; again < 2; again++) {
        if (caloris_engine_step(engine, &plan, &result, err) < 0)
            return -1;
        for (size_t i = 0; i < 4; i++)
            check_summary(c->logits + wants[i].position * VOCAB, &rule, &result.summaries[i],
                          result.candidates + i * result.best);
    }
    struct caloris_engine_counters counters;
    caloris_engine_counters(engine, &counters);
    assert_int_equal(counters.rows, CANVAS + 2 * 11);
    return 0;
}

static void kept_keys_and_values(void **state)
{
    with_infill(*state, kept_body);
}

/* ---- bad plans ------------------------------------------------------------------------------- */

static int refuse_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    (void)arg;
    const int32_t ids[] = {1, 2, 3, 4};
    const int32_t wild[] = {1, 2, 320, 4};
    const struct caloris_admission admission = {.slot = 0, .length = 4},
                                   outside = {.slot = 0, .length = 5},
                                   nowhere = {.slot = 8, .length = 4},
                                   beyond = {.slot = 0,
                                             .length = 4,
                                             .cached = true,
                                             .kv_first = 8 * 64 - 3},
                                   overlap[] = {
                                       {.slot = 0, .length = 2, .cached = true, .kv_first = 5},
                                       {.slot = 1, .length = 3, .cached = true, .kv_first = 6}};
    const struct caloris_write write = {0, 4, 0}, wild_write = {0, 3, -1};
    const struct caloris_span part = {0, 1, 3}, whole = {0, 0, 4}, twice[] = {{0, 0, 4}, {0, 0, 4}};
    const struct caloris_want want = {0, 4, CALORIS_NO_PARTNER, 0},
                              no_rule = {0, 1, CALORIS_NO_PARTNER, 1};
    const struct caloris_rule rule = {.best = 1}, none = {.best = 0};
    const struct caloris_admission
        bare_fork = {.slot = 1, .length = 4, .forked = true},
        fork_of_none = {.slot = 1, .length = 4, .cached = true, .forked = true, .from = 2},
        fork_of_nowhere = {.slot = 1, .length = 4, .cached = true, .forked = true, .from = 8};
    const uint32_t release = 3;
    const struct {
        struct caloris_step_plan plan;
        const char *complaint;
    } cases[] = {
        {{.releases = &release, .n_releases = 1}, "release of a slot that holds nothing"},
        {{.admissions = &outside, .n_admissions = 1, .ids = ids, .n_ids = 4},
         "admission beyond the ids"},
        {{.admissions = &nowhere, .n_admissions = 1, .ids = ids, .n_ids = 4},
         "admission to a slot that is taken"},
        {{.admissions = &admission, .n_admissions = 1, .ids = wild, .n_ids = 4},
         "id outside the vocabulary"},
        {{.admissions = &beyond, .n_admissions = 1, .ids = ids, .n_ids = 4},
         "K/V beyond what is kept"},
        {{.admissions = overlap, .n_admissions = 2, .ids = ids, .n_ids = 4},
         "K/V that another canvas holds"},
        {{.admissions = &bare_fork, .n_admissions = 1, .ids = ids, .n_ids = 4}, "without K/V"},
        {{.admissions = &fork_of_none, .n_admissions = 1, .ids = ids, .n_ids = 4},
         "that has no K/V of this length"},
        {{.admissions = &fork_of_nowhere, .n_admissions = 1, .ids = ids, .n_ids = 4},
         "without K/V"},
        {{.admissions = &admission,
          .n_admissions = 1,
          .ids = ids,
          .n_ids = 4,
          .writes = &write,
          .n_writes = 1},
         "write outside a canvas"},
        {{.admissions = &admission,
          .n_admissions = 1,
          .ids = ids,
          .n_ids = 4,
          .writes = &wild_write,
          .n_writes = 1},
         "write of an id outside the vocabulary"},
        {{.admissions = &admission,
          .n_admissions = 1,
          .ids = ids,
          .n_ids = 4,
          .spans = &part,
          .n_spans = 1},
         "of one that has no K/V yet"},
        {{.admissions = &admission,
          .n_admissions = 1,
          .ids = ids,
          .n_ids = 4,
          .spans = twice,
          .n_spans = 2},
         "out of order"},
        {{.admissions = &admission,
          .n_admissions = 1,
          .ids = ids,
          .n_ids = 4,
          .spans = &whole,
          .n_spans = 1,
          .rules = &none,
          .n_rules = 1},
         "rule out of range"},
        {{.admissions = &admission,
          .n_admissions = 1,
          .ids = ids,
          .n_ids = 4,
          .spans = &whole,
          .n_spans = 1,
          .rules = &rule,
          .n_rules = 1,
          .wants = &want,
          .n_wants = 1},
         "wanted row outside its span"},
        {{.admissions = &admission,
          .n_admissions = 1,
          .ids = ids,
          .n_ids = 4,
          .spans = &whole,
          .n_spans = 1,
          .rules = &rule,
          .n_rules = 1,
          .wants = &no_rule,
          .n_wants = 1},
         "wanted row outside its span"},
        {{.spans = &whole, .n_spans = 1},
         "outside its canvas"}, /* nothing of the above was admitted */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_step_result result;
        assert_int_equal(caloris_engine_step(engine, &cases[i].plan, &result, err), -1);
        if (!strstr(err->text, cases[i].complaint))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, err->text, cases[i].complaint);
    }
    return 0;
}

static void bad_plans_are_refused(void **state)
{
    char dir[512];
    struct caloris_engine_options options = options_for(golden(dir, *state, "."), 2);
    struct caloris_err err = {0};
    assert_int_equal(caloris_engine_run(&options, refuse_body, NULL, NULL, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(logits_are_those_of_the_reference, (char *)"llada"),
        cmocka_unit_test_prestate(logits_are_those_of_the_reference, (char *)"llada-gqa"),
        cmocka_unit_test_prestate(summaries_stand_for_the_logits, (char *)"llada"),
        cmocka_unit_test_prestate(summaries_stand_for_the_logits, (char *)"llada-gqa"),
        cmocka_unit_test_prestate(guidance_and_noise, (char *)"llada"),
        cmocka_unit_test_prestate(kept_keys_and_values, (char *)"llada"),
        cmocka_unit_test_prestate(kept_keys_and_values, (char *)"llada-gqa"),
        cmocka_unit_test_prestate(bad_plans_are_refused, (char *)"llada"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
