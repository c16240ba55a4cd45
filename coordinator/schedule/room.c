/* What a request holds while it runs: slots for its canvases, and K/V. Under the lock. */
#include "coordinator/schedule/tasks.h"

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

static void give_slot(struct caloris_schedule *schedule, uint32_t *slot, bool admitted)
{
    if (*slot == CALORIS_NO_SLOT)
        return;
    schedule->slot_taken[*slot] = false;
    if (admitted)
        schedule->to_release[schedule->n_to_release++] = *slot;
    *slot = CALORIS_NO_SLOT;
}

static bool is_cached(const struct caloris_member *member)
{
    return member->denoise.params.cache != CALORIS_CACHE_NONE;
}

static bool is_guided(const struct caloris_member *member)
{
    return member->denoise.params.cfg_scale > 0;
}

/* Slots are there; K/V perhaps. */
static bool take(struct caloris_schedule *schedule, struct caloris_member *member)
{
    const size_t length = member->denoise.length;
    const bool guided = is_guided(member), cached = is_cached(member);
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

bool caloris_room_take(struct caloris_schedule *schedule, struct caloris_task *task)
{
    size_t open = 0; /* not done by another group */
    for (size_t i = 0; i < task->n; i++)
        open += !task->members[i].denoise.done;
    if (free_slots(schedule) < open * (is_guided(&task->members[0]) ? 2 : 1))
        return false;
    for (size_t i = 0; i < task->n; i++) {
        if (task->members[i].denoise.done || take(schedule, &task->members[i]))
            continue;
        while (i-- > 0)
            caloris_room_give(schedule, &task->members[i]);
        return false;
    }
    return true;
}

void caloris_room_give(struct caloris_schedule *schedule, struct caloris_member *member)
{
    if (member->slot == CALORIS_NO_SLOT)
        return;
    if (is_cached(member)) {
        caloris_regions_give(&schedule->regions, member->kv_first);
        if (is_guided(member))
            caloris_regions_give(&schedule->regions, member->kv_partner);
    }
    give_slot(schedule, &member->slot, member->admitted);
    give_slot(schedule, &member->partner, member->admitted);
}
