#include "coordinator/schedule/tasks.h"

#include "base/time.h"

#include <math.h>
#include <string.h>

/* ---- events of followed requests ------------------------------------------------------------- */

static void describe(const struct caloris_task *task, const struct caloris_denoise *denoise,
                     enum caloris_event_kind kind, struct caloris_event *event)
{
    event->kind = kind;
    event->owner = task->request->owner;
    event->step = denoise->step;
    event->masks_left = (uint32_t)denoise->masks;
}

/* Without memory the event is dropped, and a snapshot makes up for it. */
static void tell_step(struct caloris_schedule *schedule, struct caloris_task *task)
{
    const struct caloris_member *member = &task->members[0];
    struct caloris_event *event = caloris_event_new(member->n_reveals);
    task->snapshot_due = !event;
    if (!event)
        return;
    describe(task, &member->denoise, CALORIS_EVENT_STEP, event);
    event->rows = member->step_rows;
    event->refresh = member->refresh;
    event->step_s = schedule->step_s;
    if (member->n_reveals > 0)
        memcpy(event->reveals, member->reveals, member->n_reveals * sizeof(*event->reveals));
    caloris_events_push(&schedule->events, event);
}

static void tell_snapshot(struct caloris_schedule *schedule, struct caloris_task *task,
                          const struct caloris_denoise *denoise)
{
    struct caloris_event *event = caloris_event_new(denoise->length);
    task->snapshot_due = !event;
    if (!event)
        return;
    describe(task, denoise, CALORIS_EVENT_SNAPSHOT, event);
    for (size_t i = 0; i < denoise->length; i++) {
        const float log_p = denoise->marks[i].log_p;
        event->reveals[i] = (struct caloris_reveal){
            .position = (uint32_t)i,
            .id = denoise->canvas[i],
            .confidence = isnan(log_p) ? 0 : expf(log_p),
            .log_p = log_p,
        };
    }
    caloris_events_push(&schedule->events, event);
}

/* Wherever one of its candidates has come to stand in this step. Without memory nobody is told:
 * the one before it is good, too. */
static void tell_stands(struct caloris_schedule *schedule, const struct caloris_task *task)
{
    for (size_t k = 0; k < task->n; k++) {
        const struct caloris_member *member = &task->members[k];
        const struct caloris_denoise *denoise = &member->denoise;
        if (member->last_turn != schedule->turn || !caloris_denoise_can_stand(denoise))
            continue;
        struct caloris_event *event = caloris_event_new(0);
        if (!event || !(event->stand = caloris_stand_new(1, denoise->length))) {
            caloris_event_free(event);
            continue;
        }
        describe(task, denoise, CALORIS_EVENT_STAND, event);
        event->candidate = (uint32_t)k;
        caloris_denoise_note(denoise, event->stand);
        event->stand->rows = member->rows;
        event->stand->passes = member->passes;
        caloris_events_push(&schedule->events, event);
    }
}

/* Who followed the first of several candidates sees which one won. */
static void tell_winner(struct caloris_schedule *schedule, struct caloris_task *task)
{
    caloris_task_rank(task);
    const uint32_t winner =
        task->last_event->answers[0].candidate - task->members[0].denoise.candidate;
    if (task->follow && winner > 0)
        tell_snapshot(schedule, task, &task->members[winner].denoise);
}

/* ---- who runs; all under the lock ------------------------------------------------------------ */

/* Out of the line, where link points to it. */
static struct caloris_task *take_waiting(struct caloris_schedule *schedule,
                                         struct caloris_task **link)
{
    struct caloris_task *task = *link;
    *link = task->next;
    if (!*link)
        schedule->waiting_end = link;
    schedule->n_waiting--;
    return task;
}

/* Running task i leaves. */
static void leave(struct caloris_schedule *schedule, size_t i, enum caloris_event_kind kind)
{
    struct caloris_task *task = schedule->running[i];
    schedule->n_running--;
    memmove(schedule->running + i, schedule->running + i + 1,
            (schedule->n_running - i) * sizeof(*schedule->running));
    for (size_t k = 0; k < task->n; k++)
        caloris_room_give(schedule, &task->members[k]);
    caloris_task_end(schedule, task, kind);
}

static void drop_cancelled(struct caloris_schedule *schedule)
{
    for (size_t i = 0; i < schedule->n_running;) {
        if (schedule->running[i]->cancelled)
            leave(schedule, i, CALORIS_EVENT_CANCELLED);
        else
            i++;
    }
}

static bool is_done(const struct caloris_task *task)
{
    size_t done = 0;
    while (done < task->n && task->members[done].denoise.done)
        done++;
    return done == task->n;
}

static void admit(struct caloris_schedule *schedule, struct caloris_task *task)
{
    const size_t admitted = task->shares ? 1 : task->n;
    for (size_t i = 0; i < admitted; i++) {
        if (task->members[i].denoise.done) /* before this group had it */
            continue;
        caloris_pack_admit(&schedule->pack, &task->members[i]);
        task->members[i].admitted = true;
    }
    if (task->shares) {
        task->members[0].followers = task->members + 1;
        task->members[0].n_followers = task->n - 1;
    }
}

