/* The loops against the recorded runs of the published ones, and against plain ones: same ids,
 * same count of forwards, the same rows in and the same writes after every one of them, on a
 * float64 forward that shares no code with the engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/denoise/denoise.h"
#include "tests/unit/golden_decodes.h"
#include "tests/unit/plain_decodes.h"
#include "tests/unit/plain_summary.h"
#include "tests/unit/tiny_llada.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CANVAS = 64, MAX_BEST = 4 };

struct bench {
    struct tiny_llada *model;
    size_t vocab;
    double *logits, *unconditional;
    struct tiny_llada_kept *kept, *unconditional_kept;
    struct caloris_mark marks[MAX_CANVAS];
    struct caloris_summary summaries[MAX_CANVAS];
    struct caloris_candidate candidates[MAX_BEST * MAX_CANVAS];
    uint32_t positions[MAX_CANVAS];
    struct caloris_reveal reveals[MAX_CANVAS];
    void *scratch;
};

/* The rows of this step, one flag for each position. */
static void mark_rows(const struct caloris_denoise *denoise, bool computed[MAX_CANVAS])
{
    struct caloris_range ranges[MAX_CANVAS];
    const size_t n = caloris_denoise_rows(denoise, ranges);
    size_t rows = 0;
    memset(computed, 0, MAX_CANVAS * sizeof(*computed));
    for (size_t i = 0; i < n; i++) {
        assert_true(i == 0 || ranges[i].first > ranges[i - 1].first + ranges[i - 1].count);
        memset(computed + ranges[i].first, 1, ranges[i].count * sizeof(*computed));
        rows += ranges[i].count;
    }
    assert_int_equal(rows, caloris_denoise_count_rows(denoise));
}

static size_t step(struct bench *bench, const struct golden_decode *golden,
                   struct caloris_denoise *denoise)
{
    struct caloris_rule rule;
    int32_t masked[MAX_CANVAS];
    const bool guided = denoise->params.cfg_scale > 0;
    bool computed[MAX_CANVAS];
    mark_rows(denoise, computed);
    assert_int_equal(
        tiny_llada_rows(bench->model, bench->kept, denoise->canvas, computed, bench->logits), 0);
    if (guided) {
        for (size_t i = 0; i < denoise->length; i++) {
            const bool given = i < golden->n_prompt && golden->prompt[i] != golden->params.mask_id;
            masked[i] = given ? golden->params.mask_id : denoise->canvas[i];
        }
        assert_int_equal(tiny_llada_rows(bench->model, bench->unconditional_kept, masked, computed,
                                         bench->unconditional),
                         0);
    }
    size_t n = caloris_denoise_wanted(denoise, bench->positions);
    caloris_denoise_rule(denoise, &rule);
    for (size_t i = 0; i < n; i++) {
        const size_t at = bench->positions[i] * bench->vocab;
        plain_summary(bench->logits + at, guided ? bench->unconditional + at : NULL, bench->vocab,
                      bench->positions[i], &rule, &bench->summaries[i],
                      &bench->candidates[i * caloris_rule_candidates(&rule)]);
    }
    n = caloris_denoise_decide(denoise, bench->positions, bench->summaries, bench->candidates, n,
                               caloris_rule_candidates(&rule), bench->reveals, bench->scratch);
    return caloris_denoise_apply(denoise, bench->reveals, n);
}

static void compare_writes(const char *name, size_t call, const json_t *writes,
                           const struct caloris_reveal *reveals, size_t n)
{
    bool same = json_array_size(writes) == n;
    for (size_t i = 0; same && i < n; i++) {
        const json_t *write = json_array_get(writes, i);
        same = json_integer_value(json_array_get(write, 0)) == (json_int_t)reveals[i].position &&
               json_integer_value(json_array_get(write, 1)) == reveals[i].id;
    }
    if (same)
        return;
    char *expected = json_dumps(writes, 0);
    print_error("%s, call %zu\n  expected %s\n  found   ", name, call, expected);
    for (size_t i = 0; i < n; i++)
        print_error(" [%u, %d]", reveals[i].position, reveals[i].id);
    free(expected);
    fail_msg("the writes differ");
}

/* The recorded runs have one window for each call: [start, start + len). */
static void compare_rows(const struct caloris_denoise *denoise, const json_t *call)
{
    struct caloris_range ranges[MAX_CANVAS];
    bool computed[MAX_CANVAS];
    size_t i;
    json_t *position;
    const json_t *listed = json_object_get(call, "computed");
    if (listed) {
        mark_rows(denoise, computed);
        assert_int_equal(json_array_size(listed), caloris_denoise_count_rows(denoise));
        json_array_foreach(listed, i, position) assert_true(computed[json_integer_value(position)]);
        return;
    }
    assert_int_equal(caloris_denoise_rows(denoise, ranges), 1);
    assert_int_equal(ranges[0].first, json_integer_value(json_object_get(call, "start")));
    assert_int_equal(ranges[0].count, json_integer_value(json_object_get(call, "len")));
}

