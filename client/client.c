#include "client/client.h"
#include "client/connection.h"

#include "base/err.h"
#include "base/time.h"
#include "proto/wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <zmq.h>

enum {
    PING_AFTER_MS = 2000,  /* of silence while waiting */
    LOST_AFTER_MS = 10000, /* of silence in spite of pings */
    REDIAL_MS = 2000,      /* one attempt */
};

void caloris_answer_free(caloris_answer *answer)
{
    if (answer)
        caloris__wire__gateway_to_client__free_unpacked(answer, NULL);
}

static uint64_t after_ms(uint64_t ms)
{
    return caloris_time_ns() + ms * 1000000;
}

struct caloris_client *caloris_client_open(const struct caloris_client_options *options,
                                           struct caloris_err *err)
{
    struct caloris_client *client = calloc(1, sizeof(*client));
    if (!client) {
        caloris_err_sys(err, "a client");
        return NULL;
    }
    client->options = *options;
    client->address = *options->address;
    client->options.address = &client->address;
    client->endpoint = client->address.endpoint;
    client->watches = calloc(CALORIS_CLIENT_MAX_WATCHES, sizeof(*client->watches));
    client->context = zmq_ctx_new();
    if (!client->watches || !client->context) {
        caloris_err_sys(err, "%s: a connection", client->endpoint);
        goto fail;
    }
    if (caloris_connection_dial(client, after_ms(options->timeout_ms), err) < 0)
        goto fail;
    return client;
fail:
    caloris_client_close(client);
    return NULL;
}

void caloris_client_close(struct caloris_client *client)
{
    if (!client)
        return;
    caloris_connection_hang_up(client);
    if (client->context)
        zmq_ctx_term(client->context);
    while (client->first) {
        struct event *event = client->first;
        client->first = event->next;
        caloris_answer_free(event->message);
        free(event);
    }
    free(client->watches);
    explicit_bzero(&client->address.keys, sizeof(client->address.keys));
    free(client);
}

const char *caloris_client_agent(const struct caloris_client *client)
{
    return client->agent;
}

/* ---- one request, whatever happens to the connection ----------------------------------------- */

