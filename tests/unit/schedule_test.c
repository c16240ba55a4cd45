/* What the schedule takes, refuses and gives back when nothing is computed; with an engine:
 * tests/tp/schedule_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/schedule/schedule.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 100, MASK = 99 };

static const struct caloris_engine_facts facts = {
    .model = {.vocab = VOCAB},
    .max_requests = 2,
    .max_canvas = 32,
    .max_step_rows = 48,
    .kv_tokens = 30,
};

static struct caloris_request *make_request(size_t prompt, uint32_t gen_length, void *owner)
{
    struct caloris_request *request = calloc(1, sizeof(*request));
    assert_non_null(request);
    caloris_job_params_preset(&request->params, CALORIS_PRESET_EXACT);
    request->params.gen_length = gen_length;
    request->params.block_length = gen_length > 0 ? gen_length : 1;
    request->params.mask_id = MASK;
    request->length = prompt + gen_length;
    request->prompt = prompt;
    request->owner = owner;
    request->canvas = calloc(2 * request->length + 1, sizeof(*request->canvas)); /* best: 2 */
    assert_non_null(request->canvas);
    for (size_t i = prompt; i < request->length; i++)
        request->canvas[i] = MASK;
    return request;
}

static struct caloris_schedule *make_schedule(void)
{
    struct caloris_err err;
    struct caloris_schedule *schedule = caloris_schedule_new(&facts, &err);
    if (!schedule)
        fail_msg("%s", err.text);
    return schedule;
}

#define NO   CALORIS_CACHE_NONE
#define DUAL CALORIS_CACHE_DUAL

static const struct {
    size_t prompt;
    uint32_t gen_length;
    double cfg_scale;
    enum caloris_cache cache;
    int32_t first, mask, eos, eot;
    const char *complaint; /* NULL: taken */
} submits[] = {
    {16, 16, 0, NO, 1, MASK, 3, 4, NULL},
    {12, 12, 1, NO, 1, MASK, 3, 4, NULL},
    {33, 1, 0, NO, 1, MASK, 3, 4, "prompt: 33 tokens, but the longest canvas here is 32"},
    {20, 13, 0, NO, 1, MASK, 3, 4,
     "gen_length: 13 behind a prompt of 20 tokens, but the longest canvas here is 32"},
    {12, 13, 1, NO, 1, MASK, 3, 4, "cfg_scale: guidance takes 2 x 25 rows, but a step here has 48"},
    {4, 4, 0, NO, 100, MASK, 3, 4, "ids[0]: 100 is outside the model's vocabulary of 100"},
    {4, 4, 0, NO, 1, 100, 3, 4, "mask_id: 100 is outside the model's vocabulary of 100"},
    {4, 4, 0, NO, 1, MASK, 300, 4, "eos_id: 300 is outside"},
    {4, 4, 0, NO, 1, MASK, 3, 400, "eot_id: 400 is outside"},
    {4, 4, 0, NO, 1, -1, 3, 4, "mask_id: needed to generate"},
    {0, 0, 0, NO, 0, MASK, 3, 4, "gen_length: 0, and the prompt is empty"},
    {14, 16, 0, DUAL, 1, MASK, 3, 4, NULL},
    {14, 17, 0, DUAL, 1, MASK, 3, 4,
     "cache: (14 prompt + 17 gen_length) = 31 tokens of K/V, but 30 are kept here (kv-tokens)"},
    {8, 8, 1, DUAL, 1, MASK, 3, 4,
     "cache: guidance, 2 x (8 prompt + 8 gen_length) = 32 tokens of K/V, but 30 are kept here"},
};

static void refuses_what_can_never_fit(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(submits) / sizeof(submits[0]); i++) {
        struct caloris_schedule *schedule = make_schedule();
        struct caloris_request *request =
            make_request(submits[i].prompt, submits[i].gen_length, NULL);
        struct caloris_err err = {0};
        request->params.cfg_scale = submits[i].cfg_scale;
        request->params.cache = submits[i].cache;
        request->params.mask_id = submits[i].mask;
        request->params.eos_id = submits[i].eos;
        request->params.eot_id = submits[i].eot;
        request->canvas[0] = submits[i].prompt > 0 ? submits[i].first : request->canvas[0];
        const int status = caloris_schedule_submit(schedule, request, &err);
        if ((status == 0) != !submits[i].complaint)
            fail_msg("case %zu: %s", i, status == 0 ? "taken" : err.text);
        if (submits[i].complaint) {
            assert_int_equal(err.code, CALORIS_BAD_REQUEST);
            if (strncmp(err.text, submits[i].complaint, strlen(submits[i].complaint)) != 0)
                fail_msg("expected %s\n  found %s", submits[i].complaint, err.text);
            caloris_request_free(request);
        }
        assert_int_equal(caloris_schedule_load(schedule), status == 0 ? 1 : 0);
        caloris_schedule_free(schedule); /* what waits goes with it */
    }
}

