/* The schedule over a real engine: entering and leaving, cancelling, following, taking turns,
 * ending. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/schedule/schedule.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 310, SLOTS = 3, CANVAS = 48, RUNS = 12 };

/* ---- a run of several requests --------------------------------------------------------------- */

/* Index i of owner stands for request i. What a test does at an event, and what came of each
 * request. */
struct play;
typedef void (*on_event)(struct play *play, const struct caloris_event *event, size_t index);

struct play {
    struct caloris_schedule *schedule;
    struct caloris_request *requests[RUNS];
    size_t n, open;
    on_event react; /* may be NULL */
    bool abandon;   /* close so when react asks for it */
    bool close_now;
    size_t max_rows, aim; /* 0: the engine's; max_rows */
    bool lined_up;        /* all are submitted before the loop begins */
    struct caloris_schedule_figures figures;
    const char *problem;

    char owner[RUNS];
    enum caloris_event_kind outcome[RUNS];
    int32_t canvas[RUNS][CANVAS];
    uint32_t steps[RUNS], masks_left[RUNS], seen_steps[RUNS], snapshots[RUNS];
    int32_t copy[RUNS][CANVAS]; /* rebuilt from snapshots and steps */
    float sure[RUNS][CANVAS];   /* what steps said */
    size_t repeated;            /* by snapshots */
    size_t order[RUNS], finished;
    double wait_s[RUNS], first_step_s[RUNS];
};

static struct caloris_request *make_request(size_t prompt, uint32_t gen_length, uint32_t steps)
{
    struct caloris_request *request = calloc(1, sizeof(*request));
    assert_non_null(request);
    caloris_job_params_preset(&request->params, CALORIS_PRESET_EXACT);
    request->params.gen_length = request->params.block_length = gen_length;
    request->params.commit = CALORIS_COMMIT_QUOTA;
    request->params.steps = steps;
    request->params.mask_id = MASK;
    request->params.seed = 7;
    request->params.early_stop = false;
    request->length = prompt + gen_length;
    request->prompt = prompt;
    request->canvas = calloc(request->length, sizeof(*request->canvas));
    assert_non_null(request->canvas);
    for (size_t i = 0; i < request->length; i++)
        request->canvas[i] = i < prompt ? (int32_t)(7 * i + prompt) % 300 : MASK;
    return request;
}

/* A snapshot repeats what the step said, as far as its logarithm has the digits. */
static void note_confidence(struct play *play, enum caloris_event_kind kind,
                            const struct caloris_reveal *reveal, float *sure)
{
    if (kind == CALORIS_EVENT_STEP) {
        *sure = reveal->confidence;
    } else if (*sure > 0) {
        play->repeated++;
        if (fabsf(reveal->confidence - *sure) > 1e-6f)
            play->problem = "a snapshot with other confidences than the steps";
    }
}

static void note(struct play *play, const struct caloris_event *event)
{
    const size_t i = (size_t)((char *)event->owner - play->owner);
    const bool last = event->request != NULL;
    if (event->kind == CALORIS_EVENT_SNAPSHOT)
        play->snapshots[i]++;
    if (event->kind == CALORIS_EVENT_STEP)
        play->seen_steps[i]++;
    if (event->kind == CALORIS_EVENT_STEP && event->step == 1)
        play->first_step_s[i] = event->step_s;
    for (size_t k = 0; k < event->n_reveals; k++) {
        const struct caloris_reveal *reveal = &event->reveals[k];
        play->copy[i][reveal->position] = reveal->id;
        note_confidence(play, event->kind, reveal, &play->sure[i][reveal->position]);
    }
    if (last) {
        play->outcome[i] = event->kind;
        play->wait_s[i] = event->wait_s;
        play->steps[i] = event->step;
        play->masks_left[i] = event->masks_left;
        memcpy(play->canvas[i], event->request->canvas, event->request->length * sizeof(int32_t));
        play->order[play->finished++] = i;
        play->open--;
    }
    if (play->react)
        play->react(play, event, i);
}

static void submit_all(struct play *play)
{
    struct caloris_err err;
    for (size_t i = 0; i < play->n; i++) {
        play->requests[i]->owner = &play->owner[i];
        if (caloris_schedule_submit(play->schedule, play->requests[i], &err) < 0) {
            caloris_request_free(play->requests[i]);
            play->problem = "a request was refused";
        } else {
            play->open++;
        }
    }
}

