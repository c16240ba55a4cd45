/* Jobs that are watched: what is said of them, in order, whatever happens to the connection. */
#include "client/watches.h"
#include "client/connection.h"

#include "base/err.h"
#include "base/time.h"
#include "proto/wire.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    PING_AFTER_MS = 2000,  /* of silence while waiting */
    LOST_AFTER_MS = 10000, /* of silence in spite of pings */
    REDIAL_MS = 2000,      /* one attempt */
};

static struct watch *find_watch(struct caloris_client *client, uint64_t job)
{
    for (size_t i = 0; i < client->n_watches; i++) {
        if (client->watches[i].job == job)
            return &client->watches[i];
    }
    return NULL;
}

/* The present state of a watched job, as the first of its events. Of an answer that has none: the
 * job is not known. */
static int queue_status(struct caloris_client *client, caloris_answer *answer, uint64_t job,
                        struct caloris_err *err)
{
    Caloris__Wire__Event *event = malloc(sizeof(*event));
    if (!event) {
        caloris_answer_free(answer);
        return caloris_err_sys(err, "an event");
    }
    caloris__wire__event__init(event);
    event->job = job;
    event->status = answer->status;
    answer->body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_EVENT;
    answer->event = event;
    return caloris_connection_queue(client, answer, err);
}

/* Watch, then ask how the job stands: what changes between the two comes twice rather than
 * never. */
static int say_watch(struct caloris_client *client, const struct watch *watch, uint64_t deadline_ns,
                     struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Watch body = CALORIS__WIRE__WATCH__INIT;
    Caloris__Wire__LeaseId lease = CALORIS__WIRE__LEASE_ID__INIT;
    lease.epoch = watch->epoch;
    lease.counter = watch->counter;
    body.job = watch->job;
    body.has_canvas = 1;
    body.canvas = watch->canvas;
    body.has_after = watch->seq > 0;
    body.after = watch->seq;
    body.lease = watch->seq > 0 ? &lease : NULL;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_WATCH;
    message.watch = &body;
    caloris_answer *answer = caloris_connection_exchange(client, &message, deadline_ns, err);
    if (!answer)
        return -1;
    if (answer->body_case != CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_STATUS) {
        Caloris__Wire__JobRef ref = CALORIS__WIRE__JOB_REF__INIT;
        caloris_answer_free(answer);
        ref.job = watch->job;
        message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SHOW;
        message.show = &ref;
        answer = caloris_connection_exchange(client, &message, deadline_ns, err);
        if (!answer)
            return -1;
        if (answer->body_case != CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_STATUS) {
            caloris_answer_free(answer);
            return caloris_err_set(err, CALORIS_INTERNAL, "%s: job %llu: no state in the answer",
                                   client->endpoint, (unsigned long long)watch->job);
        }
    }
    return queue_status(client, answer, watch->job, err);
}

/* An event of a job that is not there any more. */
static int queue_lost(struct caloris_client *client, uint64_t job, struct caloris_err *err)
{
    caloris_answer *nothing = malloc(sizeof(*nothing));
    if (!nothing)
        return caloris_err_sys(err, "an event");
    caloris__wire__gateway_to_client__init(nothing);
    return queue_status(client, nothing, job, err);
}

/* ---- a connection that went away ------------------------------------------------------------- */

static int watch_all(struct caloris_client *client, struct caloris_err *err)
{
    for (size_t i = 0; i < client->n_watches;) {
        const struct watch *watch = &client->watches[i];
        if (say_watch(client, watch, caloris_connection_deadline(REDIAL_MS), err) == 0) {
            i++;
            continue;
        }
        if (err->code != CALORIS_NOT_FOUND || queue_lost(client, watch->job, err) < 0)
            return -1;
        client->watches[i] = client->watches[--client->n_watches];
    }
    return 0;
}

static void notice(const struct caloris_client *client, const char *text)
{
    if (client->options.notice)
        client->options.notice(client->options.notice_arg, text);
}

int caloris_watches_dial_again(struct caloris_client *client, uint64_t deadline_ns,
                               struct caloris_err *err)
{
    char text[CALORIS_ENDPOINT_MAX + 64];
    caloris_connection_hang_up(client);
    snprintf(text, sizeof(text), "the gateway at %s went away, dialling again", client->endpoint);
    notice(client, text);
    for (;;) {
        struct caloris_err why = {0};
        uint64_t attempt_ns = caloris_connection_deadline(REDIAL_MS);
        int rc = caloris_connection_dial(client,
                                         attempt_ns < deadline_ns ? attempt_ns : deadline_ns, &why);
        if (rc == 0 && watch_all(client, &why) == 0)
            break;
        caloris_connection_hang_up(client);
        bool away = why.code == CALORIS_UNREACHABLE || why.code == CALORIS_PEER_LOST;
        if (!away || caloris_time_ns() >= deadline_ns)
            return caloris_err_set(err, why.code, "%s", why.text);
    }
    snprintf(text, sizeof(text), "connected to %s again", client->endpoint);
    notice(client, text);
    return 0;
}

/* ---- watching -------------------------------------------------------------------------------- */

int caloris_watches_check_room(const struct caloris_client *client, size_t n,
                               struct caloris_err *err)
{
    if (n <= CALORIS_CLIENT_MAX_WATCHES - client->n_watches)
        return 0;
    return caloris_err_set(err, CALORIS_USAGE, "more than %d jobs watched at a time",
                           CALORIS_CLIENT_MAX_WATCHES);
}