static void run(struct bench *bench, const struct golden_decode *golden,
                const struct caloris_job_params *params)
{
    int32_t *canvas = golden_canvas(golden);
    struct caloris_denoise denoise;
    struct caloris_err err;
    if (caloris_denoise_start(&denoise, params, canvas, bench->marks, golden->length,
                              golden->n_prompt, &err) < 0)
        fail_msg("%s: %s", golden->name, err.text);
    bench->kept = tiny_llada_keep(bench->model, golden->length);
    bench->unconditional_kept = tiny_llada_keep(bench->model, golden->length);
    assert_true(bench->kept && bench->unconditional_kept);
    while (!denoise.done) {
        const size_t call = denoise.step;
        assert_true(call < golden->calls);
        const json_t *recorded = json_array_get(golden->trace, call);
        compare_rows(&denoise, recorded);
        const size_t n = step(bench, golden, &denoise);
        compare_writes(golden->name, call, json_object_get(recorded, "writes"), bench->reveals, n);
    }
    assert_int_equal(denoise.step, golden->calls);
    assert_memory_equal(canvas, golden->final, golden->length * sizeof(*canvas));
    if (!isnan(golden->score) && fabs(caloris_denoise_score(&denoise) - golden->score) > 1e-4)
        fail_msg("%s: score %.9g, expected %.9g", golden->name, caloris_denoise_score(&denoise),
                 golden->score);
    free(canvas);
    free(bench->kept);
    free(bench->unconditional_kept);
}

static void reproduces_all(const struct golden_decodes *decodes)
{
    static struct bench bench;
    bench.model = tiny_llada_load(decodes->dir);
    assert_non_null(bench.model);
    bench.vocab = tiny_llada_vocab(bench.model);
    bench.logits = calloc(MAX_CANVAS * bench.vocab, sizeof(double));
    bench.unconditional = calloc(MAX_CANVAS * bench.vocab, sizeof(double));
    bench.scratch = malloc(caloris_denoise_scratch_bytes(MAX_CANVAS));
    assert_true(bench.logits && bench.unconditional && bench.scratch);
    for (size_t i = 0; i < decodes->count; i++) {
        const struct golden_decode *golden = &decodes->decode[i];
        assert_true(golden->length <= MAX_CANVAS);
        run(&bench, golden, &golden->params);
        if (golden->holes || golden->params.quota == CALORIS_QUOTA_ALL)
            continue;
        /* Without holes both ways of counting are one. */
        struct caloris_job_params params = golden->params;
        params.quota = CALORIS_QUOTA_ALL;
        run(&bench, golden, &params);
    }
    free(bench.logits);
    free(bench.unconditional);
    free(bench.scratch);
    tiny_llada_free(bench.model);
}

static const struct {
    const char *name;
    size_t recorded, plain;
} models[] = {{"llada", 24, 37}, {"llada-gqa", 19, 37}};
enum { MODELS = sizeof(models) / sizeof(models[0]) };

static void reproduces_recorded_runs(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        struct golden_decodes decodes;
        golden_decodes_load(models[i].name, &decodes);
        assert_int_equal(decodes.count, models[i].recorded);
        reproduces_all(&decodes);
        golden_decodes_free(&decodes);
    }
}

static void reproduces_plain_loops(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        struct golden_decodes decodes;
        plain_decodes_load(models[i].name, &decodes);
        assert_int_equal(decodes.count, models[i].plain);
        reproduces_all(&decodes);
        golden_decodes_free(&decodes);
    }
}

/* Candidate k is the loop whose noise is keyed with k, and scores what it was sure of. */
static void reproduces_the_answers_of_candidates(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        struct plain_best best;
        plain_best_load(models[i].name, &best);
        assert_true(best.requests > 0 && best.decodes.decode[1].params.candidate == 1);
        assert_memory_not_equal(best.decodes.decode[0].final, best.decodes.decode[1].final,
                                best.decodes.decode[0].length * sizeof(int32_t));
        reproduces_all(&best.decodes);
        golden_decodes_free(&best.decodes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reproduces_recorded_runs),
        cmocka_unit_test(reproduces_plain_loops),
        cmocka_unit_test(reproduces_the_answers_of_candidates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
