/* Who enters when there is not room for all: nobody waits for ever, neither the large one behind
 * many small ones nor the reverse. The engine is a fake one, so that a step is a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/schedule/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { VOCAB = 1000, MASK = 999, SLOTS = 4, KV = 40, CANVAS = 40, REQUESTS = 400, ROWS = 400 };

/* A kind of requests: one mask a step for so many steps, or one or two more, so that they do not
 * leave together. */
struct kind {
    const char *name;
    size_t length;
    uint32_t steps;
    bool cached, guided;
};

static const struct kind small = {"small", 10, 4, true, false};
static const struct kind large = {"large", 40, 6, true, false};
static const struct kind bare = {"without K/V", 10, 4, false, false};
static const struct kind pair = {"guided", 10, 4, false, true};

struct request {
    const struct kind *kind;
    size_t submitted, entered; /* steps done then; SIZE_MAX: not yet */
    size_t place;              /* how many had entered before */
};

static struct play {
    struct caloris_schedule *schedule;
    const struct kind *stream; /* WAITING of them always wait */
    const struct kind *one;    /* comes at step ARRIVAL */
    struct request requests[REQUESTS];
    size_t n, entered, steps, chosen; /* chosen: the one that is watched */
} play;
enum { WAITING = 6, ARRIVAL = 5, STEPS = 120 };

/* The first id of a prompt is its request's number. */
static void submit(const struct kind *kind)
{
    struct caloris_request *request = calloc(1, sizeof(*request));
    struct caloris_err err;
    const uint32_t steps = kind->steps + (uint32_t)play.n % 3;
    assert_non_null(request);
    caloris_job_params_preset(&request->params, CALORIS_PRESET_EXACT);
    request->params.gen_length = request->params.block_length = steps;
    request->params.cache = kind->cached ? CALORIS_CACHE_DUAL : CALORIS_CACHE_NONE;
    request->params.cfg_scale = kind->guided;
    request->params.mask_id = MASK;
    request->params.early_stop = false;
    request->length = kind->length;
    request->prompt = kind->length - steps;
    request->canvas = calloc(kind->length, sizeof(*request->canvas));
    assert_non_null(request->canvas);
    for (size_t i = 0; i < kind->length; i++)
        request->canvas[i] = i < request->prompt ? (int32_t)play.n : MASK;
    assert_true(play.n < REQUESTS);
    play.requests[play.n++] = (struct request){kind, play.steps, SIZE_MAX, 0};
    if (caloris_schedule_submit(play.schedule, request, &err) < 0)
        fail_msg("%s: %s", kind->name, err.text);
}

static size_t count_waiting(void)
{
    size_t n = 0;
    for (size_t i = 0; i < play.n; i++)
        n += play.requests[i].entered == SIZE_MAX;
    return n;
}

static void arrive(void)
{
    if (play.steps == ARRIVAL) {
        play.chosen = play.n;
        submit(play.one);
    }
    while (count_waiting() < WAITING)
        submit(play.stream);
    if (play.steps == STEPS)
        caloris_schedule_close(play.schedule, true);
}

int __wrap_caloris_engine_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                               struct caloris_step_result *result, struct caloris_err *err);
int __wrap_caloris_engine_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                               struct caloris_step_result *result, struct caloris_err *err)
{
    static struct caloris_summary summaries[ROWS];
    static struct caloris_candidate candidates[ROWS];
    (void)engine;
    (void)err;
    assert_true(plan->n_wants <= ROWS);
    for (size_t i = 0; i < plan->n_wants; i++) {
        summaries[i] = (struct caloris_summary){.max = 1, .rest = 0.1, .found = 1};
        candidates[i] = (struct caloris_candidate){.id = 1, .logit = 1, .score = 1};
    }
    for (size_t i = 0; i < plan->n_admissions; i++) {
        const int32_t number = plan->ids[plan->admissions[i].ids_first];
        if (number == MASK)
            continue; /* an unconditional canvas */
        play.requests[number].entered = play.steps;
        play.requests[number].place = play.entered++;
    }
    play.steps++;
    arrive();
    *result = (struct caloris_step_result){summaries, candidates, 1};
    return 0;
}

/* Plays it; how many that came after the watched one entered before it. */
static size_t run(const struct kind *stream, const struct kind *one)
{
    const struct caloris_engine_facts facts = {
        .model = {.vocab = VOCAB},
        .max_requests = SLOTS,
        .max_canvas = CANVAS,
        .max_step_rows = ROWS,
        .kv_tokens = KV,
    };
    struct caloris_err err;
    play = (struct play){.stream = stream, .one = one};
    play.schedule = caloris_schedule_new(&facts, &err);
    assert_non_null(play.schedule);
    arrive();
    assert_int_equal(caloris_schedule_loop(play.schedule, NULL, &err), 0);
    caloris_schedule_free(play.schedule);
    const struct request *watched = &play.requests[play.chosen];
    if (watched->entered == SIZE_MAX)
        fail_msg("%s starves behind %s", one->name, stream->name);
    size_t passed = 0;
    for (size_t i = play.chosen + 1; i < play.n; i++)
        passed += play.requests[i].entered != SIZE_MAX && play.requests[i].place < watched->place;
    return passed;
}

static const struct {
    const struct kind *stream, *one;
    size_t least, most; /* that overtake it */
} lines[] = {
    {&small, &large, 1, SLOTS},                            /* K/V: all of it or a quarter */
    {&large, &small, 0, SLOTS}, {&bare, &large, 0, SLOTS}, /* slots are all that bare ones take */
    {&large, &bare, 0, 0},                                 /* and it fits beside a large one */
    {&bare, &pair, 0, SLOTS},                              /* two slots or one */
    {&pair, &bare, 0, SLOTS},   {&small, &small, 0, 0},
};

static void nobody_waits_for_ever(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        const size_t passed = run(lines[i].stream, lines[i].one);
        if (passed < lines[i].least || passed > lines[i].most)
            fail_msg("%s behind %s: overtaken by %zu", lines[i].one->name, lines[i].stream->name,
                     passed);
    }
}

/* Nobody of the stream itself is overtaken by more than there are slots, either. */
static void everybody_is_overtaken_by_few(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        run(lines[i].stream, lines[i].one);
        for (size_t k = 0; k < play.n; k++) {
            size_t passed = 0;
            for (size_t later = k + 1; later < play.n; later++)
                passed += play.requests[later].entered != SIZE_MAX &&
                          (play.requests[k].entered == SIZE_MAX ||
                           play.requests[later].place < play.requests[k].place);
            assert_in_range(passed, 0, SLOTS);
        }
    }
}

/* What needs no K/V does not wait behind what waits for it. */
static void who_fits_does_not_wait(void **state)
{
    (void)state;
    run(&large, &bare);
    const struct request *watched = &play.requests[play.chosen];
    assert_int_equal(watched->entered, watched->submitted); /* with the next step */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_waits_for_ever),
        cmocka_unit_test(everybody_is_overtaken_by_few),
        cmocka_unit_test(who_fits_does_not_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
