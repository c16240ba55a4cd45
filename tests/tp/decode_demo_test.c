/* The demo model against ids that third-party code recorded (reference.json): the short runs, with
 * and without a cache, at many rank counts, alone and in company, and taken up again by another
 * group wherever one stood; its long runs at one rank count. Long runs, runs alone and those that
 * are taken up again are of some prompts; with CALORIS_TEST_ALL set, of all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/json.h"
#include "coordinator/schedule/schedule.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of which prompts the runs are that take long (every n-th), and the share of those alone; most
 * forward passes of a short run; runs of the record that have a cache. */
enum { LONG_STRIDE = 16, CUT_STRIDE = 8, ALONE_SHARE = 4, SHORT = 16, CACHED = 80 };
enum { MAX_CANVAS = 168, MAX_RUNS = 256, MAX_CUTS = 1024 };

/* A recorded run, or the rest of one from where it stood. */
struct run {
    const json_t *request, *record;
    struct caloris_job_params params;
    bool cut;                    /* it is taken up again, too */
    const struct run *whole;     /* NULL, or whose rest this is */
    struct caloris_stand *stand; /* from where */
    uint32_t passes;             /* that it took, undisturbed */
    bool finished;
};

struct demo {
    char dir[4096];
    json_t *root;
    struct run runs[MAX_RUNS], cuts[MAX_CUTS];
    size_t n_runs, n_cuts;

    struct run *played; /* [n]: runs or cuts */
    size_t n, finished;
    struct caloris_schedule *schedule;
    int status;
    struct caloris_err err;
};

static struct demo demo;

/* ---- the record ------------------------------------------------------------------------------ */

