/* Several answers to one prompt: each that of a run of its own keyed with its candidate, at any
 * rank count and in company, ranked by the score that a plain loop in float64 gives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/schedule/schedule.h"
#include "tests/unit/plain_decodes.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { CANVAS = 32, SLOTS = 18, ROUNDS = 2, RUNS = ROUNDS * PLAIN_BEST_REQUESTS, MAX_BEST = 8 };

/* One request on its way; of its answers the plain decodes. */
struct run {
    const struct golden_decode *decodes; /* [best] */
    size_t best;
    size_t shown;           /* reveals of the first candidate that were told */
    int32_t canvas[CANVAS]; /* as its watcher sees it */
    bool finished;
};

struct play {
    struct caloris_schedule *schedule;
    const struct plain_best *best;
    size_t rows; /* of a step */
    struct run runs[RUNS];
    size_t n, finished;
    int status;
    struct caloris_err err;
};

static int wrong(struct play *play, const struct run *run, const char *what)
{
    return caloris_err_set(&play->err, CALORIS_INTERNAL, "%s: %s", run->decodes[0].name, what);
}

static int submit(struct play *play, struct run *run)
{
    const struct golden_decode *golden = &run->decodes[0];
    struct caloris_request *request = calloc(1, sizeof(*request));
    if (!request || !(request->canvas = calloc(run->best * golden->length, sizeof(int32_t)))) {
        caloris_request_free(request);
        return caloris_err_sys(&play->err, "a request");
    }
    int32_t *canvas = golden_canvas(golden);
    memcpy(request->canvas, canvas, golden->length * sizeof(*canvas));
    free(canvas);
    request->params = golden->params;
    request->params.best = (uint32_t)run->best;
    request->length = golden->length;
    request->prompt = golden->n_prompt;
    request->follow = true;
    request->owner = run;
    if (caloris_schedule_submit(play->schedule, request, &play->err) == 0)
        return 0;
    caloris_request_free(request);
    return -1;
}

/* Whether all that the candidates want of their first step fits in one. */
static bool shares_first_step(const struct play *play, const struct run *run)
{
    const struct golden_decode *golden = &run->decodes[0];
    const struct caloris_job_params *params = &golden->params;
    size_t wants = params->block_length;
    for (size_t i = 0; i < golden->n_prompt; i++)
        wants += golden->prompt[i] == params->mask_id;
    return run->best * wants * (params->cfg_scale > 0 ? 2 : 1) <= play->rows;
}

/* Rows of all forwards but the shared one's copies, from the plain loops' traces. */
static uint64_t rows_of(const struct run *run, bool shares)
{
    uint64_t rows = 0;
    for (size_t k = 0; k < run->best; k++) {
        size_t call;
        const json_t *record;
        json_array_foreach(run->decodes[k].trace, call, record)
        {
            if (call > 0 || k == 0 || !shares)
                rows += json_array_size(json_object_get(record, "computed"));
        }
    }
    return rows * (run->decodes[0].params.cfg_scale > 0 ? 2 : 1);
}

static int see_answers(struct play *play, struct run *run, const struct caloris_event *event)
{
    const bool shares = shares_first_step(play, run);
    size_t steps = 0;
    bool seen[MAX_BEST] = {false};
    if (event->n_answers != run->best)
        return wrong(play, run, "not as many answers as asked for");
    for (size_t i = 0; i < run->best; i++) {
        const struct caloris_answer *answer = &event->answers[i];
        const struct golden_decode *golden = &run->decodes[answer->candidate];
        if (answer->candidate >= run->best || seen[answer->candidate])
            return wrong(play, run, "a candidate twice");
        seen[answer->candidate] = true;
        if (memcmp(answer->canvas, golden->final, golden->length * sizeof(int32_t)) != 0)
            return wrong(play, run, "an answer that is not its candidate's own");
        if (answer->steps != golden->calls || fabs(answer->score - golden->score) > 1e-4)
            return wrong(play, run, "steps or score of an answer");
        if (i > 0 && answer->score > event->answers[i - 1].score)
            return wrong(play, run, "the better one stands behind");
        steps += answer->steps;
    }
    if (event->step != steps - (shares ? run->best - 1 : 0))
        return wrong(play, run, "forward passes");
    if (event->rows != rows_of(run, shares))
        return wrong(play, run, "rows");
    if (memcmp(run->canvas, event->answers[0].canvas, event->request->length * sizeof(int32_t)))
        return wrong(play, run, "its watcher does not see the best one in the end");
    run->finished = true;
    play->finished++;
    return 0;
}