static const struct {
    size_t prompt;
    uint32_t gen_length, best;
    double cfg_scale;
    enum caloris_cache cache;
    const char *complaint; /* NULL: taken */
} bests[] = {
    {4, 4, 2, 0, NO, NULL},
    {4, 4, 3, 0, NO, "best: 3 candidates x 1 = 3 canvases, but 2 are held here (max-requests)"},
    {4, 4, 2, 1, NO,
     "best: 2 candidates x guidance, 2 = 4 canvases, but 2 are held here (max-requests)"},
    {7, 8, 2, 0, DUAL, NULL},
    {8, 8, 2, 0, DUAL,
     "best: 2 candidates x (8 prompt + 8 gen_length) = 32 tokens of K/V, but 30 are kept here "
     "(kv-tokens)"},
    {4, 4, 0, 0, NO, "best: 0 answers"},
    {4, 4, 65, 0, NO, "best: 65 answers"},
};

static void refuses_answers_that_can_never_fit(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bests) / sizeof(bests[0]); i++) {
        struct caloris_schedule *schedule = make_schedule();
        struct caloris_request *request = make_request(bests[i].prompt, bests[i].gen_length, NULL);
        struct caloris_err err = {0};
        request->params.best = bests[i].best;
        request->params.cfg_scale = bests[i].cfg_scale;
        request->params.cache = bests[i].cache;
        request->params.temperature = 1;
        request->params.seed = 1;
        const int status = caloris_schedule_submit(schedule, request, &err);
        if ((status == 0) != !bests[i].complaint)
            fail_msg("case %zu: %s", i, status == 0 ? "taken" : err.text);
        if (bests[i].complaint) {
            assert_int_equal(err.code, CALORIS_BAD_REQUEST);
            assert_string_equal(err.text, bests[i].complaint);
            caloris_request_free(request);
        }
        caloris_schedule_free(schedule);
    }
}

