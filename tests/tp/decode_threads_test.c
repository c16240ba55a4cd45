/* The recorded decodes, and plain ones, over ranks that are threads: the same ids at any rank
 * count, alone and in company. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "tests/tp/decode_runs.h"
#include "tests/unit/plain_decodes.h"

static void run(const char *model, size_t expected)
{
    static const int ranks[] = {1, 2, 3, 5, 7};
    struct golden_decodes decodes;
    golden_decodes_load(model, &decodes);
    assert_int_equal(decodes.count, expected);
    plain_decodes_append(&decodes);
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        const struct caloris_engine_options options = {
            .model_dir = decodes.dir,
            .transport = CALORIS_TRANSPORT_THREADS,
            .ranks = ranks[i],
            .threads = 1,
            .max_requests = DECODE_SLOTS,
            .max_canvas = DECODE_CANVAS,
            .max_step_rows = DECODE_SLOTS * DECODE_CANVAS,
        };
        struct caloris_err err;
        if (caloris_engine_run(&options, decode_runs_body, &decodes, NULL, &err) < 0)
            fail_msg("%s, %d ranks: %s", model, ranks[i], err.text);
    }
    golden_decodes_free(&decodes);
}

static void llada(void **state)
{
    (void)state;
    run("llada", 24);
}

static void llada_gqa(void **state)
{
    (void)state;
    run("llada-gqa", 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(llada), cmocka_unit_test(llada_gqa)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
