#include "tests/bench/decode.h"

#include "base/err.h"
#include "base/time.h"
#include "tests/bench/bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- requests -------------------------------------------------------------------------------- */

struct caloris_request *bench_request(const struct caloris_engine_facts *facts,
                                      const struct shape *shape)
{
    struct caloris_request *request = calloc(1, sizeof(*request));
    if (!request)
        return NULL;
    request->length = shape->prompt + shape->gen;
    request->prompt = shape->prompt;
    request->canvas = malloc(request->length * sizeof(*request->canvas));
    if (!request->canvas) {
        free(request);
        return NULL;
    }
    caloris_job_params_default(&request->params);
    request->params.gen_length = shape->gen;
    request->params.block_length = BLOCK;
    request->params.commit = CALORIS_COMMIT_QUOTA;
    request->params.quota = CALORIS_QUOTA_BLOCK;
    request->params.steps = shape->steps;
    request->params.cache = shape->cache;
    request->params.early_stop = false;
    request->params.early_commit = 0;
    request->params.seed = 1;
    request->params.mask_id =
        facts->model.mask_id >= 0 ? facts->model.mask_id : (int32_t)facts->model.vocab - 1;
    request->params.eos_id = request->params.eot_id = 0;
    if (shape->ids) {
        request->params.commit = CALORIS_COMMIT_THRESHOLD;
        request->params.threshold = 0.9;
        request->params.early_stop = true;
        request->params.eos_id = facts->model.eos_id;
    }
    for (size_t i = 0; i < request->length; i++)
        request->canvas[i] = i >= request->prompt ? request->params.mask_id
                             : shape->ids
                                 ? shape->ids[i]
                                 : (int32_t)(i * 2654435761u % (facts->model.vocab - 2) + 1);
    return request;
}

size_t bench_tokens(const struct caloris_request *request)
{
    size_t end = request->prompt;
    while (end < request->length &&
           !(request->params.early_stop && request->canvas[end] == request->params.eos_id))
        end++;
    return end - request->prompt;
}

static int submit(struct run *run, size_t i)
{
    struct caloris_request *request =
        bench_request(caloris_engine_facts(run->engine), &run->shape[i]);
    if (!request)
        return caloris_err_sys(&run->err, "a request");
    request->follow = run->follow;
    request->owner = &run->submitted_ns[i];
    run->submitted_ns[i] = caloris_time_ns();
    if (caloris_schedule_submit(run->schedule, request, &run->err) == 0)
        return 0;
    caloris_request_free(request);
    return -1;
}

static void take(struct run *run, const struct caloris_event *event)
{
    const size_t i = (size_t)((uint64_t *)event->owner - run->submitted_ns);
    if (event->kind == CALORIS_EVENT_STEP) {
        if (event->refresh && run->n_full < MAX_STEPS)
            run->full[run->n_full++] = event->step_s;
        else if (!event->refresh && run->n_block < MAX_STEPS)
            run->block[run->n_block++] = event->step_s;
        if (run->stop_after > 0 && run->n_full + run->n_block == run->stop_after)
            caloris_schedule_cancel(run->schedule, event->owner);
    }
    if (event->kind == CALORIS_EVENT_FINISHED) {
        run->wait[i] = (double)(run->submitted_ns[i] - run->start_ns) * 1e-9 + event->wait_s;
        run->done[i] = run->wait[i] + event->denoise_s;
        run->tokens += bench_tokens(event->request);
    }
}

/* Until all that are out are back. */
static int collect(struct run *run, size_t out)
{
    while (out > 0) {
        struct caloris_event *event = caloris_schedule_next_event(run->schedule, -1);
        if (!event)
            continue;
        const bool ended = event->kind == CALORIS_EVENT_ENDED;
        if (ended)
            run->err = event->error;
        else
            take(run, event);
        out -= event->request != NULL;
        caloris_request_free(event->request);
        caloris_event_free(event);
        if (ended)
            return -1;
    }
    return 0;
}

static void *conduct(void *arg)
{
    struct run *run = arg;
    const double cpu_before = bench_cpu();
    run->start_ns = caloris_time_ns();
    for (size_t i = 0; run->status == 0 && i < run->n; i++)
        run->status = submit(run, i);
    if (run->status == 0)
        run->status = collect(run, run->n);
    run->seconds = (double)(caloris_time_ns() - run->start_ns) * 1e-9;
    run->cpu_s = bench_cpu() - cpu_before;
    caloris_schedule_close(run->schedule, run->status < 0);
    return NULL;
}

double bench_cpu(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

int bench_run(struct run *run, struct caloris_err *err)
{
    pthread_t thread;
    run->schedule = caloris_schedule_new(caloris_engine_facts(run->engine), err);
    if (!run->schedule)
        return -1;
    if (run->aim > 0)
        caloris_schedule_aim(run->schedule, run->aim);
    if (pthread_create(&thread, NULL, conduct, run) != 0) {
        caloris_schedule_free(run->schedule);
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    }
    int rc = caloris_schedule_loop(run->schedule, run->engine, err);
    pthread_join(thread, NULL);
    caloris_schedule_figures(run->schedule, &run->figures);
    caloris_schedule_free(run->schedule);
    if (rc == 0 && run->status < 0) {
        *err = run->err;
        rc = -1;
    }
    return rc;
}

/* ---- what is printed ------------------------------------------------------------------------- */

void bench_print_end(const struct caloris_engine_facts *facts)
{
    char machine[BENCH_MACHINE];
    printf("%s,%s,\"%s\",%s\n", facts->kernels, facts->blas, bench_machine(machine),
           bench_commit());
    fflush(stdout);
}

const char *const bench_cache_names[] = {"none", "prefix", "dual", "active"};

int bench_shares(struct caloris_engine *engine, const struct caloris_schedule_figures *f,
                 struct shares *shares, struct caloris_err *err)
{
    const int ranks = caloris_engine_facts(engine)->ranks;
    struct caloris_rank_profile *profile = calloc((size_t)ranks, sizeof(*profile));
    double seen = 0;
    if (!profile)
        return caloris_err_sys(err, "profile of %d ranks", ranks);
    int rc = caloris_engine_profile(engine, profile, err);
    for (int i = 0; i < CALORIS_PHASES; i++)
        seen += profile[0].phase[i].seconds;
    shares->own = f->own_s / f->step_s;
    shares->plan = (f->step_s - seen) / f->step_s;
    shares->rest = profile[0].phase[CALORIS_PHASE_REST].seconds / f->step_s;
    free(profile);
    return rc;
}
