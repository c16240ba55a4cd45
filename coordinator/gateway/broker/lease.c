#include "coordinator/gateway/broker/held.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/time.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int lease_assign(struct caloris_broker *b, struct group *group, struct lane *lane, uint64_t job,
                 struct live **live, struct caloris_err *err)
{
    *live = live_need(b, job, err);
    if (!*live)
        return -1;
    (*live)->group = group;
    (*live)->lane = lane;
    (*live)->alone = lane->alone && group->n_held == 0;
    (*live)->lease = (struct lease_id){caloris_store_epoch(b->store), ++b->lease_counter};
    (*live)->started_ms = caloris_time_wall_ms();
    (*live)->next_held = group->held;
    group->held = *live;
    group->n_held++;
    b->n_leased++;
    lane_leave(b, lane, job);
    lane->refs++;
    lane->user->running++;
    return 0;
}

/* ---- room ---- */

static bool runs_alone(const struct group *group)
{
    return group->held && group->held->alone;
}

static uint32_t room(const struct group *group)
{
    if (group->cut_off || group->n_held >= group->capacity || runs_alone(group) ||
        (group->clearing && group->n_held > 0))
        return 0;
    uint32_t most = group->capacity - group->n_held;
    return group->free < most ? group->free : most;
}

/* Of those for whose models something may wait. */
static struct group *roomiest(const struct caloris_broker *b)
{
    struct group *best = NULL;
    for (struct group *group = b->groups; group; group = group->next) {
        if (group->idle_turn != b->turn && room(group) > (best ? room(best) : 0))
            best = group;
    }
    return best;
}

static bool same_model(const struct group *a, const struct group *b)
{
    return strcmp(a->model, b->model) == 0;
}

/* One group of a model at a time makes room for a job that must be alone, or has one: a flood of
 * such jobs shall not stop all others. */
static bool one_is_alone(const struct caloris_broker *b, const struct group *like)
{
    for (const struct group *group = b->groups; group; group = group->next) {
        if (same_model(group, like) && !group->cut_off && (group->clearing || runs_alone(group)))
            return true;
    }
    return false;
}

static struct group *emptiest(const struct caloris_broker *b, struct group *like)
{
    struct group *best = like;
    for (struct group *group = b->groups; group; group = group->next) {
        if (same_model(group, like) && group->n_held < best->n_held && !group->cut_off &&
            !group->draining)
            best = group;
    }
    return best;
}

/* ---- who gets what ---- */

/* The next job for *group: 1, *lane and *job; 0: there is none; -1. A job that must be alone may
 * go to another group of the model instead, which has nothing to do. */
static int pick(struct caloris_broker *b, struct group **group, struct lane **lane, uint64_t *job,
                struct caloris_err *err)
{
    struct group *to = *group;
    if (to->clearing) { /* and empty by now */
        to->clearing = false;
        int rc = lanes_pick(b, to->model, LANES_ALONE, lane, job, err);
        if (rc != 0)
            return rc;
    }
    enum lane_kind kind = one_is_alone(b, to) ? LANES_SHARED : LANES_ALL;
    int rc = lanes_pick(b, to->model, kind, lane, job, err);
    if (rc != 1 || !(*lane)->alone || to->n_held == 0)
        return rc;
    struct group *other = emptiest(b, to);
    if (other->n_held == 0 && room(other) > 0) {
        *group = other;
        return 1;
    }
    other->clearing = true;
    return room(to) > 0 ? lanes_pick(b, to->model, LANES_SHARED, lane, job, err) : 0;
}

static void mark_idle(struct caloris_broker *b, const struct group *like)
{
    for (struct group *group = b->groups; group; group = group->next) {
        if (same_model(group, like) && !group->clearing)
            group->idle_turn = b->turn;
    }
}

static int send_lease(struct caloris_broker *b, struct live *live, const struct caloris_buf *json)
{
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    Caloris__Wire__Lease lease = CALORIS__WIRE__LEASE__INIT;
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    id.epoch = live->lease.epoch;
    id.counter = live->lease.counter;
    lease.job = live->job;
    lease.lease = &id;
    lease.job_json = (ProtobufCBinaryData){json->size, (uint8_t *)json->data};
    lease.canvas = watch_wants_canvas(live);
    const struct hand_over *from = hand_over_for_lease(b, live);
    live->resumed = from->n > 0;
    lease.has_hand_over = live->resumed;
    live->resumed_block = from->block;
    lease.hand_over = (ProtobufCBinaryData){from->n, from->bytes};
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_LEASE;
    message.lease = &lease;
    live->following = lease.canvas;
    live->asked_ms = b->now_ms;
    return answer_group(b, live->group, &message);
}

