#include "coordinator/schedule/tasks.h"

#include "base/time.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void caloris_request_free(struct caloris_request *request)
{
    if (!request)
        return;
    free(request->canvas);
    free(request->stands);
    free(request);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

void caloris_task_free(struct caloris_task *task)
{
    if (!task)
        return;
    free(task->members);
    free(task->marks);
    free(task->reveals);
    caloris_event_free(task->last_event);
    free(task);
}

/* Best score first; what has none comes last, ties go to the lowest candidate. */
static bool is_better(const struct caloris_answer *a, const struct caloris_answer *b)
{
    const double x = isnan(a->score) ? -INFINITY : a->score;
    const double y = isnan(b->score) ? -INFINITY : b->score;
    return x > y || (x == y && a->candidate < b->candidate);
}

void caloris_task_rank(struct caloris_task *task)
{
    struct caloris_answer *answers = task->last_event->answers;
    for (size_t i = 0; i < task->n; i++) {
        const struct caloris_denoise *denoise = &task->members[i].denoise;
        const struct caloris_answer answer = {
            .candidate = denoise->candidate,
            .canvas = denoise->canvas,
            .score = caloris_denoise_score(denoise),
            .steps = denoise->step,
            .masks_left = (uint32_t)denoise->masks,
        };
        size_t at = i;
        for (; at > 0 && is_better(&answer, &answers[at - 1]); at--)
            answers[at] = answers[at - 1];
        answers[at] = answer;
    }
}

void caloris_task_end(struct caloris_schedule *schedule, struct caloris_task *task,
                      enum caloris_event_kind kind)
{
    const uint64_t now = caloris_time_ns();
    struct caloris_event *event = task->last_event;
    caloris_task_rank(task);
    task->last_event = NULL;
    event->kind = kind;
    event->owner = task->request->owner;
    event->request = task->request;
    for (size_t i = 0; i < task->n; i++) {
        event->step += task->members[i].passes;
        event->rows += task->members[i].rows;
    }
    event->n_answers = kind == CALORIS_EVENT_FINISHED ? task->n : 0;
    event->masks_left = event->answers[0].masks_left;
    const uint64_t started = task->started_ns > 0 ? task->started_ns : now;
    event->wait_s = (double)(started - task->submitted_ns) * 1e-9;
    event->denoise_s = (double)(now - started) * 1e-9;
    caloris_events_push(&schedule->events, event);
    caloris_task_free(task);
}

/* ---- new and free ---------------------------------------------------------------------------- */

struct caloris_schedule *caloris_schedule_new(const struct caloris_engine_facts *facts,
                                              struct caloris_err *err)
{
    const size_t slots = facts->max_requests;
    struct caloris_schedule *schedule = calloc(1, sizeof(*schedule));
    if (!schedule) {
        caloris_err_sys(err, "making a schedule of %zu canvases", slots);
        return NULL;
    }
    pthread_mutex_init(&schedule->lock, NULL);
    pthread_cond_init(&schedule->work, NULL);
    schedule->waiting_end = &schedule->waiting;
    schedule->slots = slots;
    schedule->max_canvas = facts->max_canvas;
    schedule->max_rows = schedule->aim = facts->max_step_rows;
    schedule->vocab = facts->model.vocab;
    schedule->running = calloc(slots, sizeof(*schedule->running));
    schedule->slot_taken = calloc(slots, sizeof(*schedule->slot_taken));
    schedule->to_release = calloc(slots, sizeof(*schedule->to_release));
    schedule->chosen = calloc(slots, sizeof(*schedule->chosen));
    schedule->candidates = calloc(slots, sizeof(*schedule->candidates));
    schedule->ended_event = caloris_event_new(0);
    schedule->events.fd = -1;
    if (!schedule->running || !schedule->slot_taken || !schedule->to_release || !schedule->chosen ||
        !schedule->candidates || !schedule->ended_event) {
        caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for a schedule of %zu canvases", slots);
        goto fail;
    }
    if (caloris_events_init(&schedule->events, err) < 0 ||
        caloris_regions_init(&schedule->regions, slots, facts->kv_tokens, err) < 0 ||
        caloris_pack_init(&schedule->pack, slots, schedule->max_canvas, schedule->max_rows, err) <
            0)
        goto fail;
    return schedule;
fail:
    caloris_schedule_free(schedule);
    return NULL;
}

void caloris_schedule_free(struct caloris_schedule *schedule)
{
    if (!schedule)
        return;
    for (struct caloris_task *task; (task = schedule->waiting);) { /* its loop was never run */
        schedule->waiting = task->next;
        caloris_request_free(task->request);
        caloris_task_free(task);
    }
    caloris_events_free(&schedule->events);
    caloris_event_free(schedule->ended_event);
    caloris_pack_free(&schedule->pack);
    caloris_regions_free(&schedule->regions);
    free(schedule->running);
    free(schedule->slot_taken);
    free(schedule->to_release);
    free(schedule->chosen);
    free(schedule->candidates);
    pthread_cond_destroy(&schedule->work);
    pthread_mutex_destroy(&schedule->lock);
    free(schedule);
}

void caloris_schedule_aim(struct caloris_schedule *schedule, size_t rows)
{
    schedule->aim = rows < schedule->max_rows ? rows : schedule->max_rows;
}

/* ---- submit ---------------------------------------------------------------------------------- */

static int check_ids(const struct caloris_schedule *schedule, const struct caloris_request *request,
                     struct caloris_err *err)
{
    const struct {
        const char *field;
        int32_t id;
    } ids[] = {
        {"mask_id", request->params.mask_id},
        {"eos_id", request->params.eos_id},
        {"eot_id", request->params.eot_id},
    };
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        if (ids[i].id >= 0 && (size_t)ids[i].id >= schedule->vocab)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "%s: %d is outside the model's vocabulary of %zu", ids[i].field,
                                   ids[i].id, schedule->vocab);
    }
    for (size_t i = 0; i < request->prompt && i < request->length; i++) {
        if (request->canvas[i] < 0 || (size_t)request->canvas[i] >= schedule->vocab)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "ids[%zu]: %d is outside the model's vocabulary of %zu", i,
                                   request->canvas[i], schedule->vocab);
    }
    return 0;
}

