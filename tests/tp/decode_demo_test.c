/* The demo model against ids that third-party code recorded (reference.json): every run of
 * every STRIDE-th prompt, the short ones of all; with CALORIS_TEST_ALL set, all of
 * all. */
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

enum { STRIDE = 16, SHORT = 16, IN_FLIGHT = 8, MAX_CANVAS = 168, MAX_RUNS = 256 };

struct run {
    const json_t *request, *record;
    struct caloris_job_params params;
    bool finished;
};

struct demo {
    json_t *root;
    struct run runs[MAX_RUNS];
    size_t count, finished;
    struct caloris_schedule *schedule;
    int status;
    struct caloris_err err;
};

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

static void load(struct demo *demo, const char *dir)
{
    char path[4096 + 16];
    struct caloris_err err;
    snprintf(path, sizeof(path), "%s/reference.json", dir);
    demo->root = caloris_json_load(path, 8 << 20, &err);
    if (!demo->root)
        fail_msg("%s", err.text);
    size_t p, r;
    json_t *request, *record;
    json_array_foreach(json_object_get(demo->root, "requests"), p, request)
    {
        json_array_foreach(json_object_get(request, "runs"), r, record)
        {
            const json_int_t passes = json_integer_value(json_object_get(record, "forward_passes"));
            if (p % STRIDE != 0 && passes > SHORT && !getenv("CALORIS_TEST_ALL"))
                continue;
            assert_true(demo->count < MAX_RUNS);
            struct run *run = &demo->runs[demo->count++];
            *run = (struct run){.request = request, .record = record};
            read_params(demo->root, record, &run->params);
        }
    }
}

static int submit(struct demo *demo, const struct caloris_engine_facts *facts, struct run *run)
{
    const json_t *prompt = json_object_get(run->request, "prompt_ids");
    struct caloris_request *request = calloc(1, sizeof(*request));
    run->params.mask_id = facts->model.mask_id;
    run->params.eos_id = facts->model.eos_id;
    *request = (struct caloris_request){
        .params = run->params, .prompt = json_array_size(prompt), .owner = run};
    request->length = request->prompt + run->params.gen_length;
    request->canvas = calloc(request->length, sizeof(*request->canvas));
    for (size_t i = 0; i < request->length; i++)
        request->canvas[i] = i < request->prompt
                                 ? (int32_t)json_integer_value(json_array_get(prompt, i))
                                 : run->params.mask_id;
    if (caloris_schedule_submit(demo->schedule, request, &demo->err) == 0)
        return 0;
    caloris_request_free(request);
    return -1;
}

static int compare(struct demo *demo, const struct caloris_event *event)
{
    struct run *run = event->owner;
    const json_t *ids = json_object_get(run->record, "ids");
    const json_int_t passes = json_integer_value(json_object_get(run->record, "forward_passes"));
    const char *name = json_string_value(json_object_get(run->request, "id"));
    const struct caloris_request *request = event->request;
    if (event->kind != CALORIS_EVENT_FINISHED)
        return caloris_err_set(&demo->err, CALORIS_INTERNAL, "%s was given up", name);
    /* With a cache the recorded loop makes one more pass on a block that is finished already. */
    const bool fewer = run->params.cache != CALORIS_CACHE_NONE && (json_int_t)event->step < passes;
    if ((json_int_t)event->step != passes && !fewer)
        return caloris_err_set(&demo->err, CALORIS_INTERNAL, "%s: %u forwards, recorded %d", name,
                               event->step, (int)passes);
    for (size_t i = 0; i < run->params.gen_length; i++) {
        const int32_t id = request->canvas[request->prompt + i];
        if (id != json_integer_value(json_array_get(ids, i)))
            return caloris_err_set(&demo->err, CALORIS_INTERNAL, "%s, %d forwards: id %zu is %d",
                                   name, (int)passes, i, id);
    }
    run->finished = true;
    demo->finished++;
    return 0;
}

static void *conduct(void *arg)
{
    struct demo *demo = arg;
    for (bool ended = false; !ended;) {
        if (demo->finished == demo->count || demo->status < 0)
            caloris_schedule_close(demo->schedule, demo->status < 0);
        struct caloris_event *event = caloris_schedule_next_event(demo->schedule, -1);
        if (!event)
            continue;
        ended = event->kind == CALORIS_EVENT_ENDED;
        if (!ended && demo->status == 0)
            demo->status = compare(demo, event);
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    return NULL;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct demo *demo = arg;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    pthread_t thread;
    demo->schedule = caloris_schedule_new(facts, err);
    if (!demo->schedule)
        return -1;
    for (size_t i = 0; i < demo->count && demo->status == 0; i++)
        demo->status = submit(demo, facts, &demo->runs[i]);
    if (pthread_create(&thread, NULL, conduct, demo) != 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    int status = caloris_schedule_loop(demo->schedule, engine, err);
    pthread_join(thread, NULL);
    caloris_schedule_free(demo->schedule);
    if (status == 0 && demo->status < 0) {
        *err = demo->err;
        return -1;
    }
    return status;
}

static void gives_the_recorded_ids(void **state)
{
    (void)state;
    static struct demo demo;
    char dir[4096];
    snprintf(dir, sizeof(dir), "%s/deploy/models/tinycoder", getenv("CALORIS_SOURCE_DIR"));
    load(&demo, dir);
    const struct caloris_engine_options options = {
        .model_dir = dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = 2,
        .threads = 1,
        .max_requests = IN_FLIGHT,
        .max_canvas = MAX_CANVAS,
    };
    struct caloris_err err;
    if (caloris_engine_run(&options, body, &demo, NULL, &err) < 0)
        fail_msg("%s", err.text);
    print_message("%zu runs\n", demo.finished);
    assert_true(demo.finished == demo.count && demo.count >= 100);
    json_decref(demo.root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gives_the_recorded_ids)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
