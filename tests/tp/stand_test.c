/* Runs that are taken up by another group, from every place where they stood, on another number
 * of ranks and in company: the same ids, the same steps from there on, the same counts. Below fp32
 * that is promised at equal rank counts, and nobody recorded such runs: there the undisturbed run
 * is what the others are held against. */
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

enum { CANVAS = 64, SLOTS = 12, MAX_CUTS = 400, MAX_BEST = 8 };

/* A request, and what it gave when nobody disturbed it. */
struct job {
    const struct golden_decode *decodes; /* [best], in candidates */
    struct golden_decode *record;        /* NULL, or decodes: the undisturbed run goes there */
    size_t best;
    struct caloris_stand *stands; /* [best]: the newest of all candidates */
    uint32_t passes;
    uint64_t rows;
    double scores[MAX_BEST]; /* of the answers, best first */
};

/* One way to take a job up again: as it stood when some candidate came to stand. */
struct cut {
    const struct job *job;
    struct caloris_stand *stands;
    size_t first_step; /* of the first candidate */
};

/* A job that is computed now, from its start or from a cut. */
struct run {
    struct job *job;
    const struct cut *cut; /* NULL: from its start */
    size_t calls;          /* steps of the first candidate that were told */
};

struct play {
    const char *weights; /* NULL: fp32 */
    struct job *jobs;
    size_t n_jobs;
    struct cut cuts[MAX_CUTS];
    size_t n_cuts;

    struct caloris_schedule *schedule;
    struct run runs[MAX_CUTS];
    size_t n, finished;
    int status;
    struct caloris_err err;
};

static int wrong(struct play *play, const struct run *run, const char *what)
{
    return caloris_err_set(&play->err, CALORIS_INTERNAL, "%s, from step %zu: %s",
                           run->job->decodes[0].name, run->cut ? run->cut->first_step : 0, what);
}

static struct caloris_stand *copy_stands(const struct job *job)
{
    const size_t length = job->decodes[0].length;
    struct caloris_stand *stands = caloris_stand_new(job->best, length);
    for (size_t k = 0; stands && k < job->best; k++)
        caloris_stand_copy(&stands[k], &job->stands[k], length);
    return stands;
}

static int submit(struct play *play, struct run *run)
{
    const struct job *job = run->job;
    const struct golden_decode *golden = &job->decodes[0];
    struct caloris_request *request = calloc(1, sizeof(*request));
    if (!request || !(request->canvas = calloc(job->best * golden->length, sizeof(int32_t)))) {
        caloris_request_free(request);
        return caloris_err_sys(&play->err, "a request");
    }
    int32_t *canvas = golden_canvas(golden);
    memcpy(request->canvas, canvas, golden->length * sizeof(*canvas));
    free(canvas);
    request->params = golden->params;
    request->params.best = (uint32_t)job->best;
    request->length = golden->length;
    request->prompt = golden->n_prompt;
    request->follow = true;
    request->stand = !run->cut;
    request->owner = run;
    if (run->cut) {
        const struct job at = {
            .decodes = job->decodes, .best = job->best, .stands = run->cut->stands};
        request->stands = copy_stands(&at);
    }
    if (caloris_schedule_submit(play->schedule, request, &play->err) == 0)
        return 0;
    caloris_request_free(request);
    return -1;
}

/* A candidate stands: with where the others stand, that is a cut. */
static int see_stand(struct play *play, struct run *run, struct caloris_event *event)
{
    struct job *job = run->job;
    struct caloris_stand *to = &job->stands[event->candidate];
    const size_t length = job->decodes[0].length;
    if (play->n_cuts == MAX_CUTS)
        return wrong(play, run, "more cuts than expected");
    caloris_stand_copy(to, event->stand, length);
    struct cut *cut = &play->cuts[play->n_cuts++];
    *cut = (struct cut){job, copy_stands(job), job->stands[0].step};
    return cut->stands ? 0 : caloris_err_sys(&play->err, "a cut");
}

static int record_step(struct play *play, struct run *run, const struct caloris_event *event)
{
    json_t *writes = json_array();
    for (size_t i = 0; i < event->n_reveals; i++)
        json_array_append_new(writes, json_pack("[i, i]", (int)event->reveals[i].position,
                                                (int)event->reveals[i].id));
    run->calls++;
    return json_array_append_new(run->job->record->trace, json_pack("{s:o}", "writes", writes)) == 0
               ? 0
               : wrong(play, run, "its steps are not recorded");
}