/* What all its canvases take together: candidates, twice as many under guidance. */
static int check_together(const struct caloris_schedule *schedule,
                          const struct caloris_request *request, struct caloris_err *err)
{
    enum { WORDS = 64 };
    const struct caloris_job_params *params = &request->params;
    const bool guided = params->cfg_scale > 0;
    const size_t canvases = (size_t)params->best * (guided ? 2 : 1);
    char what[WORDS] = "";
    if (params->best > 1)
        snprintf(what, sizeof(what), "%u candidates x ", params->best);
    if (canvases > schedule->slots && params->best > 1)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "best: %s%s = %zu canvases, but %zu are held here (max-requests)",
                               what, guided ? "guidance, 2" : "1", canvases, schedule->slots);
    if (canvases > schedule->slots)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "cfg_scale: guidance takes two canvases, and one is held here");
    if (guided && 2 * request->length > schedule->max_rows)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "cfg_scale: guidance takes 2 x %zu rows, but a step here has %zu",
                               request->length, schedule->max_rows);
    const size_t kept = params->cache == CALORIS_CACHE_NONE ? 0 : canvases * request->length;
    if (kept > schedule->regions.total)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "%s: %s%s(%zu prompt + %u gen_length) = %zu tokens of K/V, but %zu "
                               "are kept here (kv-tokens)",
                               params->best > 1 ? "best" : "cache", what,
                               guided ? "guidance, 2 x " : "", request->prompt, params->gen_length,
                               kept, schedule->regions.total);
    return 0;
}

