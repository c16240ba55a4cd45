/* A client, and its requests: each is answered, whatever happens to the connection. */
#include "client/client.h"
#include "client/connection.h"
#include "client/watches.h"

#include "base/err.h"
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <zmq.h>

void caloris_answer_free(caloris_answer *answer)
{
    if (answer)
        caloris__wire__gateway_to_client__free_unpacked(answer, NULL);
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
    if (caloris_connection_dial(client, caloris_connection_deadline(options->timeout_ms), err) < 0)
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

/* Every request may be repeated: the connection may break as often as it likes until the time is
 * over. */
static caloris_answer *call(struct caloris_client *client, Caloris__Wire__ClientToGateway *message,
                            Caloris__Wire__GatewayToClient__BodyCase due, struct caloris_err *err)
{
    uint64_t deadline_ns = caloris_connection_deadline(client->options.timeout_ms);
    struct caloris_err why = {0};
    for (;;) {
        caloris_answer *answer = NULL;
        if (client->socket || caloris_watches_dial_again(client, deadline_ns, &why) == 0)
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

int caloris_client_submit_watched(struct caloris_client *client, const char *json, size_t n,
                                  uint64_t *job, struct caloris_err *err)
{
    bool again = false;
    if (caloris_watches_check_room(client, 1, err) < 0)
        return -1;
    if (submit(client, json, n, true, job, &again, err) < 0)
        return -1;
    if (again) /* the connection broke before the answer came: the watch went with it */
        return caloris_client_watch(client, *job, true, err);
    return caloris_watches_add_accepted(client, *job, err);
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

int caloris_client_unwatch(struct caloris_client *client, uint64_t job, struct caloris_err *err)
{
    if (!caloris_watches_forget(client, job))
        return 0;
    caloris_answer *answer = ask_about(client, job, CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_UNWATCH,
                                       CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK, err);
    caloris_answer_free(answer);
    return answer ? 0 : -1;
}

static caloris_answer *list_page(struct caloris_client *client, bool finished, uint32_t limit,
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

/* Moves the jobs of a page behind those that are there, and frees the page. */
static int add_page(Caloris__Wire__JobList *list, caloris_answer *page, struct caloris_err *err)
{
    Caloris__Wire__JobList *more = page->list;
    void *jobs = realloc(list->jobs, (list->n_jobs + more->n_jobs) * sizeof(*list->jobs));
    if (!jobs) {
        caloris_answer_free(page);
        return caloris_err_sys(err, "a list of %zu jobs", list->n_jobs + more->n_jobs);
    }
    list->jobs = jobs;
    memcpy(list->jobs + list->n_jobs, more->jobs, more->n_jobs * sizeof(*list->jobs));
    list->n_jobs += more->n_jobs;
    more->n_jobs = 0; /* they are the list's now */
    caloris_answer_free(page);
    return 0;
}

caloris_answer *caloris_client_list(struct caloris_client *client, bool finished, uint32_t limit,
                                    uint64_t before, struct caloris_err *err)
{
    caloris_answer *answer = list_page(client, finished, limit, before, err);
    size_t got = answer ? answer->list->n_jobs : 0;
    /* A gateway gives so many at a time; a job that ends between two pages may be in none. */
    while (got == CALORIS_WIRE_MAX_LIST && answer->list->n_jobs < limit) {
        const uint64_t last = answer->list->jobs[answer->list->n_jobs - 1]->job;
        caloris_answer *page =
            list_page(client, finished, limit - (uint32_t)answer->list->n_jobs, last, err);
        got = page ? page->list->n_jobs : 0;
        if (!page || (got > 0 && add_page(answer->list, page, err) < 0)) {
            caloris_answer_free(answer);
            return NULL;
        }
        if (got == 0)
            caloris_answer_free(page);
    }
    return answer;
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