static void notice(const struct caloris_client *client, const char *text)
{
    if (client->options.notice)
        client->options.notice(client->options.notice_arg, text);
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

static int watch_all(struct caloris_client *client, struct caloris_err *err)
{
    for (size_t i = 0; i < client->n_watches;) {
        const struct watch *watch = &client->watches[i];
        if (say_watch(client, watch, after_ms(REDIAL_MS), err) == 0) {
            i++;
            continue;
        }
        if (err->code != CALORIS_NOT_FOUND || queue_lost(client, watch->job, err) < 0)
            return -1;
        client->watches[i] = client->watches[--client->n_watches];
    }
    return 0;
}

/* Dials again and watches again what was watched, by deadline_ns. */
int caloris_connection_again(struct caloris_client *client, uint64_t deadline_ns,
                             struct caloris_err *err)
{
    char text[CALORIS_ENDPOINT_MAX + 64];
    caloris_connection_hang_up(client);
    snprintf(text, sizeof(text), "the gateway at %s went away, dialling again", client->endpoint);
    notice(client, text);
    for (;;) {
        struct caloris_err why = {0};
        uint64_t attempt_ns = after_ms(REDIAL_MS);
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

/* Every request may be repeated: the connection may break as often as it likes until the time is
 * over. */
static caloris_answer *call(struct caloris_client *client, Caloris__Wire__ClientToGateway *message,
                            Caloris__Wire__GatewayToClient__BodyCase due, struct caloris_err *err)
{
    uint64_t deadline_ns = after_ms(client->options.timeout_ms);
    struct caloris_err why = {0};
    for (;;) {
        caloris_answer *answer = NULL;
        if (client->socket || caloris_connection_again(client, deadline_ns, &why) == 0)
            answer = caloris_connection_exchange(client, message, deadline_ns, &why);
        if (answer && answer->body_case == due)
            return answer;
        if (answer) {
            caloris_answer_free(answer);
            caloris_err_set(err, CALORIS_INTERNAL, "%s: an answer of kind %d where %d was due",
                            client->endpoint, (int)answer->body_case, (int)due);
            return NULL;
        }
        if (why.code != CALORIS_PEER_LOST || caloris_time_ns() >= deadline_ns) {
            caloris_err_set(err, why.code, "%s", why.text);
            return NULL;
        }
        caloris_connection_hang_up(client);
    }
}

static int too_many_watches(struct caloris_err *err)
{
    return caloris_err_set(err, CALORIS_USAGE, "more than %d jobs watched at a time",
                           CALORIS_CLIENT_MAX_WATCHES);
}

/* ---- requests -------------------------------------------------------------------------------- */

static int submit(struct caloris_client *client, const char *json, size_t n, bool watched,
                  uint64_t *job, bool *again, struct caloris_err *err)
{
    uint8_t key[16];
    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
        return caloris_err_sys(err, "random bytes for a submission's key");
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Submit body = CALORIS__WIRE__SUBMIT__INIT;
    body.key = (ProtobufCBinaryData){sizeof(key), key};
    body.job_json = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)json};
    body.has_watch_canvas = body.watch_canvas = watched;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SUBMIT;
    message.submit = &body;
    caloris_answer *answer =
        call(client, &message, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_ACCEPTED, err);
    if (!answer)
        return -1;
    *job = answer->accepted->job;
    *again = answer->accepted->again;
    caloris_answer_free(answer);
    return 0;
}

int caloris_client_submit(struct caloris_client *client, const char *json, size_t n, uint64_t *job,
                          struct caloris_err *err)
{
    bool again = false;
    return submit(client, json, n, false, job, &again, err);
}

/* A job that was just accepted waits: nobody else will say so. */
static int queue_accepted(struct caloris_client *client, uint64_t job, struct caloris_err *err)
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
    return queue_status(client, answer, job, err);
}

int caloris_client_submit_watched(struct caloris_client *client, const char *json, size_t n,
                                  uint64_t *job, struct caloris_err *err)
{
    bool again = false;
    if (client->n_watches == CALORIS_CLIENT_MAX_WATCHES)
        return too_many_watches(err);
    if (submit(client, json, n, true, job, &again, err) < 0)
        return -1;
    if (again) /* the connection broke before the answer came: the watch went with it */
        return caloris_client_watch(client, *job, true, err);
    client->watches[client->n_watches++] = (struct watch){.job = *job, .canvas = true};
    return queue_accepted(client, *job, err);
}

/* Show, results, cancel and unwatch say a job's number and nothing else; they differ in the case
 * of the union. */
static caloris_answer *ask_about(struct caloris_client *client, uint64_t job,
                                 Caloris__Wire__ClientToGateway__BodyCase what,
                                 Caloris__Wire__GatewayToClient__BodyCase due,
                                 struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__JobRef ref = CALORIS__WIRE__JOB_REF__INIT;
    ref.job = job;
    message.body_case = what;
    message.show = &ref; /* all four share the union's pointer */
    return call(client, &message, due, err);
}

caloris_answer *caloris_client_show(struct caloris_client *client, uint64_t job,
                                    struct caloris_err *err)
{
    return ask_about(client, job, CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SHOW,
                     CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_STATUS, err);
}

caloris_answer *caloris_client_results(struct caloris_client *client, uint64_t job,
                                       struct caloris_err *err)
{
    return ask_about(client, job, CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_RESULTS,
                     CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_RESULT, err);
}

int caloris_client_cancel(struct caloris_client *client, uint64_t job, struct caloris_err *err)
{
    caloris_answer *answer = ask_about(client, job, CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_CANCEL,
                                       CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK, err);
    caloris_answer_free(answer);
    return answer ? 0 : -1;
}

