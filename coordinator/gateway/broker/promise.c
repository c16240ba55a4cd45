#include "coordinator/gateway/broker/held.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>

enum { ASK_AGAIN_MS = 5000 }; /* a group whose result did not get onto the disk */

int promise_room(struct caloris_broker *b, struct caloris_err *err)
{
    if (b->n_promises < b->max_promises)
        return 0;
    size_t max = b->max_promises ? b->max_promises * 2 : BROKER_BATCH;
    struct promise *more = realloc(b->promises, max * sizeof(*more));
    if (!more)
        return caloris_err_sys(err, "%zu answers", max);
    b->promises = more;
    b->max_promises = max;
    return 0;
}

static void count_arriving(const struct promise *p)
{
    p->lane->user->arriving++;
    p->lane->user->arriving_bytes += p->body_bytes;
}

static void count_arrived(const struct promise *p)
{
    p->lane->user->arriving--;
    p->lane->user->arriving_bytes -= p->body_bytes;
}

void promise_add(struct caloris_broker *b, const struct promise *promise)
{
    if (promise->lane)
        promise->lane->refs++;
    if (promise->kind == PROMISE_ACCEPTED && !promise->again)
        count_arriving(promise);
    b->promises[b->n_promises++] = *promise;
}

static void send_accepted(struct caloris_broker *b, const struct promise *p)
{
    to_client message = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Accepted accepted = CALORIS__WIRE__ACCEPTED__INIT;
    accepted.job = p->job;
    accepted.again = p->again;
    message.request = p->request;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_ACCEPTED;
    message.accepted = &accepted;
    answer_client(b, &p->peer, &message);
}

static void send_taken(struct caloris_broker *b, const struct promise *p)
{
    struct group *group = groups_find(b, &p->peer);
    if (group)
        answer_lease(b, group, CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_TAKEN, p->job, p->lease);
}

static void send_ok(struct caloris_broker *b, const struct promise *p)
{
    to_client message = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Nothing ok = CALORIS__WIRE__NOTHING__INIT;
    message.request = p->request;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK;
    message.ok = &ok;
    answer_client(b, &p->peer, &message);
}

static void keep_accepted(struct caloris_broker *b, const struct promise *p)
{
    if (!p->again) {
        b->figures.accepted++;
        b->counts.queued++;
        p->lane->user->queued++;
        p->lane->user->queued_bytes += p->body_bytes;
        lane_enter(b, p->lane, p->job);
        if (p->deadline_ms && p->deadline_ms < b->next_deadline_ms)
            b->next_deadline_ms = p->deadline_ms;
    }
    send_accepted(b, p);
    if (p->watch && !p->again)
        clients_watch(b, &p->peer, p->job, p->canvas);
}

static void count_end(struct caloris_broker *b, const struct promise *p, const struct live *live)
{
    b->figures.ended[p->state]++;
    if (p->state == CALORIS_STORE_DONE && live)
        figures_done(b, live, p->submitted_ms, p->figures);
}

static void keep_ended(struct caloris_broker *b, const struct promise *p)
{
    struct live *live = live_find(b, p->job);
    struct group *group = live ? live->group : NULL;
    b->counts.queued--;
    b->counts.finished++;
    p->lane->user->queued--;
    p->lane->user->queued_bytes -= p->body_bytes;
    count_end(b, p, live);
    if (!group)
        lane_leave(b, p->lane, p->job);
    if (p->to == TO_CLIENT)
        send_ok(b, p);
    else if (p->to == TO_GROUP)
        send_taken(b, p);
    if (!live)
        return;
    if (group && p->to != TO_GROUP)
        answer_lease(b, group, CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_CANCEL, p->job, live->lease);
    held_release(b, live);
    hand_over_drop(b, live);
    watch_tell_state(b, live);
    live_drop_unused(b, live);
}

static void break_it(struct caloris_broker *b, const struct promise *p,
                     const struct caloris_err *why)
{
    if (p->to == TO_CLIENT)
        answer_failure(b, &p->peer, p->request, why);
    struct group *group = p->to == TO_GROUP ? groups_find(b, &p->peer) : NULL;
    if (group && !group->ask_ms)
        group->ask_ms = b->now_ms + ASK_AGAIN_MS;
}

static void settle(struct caloris_broker *b, const struct promise *p, const struct caloris_err *why)
{
    static void (*const keep[])(struct caloris_broker *, const struct promise *) = {
        [PROMISE_ACCEPTED] = keep_accepted,
        [PROMISE_ENDED] = keep_ended,
        [PROMISE_TAKEN] = send_taken,
    };
    if (p->kind == PROMISE_ACCEPTED && !p->again)
        count_arrived(p);
    if (why)
        break_it(b, p, why);
    else
        keep[p->kind](b, p);
    json_decref(p->figures);
    if (p->lane)
        p->lane->refs--;
}

int promise_keep(struct caloris_broker *b)
{
    struct caloris_err why;
    int rc = caloris_store_commit(b->store, &why);
    if (rc < 0) {
        caloris_log(CALORIS_LOG_ERROR, "%zu changes could not be stored: %s", b->n_promises,
                    why.text);
        if (why.code == CALORIS_IO)
            why.code = CALORIS_AGAIN; /* nothing was wrong with the request */
    }
    for (size_t i = 0; i < b->n_promises; i++)
        settle(b, &b->promises[i], rc < 0 ? &why : NULL);
    b->n_promises = 0;
    return rc;
}
