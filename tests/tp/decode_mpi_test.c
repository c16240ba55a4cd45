/* The recorded decodes of MODEL, and plain ones, over MPI ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "tests/tp/decode_runs.h"
#include "tests/unit/plain_decodes.h"

static void same_ids_over_mpi(void **state)
{
    (void)state;
    struct golden_decodes decodes;
    golden_decodes_load(MODEL, &decodes);
    plain_decodes_append(&decodes);
    const struct caloris_engine_options options = {
        .model_dir = decodes.dir,
        .transport = CALORIS_TRANSPORT_MPI,
        .threads = 1,
        .max_requests = DECODE_SLOTS,
        .max_canvas = DECODE_CANVAS,
        .max_step_rows = DECODE_SLOTS * DECODE_CANVAS,
    };
    struct caloris_err err;
    if (caloris_engine_run(&options, decode_runs_body, &decodes, NULL, &err) < 0)
        fail_msg("%s: %s", MODEL, err.text);
    golden_decodes_free(&decodes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_ids_over_mpi)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