int caloris_client_watch(struct caloris_client *client, uint64_t job, bool canvas,
                         struct caloris_err *err)
{
    if (find_watch(client, job))
        return 0;
    if (caloris_watches_check_room(client, 1, err) < 0)
        return -1;
    struct watch watch = {.job = job, .canvas = canvas};
    uint64_t deadline_ns = caloris_connection_deadline(client->options.timeout_ms);
    struct caloris_err why = {0};
    while (!client->socket || say_watch(client, &watch, deadline_ns, &why) < 0) {
        if (client->socket && why.code != CALORIS_PEER_LOST)
            return caloris_err_set(err, why.code, "%s", why.text);
        if (caloris_watches_dial_again(client, deadline_ns, err) < 0)
            return -1;
    }
    client->watches[client->n_watches++] = watch;
    return 0;
}

int caloris_watches_add_accepted(struct caloris_client *client, uint64_t job,
                                 struct caloris_err *err)
{
    caloris_answer *answer = malloc(sizeof(*answer));
    Caloris__Wire__JobStatus *status = malloc(sizeof(*status));
    if (!answer || !status) {
        free(answer);
        free(status);
        return caloris_err_sys(err, "an event");
    }
    caloris__wire__gateway_to_client__init(answer);
    caloris__wire__job_status__init(status);
    status->job = job;
    status->state = CALORIS__WIRE__JOB_STATE__QUEUED;
    answer->body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_STATUS;
    answer->status = status;
    client->watches[client->n_watches++] = (struct watch){.job = job, .canvas = true};
    return queue_status(client, answer, job, err);
}

/* ---- what happens to them -------------------------------------------------------------------- */

/* What came, or 0 at deadline_ns. Silence is tested with pings; nobody answers them: the gateway
 * is lost. */
static int wait_for_event(struct caloris_client *client, uint64_t deadline_ns,
                          caloris_answer **event, struct caloris_err *err)
{
    uint64_t pinged_ns = 0;
    for (;;) {
        uint64_t slice_ns = caloris_connection_deadline(PING_AFTER_MS), now;
        int n = caloris_connection_receive(client, slice_ns < deadline_ns ? slice_ns : deadline_ns,
                                           event, err);
        if (n < 0)
            return -1;
        if (n > 0 && (*event)->body_case == CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_EVENT)
            return 1;
        if (n > 0 && (*event)->body_case == CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_FAILURE) {
            /* It does not know us any more: dialling again tells why. */
            caloris_answer_free(*event);
            return caloris_err_set(err, CALORIS_PEER_LOST, "%s: the gateway forgot us",
                                   client->endpoint);
        }
        if (n > 0) {
            caloris_answer_free(*event); /* a pong */
            continue;
        }
        now = caloris_time_ns();
        if (now >= deadline_ns)
            return 0;
        if (now - client->heard_ns > LOST_AFTER_MS * 1000000ull)
            return caloris_err_set(err, CALORIS_PEER_LOST, "%s: the gateway is silent",
                                   client->endpoint);
        if (now - client->heard_ns >= PING_AFTER_MS * 1000000ull && pinged_ns <= client->heard_ns) {
            pinged_ns = now;
            if (caloris_connection_ping(client, err) < 0)
                return -1;
        }
    }
}

bool caloris_watches_forget(struct caloris_client *client, uint64_t job)
{
    struct watch *watch = find_watch(client, job);
    if (!watch)
        return false;
    *watch = client->watches[--client->n_watches];
    return true;
}

bool caloris_state_is_final(Caloris__Wire__JobState state)
{
    return (int)state > 0 && state != CALORIS__WIRE__JOB_STATE__QUEUED &&
           state != CALORIS__WIRE__JOB_STATE__RUNNING;
}

bool caloris_event_is_loss(const Caloris__Wire__Event *event)
{
    return !event->status && !event->progress;
}

/* The gateway has forgotten a watch with its job's final state. */
static void forget_ended(struct caloris_client *client, const Caloris__Wire__Event *event)
{
    if (event->status && caloris_state_is_final(event->status->state))
        caloris_watches_forget(client, event->job);
}

int caloris_client_next(struct caloris_client *client, uint64_t wait_ms, caloris_answer **event,
                        struct caloris_err *err)
{
    uint64_t deadline_ns = caloris_connection_deadline(wait_ms);
    for (;;) {
        struct event *first = client->first;
        if (first) {
            client->first = first->next;
            if (!first->next)
                client->last = NULL;
            *event = first->message;
            free(first);
            forget_ended(client, (*event)->event);
            return 1;
        }
        struct caloris_err why = {0};
        int n = client->socket ? wait_for_event(client, deadline_ns, event, &why)
                               : caloris_err_set(&why, CALORIS_PEER_LOST, "not connected");
        if (n > 0)
            forget_ended(client, (*event)->event);
        if (n >= 0)
            return n;
        if (why.code != CALORIS_PEER_LOST)
            return caloris_err_set(err, why.code, "%s", why.text);
        if (caloris_watches_dial_again(
                client, caloris_connection_deadline(client->options.patience_ms), err) < 0)
            return -1;
    }
}