/* link points to a waiting task, which goes in before those that still wait ahead of it: false when
 * one of them has let pass as many as it need. */
static bool enter(struct caloris_schedule *schedule, struct caloris_task **link)
{
    struct caloris_task *task = take_waiting(schedule, link);
    bool more = true;
    for (struct caloris_task **ahead = &schedule->waiting; ahead != link; ahead = &(*ahead)->next)
        more = ++(*ahead)->overtaken < schedule->slots && more;
    schedule->running[schedule->n_running++] = task;
    for (size_t i = 0; i < task->n; i++)
        task->members[i].served = schedule->figures.rows;
    admit(schedule, task);
    return more;
}

/* In the order in which they came; who finds no room (two slots, K/V) lets others pass, but only as
 * many as there are slots. Then nobody enters before it, and what runs makes room. */
static void let_in(struct caloris_schedule *schedule)
{
    struct caloris_task **link = &schedule->waiting;
    for (bool more = true; *link && more;) {
        if (is_done(*link)) { /* nothing was masked */
            caloris_task_end(schedule, take_waiting(schedule, link), CALORIS_EVENT_FINISHED);
        } else if (caloris_room_take(schedule, *link)) {
            more = enter(schedule, link);
        } else {
            more = (*link)->overtaken < schedule->slots;
            link = &(*link)->next;
        }
    }
}

/* The others of those that shared their first step. */
static void admit_forks(struct caloris_schedule *schedule)
{
    for (size_t i = 0; i < schedule->n_running; i++) {
        struct caloris_task *task = schedule->running[i];
        for (size_t k = 1; task->forks_due && k < task->n; k++) {
            struct caloris_member *member = &task->members[k];
            if (member->denoise.done)
                continue;
            caloris_pack_fork(&schedule->pack, member, &task->members[0]);
            member->admitted = true;
        }
        task->forks_due = false;
    }
}