/* The record's parameters, which are in the words of the jobs schema, through the parser. */
static void read_params(const json_t *root, const json_t *record, struct caloris_job_params *params)
{
    json_t *object = json_pack("{s:[i]}", "ids", 0);
    json_object_update(object, json_object_get(record, "params"));
    json_object_set(object, "early_stop", json_object_get(root, "early_stop"));
    json_object_set(object, "temperature", json_object_get(root, "temperature"));
    json_object_set(object, "quota", json_object_get(root, "quota"));
    char *text = json_dumps(object, 0);
    struct caloris_job job;
    struct caloris_err err;
    if (caloris_job_parse(text, strlen(text), &job, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    *params = job.params;
    caloris_job_free(&job);
    free(text);
    json_decref(object);
}

static json_int_t passes_of(const json_t *record)
{
    return json_integer_value(json_object_get(record, "forward_passes"));
}

static bool is_long(const json_t *record)
{
    return passes_of(record) > SHORT;
}

/* The long or the short ones, caches and requests in turns. */
static void load(bool longs)
{
    char path[sizeof(demo.dir) + 16];
    struct caloris_err err;
    const bool all = getenv("CALORIS_TEST_ALL") != NULL;
    demo = (struct demo){0};
    snprintf(demo.dir, sizeof(demo.dir), "%s/deploy/models/tinycoder",
             getenv("CALORIS_SOURCE_DIR"));
    snprintf(path, sizeof(path), "%s/reference.json", demo.dir);
    demo.root = caloris_json_load(path, 8 << 20, &err);
    if (!demo.root)
        fail_msg("%s", err.text);
    size_t p, r, cached = 0;
    json_t *request, *record;
    json_array_foreach(json_object_get(demo.root, "requests"), p, request)
    {
        json_array_foreach(json_object_get(request, "runs"), r, record)
        {
            if (is_long(record) != longs || (longs && p % LONG_STRIDE != 0 && !all))
                continue;
            assert_true(demo.n_runs < MAX_RUNS);
            struct run *run = &demo.runs[demo.n_runs++];
            *run = (struct run){
                .request = request, .record = record, .cut = p % CUT_STRIDE == 0 || all};
            read_params(demo.root, record, &run->params);
            cached += run->params.cache != CALORIS_CACHE_NONE;
        }
    }
    assert_int_equal(cached, longs ? 0 : CACHED);
}

static void unload(void)
{
    for (size_t i = 0; i < demo.n_cuts; i++)
        free(demo.cuts[i].stand);
    json_decref(demo.root);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static int wrong(const struct run *run, const char *what)
{
    return caloris_err_set(&demo.err, CALORIS_INTERNAL,
                           "%s, recorded with %d forwards, step %u: %s",
                           json_string_value(json_object_get(run->request, "id")),
                           (int)passes_of(run->record), run->stand ? run->stand->step : 0, what);
}

static int submit(const struct caloris_engine_facts *facts, struct run *run)
{
    const json_t *prompt = json_object_get(run->request, "prompt_ids");
    struct caloris_request *request = calloc(1, sizeof(*request));
    run->params.mask_id = facts->model.mask_id;
    run->params.eos_id = facts->model.eos_id;
    run->finished = false;
    *request = (struct caloris_request){
        .params = run->params, .prompt = json_array_size(prompt), .stand = run->cut, .owner = run};
    request->length = request->prompt + run->params.gen_length;
    request->canvas = calloc(request->length, sizeof(*request->canvas));
    for (size_t i = 0; i < request->length; i++)
        request->canvas[i] = i < request->prompt
                                 ? (int32_t)json_integer_value(json_array_get(prompt, i))
                                 : run->params.mask_id;
    if (run->stand) {
        request->stands = caloris_stand_new(1, request->length);
        caloris_stand_copy(request->stands, run->stand, request->length);
    }
    if (caloris_schedule_submit(demo.schedule, request, &demo.err) == 0)
        return 0;
    caloris_request_free(request);
    return -1;
}

static int see_stand(const struct run *run, const struct caloris_event *event)
{
    const size_t length =
        json_array_size(json_object_get(run->request, "prompt_ids")) + run->params.gen_length;
    if (demo.n_cuts == MAX_CUTS)
        return wrong(run, "more cuts than expected");
    struct run *cut = &demo.cuts[demo.n_cuts++];
    *cut = *run;
    cut->cut = false;
    cut->whole = run;
    cut->stand = caloris_stand_new(1, length);
    caloris_stand_copy(cut->stand, event->stand, length);
    return 0;
}

/* With a cache the recorded loop makes one more pass on a block that is finished already. */
static bool are_its_passes(const struct run *run, uint32_t passes)
{
    const struct caloris_job_params *params = &run->params;
    const json_int_t most = passes_of(run->record);
    const json_int_t extra =
        params->cache == CALORIS_CACHE_NONE ? 0 : params->gen_length / params->block_length;
    return passes <= most && passes + extra >= most &&
           (!run->whole || passes == run->whole->passes);
}

static int see_finish(struct run *run, const struct caloris_event *event)
{
    const json_t *ids = json_object_get(run->record, "ids");
    const int32_t *generated = event->request->canvas + event->request->prompt;
    for (size_t i = 0; i < run->params.gen_length; i++) {
        if (generated[i] != json_integer_value(json_array_get(ids, i)))
            return wrong(run, "other ids");
    }
    if (!are_its_passes(run, event->step))
        return wrong(run, "another count of forwards");
    run->passes = event->step;
    run->finished = true;
    demo.finished++;
    return 0;
}

static int see(const struct caloris_event *event)
{
    if (event->kind == CALORIS_EVENT_STAND)
        return see_stand(event->owner, event);
    if (event->kind == CALORIS_EVENT_FINISHED)
        return see_finish(event->owner, event);
    return wrong(event->owner, "given up");
}

static void *conduct(void *arg)
{
    (void)arg;
    for (bool ended = false; !ended;) {
        if (demo.finished == demo.n || demo.status < 0)
            caloris_schedule_close(demo.schedule, demo.status < 0);
        struct caloris_event *event = caloris_schedule_next_event(demo.schedule, -1);
        if (!event)
            continue;
        ended = event->kind == CALORIS_EVENT_ENDED;
        if (!ended && demo.status == 0)
            demo.status = see(event);
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    return NULL;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    pthread_t thread;
    (void)arg;
    demo.finished = 0;
    demo.schedule = caloris_schedule_new(facts, err);
    if (!demo.schedule)
        return -1;
    for (size_t i = 0; i < demo.n && demo.status == 0; i++)
        demo.status = submit(facts, &demo.played[i]);
    if (pthread_create(&thread, NULL, conduct, NULL) != 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    int status = caloris_schedule_loop(demo.schedule, engine, err);
    pthread_join(thread, NULL);
    caloris_schedule_free(demo.schedule);
    if (status == 0 && demo.status < 0) {
        *err = demo.err;
        return -1;
    }
    return status;
}

static void play(struct run *played, size_t n, int ranks, size_t in_flight)
{
    const struct caloris_engine_options options = {
        .model_dir = demo.dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 1,
        .max_requests = in_flight,
        .max_canvas = MAX_CANVAS,
    };
    struct caloris_err err;
    demo.played = played;
    demo.n = n;
    if (caloris_engine_run(&options, body, NULL, NULL, &err) < 0)
        fail_msg("%d ranks, %zu in flight: %s", ranks, in_flight, err.text);
    print_message("%d ranks, %zu in flight: %zu runs\n", ranks, in_flight, demo.finished);
    assert_int_equal(demo.finished, n);
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void long_runs(void **state)
{
    (void)state;
    load(true);
    assert_true(demo.n_runs >= 9);
    play(demo.runs, demo.n_runs, 2, 8);
    unload();
}

/* The first ones alone, all in company; then from every block's entry at which a run stood. */
static void short_runs_anywhere(void **state)
{
    static const struct {
        int ranks, next;
    } worlds[] = {{1, 2}, {2, 3}, {3, 5}, {5, 1}};
    const size_t share = getenv("CALORIS_TEST_ALL") ? 1 : ALONE_SHARE;
    (void)state;
    for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++) {
        load(false);
        play(demo.runs, demo.n_runs / share, worlds[i].ranks, 1);
        play(demo.runs, demo.n_runs, worlds[i].ranks, 16);
        assert_true(demo.n_cuts >= 2 * CACHED / CUT_STRIDE);
        play(demo.cuts, demo.n_cuts, worlds[i].next, 16);
        unload();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_runs),
        cmocka_unit_test(short_runs_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
