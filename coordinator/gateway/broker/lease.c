#include "coordinator/gateway/broker/state.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/time.h"

#include <inttypes.h>

int lease_assign(struct caloris_broker *b, struct group *group, uint64_t job, struct live **live,
                 struct caloris_err *err)
{
    *live = live_need(b, job, err);
    if (!*live)
        return -1;
    (*live)->group = group;
    (*live)->lease = (struct lease_id){caloris_store_epoch(b->store), ++b->lease_counter};
    (*live)->started_ms = caloris_time_wall_ms();
    (*live)->next_held = group->held;
    group->held = *live;
    group->n_held++;
    b->n_leased++;
    return 0;
}

static uint32_t room(const struct group *group)
{
    if (group->cut_off || group->n_held >= group->capacity)
        return 0;
    uint32_t most = group->capacity - group->n_held;
    return group->free < most ? group->free : most;
}

static struct group *roomiest(const struct caloris_broker *b)
{
    struct group *best = NULL;
    for (struct group *group = b->groups; group; group = group->next) {
        if (room(group) > (best ? room(best) : 0))
            best = group;
    }
    return best;
}

/* The oldest queued job that nobody computes: 1, 0 when there is none, -1 and err. */
static int next_job(struct caloris_broker *b, uint64_t *job, struct caloris_err *err)
{
    if (b->counts.queued <= b->n_leased)
        return 0;
    for (;;) {
        int rc = caloris_store_next(b->store, b->next_job, job, err);
        if (rc <= 0)
            return rc;
        b->next_job = *job + 1;
        const struct live *live = live_find(b, *job);
        if (!live || !live->group)
            return 1;
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
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_LEASE;
    message.lease = &lease;
    live->following = lease.canvas;
    live->asked_ms = b->now_ms;
    return answer_group(b, live->group, &message);
}

static int lease_one(struct caloris_broker *b, struct group *group, uint64_t job,
                     struct caloris_err *err)
{
    struct caloris_buf json = CALORIS_BUF(CALORIS_WIRE_MAX_FRAME);
    struct live *live;
    int rc = caloris_store_read_job(b->store, job, &json, err);
    if (rc == 0 && (rc = lease_assign(b, group, job, &live, err)) < 0)
        b->next_job = job;
    else if (rc == 0 && send_lease(b, live, &json) < 0) {
        groups_unlease(b, live);
        live_drop_unused(b, live);
        b->next_job = job;
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
    while ((group = roomiest(b)) != NULL) {
        uint64_t job;
        int rc = next_job(b, &job, &err);
        if (rc == 0)
            return;
        if (rc < 0 || lease_one(b, group, job, &err) < 0) {
            broker_warn(b, "leasing: %s", err.text);
            return;
        }
    }
}