static void *conduct(void *arg)
{
    struct play *play = arg;
    if (!play->lined_up)
        submit_all(play);
    bool closed = false;
    for (bool ended = false; !ended;) {
        if (!closed && (play->open == 0 || play->close_now)) {
            caloris_schedule_close(play->schedule, play->abandon);
            closed = true;
        }
        struct caloris_event *event = caloris_schedule_next_event(play->schedule, -1);
        if (!event)
            continue;
        ended = event->kind == CALORIS_EVENT_ENDED;
        if (!ended)
            note(play, event);
        else if (event->error.code != CALORIS_OK)
            play->problem = "the loop ended with an error";
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    return NULL;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct play *play = arg;
    struct caloris_engine_facts facts = *caloris_engine_facts(engine);
    pthread_t thread;
    if (play->max_rows > 0)
        facts.max_step_rows = play->max_rows;
    play->schedule = caloris_schedule_new(&facts, err);
    if (!play->schedule)
        return -1;
    if (play->aim > 0)
        caloris_schedule_aim(play->schedule, play->aim);
    if (play->lined_up)
        submit_all(play);
    if (pthread_create(&thread, NULL, conduct, play) != 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    const int status = caloris_schedule_loop(play->schedule, engine, err);
    pthread_join(thread, NULL);
    caloris_schedule_figures(play->schedule, &play->figures);
    caloris_schedule_free(play->schedule);
    return status;
}

static void run(struct play *play)
{
    char dir[4096];
    struct caloris_err err;
    snprintf(dir, sizeof(dir), "%s/tests/golden/models/llada", getenv("CALORIS_SOURCE_DIR"));
    const struct caloris_engine_options options = {
        .model_dir = dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = 2,
        .threads = 1,
        .max_requests = SLOTS,
        .max_canvas = CANVAS,
        .max_step_rows = SLOTS * CANVAS,
    };
    if (caloris_engine_run(&options, body, play, NULL, &err) < 0)
        fail_msg("%s", err.text);
    if (play->problem)
        fail_msg("%s", play->problem);
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Prompts of several lengths, some guided, some sampled, more of them than slots. */
static void fill(struct play *play)
{
    for (play->n = 0; play->n < RUNS; play->n++) {
        const size_t i = play->n;
        play->requests[i] = make_request(4 + i, 8 + (uint32_t)i % 3 * 4, 0);
        struct caloris_job_params *params = &play->requests[i]->params;
        params->cfg_scale = i % 3 == 1 ? 0.5 : 0;
        params->temperature = i % 4 == 2 ? 0.5 : 0;
        params->order = i % 5 == 4 ? CALORIS_ORDER_RANDOM : CALORIS_ORDER_CONFIDENCE;
    }
}

static void company_changes_nothing(void **state)
{
    (void)state;
    static struct play together, tight, alone;
    fill(&together);
    run(&together);
    fill(&tight);
    tight.max_rows = 2 * 26; /* the largest guided one fills a step */
    run(&tight);
    for (size_t i = 0; i < RUNS; i++) {
        memset(&alone, 0, sizeof(alone));
        fill(&alone);
        for (size_t k = 0; k < RUNS; k++) {
            if (k != i)
                caloris_request_free(alone.requests[k]);
        }
        alone.requests[0] = alone.requests[i];
        alone.n = 1;
        run(&alone);
        assert_int_equal(alone.outcome[0], CALORIS_EVENT_FINISHED);
        assert_int_equal(together.outcome[i], CALORIS_EVENT_FINISHED);
        assert_int_equal(tight.outcome[i], CALORIS_EVENT_FINISHED);
        assert_int_equal(alone.masks_left[0], 0);
        assert_true(alone.steps[0] == 8 + i % 3 * 4 && together.steps[i] == alone.steps[0]);
        assert_memory_equal(together.canvas[i], alone.canvas[0], sizeof(alone.canvas[0]));
        assert_memory_equal(tight.canvas[i], alone.canvas[0], sizeof(alone.canvas[0]));
    }
}

/* A short one behind a full house enters as soon as a slot is free, and ends before the long
 * ones. */
static void who_finishes_leaves_at_once(void **state)
{
    (void)state;
    static struct play play;
    static const uint32_t lengths[] = {32, 4, 32, 4, 4};
    for (play.n = 0; play.n < 5; play.n++)
        play.requests[play.n] = make_request(4, lengths[play.n], 0);
    run(&play);
    static const size_t order[] = {1, 3, 4};
    assert_memory_equal(play.order, order, sizeof(order));
}

static void cancel_at_step_two(struct play *play, const struct caloris_event *event, size_t index)
{
    if (index == 0 && event->kind == CALORIS_EVENT_STEP && event->step == 2)
        caloris_schedule_cancel(play->schedule, event->owner);
}

static void a_running_request_is_cancelled(void **state)
{
    (void)state;
    static struct play play;
    play.react = cancel_at_step_two;
    for (play.n = 0; play.n < 5; play.n++) {
        play.requests[play.n] = make_request(4, play.n == 0 ? 40 : 8, 0);
        play.requests[play.n]->follow = play.n == 0;
    }
    run(&play);
    assert_int_equal(play.outcome[0], CALORIS_EVENT_CANCELLED);
    assert_in_range(play.steps[0], 2, 39);
    assert_int_equal(play.masks_left[0], 40 - play.steps[0]);
    for (size_t i = 1; i < 5; i++)
        assert_int_equal(play.outcome[i], CALORIS_EVENT_FINISHED);
}

/* Request 1 is followed from its start; its steps tell when to begin and stop with request 0. */
static void follow_for_a_while(struct play *play, const struct caloris_event *event, size_t index)
{
    if (index == 1 && event->kind == CALORIS_EVENT_STEP && event->step == 3)
        caloris_schedule_follow(play->schedule, &play->owner[0], true);
    if (index == 0 && event->kind == CALORIS_EVENT_STEP && play->seen_steps[0] == 2)
        caloris_schedule_follow(play->schedule, &play->owner[1], false);
}

static void following_begins_with_a_snapshot(void **state)
{
    (void)state;
    static struct play play;
    play.react = follow_for_a_while;
    play.n = 2;
    play.requests[0] = make_request(6, 40, 0);
    play.requests[1] = make_request(5, 40, 0);
    play.requests[1]->follow = true;
    run(&play);
    assert_int_equal(play.snapshots[0], 1);
    assert_int_equal(play.snapshots[1], 1);
    assert_in_range(play.seen_steps[0], 2, 37);
    assert_in_range(play.seen_steps[1], 3, 40);
    assert_memory_equal(play.copy[0], play.canvas[0], 46 * sizeof(int32_t));
}

static void follow_anew_at_step_three(struct play *play, const struct caloris_event *event,
                                      size_t index)
{
    if (event->kind == CALORIS_EVENT_STEP && event->step == 3)
        caloris_schedule_follow(play->schedule, &play->owner[index], true);
}

static void a_snapshot_says_how_sure_it_was(void **state)
{
    (void)state;
    static struct play play;
    play.react = follow_anew_at_step_three;
    play.n = 1;
    play.requests[0] = make_request(6, 40, 0);
    play.requests[0]->canvas[2] = MASK;
    play.requests[0]->follow = true;
    run(&play);
    assert_int_equal(play.snapshots[0], 2);
    assert_true(play.repeated >= 3);
}

static void abandon_at_step_two(struct play *play, const struct caloris_event *event, size_t index)
{
    (void)index;
    if (event->kind == CALORIS_EVENT_STEP && event->step == 2)
        play->close_now = true;
}

static void abandoning_gives_everything_back(void **state)
{
    (void)state;
    static struct play play;
    play.react = abandon_at_step_two;
    play.abandon = true;
    for (play.n = 0; play.n < 5; play.n++) {
        play.requests[play.n] = make_request(4, 40, 0);
        play.requests[play.n]->follow = play.n == 0;
    }
    run(&play);
    assert_int_equal(play.finished, 5);
    assert_int_equal(play.outcome[0], CALORIS_EVENT_CANCELLED);
    assert_int_equal(play.outcome[4], CALORIS_EVENT_CANCELLED);
    assert_int_equal(play.steps[4], 0); /* it never ran */
}

static void closing_finishes_what_is_there(void **state)
{
    (void)state;
    static struct play play;
    for (play.n = 0; play.n < 5; play.n++)
        play.requests[play.n] = make_request(4, 8, 0);
    play.close_now = true;
    run(&play);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(play.outcome[i], CALORIS_EVENT_FINISHED);
}

/* Holes in the prompt, none generated, and guidance: the holes are filled in both canvases. */
static void fills_holes_alone(void **state)
{
    (void)state;
    static struct play play;
    for (play.n = 0; play.n < 2; play.n++) {
        struct caloris_request *request = make_request(12, 0, 0);
        request->params.block_length = 1;
        request->params.cfg_scale = play.n == 0 ? 0 : 1;
        request->canvas[3] = request->canvas[4] = request->canvas[9] = MASK;
        request->follow = true;
        play.requests[play.n] = request;
    }
    run(&play);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(play.outcome[i], CALORIS_EVENT_FINISHED);
        assert_int_equal(play.steps[i], 3);
        assert_int_equal(play.masks_left[i], 0);
        assert_memory_equal(play.copy[i], play.canvas[i], 12 * sizeof(int32_t));
    }
}

/* The reveals of the last step, EOS put behind the end included, rebuild the canvas. */
static void an_early_end_is_told(void **state)
{
    (void)state;
    static struct play play;
    struct caloris_request *whole = make_request(4, 32, 8);
    play.requests[play.n++] = whole;
    run(&play);
    /* Whatever the model says first there: call it EOS. */
    static struct play early;
    struct caloris_request *request = make_request(4, 32, 8);
    request->params.early_stop = true;
    request->params.eos_id = play.canvas[0][4];
    request->follow = true;
    early.requests[early.n++] = request;
    run(&early);
    assert_int_equal(early.outcome[0], CALORIS_EVENT_FINISHED);
    assert_true(early.steps[0] <= play.steps[0]);
    for (size_t i = 4; i < 36; i++)
        assert_int_equal(early.canvas[0][i], play.canvas[0][4]);
    assert_memory_equal(early.copy[0], early.canvas[0], 36 * sizeof(int32_t));
}

/* All have room, but one fills a step: the others wait meanwhile, the last one for the first two,
 * but for the turns that it gets after four rounds. */
static void counts_who_waits(void **state)
{
    (void)state;
    static struct play play;
    play.lined_up = true;
    play.aim = 24;
    for (play.n = 0; play.n < 3; play.n++) {
        play.requests[play.n] = make_request(4, 20, 0);
        play.requests[play.n]->follow = true;
    }
    run(&play);
    assert_int_equal(play.figures.steps, 3 * 20);
    assert_int_equal(play.figures.rows, 3 * 20 * 24);
    assert_int_equal(play.figures.crowded_steps, 2 * 20 + 4); /* then the last one is alone */
    assert_true(play.figures.crowded_fill == 2 * 20 + 4);
    assert_true(play.wait_s[1] >= play.first_step_s[0]);
    assert_true(play.wait_s[2] >= play.first_step_s[0] + play.first_step_s[1]);

    static struct play half; /* with room for all of them, twice over */
    half.lined_up = true;
    half.aim = 2 * 3 * 24;
    for (half.n = 0; half.n < 3; half.n++)
        half.requests[half.n] = make_request(4, 20, 0);
    run(&half);
    assert_int_equal(half.figures.steps, 20);
    assert_int_equal(half.figures.rows, 3 * 20 * 24);
    assert_int_equal(half.figures.crowded_steps, 0);
}

/* Two slots' worth of requests wait in the line while steps are half as full as they should be. */
static void counts_how_full_steps_are(void **state)
{
    (void)state;
    static struct play play;
    play.lined_up = true;
    play.aim = 2 * SLOTS * 24;
    for (play.n = 0; play.n < 2 * SLOTS; play.n++)
        play.requests[play.n] = make_request(4, 20, 0);
    run(&play);
    assert_int_equal(play.figures.steps, 2 * 20);
    assert_int_equal(play.figures.crowded_steps, 20);
    assert_true(play.figures.crowded_fill == 20 * 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(who_finishes_leaves_at_once),
        cmocka_unit_test(a_running_request_is_cancelled),
        cmocka_unit_test(following_begins_with_a_snapshot),
        cmocka_unit_test(a_snapshot_says_how_sure_it_was),
        cmocka_unit_test(abandoning_gives_everything_back),
        cmocka_unit_test(closing_finishes_what_is_there),
        cmocka_unit_test(fills_holes_alone),
        cmocka_unit_test(an_early_end_is_told),
        cmocka_unit_test(counts_who_waits),
        cmocka_unit_test(counts_how_full_steps_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