/* The disk does not give a job back: it fails alone, all others go on. Whether there is a copy, the
 * administrator knows, and its log and result say what is damaged. */
static int give_up(struct caloris_broker *b, uint64_t number, const struct caloris_err *damage,
                   struct caloris_err *err)
{
    struct caloris_store_job job;
    struct promise promise = {.to = TO_NOBODY};
    struct caloris_err why;
    caloris_err_set(&why, CALORIS_IO, "the queue is damaged, this job cannot be read: %.400s",
                    damage->text);
    caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = number}, "%s", why.text);
    if (caloris_store_find(b->store, number, &job, err) < 0 ||
        end_job(b, &job, CALORIS_STORE_FAILED, &why, &promise, err) < 0)
        return -1;
    return promise_keep(b) < 0 ? caloris_err_set(err, CALORIS_IO, "%s", why.text) : 0;
}

/* A body that is not there or is none; not a disk or memory that fails for now. */
static bool is_damage(const struct caloris_err *err)
{
    return err->code == CALORIS_BAD_CONFIG || err->code == CALORIS_NOT_FOUND;
}

static int lease_one(struct caloris_broker *b, struct group *group, struct lane *lane, uint64_t job,
                     struct caloris_err *err)
{
    struct caloris_buf json = CALORIS_BUF(CALORIS_WIRE_MAX_FRAME);
    struct live *live;
    int rc = caloris_store_read_job(b->store, job, &json, err);
    if (rc < 0 && is_damage(err)) {
        struct caloris_err damage = *err;
        caloris_buf_free(&json);
        return give_up(b, job, &damage, err);
    }
    if (rc < 0)
        caloris_err_prefix(err, "job %" PRIu64, job);
    if (rc == 0)
        rc = lease_assign(b, group, lane, job, &live, err);
    if (rc == 0 && send_lease(b, live, &json) < 0) {
        held_release(b, live);
        lane_enter(b, lane, job);
        live_drop_unused(b, live);
        group->free = 0;
    } else if (rc == 0) {
        group->free--;
        watch_tell_state(b, live);
    }
    caloris_buf_free(&json);
    return rc;
}

void lease_out(struct caloris_broker *b)
{
    struct caloris_err err;
    struct group *group;
    b->turn++;
    while (b->n_waiting > 0 && (group = roomiest(b)) != NULL) {
        struct lane *lane;
        uint64_t job;
        int rc = pick(b, &group, &lane, &job, &err);
        if (rc == 0)
            mark_idle(b, group);
        if (rc < 0 || (rc == 1 && lease_one(b, group, lane, job, &err) < 0)) {
            broker_warn(b, "leasing: %s", err.text);
            return;
        }
    }
}

/* ---- why not ---- */

void lease_say_why_not(struct caloris_broker *b, const struct caloris_store_job *job, char *text)
{
    const struct live *live = live_find(b, job->job);
    const struct user *user = user_need(b, job->user, NULL);
    const uint64_t most = user ? user->limits.max_running : 0;
    bool served = false;
    text[0] = '\0';
    if (job->state != CALORIS_STORE_QUEUED || (live && live->group))
        return;
    for (const struct group *group = b->groups; group; group = group->next)
        served |= !job->model[0] || strcmp(job->model, group->model) == 0;
    if (!b->groups)
        snprintf(text, CALORIS_ERR_TEXT, "no group is connected");
    else if (!served)
        snprintf(text, CALORIS_ERR_TEXT, "no group serves model %s", job->model);
    else if (most > 0 && user->running >= most)
        snprintf(text, CALORIS_ERR_TEXT,
                 "max_running: user %s has %" PRIu64 " jobs running, as many as may be", user->name,
                 user->running);
    else if (job->alone)
        snprintf(text, CALORIS_ERR_TEXT,
                 "was in %" PRIu32 " crashes: waits for a group that holds nothing else",
                 job->crashes);
}
