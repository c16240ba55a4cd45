#include "tests/tp/decode_runs.h"

#include "base/err.h"
#include "coordinator/schedule/schedule.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RUNS = 64 };

/* What has been seen of one recorded run. */
struct progress {
    const struct golden_decode *golden;
    size_t calls;
    bool snapshot, finished;
};

struct conductor {
    struct caloris_schedule *schedule;
    const struct golden_decodes *decodes;
    size_t in_flight;
    struct progress progress[MAX_RUNS];
    int status;
    struct caloris_err err;
};

static int submit(struct conductor *c, size_t index)
{
    struct progress *progress = &c->progress[index];
    const struct golden_decode *golden = &c->decodes->decode[index];
    *progress = (struct progress){.golden = golden};
    struct caloris_request *request = calloc(1, sizeof(*request));
    if (!request)
        return caloris_err_sys(&c->err, "a request");
    *request = (struct caloris_request){.params = golden->params,
                                        .canvas = golden_canvas(golden),
                                        .length = golden->length,
                                        .prompt = golden->n_prompt,
                                        .follow = true,
                                        .owner = progress};
    if (caloris_schedule_submit(c->schedule, request, &c->err) == 0)
        return 0;
    caloris_request_free(request);
    return caloris_err_prefix(&c->err, "%s", golden->name);
}

static int wrong(struct conductor *c, const struct progress *p, const char *what)
{
    return caloris_err_set(&c->err, CALORIS_INTERNAL, "%s, call %zu of %zu: %s (%zu in flight)",
                           p->golden->name, p->calls, p->golden->calls, what, c->in_flight);
}

static int see_snapshot(struct conductor *c, struct progress *p, const struct caloris_event *event)
{
    if (p->snapshot || p->calls > 0 || event->n_reveals != p->golden->length)
        return wrong(c, p, "not one whole snapshot at the start");
    for (size_t i = 0; i < p->golden->n_prompt; i++) {
        if (event->reveals[i].id != p->golden->prompt[i])
            return wrong(c, p, "the snapshot is not the prompt");
    }
    p->snapshot = true;
    return 0;
}

static int see_step(struct conductor *c, struct progress *p, const struct caloris_event *event)
{
    const json_t *writes = json_object_get(json_array_get(p->golden->trace, p->calls), "writes");
    if (!p->snapshot || event->step != ++p->calls || p->calls > p->golden->calls)
        return wrong(c, p, "a step out of order");
    if (json_array_size(writes) != event->n_reveals)
        return wrong(c, p, "more or fewer reveals than recorded");
    for (size_t i = 0; i < event->n_reveals; i++) {
        const json_t *write = json_array_get(writes, i);
        const struct caloris_reveal *reveal = &event->reveals[i];
        if (json_integer_value(json_array_get(write, 0)) != reveal->position ||
            json_integer_value(json_array_get(write, 1)) != reveal->id)
            return wrong(c, p, "other reveals than recorded");
        if (!(reveal->confidence >= 0 && reveal->confidence <= 1))
            return wrong(c, p, "a confidence that is no probability");
    }
    return 0;
}

/* Rows that the record's calls computed. */
static uint64_t rows_of(const struct golden_decode *golden)
{
    uint64_t rows = 0;
    size_t i;
    json_t *call;
    json_array_foreach(golden->trace, i, call)
    {
        const json_t *computed = json_object_get(call, "computed");
        rows += computed ? json_array_size(computed)
                         : (uint64_t)json_integer_value(json_object_get(call, "len"));
    }
    return golden->params.cfg_scale > 0 ? 2 * rows : rows;
}

static int see_finish(struct conductor *c, struct progress *p, const struct caloris_event *event)
{
    const struct golden_decode *golden = p->golden;
    size_t masks = 0;
    for (size_t i = 0; i < golden->length; i++)
        masks += golden->final[i] == golden->params.mask_id;
    if (p->calls != golden->calls || event->step != golden->calls)
        return wrong(c, p, "another count of forwards than recorded");
    if (memcmp(event->request->canvas, golden->final, golden->length * sizeof(int32_t)) != 0)
        return wrong(c, p, "another canvas than recorded");
    if (event->rows != rows_of(golden))
        return wrong(c, p, "another count of rows than recorded");
    if (event->masks_left != masks)
        return wrong(c, p, "masks miscounted");
    p->finished = true;
    return 0;
}