static int check_size(const struct caloris_schedule *schedule,
                      const struct caloris_request *request, struct caloris_err *err)
{
    if (request->prompt > schedule->max_canvas)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "prompt: %zu tokens, but the longest canvas here is %zu",
                               request->prompt, schedule->max_canvas);
    if (request->length > schedule->max_canvas)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "gen_length: %u behind a prompt of %zu tokens, but the longest "
                               "canvas here is %zu",
                               request->params.gen_length, request->prompt, schedule->max_canvas);
    if (request->params.best < 1 || request->params.best > CALORIS_JOB_MAX_BEST)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "best: %u answers", request->params.best);
    return check_together(schedule, request, err);
}

static struct caloris_task *new_task(struct caloris_request *request, struct caloris_err *err)
{
    const size_t n = request->params.best;
    struct caloris_task *task = calloc(1, sizeof(*task));
    if (!task || !(task->last_event = caloris_event_new(0)) ||
        !(task->last_event->answers = calloc(n, sizeof(*task->last_event->answers))) ||
        !(task->members = calloc(n, sizeof(*task->members))) ||
        !(task->reveals = calloc(n * (request->length + 1), sizeof(*task->reveals))) ||
        !(task->marks = calloc(n * (request->length + 1), sizeof(*task->marks)))) {
        caloris_task_free(task);
        caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for %zu answers of %zu tokens", n,
                        request->length);
        return NULL;
    }
    task->n = n;
    task->request = request;
    task->follow = task->snapshot_due = request->follow;
    task->submitted_ns = caloris_time_ns();
    return task;
}

/* Ids of a stand, which came from outside. */
static int check_stand(const struct caloris_schedule *schedule, const struct caloris_member *member,
                       const struct caloris_stand *stand, struct caloris_err *err)
{
    for (size_t i = 0; stand->step > 0 && i < member->denoise.length; i++) {
        if (stand->canvas[i] < 0 || (size_t)stand->canvas[i] >= schedule->vocab)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "progress: id %d at %zu is outside the vocabulary of %zu",
                                   stand->canvas[i], i, schedule->vocab);
    }
    return caloris_denoise_check_stand(&member->denoise, stand, err);
}

/* All stands are good before the first is taken: what is refused stays as it was. */
static int resume_members(const struct caloris_schedule *schedule, struct caloris_task *task,
                          struct caloris_err *err)
{
    const struct caloris_stand *stands = task->request->stands;
    for (size_t i = 0; i < task->n; i++) {
        if (check_stand(schedule, &task->members[i], &stands[i], err) < 0)
            return -1;
    }
    for (size_t i = 0; i < task->n; i++) {
        caloris_denoise_resume(&task->members[i].denoise, &stands[i]);
        if (stands[i].step == 0)
            continue;
        task->members[i].rows = stands[i].rows;
        task->members[i].passes = stands[i].passes;
    }
    return 0;
}

/* Its candidates: copies of one canvas, each with noise of its own. */
static int start_members(const struct caloris_schedule *schedule, struct caloris_task *task,
                         struct caloris_err *err)
{
    const struct caloris_request *request = task->request;
    const size_t length = request->length;
    for (size_t i = 0; i < task->n; i++) {
        struct caloris_member *member = &task->members[i];
        int32_t *canvas = request->canvas + i * length;
        member->slot = member->partner = CALORIS_NO_SLOT;
        member->reveals = task->reveals + i * (length + 1);
        if (i > 0)
            memcpy(canvas, request->canvas, length * sizeof(*canvas));
        if (caloris_denoise_start(&member->denoise, &request->params, canvas,
                                  task->marks + i * (length + 1), length, request->prompt, err) < 0)
            return -1;
        member->denoise.candidate = request->params.candidate + (uint32_t)i;
    }
    if (request->stands)
        return resume_members(schedule, task, err);
    task->shares = task->n > 1 &&
                   caloris_member_wants(&task->members[0].denoise, task->n) <= schedule->max_rows;
    return 0;
}

