/* How long until it is done, where steps hold few of those that run: a short request behind many
 * long ones, a long one among a stream of short ones, both beside one with a large canvas. The
 * engine is a fake one, so that a step is a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/schedule/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { VOCAB = 1000, MASK = 999, SLOTS = 64, BLOCK = 32, LARGE = 4096, AIM = BLOCK };
enum { REQUESTS = 4000 };

/* One mask a step; windows of a block. */
struct kind {
    const char *name;
    size_t length;
    uint32_t steps;
    enum caloris_cache cache;
};

static const struct kind short_one = {"a short one", 40, 8, CALORIS_CACHE_DUAL};
static const struct kind long_one = {"a long one", 128, 96, CALORIS_CACHE_DUAL};
static const struct kind large_one = {"a large one", LARGE, 8, CALORIS_CACHE_NONE};

static struct play {
    struct caloris_schedule *schedule;
    const struct kind *stream; /* comes again whenever one of it is done; NULL: nothing does */
    size_t submitted, steps;
    int watched; /* owner of the one that is watched */
} play;

static void submit(const struct kind *kind, void *owner)
{
    struct caloris_request *request = calloc(1, sizeof(*request));
    struct caloris_err err;
    assert_non_null(request);
    caloris_job_params_preset(&request->params, CALORIS_PRESET_EXACT);
    request->params.gen_length = kind->steps;
    request->params.block_length = kind->steps < BLOCK ? kind->steps : BLOCK;
    request->params.cache = kind->cache;
    request->params.mask_id = MASK;
    request->params.early_stop = false;
    request->length = kind->length;
    request->prompt = kind->length - kind->steps;
    request->canvas = calloc(kind->length, sizeof(*request->canvas));
    request->owner = owner;
    assert_non_null(request->canvas);
    for (size_t i = request->prompt; i < request->length; i++)
        request->canvas[i] = MASK;
    if (caloris_schedule_submit(play.schedule, request, &err) < 0)
        fail_msg("%s: %s", kind->name, err.text);
    play.submitted++;
}

/* Whoever is done makes place for the next of the stream, until the watched one is done. */
static void see_events(void)
{
    for (struct caloris_event *event; (event = caloris_schedule_next_event(play.schedule, 0));) {
        if (event->owner == &play.watched) {
            play.stream = NULL;
            caloris_schedule_close(play.schedule, true);
        }
        if (event->kind == CALORIS_EVENT_FINISHED && play.stream && play.submitted < REQUESTS)
            submit(play.stream, NULL);
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
}

int __wrap_caloris_engine_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                               struct caloris_step_result *result, struct caloris_err *err);
int __wrap_caloris_engine_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                               struct caloris_step_result *result, struct caloris_err *err)
{
    static struct caloris_summary summaries[LARGE];
    static struct caloris_candidate candidates[LARGE];
    (void)engine;
    (void)err;
    for (size_t i = 0; i < plan->n_wants; i++) {
        summaries[i] = (struct caloris_summary){.max = 1, .rest = 0.1, .found = 1};
        candidates[i] = (struct caloris_candidate){.id = 1, .logit = 1, .score = 1};
    }
    play.steps++;
    see_events();
    *result = (struct caloris_step_result){summaries, candidates, 1};
    return 0;
}

static const struct {
    const char *what;
    const struct kind *crowd; /* n of it are there before the watched one comes */
    size_t n;
    const struct kind *stream, *besides, *watched;
    size_t most; /* steps until it is done */
} cases[] = {
    /* Its 8 steps, each within a turn of all 64 and the patience of 32 steps. */
    {"behind many long ones", &long_one, 63, &long_one, NULL, &short_one, 8 * (64 + 32)},
    {"behind few long ones", &long_one, 7, &long_one, NULL, &short_one, 8 * (32 + 8)},
    {"beside a large one", &long_one, 7, &long_one, &large_one, &short_one, 8 * (32 + 9)},
    {"in a stream of short ones", &short_one, 63, &short_one, NULL, &long_one, 96 * (64 + 32)},
    {"in a stream of short ones", &short_one, 63, &short_one, NULL, &large_one, 8 * (64 + 32)},
};

/* Steps from its coming to its end. */
static size_t run(size_t number)
{
    const struct caloris_engine_facts facts = {
        .model = {.vocab = VOCAB},
        .max_requests = SLOTS,
        .max_canvas = LARGE,
        .max_step_rows = LARGE,
        .kv_tokens = SLOTS * 128,
    };
    struct caloris_err err;
    play = (struct play){.stream = cases[number].stream};
    play.schedule = caloris_schedule_new(&facts, &err);
    assert_non_null(play.schedule);
    caloris_schedule_aim(play.schedule, AIM);
    for (size_t i = 0; i < cases[number].n; i++)
        submit(cases[number].crowd, NULL);
    if (cases[number].besides)
        submit(cases[number].besides, NULL);
    submit(cases[number].watched, &play.watched);
    assert_int_equal(caloris_schedule_loop(play.schedule, NULL, &err), 0);
    see_events();
    caloris_schedule_free(play.schedule);
    return play.steps;
}

static void nobody_is_starved(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const size_t steps = run(i);
        print_message("%s, %s: %zu steps\n", cases[i].watched->name, cases[i].what, steps);
        if (steps > cases[i].most)
            fail_msg("%s, %s: done after %zu steps, expected at most %zu", cases[i].watched->name,
                     cases[i].what, steps, cases[i].most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nobody_is_starved)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