static int see(struct conductor *c, const struct caloris_event *event)
{
    struct progress *progress = event->owner;
    if (event->kind == CALORIS_EVENT_SNAPSHOT)
        return see_snapshot(c, progress, event);
    if (event->kind == CALORIS_EVENT_STEP)
        return see_step(c, progress, event);
    if (event->kind == CALORIS_EVENT_FINISHED)
        return see_finish(c, progress, event);
    return wrong(c, progress, "cancelled by nobody");
}

/* The coordinator thread: keeps in_flight runs going until all are done, then closes. */
static void *conduct(void *arg)
{
    struct conductor *c = arg;
    size_t next = 0, open = 0;
    bool closed = false;
    for (bool ended = false; !ended;) {
        while (c->status == 0 && open < c->in_flight && next < c->decodes->count) {
            c->status = submit(c, next++);
            open++;
        }
        if (!closed && (c->status < 0 || open == 0)) {
            caloris_schedule_close(c->schedule, c->status < 0);
            closed = true;
        }
        struct caloris_event *event = caloris_schedule_next_event(c->schedule, -1);
        if (!event)
            continue;
        ended = event->kind == CALORIS_EVENT_ENDED;
        if (!ended && c->status == 0)
            c->status = see(c, event);
        if (event->request)
            open--;
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    return NULL;
}

static int run_all(struct caloris_engine *engine, const struct golden_decodes *decodes,
                   size_t in_flight, size_t step_rows, size_t kv_tokens, size_t aim,
                   struct caloris_err *err)
{
    struct caloris_engine_facts facts = *caloris_engine_facts(engine);
    struct conductor c = {.decodes = decodes, .in_flight = in_flight};
    pthread_t thread;
    if (step_rows > 0)
        facts.max_step_rows = step_rows;
    if (kv_tokens > 0)
        facts.kv_tokens = kv_tokens;
    c.schedule = caloris_schedule_new(&facts, err);
    if (!c.schedule)
        return -1;
    if (aim > 0)
        caloris_schedule_aim(c.schedule, aim);
    int status = pthread_create(&thread, NULL, conduct, &c) == 0
                     ? caloris_schedule_loop(c.schedule, engine, err)
                     : caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    pthread_join(thread, NULL);
    for (size_t i = 0; status == 0 && c.status == 0 && i < decodes->count; i++) {
        if (!c.progress[i].finished)
            c.status = wrong(&c, &c.progress[i], "never finished");
    }
    if (caloris_schedule_load(c.schedule) != 0 && status == 0)
        status = caloris_err_set(err, CALORIS_INTERNAL, "the schedule still holds requests");
    caloris_schedule_free(c.schedule);
    if (status == 0 && c.status < 0) {
        *err = c.err;
        return -1;
    }
    return status;
}

int decode_runs_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct golden_decodes *decodes = arg;
    if (decodes->count > MAX_RUNS)
        return caloris_err_set(err, CALORIS_INTERNAL, "more than %d runs", MAX_RUNS);
    /* In flight; rows of a step, positions with K/V, rows that a step aims at (0: all there
     * are). */
    static const size_t cases[][4] = {
        {1, 0, 0, 0},
        {DECODE_FLIGHT, 0, 0, 0},
        {DECODE_FLIGHT, DECODE_CANVAS, 0, 0},
        {DECODE_FLIGHT, 0, DECODE_CANVAS, 0},
        {DECODE_FLIGHT, 0, 0, DECODE_CANVAS},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const size_t *c = cases[i];
        if (run_all(engine, decodes, c[0], c[1], c[2], c[3], err) < 0)
            return -1;
    }
    return 0;
}