/* Stands from elsewhere: all are looked at before any is used. */
static void refuses_stands_of_others(void **state)
{
    (void)state;
    static const struct {
        int32_t id; /* at 2, of the second candidate */
        uint32_t block;
        const char *complaint; /* NULL: taken */
    } cases[] = {
        {7, 1, NULL},
        {VOCAB, 1, "progress: id 100 at 2 is outside the vocabulary of 100"},
        {-1, 1, "progress: id -1 at 2 is outside the vocabulary of 100"},
        {7, 2, "progress: block 2 of 2"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_schedule *schedule = make_schedule();
        struct caloris_request *request = make_request(2, 2, NULL);
        struct caloris_err err = {0};
        request->params.block_length = 1;
        request->params.best = 2;
        request->params.temperature = 1;
        request->params.seed = 1;
        request->stands = caloris_stand_new(2, request->length);
        assert_non_null(request->stands);
        for (size_t k = 0; k < 2; k++) {
            struct caloris_stand *stand = &request->stands[k];
            memcpy(stand->canvas, request->canvas, request->length * sizeof(int32_t));
            for (size_t p = 0; p < request->length; p++)
                stand->log_p[p] = NAN;
            stand->canvas[2] = k == 1 ? cases[i].id : 7;
            stand->block = k == 1 ? cases[i].block : 1;
            stand->step = stand->passes = 1;
        }
        const int status = caloris_schedule_submit(schedule, request, &err);
        if (!cases[i].complaint) {
            assert_int_equal(status, 0);
            assert_int_equal(request->canvas[2], 7);
        } else {
            assert_int_equal(status, -1);
            assert_string_equal(err.text, cases[i].complaint);
            assert_int_equal(request->canvas[2], MASK); /* it can begin anew */
            caloris_request_free(request);
        }
        caloris_schedule_free(schedule);
    }
}

static bool readable(const struct caloris_schedule *schedule)
{
    struct pollfd fd = {.fd = caloris_schedule_event_fd(schedule), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void expect(struct caloris_schedule *schedule, enum caloris_event_kind kind,
                   const void *owner)
{
    assert_true(readable(schedule));
    struct caloris_event *event = caloris_schedule_next_event(schedule, 0);
    assert_non_null(event);
    assert_int_equal(event->kind, kind);
    assert_ptr_equal(event->owner, owner);
    assert_true(!!event->request == (kind != CALORIS_EVENT_ENDED));
    caloris_request_free(event->request);
    caloris_event_free(event);
}

static void gives_back_who_is_cancelled_while_waiting(void **state)
{
    (void)state;
    int owners[3];
    struct caloris_schedule *schedule = make_schedule();
    struct caloris_err err;
    assert_false(readable(schedule));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(caloris_schedule_submit(schedule, make_request(4, 4, &owners[i]), &err),
                         0);
    caloris_schedule_cancel(schedule, &err); /* nobody's */
    caloris_schedule_follow(schedule, &err, true);
    assert_false(readable(schedule));
    caloris_schedule_cancel(schedule, &owners[2]); /* the last: the line's end moves */
    caloris_schedule_cancel(schedule, &owners[0]);
    assert_int_equal(caloris_schedule_load(schedule), 1);
    assert_int_equal(caloris_schedule_submit(schedule, make_request(4, 4, &owners[0]), &err), 0);
    assert_int_equal(caloris_schedule_load(schedule), 2);
    expect(schedule, CALORIS_EVENT_CANCELLED, &owners[2]);
    expect(schedule, CALORIS_EVENT_CANCELLED, &owners[0]);
    assert_false(readable(schedule));
    assert_null(caloris_schedule_next_event(schedule, 1));

    /* Abandoned before it begins, the loop computes nothing and gives the rest back in order. */
    caloris_schedule_close(schedule, true);
    struct caloris_request *late = make_request(4, 4, NULL);
    assert_int_equal(caloris_schedule_submit(schedule, late, &err), -1);
    assert_int_equal(err.code, CALORIS_AGAIN);
    caloris_request_free(late);
    assert_int_equal(caloris_schedule_loop(schedule, NULL, &err), 0);
    expect(schedule, CALORIS_EVENT_CANCELLED, &owners[1]);
    expect(schedule, CALORIS_EVENT_CANCELLED, &owners[0]);
    expect(schedule, CALORIS_EVENT_ENDED, NULL);
    assert_false(readable(schedule));
    caloris_schedule_free(schedule);
}

static void finishes_what_has_no_mask_without_a_step(void **state)
{
    (void)state;
    struct caloris_schedule *schedule = make_schedule();
    struct caloris_err err;
    int owner;
    assert_int_equal(caloris_schedule_submit(schedule, make_request(4, 0, &owner), &err), 0);
    caloris_schedule_close(schedule, false);
    assert_int_equal(caloris_schedule_loop(schedule, NULL, &err), 0);
    expect(schedule, CALORIS_EVENT_FINISHED, &owner);
    expect(schedule, CALORIS_EVENT_ENDED, NULL);
    caloris_schedule_free(schedule);
}

/* ---- two threads ----------------------------------------------------------------------------- */

enum { ROUNDS = 300 };

/* Requests without masks come and go while the loop waits, wakes and ends. */
static void *coordinate(void *arg)
{
    struct caloris_schedule *schedule = arg;
    size_t finished = 0, cancelled = 0;
    for (size_t i = 0; i < ROUNDS; i++) {
        struct caloris_request *request = make_request(4, 0, schedule);
        if (caloris_schedule_submit(schedule, request, NULL) < 0) {
            caloris_request_free(request);
            return NULL;
        }
        caloris_schedule_follow(schedule, schedule, i % 2 == 0);
        if (i % 3 == 0)
            caloris_schedule_cancel(schedule, schedule);
    }
    caloris_schedule_close(schedule, false);
    for (bool ended = false; !ended;) {
        struct caloris_event *event = caloris_schedule_next_event(schedule, -1);
        if (!event)
            continue;
        ended = event->kind == CALORIS_EVENT_ENDED;
        finished += event->kind == CALORIS_EVENT_FINISHED;
        cancelled += event->kind == CALORIS_EVENT_CANCELLED;
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    return finished + cancelled == ROUNDS && caloris_schedule_load(schedule) == 0 ? schedule : NULL;
}

static void loses_nothing_between_two_threads(void **state)
{
    (void)state;
    struct caloris_schedule *schedule = make_schedule();
    pthread_t thread;
    void *all;
    assert_int_equal(pthread_create(&thread, NULL, coordinate, schedule), 0);
    assert_int_equal(caloris_schedule_loop(schedule, NULL, NULL), 0);
    pthread_join(thread, &all);
    assert_ptr_equal(all, schedule);
    caloris_schedule_free(schedule);
}

static void frees_nothing_at_all(void **state)
{
    (void)state;
    caloris_schedule_free(NULL);
    caloris_request_free(NULL);
    caloris_event_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_can_never_fit),
        cmocka_unit_test(refuses_answers_that_can_never_fit),
        cmocka_unit_test(refuses_stands_of_others),
        cmocka_unit_test(gives_back_who_is_cancelled_while_waiting),
        cmocka_unit_test(finishes_what_has_no_mask_without_a_step),
        cmocka_unit_test(loses_nothing_between_two_threads),
        cmocka_unit_test(frees_nothing_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