static int see(struct play *play, const struct caloris_event *event)
{
    struct run *run = event->owner;
    for (size_t i = 0; i < event->n_reveals; i++)
        run->canvas[event->reveals[i].position] = event->reveals[i].id;
    if (event->kind == CALORIS_EVENT_CANCELLED)
        return wrong(play, run, "given up");
    return event->kind == CALORIS_EVENT_FINISHED ? see_answers(play, run, event) : 0;
}

static void *conduct(void *arg)
{
    struct play *play = arg;
    for (bool ended = false; !ended;) {
        if (play->finished == play->n || play->status < 0)
            caloris_schedule_close(play->schedule, play->status < 0);
        struct caloris_event *event = caloris_schedule_next_event(play->schedule, -1);
        if (!event)
            continue;
        ended = event->kind == CALORIS_EVENT_ENDED;
        if (!ended && play->status == 0)
            play->status = see(play, event);
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    return NULL;
}

/* All requests ROUNDS times together, in rows so many a step (0: all there are). */
static int run_all(struct caloris_engine *engine, struct play *play, size_t rows,
                   struct caloris_err *err)
{
    struct caloris_engine_facts facts = *caloris_engine_facts(engine);
    pthread_t thread;
    play->rows = facts.max_step_rows = rows > 0 ? rows : facts.max_step_rows;
    play->n = play->finished = 0;
    play->schedule = caloris_schedule_new(&facts, err);
    if (!play->schedule)
        return -1;
    for (size_t round = 0; round < ROUNDS; round++) {
        const struct golden_decode *decode = play->best->decodes.decode;
        for (size_t i = 0; i < play->best->requests; i++) {
            struct run *run = &play->runs[play->n++];
            *run = (struct run){.decodes = decode, .best = play->best->best[i]};
            decode += run->best;
            if (play->status == 0)
                play->status = submit(play, run);
        }
    }
    if (pthread_create(&thread, NULL, conduct, play) != 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    const int status = caloris_schedule_loop(play->schedule, engine, err);
    pthread_join(thread, NULL);
    caloris_schedule_free(play->schedule);
    if (status == 0 && play->status < 0) {
        *err = play->err;
        return -1;
    }
    return status;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct play play = {.best = arg};
    if (run_all(engine, &play, 0, err) < 0)
        return -1;
    return run_all(engine, &play, CANVAS, err); /* what some want together does not fit */
}

static void gives_what_each_candidate_gives_alone(const char *model)
{
    static const int ranks[] = {1, 2, 3};
    struct plain_best best;
    plain_best_load(model, &best);
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        const struct caloris_engine_options options = {
            .model_dir = best.decodes.dir,
            .transport = CALORIS_TRANSPORT_THREADS,
            .ranks = ranks[i],
            .threads = 1,
            .max_requests = SLOTS,
            .max_canvas = CANVAS,
            .max_step_rows = SLOTS * CANVAS,
        };
        struct caloris_err err;
        if (caloris_engine_run(&options, body, &best, NULL, &err) < 0)
            fail_msg("%s, %d ranks: %s", model, ranks[i], err.text);
    }
    golden_decodes_free(&best.decodes);
}

static void llada(void **state)
{
    (void)state;
    gives_what_each_candidate_gives_alone("llada");
}

static void llada_gqa(void **state)
{
    (void)state;
    gives_what_each_candidate_gives_alone("llada-gqa");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(llada), cmocka_unit_test(llada_gqa)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
