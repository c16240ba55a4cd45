/* Nothing is allocated between a step's plan and its result, by any rank and in any format, nor
 * by the step loop while nobody follows its requests; and a rank 0 that gets no memory for raw
 * logits fails alone and goes on with the others.
 *
 * The linker sends what our libraries call of the allocator here first (-Wl,--wrap). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/schedule/schedule.h"
#include "worker/engine.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ROUNDS = 10, CANVAS = 24, MASK = 310, SLOTS = 4, MAX_RANKS = 3 };

static atomic_uint calls;
static _Thread_local bool short_of_memory;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t size)
{
    atomic_fetch_add(&calls, 1);
    if (short_of_memory)
        errno = ENOMEM;
    return short_of_memory ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __real_aligned_alloc(alignment, size);
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    atomic_fetch_add(&calls, 1);
    return __real_mmap(at, size, protection, flags, fd, offset);
}

static struct caloris_engine_options options_for(int ranks, const char *weights)
{
    static char dir[512];
    snprintf(dir, sizeof(dir), "%s/tests/golden/models/llada", getenv("CALORIS_SOURCE_DIR"));
    return (struct caloris_engine_options){
        .model_dir = dir,
        .weights = weights,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 2,
        .max_requests = SLOTS,
        .max_canvas = CANVAS,
        .max_step_rows = SLOTS * CANVAS,
        .kv_tokens = SLOTS * CANVAS,
    };
}

/* What body allocates once all is loaded is an error. */
static void check(int (*body)(struct caloris_engine *, void *, struct caloris_err *))
{
    const char *weights;
    for (size_t i = 0; (weights = caloris_engine_format(i)); i++) {
        for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
            const struct caloris_engine_options options = options_for(ranks, weights);
            struct caloris_err err = {0};
            atomic_store(&calls, 0);
            if (caloris_engine_run(&options, body, NULL, NULL, &err) < 0)
                fail_msg("%s, %d ranks: %s", weights, ranks, err.text);
        }
    }
}

