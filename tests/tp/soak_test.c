/* test_soak [SECONDS [SEED]]: random requests, cancels and lengths at 3 ranks. Every answer is that
 * of a plain loop of its own; at the end memory is what it was, and all slots and K/V are free. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/rng.h"
#include "base/time.h"
#include "coordinator/schedule/tasks.h"
#include "tests/unit/plain_decodes.h"

#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    RANKS = 3,
    CANVAS = 48,
    SLOTS = 8,
    KV_TOKENS = 7 * CANVAS, /* less than the slots could use: requests wait for K/V */
    STEP_ROWS = 6 * CANVAS,
    FLIGHT = 24,
    MOST_REQUESTS = 2000,
    FLAT_BYTES = 256 << 10, /* of what malloc has given, between two idle moments */
    FLAT_RSS_KB = 4096,
    DRAWING = 5, /* part of the time that the answers are made in */
};

static double seconds = 5;
static uint64_t seed = 1;

/* One request on its way. */
struct run {
    const struct golden_decode *decodes; /* [best], in candidates */
    size_t best;
    bool open, cancelled;
    int32_t canvas[CANVAS]; /* as its watcher sees it; followed ones */
    bool follow;
};

struct soak {
    struct plain_drawn drawn;
    struct caloris_schedule *schedule;
    struct run runs[FLIGHT];
    size_t open, target;
    uint32_t throws;
    uint64_t asked, answered, cancelled, steps, rows, events;
    size_t first_bytes, last_bytes; /* given by malloc, while idle */
    long first_kb, last_kb;         /* resident */
    int status;
    struct caloris_err err;
};

static int roll(struct soak *soak, int least, int most)
{
    const struct caloris_noise_key key = {seed, 1, CALORIS_NOISE_ORDER, soak->throws++};
    return least + (int)(caloris_noise_uniform(&key, 0, 0) * (most - least + 1));
}

static int wrong(struct soak *soak, const struct run *run, const char *what)
{
    char *job = json_dumps(run->decodes[0].job, JSON_COMPACT);
    caloris_err_set(&soak->err, CALORIS_INTERNAL, "%s: prompt of %zu, %s", what,
                    run->decodes[0].n_prompt, job ? job : "?");
    free(job);
    return -1;
}

/* ---- in -------------------------------------------------------------------------------------- */

/* A request of the drawn ones. */
static void choose(struct soak *soak, struct run *run)
{
    const size_t chosen = (size_t)roll(soak, 0, (int)soak->drawn.requests - 1);
    size_t first = 0;
    for (size_t i = 0; i < chosen; i++)
        first += soak->drawn.best[i];
    *run = (struct run){.decodes = &soak->drawn.decodes.decode[first],
                        .best = soak->drawn.best[chosen],
                        .follow = roll(soak, 0, 2) == 0};
}

static int submit(struct soak *soak, struct run *run)
{
    const struct golden_decode *golden = &run->decodes[0];
    struct caloris_request *request = calloc(1, sizeof(*request));
    int32_t *canvas = golden_canvas(golden);
    if (!request || !(request->canvas = calloc(run->best * golden->length, sizeof(int32_t)))) {
        free(canvas);
        caloris_request_free(request);
        return caloris_err_sys(&soak->err, "a request");
    }
    memcpy(request->canvas, canvas, golden->length * sizeof(*canvas));
    free(canvas);
    request->params = golden->params;
    request->params.best = (uint32_t)run->best;
    request->length = golden->length;
    request->prompt = golden->n_prompt;
    request->follow = run->follow;
    request->owner = run;
    if (caloris_schedule_submit(soak->schedule, request, &soak->err) < 0) {
        caloris_request_free(request);
        return -1;
    }
    run->open = true;
    soak->open++;
    soak->asked++;
    return 0;
}

static int fill(struct soak *soak)
{
    for (size_t i = 0; i < FLIGHT && soak->open < soak->target; i++) {
        if (soak->runs[i].open)
            continue;
        choose(soak, &soak->runs[i]);
        if (submit(soak, &soak->runs[i]) < 0)
            return -1;
    }
    return 0;
}

static void cancel_some(struct soak *soak)
{
    struct run *run = &soak->runs[roll(soak, 0, FLIGHT - 1)];
    if (roll(soak, 0, 15) > 0 || !run->open || run->cancelled)
        return;
    run->cancelled = true;
    caloris_schedule_cancel(soak->schedule, run);
}

/* ---- out ------------------------------------------------------------------------------------- */

static int check_answers(struct soak *soak, const struct run *run,
                         const struct caloris_event *event)
{
    const size_t bytes = run->decodes[0].length * sizeof(int32_t);
    if (event->n_answers != run->best)
        return wrong(soak, run, "another number of answers");
    for (size_t k = 0; k < run->best; k++) {
        const struct caloris_answer *answer = &event->answers[k];
        const uint32_t candidate = answer->candidate - run->decodes[0].params.candidate;
        if (candidate >= run->best)
            return wrong(soak, run, "a candidate that nobody asked for");
        if (memcmp(answer->canvas, run->decodes[candidate].final, bytes) != 0)
            return wrong(soak, run, "not the answer of its solo run");
        if (answer->steps != run->decodes[candidate].calls)
            return wrong(soak, run, "not the steps of its solo run");
    }
    if (run->follow && memcmp(run->canvas, event->answers[0].canvas, bytes) != 0)
        return wrong(soak, run, "its watcher saw something else");
    soak->answered++;
    return 0;
}