int caloris_schedule_submit(struct caloris_schedule *schedule, struct caloris_request *request,
                            struct caloris_err *err)
{
    if (check_size(schedule, request, err) < 0 || check_ids(schedule, request, err) < 0)
        return -1;
    struct caloris_task *task = new_task(request, err);
    if (!task)
        return -1;
    if (start_members(schedule, task, err) < 0) {
        caloris_task_free(task);
        return -1;
    }
    pthread_mutex_lock(&schedule->lock);
    const bool taken = !schedule->closed && !schedule->ended;
    if (taken) {
        for (size_t i = 0; i < task->n; i++)
            task->members[i].arrival = schedule->arrivals++;
        *schedule->waiting_end = task;
        schedule->waiting_end = &task->next;
        schedule->n_waiting++;
        pthread_cond_signal(&schedule->work);
    }
    pthread_mutex_unlock(&schedule->lock);
    if (taken)
        return 0;
    caloris_task_free(task);
    return caloris_err_set(err, CALORIS_AGAIN, "this group takes no more requests");
}

/* ---- wishes ---------------------------------------------------------------------------------- */

/* Under the lock: the link that points to the waiting task of owner, or NULL. */
static struct caloris_task **find_waiting(struct caloris_schedule *schedule, const void *owner)
{
    for (struct caloris_task **link = &schedule->waiting; *link; link = &(*link)->next) {
        if ((*link)->request->owner == owner)
            return link;
    }
    return NULL;
}

static struct caloris_task *find_running(const struct caloris_schedule *schedule, const void *owner)
{
    for (size_t i = 0; i < schedule->n_running; i++) {
        if (schedule->running[i]->request->owner == owner)
            return schedule->running[i];
    }
    return NULL;
}

void caloris_schedule_cancel(struct caloris_schedule *schedule, const void *owner)
{
    struct caloris_task *waited = NULL, *runs;
    pthread_mutex_lock(&schedule->lock);
    struct caloris_task **link = find_waiting(schedule, owner);
    if (link) {
        waited = *link;
        *link = waited->next;
        if (!*link)
            schedule->waiting_end = link;
        schedule->n_waiting--;
        pthread_cond_signal(&schedule->work); /* the loop may wait for the line to empty */
    } else if ((runs = find_running(schedule, owner))) {
        runs->cancelled = true;
    }
    pthread_mutex_unlock(&schedule->lock);
    if (waited)
        caloris_task_end(schedule, waited, CALORIS_EVENT_CANCELLED);
}

void caloris_schedule_follow(struct caloris_schedule *schedule, const void *owner, bool follow)
{
    pthread_mutex_lock(&schedule->lock);
    struct caloris_task **link = find_waiting(schedule, owner);
    struct caloris_task *task = link ? *link : find_running(schedule, owner);
    if (task) {
        task->follow = follow;
        task->snapshot_due = follow;
    }
    pthread_mutex_unlock(&schedule->lock);
}

void caloris_schedule_close(struct caloris_schedule *schedule, bool abandon)
{
    pthread_mutex_lock(&schedule->lock);
    schedule->closed = true;
    schedule->abandoned |= abandon;
    pthread_cond_signal(&schedule->work);
    pthread_mutex_unlock(&schedule->lock);
}

/* ---- events ---------------------------------------------------------------------------------- */

int caloris_schedule_event_fd(const struct caloris_schedule *schedule)
{
    return schedule->events.fd;
}

struct caloris_event *caloris_schedule_next_event(struct caloris_schedule *schedule, int wait_ms)
{
    return caloris_events_pop(&schedule->events, wait_ms);
}

size_t caloris_schedule_load(const struct caloris_schedule *schedule)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&schedule->lock;
    pthread_mutex_lock(lock);
    const size_t load = schedule->n_running + schedule->n_waiting;
    pthread_mutex_unlock(lock);
    return load;
}
