/* Where a loop can be taken up again, and which stands from outside are not its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/denoise/denoise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 9, LENGTH = 8, PROMPT = 2 };

/* 5, a hole, then three blocks of two; every second block is entered with a refresh. */
struct loop {
    struct caloris_denoise denoise;
    int32_t canvas[LENGTH];
    struct caloris_mark marks[LENGTH];
};

static void start(struct loop *loop, enum caloris_cache cache)
{
    struct caloris_job_params params;
    struct caloris_err err;
    caloris_job_params_preset(&params, CALORIS_PRESET_EXACT);
    params.gen_length = LENGTH - PROMPT;
    params.block_length = 2;
    params.cache = cache;
    params.refresh = 2;
    params.mask_id = MASK;
    params.early_stop = false;
    loop->canvas[0] = 5;
    for (size_t i = 1; i < LENGTH; i++)
        loop->canvas[i] = MASK;
    if (caloris_denoise_start(&loop->denoise, &params, loop->canvas, loop->marks, LENGTH, PROMPT,
                              &err) < 0)
        fail_msg("%s", err.text);
}

/* One mask a step, from the left; id 1 with log p -1. */
static void step(struct loop *loop)
{
    struct caloris_reveal reveals[LENGTH] = {{0}};
    uint32_t positions[LENGTH];
    assert_true(caloris_denoise_wanted(&loop->denoise, positions) > 0);
    reveals[0] = (struct caloris_reveal){positions[0], 1, 0.5f, -1};
    caloris_denoise_apply(&loop->denoise, reveals, 1);
}

static void stands_where_every_row_is_computed_next(void **state)
{
    (void)state;
    static const struct {
        enum caloris_cache cache;
        const char *stands; /* by steps done; the first block has the hole, too */
    } cases[] = {
        {CALORIS_CACHE_NONE, "...x.x.x"},
        {CALORIS_CACHE_PREFIX, ".....x.x"},
        {CALORIS_CACHE_DUAL, ".....x.x"},
        {CALORIS_CACHE_ACTIVE, ".....x.x"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct loop loop;
        char found[LENGTH + 1] = "";
        start(&loop, cases[i].cache);
        for (size_t k = 0; k < LENGTH; k++) {
            found[k] = caloris_denoise_can_stand(&loop.denoise) ? 'x' : '.';
            if (!loop.denoise.done)
                step(&loop);
        }
        assert_string_equal(found, cases[i].stands);
        assert_true(loop.denoise.done);
    }
}

/* A stand behind five steps, damaged. */
static const struct {
    const char *name;
    uint32_t block, step, passes;
    bool done;
    int at;                /* the position that is another; -1: none */
    int32_t id;            /* there */
    float log_p;           /* there; 0: as it was */
    const char *complaint; /* NULL: it is good */
} stands[] = {
    {"as it was", 2, 5, 5, false, -1, 0, 0, NULL},
    {"at its start", 7, 0, 9, false, 0, -4, 0, NULL},
    {"of another block", 3, 5, 5, false, -1, 0, 0, "progress: block 3 of 3"},
    {"of far away", UINT32_MAX, 5, 5, false, -1, 0, 0, "progress: block 4294967295 of 3"},
    {"a block without refresh", 1, 5, 5, false, -1, 0, 0,
     "progress: block 1 is entered without a refresh (every 2)"},
    {"an earlier block", 0, 5, 5, false, -1, 0, 0,
     "progress: id 1 at 2, which block 0 has yet to reveal"},
    {"too many steps", 2, 9, 5, false, -1, 0, 0, "progress: step 9 of at most 8"},
    {"too many passes", 2, 5, 6, false, -1, 0, 0, "progress: 6 forward passes in 5 steps"},
    {"another prompt", 2, 5, 5, false, 0, 6, 0, "progress: id 6 at 0, where the prompt has 5"},
    {"a masked prompt", 2, 5, 5, false, 0, MASK, 0, "progress: id 9 at 0, where the prompt has 5"},
    {"ahead of itself", 2, 5, 5, false, 7, 1, 0,
     "progress: id 1 at 7, which block 2 has yet to reveal"},
    {"done and whole", 2, 5, 5, true, 7, 1, 0, NULL},
    {"too sure", 2, 5, 5, false, 2, 1, 0.5f, "progress: log p 0.5 at 2"},
    {"sure of a mask", 2, 5, 5, false, 7, MASK, -1, "progress: log p -1 at 7"},
    {"sure of the prompt", 2, 5, 5, false, 0, 5, -1, "progress: log p -1 at 0"},
};

static void refuses_stands_that_are_not_its_own(void **state)
{
    (void)state;
    struct loop loop, fresh;
    start(&loop, CALORIS_CACHE_DUAL);
    for (size_t i = 0; i < 5; i++)
        step(&loop);
    for (size_t i = 0; i < sizeof(stands) / sizeof(stands[0]); i++) {
        struct caloris_stand *stand = caloris_stand_new(1, LENGTH);
        struct caloris_err err = {0};
        assert_non_null(stand);
        caloris_denoise_note(&loop.denoise, stand);
        assert_true(stand->block == 2 && stand->step == 5 && !stand->done);
        stand->block = stands[i].block;
        stand->step = stands[i].step;
        stand->passes = stands[i].passes;
        stand->done = stands[i].done;
        if (stands[i].at >= 0)
            stand->canvas[stands[i].at] = stands[i].id;
        if (stands[i].log_p != 0)
            stand->log_p[stands[i].at] = stands[i].log_p;
        start(&fresh, CALORIS_CACHE_DUAL);
        const int status = caloris_denoise_check_stand(&fresh.denoise, stand, &err);
        if ((status == 0) != !stands[i].complaint)
            fail_msg("%s: %s", stands[i].name, status == 0 ? "taken" : err.text);
        if (stands[i].complaint)
            assert_string_equal(err.text, stands[i].complaint);
        free(stand);
    }
}

static void goes_on_from_a_stand(void **state)
{
    (void)state;
    struct loop loop, fresh;
    struct caloris_stand *stand = caloris_stand_new(1, LENGTH);
    assert_non_null(stand);
    start(&loop, CALORIS_CACHE_DUAL);
    start(&fresh, CALORIS_CACHE_DUAL);
    caloris_denoise_resume(&fresh.denoise, stand); /* at its start: nothing */
    assert_true(fresh.denoise.step == 0 && fresh.denoise.masks == 7);
    for (size_t i = 0; i < 5; i++)
        step(&loop);
    caloris_denoise_note(&loop.denoise, stand);
    caloris_denoise_resume(&fresh.denoise, stand);
    assert_memory_equal(fresh.canvas, loop.canvas, sizeof(loop.canvas));
    assert_true(fresh.denoise.block == 2 && fresh.denoise.step == 5 && fresh.denoise.masks == 2);
    assert_true(caloris_denoise_score(&fresh.denoise) == -1);
    assert_true(caloris_denoise_is_full(&fresh.denoise));
    assert_true(fresh.marks[1].step > 0 && fresh.marks[0].step == 0); /* the hole was revealed */
    while (!fresh.denoise.done)
        step(&fresh);
    assert_int_equal(fresh.denoise.step, 7);
    free(stand);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stands_where_every_row_is_computed_next),
        cmocka_unit_test(refuses_stands_that_are_not_its_own),
        cmocka_unit_test(goes_on_from_a_stand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