static int take(struct soak *soak, const struct caloris_event *event)
{
    struct run *run = event->owner;
    soak->events++;
    for (size_t i = 0; i < event->n_reveals; i++)
        run->canvas[event->reveals[i].position] = event->reveals[i].id;
    if (event->kind == CALORIS_EVENT_ENDED) {
        soak->err = event->error;
        return -1;
    }
    if (!event->request)
        return 0;
    run->open = false;
    soak->open--;
    soak->steps += event->step;
    soak->rows += event->rows;
    if (event->kind == CALORIS_EVENT_FINISHED)
        return check_answers(soak, run, event);
    soak->cancelled++;
    return run->cancelled ? 0 : wrong(soak, run, "it came back and nobody had cancelled it");
}

/* Takes events until so many requests are open at most. */
static int wait_for(struct soak *soak, size_t open)
{
    while (soak->open > open) {
        struct caloris_event *event = caloris_schedule_next_event(soak->schedule, -1);
        if (!event)
            continue;
        int rc = take(soak, event);
        caloris_request_free(event->request);
        caloris_event_free(event);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static long resident_kb(void)
{
    long pages = 0, total = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%ld %ld", &total, &pages) != 2)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Everybody leaves; then what is held is what is always held. */
static int weigh(struct soak *soak, size_t *bytes, long *kb)
{
    if (wait_for(soak, 0) < 0)
        return -1;
    malloc_trim(0);
    *bytes = mallinfo2().uordblks;
    *kb = resident_kb();
    return 0;
}

static int keep_busy(struct soak *soak, double until_s)
{
    const uint64_t until_ns = caloris_time_ns() + (uint64_t)(until_s * 1e9);
    while (caloris_time_ns() < until_ns) {
        if (roll(soak, 0, 63) == 0) /* now crowded, now nearly empty */
            soak->target = (size_t)roll(soak, 1, FLIGHT);
        if (fill(soak) < 0)
            return -1;
        cancel_some(soak);
        if (wait_for(soak, soak->open - 1) < 0)
            return -1;
    }
    return 0;
}

static void *conduct(void *arg)
{
    struct soak *soak = arg;
    const double rest = seconds * (DRAWING - 1) / DRAWING, warm_up = rest / 4;
    soak->target = FLIGHT;
    soak->status = keep_busy(soak, warm_up) < 0 ||
                           weigh(soak, &soak->first_bytes, &soak->first_kb) < 0 ||
                           keep_busy(soak, rest - warm_up) < 0 ||
                           weigh(soak, &soak->last_bytes, &soak->last_kb) < 0
                       ? -1
                       : 0;
    caloris_schedule_close(soak->schedule, soak->status < 0);
    return NULL;
}

/* Nothing is held once all have left. */
static int check_empty(struct soak *soak)
{
    struct caloris_schedule *schedule = soak->schedule;
    uint32_t first;
    for (size_t i = 0; i < schedule->slots; i++) {
        if (schedule->slot_taken[i])
            return caloris_err_set(&soak->err, CALORIS_INTERNAL, "slot %zu is still taken", i);
    }
    if (schedule->n_running || schedule->n_waiting || schedule->n_to_release)
        return caloris_err_set(&soak->err, CALORIS_INTERNAL, "%zu run, %zu wait, %zu to release",
                               schedule->n_running, schedule->n_waiting, schedule->n_to_release);
    if (!caloris_regions_take(&schedule->regions, schedule->regions.total, &first))
        return caloris_err_set(&soak->err, CALORIS_INTERNAL, "K/V is still held");
    return 0;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct soak *soak = arg;
    pthread_t thread;
    soak->schedule = caloris_schedule_new(caloris_engine_facts(engine), err);
    if (!soak->schedule)
        return -1;
    caloris_schedule_aim(soak->schedule, 2 * CANVAS);
    if (pthread_create(&thread, NULL, conduct, soak) != 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    int rc = caloris_schedule_loop(soak->schedule, engine, err);
    pthread_join(thread, NULL);
    if (rc == 0 && (soak->status < 0 || check_empty(soak) < 0)) {
        *err = soak->err;
        rc = -1;
    }
    caloris_schedule_free(soak->schedule);
    return rc;
}

static void soak_test(void **state)
{
    (void)state;
    static struct soak soak;
    struct caloris_err err = {0};
    plain_drawn_load("llada", seed, seconds / DRAWING, MOST_REQUESTS, &soak.drawn);
    const struct caloris_engine_options options = {
        .model_dir = soak.drawn.decodes.dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = RANKS,
        .threads = 1,
        .max_requests = SLOTS,
        .max_canvas = CANVAS,
        .max_step_rows = STEP_ROWS,
        .kv_tokens = KV_TOKENS,
    };
    int rc = caloris_engine_run(&options, body, &soak, NULL, &err);
    printf("soak: seed %" PRIu64 ", %zu different requests; %" PRIu64 " asked, %" PRIu64
           " answered, %" PRIu64 " cancelled; %" PRIu64 " steps, %" PRIu64 " rows, %" PRIu64
           " events; RSS %ld kB then %ld kB, malloc %zu then %zu bytes\n",
           seed, soak.drawn.requests, soak.asked, soak.answered, soak.cancelled, soak.steps,
           soak.rows, soak.events, soak.first_kb, soak.last_kb, soak.first_bytes, soak.last_bytes);
    if (rc < 0)
        fail_msg("%s", err.text);
    assert_int_equal(soak.asked, soak.answered + soak.cancelled);
    assert_true(soak.answered > soak.drawn.requests / 2);
    assert_true(soak.cancelled > 0);
    assert_true(soak.last_bytes < soak.first_bytes + FLAT_BYTES);
    assert_true(soak.last_kb < soak.first_kb + FLAT_RSS_KB);
    plain_drawn_free(&soak.drawn);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(soak_test)};
    if (argc > 1)
        seconds = atof(argv[1]);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
