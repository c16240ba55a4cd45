#include "coordinator/gateway/broker/state.h"

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

void promise_add(struct caloris_broker *b, const struct promise *promise)
{
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

static void keep_ended(struct caloris_broker *b, const struct promise *p)
{
    struct live *live = live_find(b, p->job);
    b->counts.queued--;
    b->counts.finished++;
    if (p->to_client)
        send_ok(b, p);
    else
        send_taken(b, p);
    if (!live)
        return;
    struct group *group = live->group;
    if (group && p->to_client)
        answer_lease(b, group, CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_CANCEL, p->job, live->lease);
    groups_unlease(b, live);
    watch_tell_state(b, live);
    live_drop_unused(b, live);
}

static void keep(struct caloris_broker *b, const struct promise *p)
{
    switch (p->kind) {
    case PROMISE_ACCEPTED:
        b->counts.queued += !p->again;
        send_accepted(b, p);
        if (p->watch && !p->again)
            clients_watch(b, &p->peer, p->job);
        return;
    case PROMISE_ENDED:
        keep_ended(b, p);
        return;
    case PROMISE_TAKEN:
        send_taken(b, p);
        return;
    }
}

static void break_it(struct caloris_broker *b, const struct promise *p,
                     const struct caloris_err *why)
{
    if (p->kind == PROMISE_ACCEPTED || p->to_client) {
        answer_failure(b, &p->peer, p->request, why);
        return;
    }
    struct group *group = groups_find(b, &p->peer);
    if (group && !group->ask_ms)
        group->ask_ms = b->now_ms + ASK_AGAIN_MS;
}

void promise_keep(struct caloris_broker *b)
{
    struct caloris_err why;
    int rc = caloris_store_commit(b->store, &why);
    if (rc < 0) {
        caloris_log(CALORIS_LOG_ERROR, "%zu changes could not be stored: %s", b->n_promises,
                    why.text);
        if (why.code == CALORIS_IO)
            why.code = CALORIS_AGAIN; /* nothing was wrong with the request */
    }
    for (size_t i = 0; i < b->n_promises; i++) {
        if (rc == 0)
            keep(b, &b->promises[i]);
        else
            break_it(b, &b->promises[i], &why);
    }
    b->n_promises = 0;
}