static void tell_snapshots(struct caloris_schedule *schedule)
{
    for (size_t i = 0; i < schedule->n_running; i++) {
        struct caloris_task *task = schedule->running[i];
        if (task->snapshot_due)
            tell_snapshot(schedule, task, &task->members[0].denoise);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Waits until there is something to compute and fills the plan's entries and exits; false: the
 * end. */
static bool gather(struct caloris_schedule *schedule)
{
    caloris_pack_begin(&schedule->pack);
    pthread_mutex_lock(&schedule->lock);
    for (;;) {
        drop_cancelled(schedule);
        admit_forks(schedule);
        if (!schedule->abandoned)
            let_in(schedule);
        if (schedule->abandoned || schedule->n_running > 0 || schedule->closed)
            break;
        pthread_cond_wait(&schedule->work, &schedule->lock);
    }
    const bool more = !schedule->abandoned && schedule->n_running > 0;
    if (more) {
        /* A slot that somebody left may be taken again in the same plan: releases come first. */
        for (size_t i = 0; i < schedule->n_to_release; i++)
            caloris_pack_release(&schedule->pack, schedule->to_release[i]);
        schedule->n_to_release = 0;
        tell_snapshots(schedule);
        schedule->crowded = schedule->n_waiting > 0;
    }
    pthread_mutex_unlock(&schedule->lock);
    return more;
}

/* Room to run is not yet a part in a step: who waits for that waits, too. */
static void note_starts(struct caloris_schedule *schedule)
{
    const uint64_t now = caloris_time_ns();
    for (size_t i = 0; i < schedule->n_running; i++) {
        struct caloris_task *task = schedule->running[i];
        for (size_t k = 0; task->started_ns == 0 && k < task->n; k++) {
            if (task->members[k].last_turn == schedule->turn)
                task->started_ns = now;
        }
    }
}

static void pack_steps(struct caloris_schedule *schedule)
{
    size_t ready = 0;
    for (size_t i = 0; i < schedule->n_running; i++) {
        struct caloris_task *task = schedule->running[i];
        for (size_t k = 0; k < task->n; k++) {
            if (task->members[k].admitted && !task->members[k].denoise.done)
                schedule->candidates[ready++] = &task->members[k];
        }
    }
    const size_t n = caloris_pack_choose(schedule->candidates, ready, schedule->figures.rows,
                                         schedule->aim, schedule->max_rows, schedule->chosen);
    schedule->crowded |= n < ready;
    schedule->turn++;
    for (size_t i = 0; i < n; i++) {
        struct caloris_member *member = schedule->chosen[i];
        member->last_turn = schedule->turn;
        member->served = schedule->figures.rows;
        for (size_t k = 0; k < member->n_followers; k++) {
            member->followers[k].last_turn = schedule->turn;
            member->followers[k].served = schedule->figures.rows;
        }
        caloris_pack_step(&schedule->pack, member);
    }
    note_starts(schedule);
}

/* Candidates that are done leave; the first one stays while others have to be forked of it. */
static void leave_done(struct caloris_schedule *schedule, struct caloris_task *task)
{
    for (size_t k = 1; k < task->n; k++) {
        struct caloris_member *member = &task->members[k];
        task->forks_due |= !member->admitted && member->last_turn > 0 && !member->denoise.done;
    }
    for (size_t k = 0; k < task->n; k++) {
        if (task->members[k].denoise.done && !(k == 0 && task->forks_due))
            caloris_room_give(schedule, &task->members[k]);
    }
}

static void settle(struct caloris_schedule *schedule, const struct caloris_step_result *result)
{
    for (size_t i = 0; i < schedule->pack.n_parts; i++)
        caloris_pack_decide(&schedule->pack, &schedule->pack.parts[i], result);
    pthread_mutex_lock(&schedule->lock);
    for (size_t i = 0; i < schedule->n_running;) {
        struct caloris_task *task = schedule->running[i];
        if (task->follow && task->members[0].last_turn == schedule->turn && !task->snapshot_due)
            tell_step(schedule, task);
        leave_done(schedule, task);
        if (task->request->stand && !is_done(task))
            tell_stands(schedule, task);
        if (is_done(task)) {
            tell_winner(schedule, task);
            leave(schedule, i, CALORIS_EVENT_FINISHED);
        } else {
            i++;
        }
    }
    pthread_mutex_unlock(&schedule->lock);
}

/* Slots that nobody holds any more are released at the workers, too: the engine is left empty. */
static int release_all(struct caloris_schedule *schedule, struct caloris_engine *engine,
                       struct caloris_err *err)
{
    struct caloris_step_result nothing;
    if (schedule->n_to_release == 0)
        return 0;
    caloris_pack_begin(&schedule->pack);
    for (size_t i = 0; i < schedule->n_to_release; i++)
        caloris_pack_release(&schedule->pack, schedule->to_release[i]);
    schedule->n_to_release = 0;
    return caloris_engine_step(engine, &schedule->pack.plan, &nothing, err);
}

/* The rest comes back. */
static void hand_back(struct caloris_schedule *schedule)
{
    pthread_mutex_lock(&schedule->lock);
    schedule->ended = true;
    while (schedule->n_running > 0)
        leave(schedule, 0, CALORIS_EVENT_CANCELLED);
    while (schedule->waiting)
        caloris_task_end(schedule, take_waiting(schedule, &schedule->waiting),
                         CALORIS_EVENT_CANCELLED);
    pthread_mutex_unlock(&schedule->lock);
}

static void tell_end(struct caloris_schedule *schedule, const struct caloris_err *why)
{
    struct caloris_event *event = schedule->ended_event;
    schedule->ended_event = NULL;
    event->kind = CALORIS_EVENT_ENDED;
    event->error = *why;
    caloris_events_push(&schedule->events, event);
}

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(to_ns - from_ns) * 1e-9;
}

/* A step that was packed, computed and settled between these. */
static void count_step(struct caloris_schedule *schedule, const uint64_t at_ns[4])
{
    struct caloris_schedule_figures *figures = &schedule->figures;
    size_t rows = 0;
    for (size_t i = 0; i < schedule->pack.plan.n_spans; i++)
        rows += schedule->pack.plan.spans[i].count;
    figures->steps++;
    figures->rows += rows;
    figures->step_s += seconds(at_ns[1], at_ns[2]);
    figures->own_s += seconds(at_ns[0], at_ns[1]) + seconds(at_ns[2], at_ns[3]);
    if (!schedule->crowded)
        return;
    figures->crowded_steps++;
    figures->crowded_fill += rows < schedule->aim ? (double)rows / (double)schedule->aim : 1;
}

void caloris_schedule_figures(const struct caloris_schedule *schedule,
                              struct caloris_schedule_figures *figures)
{
    *figures = schedule->figures;
}

int caloris_schedule_loop(struct caloris_schedule *schedule, struct caloris_engine *engine,
                          struct caloris_err *err)
{
    struct caloris_err why = {.code = CALORIS_OK};
    int status = 0;
    while (status == 0 && gather(schedule)) {
        struct caloris_step_result result;
        uint64_t at_ns[4];
        at_ns[0] = caloris_time_ns();
        pack_steps(schedule);
        at_ns[1] = caloris_time_ns();
        status = caloris_engine_step(engine, &schedule->pack.plan, &result, &why);
        at_ns[2] = caloris_time_ns();
        schedule->step_s = seconds(at_ns[1], at_ns[2]);
        if (status < 0)
            break;
        settle(schedule, &result);
        at_ns[3] = caloris_time_ns();
        count_step(schedule, at_ns);
    }
    hand_back(schedule);
    if (status == 0)
        status = release_all(schedule, engine, &why);
    tell_end(schedule, &why);
    if (status < 0 && err)
        *err = why;
    return status;
}