caloris_answer *caloris_client_list(struct caloris_client *client, bool finished, uint32_t limit,
                                    uint64_t before, struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__List list = CALORIS__WIRE__LIST__INIT;
    list.has_finished = 1;
    list.finished = finished;
    list.has_limit = limit > 0;
    list.limit = limit;
    list.has_before = before > 0;
    list.before = before;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_LIST;
    message.list = &list;
    return call(client, &message, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_LIST, err);
}

caloris_answer *caloris_client_count(struct caloris_client *client, struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__List list = CALORIS__WIRE__LIST__INIT;
    list.has_users = list.users = 1;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_LIST;
    message.list = &list;
    return call(client, &message, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_LIST, err);
}

caloris_answer *caloris_client_cluster(struct caloris_client *client, struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_CLUSTER;
    message.cluster = &nothing;
    return call(client, &message, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_CLUSTER, err);
}

caloris_answer *caloris_client_metrics(struct caloris_client *client, struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_METRICS;
    message.metrics = &nothing;
    return call(client, &message, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_METRICS, err);
}

int caloris_client_drain(struct caloris_client *client, const char *group, bool hand_back,
                         struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__DrainGroup drain = CALORIS__WIRE__DRAIN_GROUP__INIT;
    drain.name = (char *)(uintptr_t)group;
    drain.has_hand_back = 1;
    drain.hand_back = hand_back;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_DRAIN;
    message.drain = &drain;
    caloris_answer *answer = call(client, &message, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK, err);
    caloris_answer_free(answer);
    return answer ? 0 : -1;
}

/* ---- watching -------------------------------------------------------------------------------- */

static struct watch *find_watch(struct caloris_client *client, uint64_t job)
{
    for (size_t i = 0; i < client->n_watches; i++) {
        if (client->watches[i].job == job)
            return &client->watches[i];
    }
    return NULL;
}

int caloris_client_watch(struct caloris_client *client, uint64_t job, bool canvas,
                         struct caloris_err *err)
{
    if (find_watch(client, job))
        return 0;
    if (client->n_watches == CALORIS_CLIENT_MAX_WATCHES)
        return too_many_watches(err);
    struct watch watch = {.job = job, .canvas = canvas};
    uint64_t deadline_ns = after_ms(client->options.timeout_ms);
    struct caloris_err why = {0};
    while (!client->socket || say_watch(client, &watch, deadline_ns, &why) < 0) {
        if (client->socket && why.code != CALORIS_PEER_LOST)
            return caloris_err_set(err, why.code, "%s", why.text);
        if (caloris_connection_again(client, deadline_ns, err) < 0)
            return -1;
    }
    client->watches[client->n_watches++] = watch;
    return 0;
}

int caloris_client_unwatch(struct caloris_client *client, uint64_t job, struct caloris_err *err)
{
    struct watch *watch = find_watch(client, job);
    if (!watch)
        return 0;
    *watch = client->watches[--client->n_watches];
    caloris_answer *answer = ask_about(client, job, CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_UNWATCH,
                                       CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK, err);
    caloris_answer_free(answer);
    return answer ? 0 : -1;
}

/* What came, or 0 at deadline_ns. Silence is tested with pings; nobody answers them: the gateway
 * is lost. */
static int wait_for_event(struct caloris_client *client, uint64_t deadline_ns,
                          caloris_answer **event, struct caloris_err *err)
{
    uint64_t pinged_ns = 0;
    for (;;) {
        uint64_t slice_ns = after_ms(PING_AFTER_MS), now;
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
    struct watch *watch = find_watch(client, event->job);
    if (watch && event->status && caloris_state_is_final(event->status->state))
        *watch = client->watches[--client->n_watches];
}

int caloris_client_next(struct caloris_client *client, uint64_t wait_ms, caloris_answer **event,
                        struct caloris_err *err)
{
    uint64_t deadline_ns = after_ms(wait_ms);
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
        if (caloris_connection_again(client, after_ms(client->options.patience_ms), err) < 0)
            return -1;
    }
}
