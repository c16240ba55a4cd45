/* The loops against the recorded runs of the published ones: same ids, same count of forwards,
 * the same writes after every one of them, on a float64 forward that shares no code with the
 * engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/denoise/denoise.h"
#include "tests/unit/golden_decodes.h"
#include "tests/unit/plain_summary.h"
#include "tests/unit/tiny_llada.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CANVAS = 64 };

struct bench {
    struct tiny_llada *model;
    size_t vocab;
    double *logits, *unconditional;
    struct caloris_summary summaries[MAX_CANVAS];
    struct caloris_candidate candidates[MAX_CANVAS];
    uint32_t positions[MAX_CANVAS];
    struct caloris_reveal reveals[MAX_CANVAS];
    void *scratch;
};

static size_t step(struct bench *bench, const struct golden_decode *golden,
                   struct caloris_denoise *denoise)
{
    struct caloris_rule rule;
    int32_t masked[MAX_CANVAS];
    const bool guided = denoise->params.cfg_scale > 0;
    assert_int_equal(
        tiny_llada_forward(bench->model, denoise->canvas, denoise->length, bench->logits), 0);
    if (guided) {
        for (size_t i = 0; i < denoise->length; i++) {
            const bool given = i < golden->n_prompt && golden->prompt[i] != golden->params.mask_id;
            masked[i] = given ? golden->params.mask_id : denoise->canvas[i];
        }
        assert_int_equal(
            tiny_llada_forward(bench->model, masked, denoise->length, bench->unconditional), 0);
    }
    size_t n = caloris_denoise_wanted(denoise, bench->positions);
    caloris_denoise_rule(denoise, &rule);
    for (size_t i = 0; i < n; i++) {
        const size_t at = bench->positions[i] * bench->vocab;
        plain_summary(bench->logits + at, guided ? bench->unconditional + at : NULL, bench->vocab,
                      bench->positions[i], &rule, &bench->summaries[i], &bench->candidates[i]);
    }
    n = caloris_denoise_decide(denoise, bench->positions, bench->summaries, bench->candidates, n, 1,
                               bench->reveals, bench->scratch);
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

static void run(struct bench *bench, const struct golden_decode *golden,
                const struct caloris_job_params *params)
{
    int32_t *canvas = golden_canvas(golden);
    struct caloris_denoise denoise;
    struct caloris_err err;
    if (caloris_denoise_start(&denoise, params, canvas, golden->length, golden->n_prompt, &err) < 0)
        fail_msg("%s: %s", golden->name, err.text);
    while (!denoise.done) {
        const size_t call = denoise.step;
        assert_true(call < golden->calls);
        const size_t n = step(bench, golden, &denoise);
        const json_t *recorded = json_array_get(golden->trace, call);
        compare_writes(golden->name, call, json_object_get(recorded, "writes"), bench->reveals, n);
    }
    assert_int_equal(denoise.step, golden->calls);
    assert_memory_equal(canvas, golden->final, golden->length * sizeof(*canvas));
    free(canvas);
}

static void reproduces_all(const char *model, size_t expected)
{
    struct golden_decodes decodes;
    static struct bench bench;
    golden_decodes_load(model, &decodes);
    assert_int_equal(decodes.count, expected);
    bench.model = tiny_llada_load(decodes.dir);
    assert_non_null(bench.model);
    bench.vocab = tiny_llada_vocab(bench.model);
    bench.logits = calloc(MAX_CANVAS * bench.vocab, sizeof(double));
    bench.unconditional = calloc(MAX_CANVAS * bench.vocab, sizeof(double));
    bench.scratch = malloc(caloris_denoise_scratch_bytes(MAX_CANVAS));
    assert_true(bench.logits && bench.unconditional && bench.scratch);
    for (size_t i = 0; i < decodes.count; i++) {
        const struct golden_decode *golden = &decodes.decode[i];
        assert_true(golden->length <= MAX_CANVAS);
        run(&bench, golden, &golden->params);
        if (golden->holes)
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
    golden_decodes_free(&decodes);
}

static void llada(void **state)
{
    (void)state;
    reproduces_all("llada", 13);
}

static void llada_gqa(void **state)
{
    (void)state;
    reproduces_all("llada-gqa", 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(llada), cmocka_unit_test(llada_gqa)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