/* The writes of the first candidate's step. */
static int see_step(struct play *play, struct run *run, const struct caloris_event *event)
{
    if (run->job->record && !run->cut)
        return record_step(play, run, event);
    const size_t before = run->cut ? run->cut->first_step : 0;
    const json_t *call = json_array_get(run->job->decodes[0].trace, before + run->calls);
    const json_t *writes = json_object_get(call, "writes");
    run->calls++;
    if (event->step != before + run->calls || json_array_size(writes) != event->n_reveals)
        return wrong(play, run, "another step");
    for (size_t i = 0; i < event->n_reveals; i++) {
        const json_t *write = json_array_get(writes, i);
        if (json_integer_value(json_array_get(write, 0)) !=
                (json_int_t)event->reveals[i].position ||
            json_integer_value(json_array_get(write, 1)) != event->reveals[i].id)
            return wrong(play, run, "another write");
    }
    return 0;
}

/* Candidates that had shared the first one's first step and stood nowhere: they compute it now. */
static uint32_t begun_anew(const struct run *run)
{
    uint32_t n = 0;
    for (size_t k = 1; run->cut && k < run->job->best; k++)
        n += run->cut->stands[k].step == 0;
    return n;
}

static int see_answers(struct play *play, struct run *run, const struct caloris_event *event)
{
    struct job *job = run->job;
    if (job->record && !run->cut) {
        memcpy(job->record->final, event->answers[0].canvas,
               job->record->length * sizeof(*job->record->final));
        job->record->calls = event->answers[0].steps;
    }
    const size_t first_calls = job->decodes[0].calls;
    for (size_t i = 0; i < event->n_answers; i++) {
        const struct caloris_answer *answer = &event->answers[i];
        const struct golden_decode *golden = &job->decodes[answer->candidate];
        if (memcmp(answer->canvas, golden->final, golden->length * sizeof(int32_t)) != 0)
            return wrong(play, run, "other ids");
        if (answer->steps != golden->calls)
            return wrong(play, run, "other steps");
        if (!run->cut)
            job->scores[i] = answer->score;
        else if (fabs(answer->score - job->scores[i]) > 1e-4)
            return wrong(play, run, "another score");
    }
    if (run->calls + (run->cut ? run->cut->first_step : 0) != first_calls)
        return wrong(play, run, "a step too few or too many");
    const uint32_t more = begun_anew(run);
    const size_t canvases = job->decodes[0].params.cfg_scale > 0 ? 2 : 1;
    if (run->cut && (event->step != job->passes + more ||
                     event->rows != job->rows + more * canvases * event->request->length))
        return wrong(play, run, "other forward passes or rows");
    if (!run->cut) {
        job->passes = event->step;
        job->rows = event->rows;
    }
    play->finished++;
    return 0;
}