static int judge(unsigned while_loading, const char *what, struct caloris_err *err)
{
    const unsigned since = atomic_load(&calls) - while_loading;
    if (while_loading == 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "loading allocates: the count does not work");
    if (since > 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "%u allocations in %s", since, what);
    return 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static const struct caloris_rule rules[] = {
    {
        .special = {{305, CALORIS_NO_CHOICE | CALORIS_NO_SUM}, {306, CALORIS_NO_CHOICE}},
        .specials = 2,
        .probe = {7, 305},
        .probes = 2,
        .best = CALORIS_MAX_BEST,
        .temperature = 0.5f,
        .guidance = 1.5f,
    },
    {.best = 2},
};

/* Wants all positions of a span, by the first rule where it has a partner, else by the second. */
static size_t want(struct caloris_want *wants, size_t n, const struct caloris_span *spans,
                   uint32_t span, uint32_t partner)
{
    for (uint32_t i = 0; i < spans[span].count; i++)
        wants[n++] = (struct caloris_want){.span = span,
                                           .position = spans[span].first + i,
                                           .partner = partner,
                                           .rule = partner == CALORIS_NO_PARTNER};
    return n;
}

/* Two cached canvases, of which one guides the other, and one without a cache come and are computed
 * whole; whoever was there before leaves. */
static int whole_step(struct caloris_engine *engine, const int32_t *ids, bool first,
                      struct caloris_err *err)
{
    static const uint32_t releases[] = {0, 1, 2, 3};
    static const struct caloris_admission admissions[] = {
        {.slot = 0, .length = CANVAS, .cached = true},
        {.slot = 1, .length = CANVAS, .cached = true, .kv_first = CANVAS, .ids_first = CANVAS},
        {.slot = 3, .length = CANVAS, .ids_first = CANVAS},
    };
    static const struct caloris_span spans[] = {{0, 0, CANVAS}, {1, 0, CANVAS}, {3, 0, CANVAS}};
    static const struct caloris_write writes[] = {{0, 3, 17}};
    struct caloris_want wants[2 * CANVAS];
    const struct caloris_step_plan plan = {
        .releases = releases,
        .n_releases = first ? 0 : 4,
        .admissions = admissions,
        .n_admissions = 3,
        .ids = ids,
        .n_ids = 2 * CANVAS,
        .writes = writes,
        .n_writes = 1,
        .spans = spans,
        .n_spans = 3,
        .wants = wants,
        .n_wants = want(wants, want(wants, 0, spans, 0, 1), spans, 2, CALORIS_NO_PARTNER),
        .rules = rules,
        .n_rules = 2,
    };
    struct caloris_step_result result;
    return caloris_engine_step(engine, &plan, &result, err);
}

/* Windows of the cached ones and, in two pieces, of a fork of the first, which comes now. */
static int window_step(struct caloris_engine *engine, const int32_t *ids, struct caloris_err *err)
{
    static const struct caloris_admission fork = {.slot = 2,
                                                  .length = CANVAS,
                                                  .cached = true,
                                                  .forked = true,
                                                  .from = 0,
                                                  .kv_first = 2 * CANVAS};
    static const struct caloris_span spans[] = {
        {0, 8, 6}, {1, 8, 6}, {2, 4, 3}, {2, 10, 5}, {3, 0, CANVAS}};
    static const struct caloris_write writes[] = {{0, 9, 21}, {1, 9, 21}, {2, 5, 8}, {3, 1, 2}};
    struct caloris_want wants[CANVAS];
    const struct caloris_step_plan plan = {
        .admissions = &fork,
        .n_admissions = 1,
        .ids = ids,
        .n_ids = CANVAS,
        .writes = writes,
        .n_writes = 4,
        .spans = spans,
        .n_spans = 5,
        .wants = wants,
        .n_wants = want(wants, want(wants, 0, spans, 0, 1), spans, 3, CALORIS_NO_PARTNER),
        .rules = rules,
        .n_rules = 2,
    };
    struct caloris_step_result result;
    return caloris_engine_step(engine, &plan, &result, err);
}

static int steps_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const unsigned while_loading = atomic_load(&calls);
    int32_t ids[2 * CANVAS];
    (void)arg;
    for (int i = 0; i < 2 * CANVAS; i++)
        ids[i] = i % 3 ? MASK : i;
    for (int round = 0; round < ROUNDS; round++) {
        if (whole_step(engine, ids, round == 0, err) < 0 || window_step(engine, ids, err) < 0)
            return -1;
    }
    return judge(while_loading, "steps", err);
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    check(steps_body);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static const struct {
    enum caloris_cache cache;
    enum caloris_commit commit;
    uint32_t best;
    double cfg_scale, temperature;
} requests[] = {
    {CALORIS_CACHE_NONE, CALORIS_COMMIT_QUOTA, 1, 0, 0},
    {CALORIS_CACHE_PREFIX, CALORIS_COMMIT_THRESHOLD, 1, 0, 0},
    {CALORIS_CACHE_DUAL, CALORIS_COMMIT_FACTOR, 1, 1, 0},
    {CALORIS_CACHE_ACTIVE, CALORIS_COMMIT_ENTROPY_BOUNDED, 1, 0, 0.5},
    {CALORIS_CACHE_ACTIVE, CALORIS_COMMIT_QUOTA, 3, 0, 1}, /* forks */
    {CALORIS_CACHE_NONE, CALORIS_COMMIT_THRESHOLD, 2, 0.5, 1},
};
enum { REQUESTS = sizeof(requests) / sizeof(requests[0]), PROMPT = 8 };

static int submit(struct caloris_schedule *schedule, size_t i, struct caloris_err *err)
{
    struct caloris_request *request = calloc(1, sizeof(*request));
    if (!request || !(request->canvas = calloc(requests[i].best * CANVAS, sizeof(int32_t)))) {
        caloris_request_free(request);
        return caloris_err_sys(err, "a request");
    }
    caloris_job_params_preset(&request->params, CALORIS_PRESET_EXACT);
    request->params.gen_length = CANVAS - PROMPT;
    request->params.block_length = 4;
    request->params.cache = requests[i].cache;
    request->params.commit = requests[i].commit;
    request->params.best = requests[i].best;
    request->params.cfg_scale = requests[i].cfg_scale;
    request->params.temperature = requests[i].temperature;
    request->params.seed = 1;
    request->params.mask_id = MASK;
    request->length = CANVAS;
    request->prompt = PROMPT;
    for (size_t k = 0; k < CANVAS; k++)
        request->canvas[k] = k < PROMPT ? (int32_t)(k + i) : MASK;
    if (caloris_schedule_submit(schedule, request, err) == 0)
        return 0;
    caloris_request_free(request);
    return -1;
}

/* Takes what came of all; how many were finished. */
static size_t take(struct caloris_schedule *schedule)
{
    size_t finished = 0;
    for (struct caloris_event *event; (event = caloris_schedule_next_event(schedule, 0));) {
        finished += event->kind == CALORIS_EVENT_FINISHED;
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    return finished;
}

/* All come before the loop begins, so that nobody but the ranks runs meanwhile. */
static int loop_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct caloris_schedule *schedule = caloris_schedule_new(caloris_engine_facts(engine), err);
    int rc = schedule ? 0 : -1;
    (void)arg;
    for (size_t i = 0; rc == 0 && i < REQUESTS; i++)
        rc = submit(schedule, i, err);
    if (rc == 0) {
        caloris_schedule_close(schedule, false);
        const unsigned before = atomic_load(&calls);
        rc = caloris_schedule_loop(schedule, engine, err);
        if (rc == 0)
            rc = judge(before, "the step loop", err);
        const size_t finished = take(schedule);
        if (rc == 0 && finished != REQUESTS)
            rc = caloris_err_set(err, CALORIS_INTERNAL, "%zu of %d finished", finished, REQUESTS);
    }
    caloris_schedule_free(schedule);
    return rc;
}

static void the_loop_allocates_nothing(void **state)
{
    (void)state;
    check(loop_body);
}

/* ---- raw logits ------------------------------------------------------------------------------ */

static int count_rows(void *arg, const float *logits, size_t rows, struct caloris_err *err)
{
    (void)logits, (void)err;
    *(size_t *)arg += rows;
    return 0;
}

/* The ranks stay in step with each other: the same call succeeds behind the one that failed. */
static int logits_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const int32_t ids[] = {1, 2, MASK};
    struct caloris_err why = {0};
    size_t *rows = arg;
    short_of_memory = true;
    const int rc = caloris_engine_logits(engine, ids, 3, count_rows, rows, &why);
    short_of_memory = false;
    if (rc == 0 || why.code != CALORIS_NO_MEMORY || *rows != 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "without memory: %d, \"%.200s\", %zu rows",
                               rc, why.text, *rows);
    return caloris_engine_logits(engine, ids, 3, count_rows, rows, err);
}

static void logits_without_memory_fail_alone(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        struct caloris_engine_options options = options_for(ranks, NULL);
        struct caloris_err err = {0};
        size_t rows = 0;
        if (caloris_engine_run(&options, logits_body, &rows, NULL, &err) < 0 || rows != 3)
            fail_msg("%d ranks: %s, %zu rows", ranks, err.text, rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(the_loop_allocates_nothing),
        cmocka_unit_test(logits_without_memory_fail_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
