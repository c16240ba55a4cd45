#include "coordinator/schedule/tasks.h"

#include "base/time.h"

#include <string.h>

/* ---- events of followed requests ------------------------------------------------------------- */

static void describe(const struct caloris_task *task, enum caloris_event_kind kind,
                     struct caloris_event *event)
{
    event->kind = kind;
    event->owner = task->request->owner;
    event->step = task->member.denoise.step;
    event->masks_left = (uint32_t)task->member.denoise.masks;
}

/* Without memory the event is dropped, and a snapshot makes up for it. */
static void tell_step(struct caloris_schedule *schedule, const struct caloris_task *task,
                      bool *missed)
{
    const struct caloris_member *member = &task->member;
    struct caloris_event *event = caloris_event_new(member->n_reveals);
    *missed = !event;
    if (!event)
        return;
    describe(task, CALORIS_EVENT_STEP, event);
    if (member->n_reveals > 0)
        memcpy(event->reveals, member->reveals, member->n_reveals * sizeof(*event->reveals));
    caloris_events_push(&schedule->events, event);
}

static void tell_snapshot(struct caloris_schedule *schedule, const struct caloris_task *task,
                          bool *missed)
{
    const struct caloris_denoise *denoise = &task->member.denoise;
    struct caloris_event *event = caloris_event_new(denoise->length);
    *missed = !event;
    if (!event)
        return;
    describe(task, CALORIS_EVENT_SNAPSHOT, event);
    for (size_t i = 0; i < denoise->length; i++)
        event->reveals[i] =
            (struct caloris_reveal){.position = (uint32_t)i, .id = denoise->canvas[i]};
    caloris_events_push(&schedule->events, event);
}

/* ---- who runs; all under the lock ------------------------------------------------------------ */

static uint32_t take_slot(struct caloris_schedule *schedule)
{
    uint32_t slot = 0;
    while (schedule->slot_taken[slot])
        slot++;
    schedule->slot_taken[slot] = true;
    return slot;
}

static size_t free_slots(const struct caloris_schedule *schedule)
{
    size_t count = 0;
    for (size_t i = 0; i < schedule->slots; i++)
        count += !schedule->slot_taken[i];
    return count;
}

static void give_slot(struct caloris_schedule *schedule, uint32_t slot)
{
    if (slot == CALORIS_NO_SLOT)
        return;
    schedule->slot_taken[slot] = false;
    schedule->to_release[schedule->n_to_release++] = slot;
}

static struct caloris_task *take_waiting(struct caloris_schedule *schedule)
{
    struct caloris_task *task = schedule->waiting;
    schedule->waiting = task->next;
    if (!schedule->waiting)
        schedule->waiting_end = &schedule->waiting;
    schedule->n_waiting--;
    return task;
}

static bool is_cached(const struct caloris_member *member)
{
    return member->denoise.params.cache != CALORIS_CACHE_NONE;
}

/* Slots and K/V for all canvases of a member, or nothing and false. */
static bool take_room(struct caloris_schedule *schedule, struct caloris_member *member)
{
    const size_t length = member->denoise.length;
    const bool guided = member->denoise.params.cfg_scale > 0, cached = is_cached(member);
    if (free_slots(schedule) < (guided ? 2 : 1))
        return false;
    if (cached && !caloris_regions_take(&schedule->regions, length, &member->kv_first))
        return false;
    if (cached && guided &&
        !caloris_regions_take(&schedule->regions, length, &member->kv_partner)) {
        caloris_regions_give(&schedule->regions, member->kv_first);
        return false;
    }
    member->slot = take_slot(schedule);
    if (guided)
        member->partner = take_slot(schedule);
    return true;
}

static void give_room(struct caloris_schedule *schedule, const struct caloris_member *member)
{
    if (is_cached(member)) {
        caloris_regions_give(&schedule->regions, member->kv_first);
        if (member->partner != CALORIS_NO_SLOT)
            caloris_regions_give(&schedule->regions, member->kv_partner);
    }
    give_slot(schedule, member->slot);
    give_slot(schedule, member->partner);
}

/* Running task i leaves. */
static void leave(struct caloris_schedule *schedule, size_t i, enum caloris_event_kind kind)
{
    struct caloris_task *task = schedule->running[i];
    schedule->n_running--;
    memmove(schedule->running + i, schedule->running + i + 1,
            (schedule->n_running - i) * sizeof(*schedule->running));
    give_room(schedule, &task->member);
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

/* First come, first served: who waits for two slots, or for K/V, is not overtaken. */
static void let_in(struct caloris_schedule *schedule)
{
    for (struct caloris_task *task; (task = schedule->waiting);) {
        struct caloris_member *member = &task->member;
        if (member->denoise.done) { /* nothing was masked */
            caloris_task_end(schedule, take_waiting(schedule), CALORIS_EVENT_FINISHED);
            continue;
        }
        if (!take_room(schedule, member))
            return;
        take_waiting(schedule);
        task->started_ns = caloris_time_ns();
        schedule->running[schedule->n_running++] = task;
        caloris_pack_admit(&schedule->pack, member);
    }
}

static void tell_snapshots(struct caloris_schedule *schedule)
{
    for (size_t i = 0; i < schedule->n_running; i++) {
        struct caloris_task *task = schedule->running[i];
        if (task->snapshot_due)
            tell_snapshot(schedule, task, &task->snapshot_due);
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
    }
    pthread_mutex_unlock(&schedule->lock);
    return more;
}

static void pack_steps(struct caloris_schedule *schedule)
{
    for (size_t i = 0; i < schedule->n_running; i++)
        schedule->candidates[i] = &schedule->running[i]->member;
    const size_t n = caloris_pack_choose(schedule->candidates, schedule->n_running, schedule->aim,
                                         schedule->max_rows, schedule->chosen);
    schedule->turn++;
    for (size_t i = 0; i < n; i++) {
        schedule->chosen[i]->last_turn = schedule->turn;
        caloris_pack_step(&schedule->pack, schedule->chosen[i]);
    }
}

static void settle(struct caloris_schedule *schedule, const struct caloris_step_result *result)
{
    for (size_t i = 0; i < schedule->pack.n_parts; i++)
        caloris_pack_decide(&schedule->pack, &schedule->pack.parts[i], result);
    pthread_mutex_lock(&schedule->lock);
    for (size_t i = 0; i < schedule->n_running;) {
        struct caloris_task *task = schedule->running[i];
        if (task->follow && task->member.last_turn == schedule->turn && !task->snapshot_due)
            tell_step(schedule, task, &task->snapshot_due);
        if (task->member.denoise.done)
            leave(schedule, i, CALORIS_EVENT_FINISHED);
        else
            i++;
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
        caloris_task_end(schedule, take_waiting(schedule), CALORIS_EVENT_CANCELLED);
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

int caloris_schedule_loop(struct caloris_schedule *schedule, struct caloris_engine *engine,
                          struct caloris_err *err)
{
    struct caloris_err why = {.code = CALORIS_OK};
    int status = 0;
    while (status == 0 && gather(schedule)) {
        struct caloris_step_result result;
        pack_steps(schedule);
        status = caloris_engine_step(engine, &schedule->pack.plan, &result, &why);
        if (status == 0)
            settle(schedule, &result);
    }
    hand_back(schedule);
    if (status == 0)
        status = release_all(schedule, engine, &why);
    tell_end(schedule, &why);
    if (status < 0 && err)
        *err = why;
    return status;
}