static int see(struct play *play, struct caloris_event *event)
{
    struct run *run = event->owner;
    switch (event->kind) {
    case CALORIS_EVENT_STAND:
        return see_stand(play, run, event);
    case CALORIS_EVENT_STEP:
        return see_step(play, run, event);
    case CALORIS_EVENT_FINISHED:
        return see_answers(play, run, event);
    case CALORIS_EVENT_CANCELLED:
        return wrong(play, run, "given up");
    default:
        return 0;
    }
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

/* All runs together. */
static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct play *play = arg;
    pthread_t thread;
    play->finished = 0;
    play->schedule = caloris_schedule_new(caloris_engine_facts(engine), err);
    if (!play->schedule)
        return -1;
    for (size_t i = 0; i < play->n && play->status == 0; i++) {
        play->runs[i].calls = 0;
        play->status = submit(play, &play->runs[i]);
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

static void run_on(const char *dir, int ranks, struct play *play)
{
    const struct caloris_engine_options options = {
        .model_dir = dir,
        .weights = play->weights,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 1,
        .max_requests = SLOTS,
        .max_canvas = CANVAS,
        .max_step_rows = SLOTS * CANVAS,
    };
    struct caloris_err err;
    if (caloris_engine_run(&options, body, play, NULL, &err) < 0)
        fail_msg("%d ranks: %s", ranks, err.text);
}

/* Every job on some ranks, then from every cut on others. */
static void cut_everywhere(const char *dir, const char *weights, struct job *jobs, size_t n,
                           int from, int to, size_t least)
{
    static struct play play;
    memset(&play, 0, sizeof(play));
    play.weights = weights;
    play.jobs = jobs;
    play.n_jobs = play.n = n;
    for (size_t i = 0; i < n; i++) {
        play.runs[i] = (struct run){.job = &jobs[i]};
        jobs[i].stands = caloris_stand_new(jobs[i].best, jobs[i].decodes[0].length);
        assert_non_null(jobs[i].stands);
    }
    run_on(dir, from, &play);
    play.n = play.n_cuts;
    for (size_t i = 0; i < play.n; i++)
        play.runs[i] = (struct run){.job = (struct job *)play.cuts[i].job, .cut = &play.cuts[i]};
    run_on(dir, to, &play);
    print_message("%s: %zu jobs, %zu cuts, from %d ranks to %d\n", weights ? weights : "fp32", n,
                  play.n_cuts, from, to);
    assert_true(play.n_cuts >= least);
    for (size_t i = 0; i < play.n_cuts; i++)
        free(play.cuts[i].stands);
    for (size_t i = 0; i < n; i++)
        free(jobs[i].stands);
}

static const struct {
    int from, to;
} worlds[] = {{1, 2}, {2, 3}, {3, 1}, {5, 2}};
enum { WORLDS = sizeof(worlds) / sizeof(worlds[0]) };

/* Recorded runs and plain ones: every cache with every commit, holes, guidance, noise. */
static void runs_go_on_elsewhere(const char *model, size_t least)
{
    struct golden_decodes decodes;
    struct job jobs[80];
    golden_decodes_load(model, &decodes);
    plain_decodes_append(&decodes);
    assert_true(decodes.count <= sizeof(jobs) / sizeof(jobs[0]));
    for (size_t i = 0; i < decodes.count; i++)
        jobs[i] = (struct job){.decodes = &decodes.decode[i], .best = 1};
    for (size_t w = 0; w < WORLDS; w++)
        cut_everywhere(decodes.dir, NULL, jobs, decodes.count, worlds[w].from, worlds[w].to, least);
    golden_decodes_free(&decodes);
}

static void llada(void **state)
{
    (void)state;
    runs_go_on_elsewhere("llada", 60);
}

static void llada_gqa(void **state)
{
    (void)state;
    runs_go_on_elsewhere("llada-gqa", 60);
}

/* Some of its candidates done, some on their way, some not begun. */
static void several_answers_go_on_elsewhere(void **state)
{
    (void)state;
    struct plain_best best;
    struct job jobs[PLAIN_BEST_REQUESTS];
    plain_best_load("llada", &best);
    const struct golden_decode *decode = best.decodes.decode;
    for (size_t i = 0; i < best.requests; i++) {
        jobs[i] = (struct job){.decodes = decode, .best = best.best[i]};
        decode += best.best[i];
    }
    for (size_t w = 0; w < WORLDS; w++)
        cut_everywhere(best.decodes.dir, NULL, jobs, best.requests, worlds[w].from, worlds[w].to,
                       12);
    golden_decodes_free(&best.decodes);
}

static void few_bits_go_on_at_equal_ranks(void **state)
{
    (void)state;
    static const struct {
        const char *weights;
        int ranks;
    } formats[] = {{"int8", 1}, {"int8", 3}, {"int4", 3}, {"bf16", 2}};
    struct golden_decodes decodes;
    struct job jobs[80];
    golden_decodes_load("llada-gqa", &decodes);
    plain_decodes_append(&decodes);
    assert_true(decodes.count <= sizeof(jobs) / sizeof(jobs[0]));
    for (size_t f = 0; f < sizeof(formats) / sizeof(formats[0]); f++) {
        for (size_t i = 0; i < decodes.count; i++) {
            struct golden_decode *decode = &decodes.decode[i];
            json_decref(decode->trace);
            decode->trace = json_array();
            jobs[i] = (struct job){.decodes = decode, .record = decode, .best = 1};
        }
        cut_everywhere(decodes.dir, formats[f].weights, jobs, decodes.count, formats[f].ranks,
                       formats[f].ranks, 60);
    }
    golden_decodes_free(&decodes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llada),
        cmocka_unit_test(llada_gqa),
        cmocka_unit_test(several_answers_go_on_elsewhere),
        cmocka_unit_test(few_bits_go_on_at_equal_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
