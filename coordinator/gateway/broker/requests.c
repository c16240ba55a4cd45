/* What clients ask for, and which right each of it needs. Submitting is submit.c's. */
#include "coordinator/gateway/broker/requests.h"

#include "base/buf.h"
#include "coordinator/gateway/broker/submit.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_LIST = 100 };

static int send_status(struct caloris_broker *b, const struct client *client,
                       const client_request *message, struct status_message *status)
{
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_STATUS;
    answer.status = &status->status;
    answer_client(b, &client->peer, &answer);
    return 0;
}

/* The job, if this client may know of it: somebody else's, without one of these rights, is answered
 * as if it were not there. */
static int find_job(const struct caloris_broker *b, const struct client *client, uint64_t number,
                    unsigned rights, struct caloris_store_job *job, struct caloris_err *err)
{
    if (caloris_store_find(b->store, number, job, err) < 0)
        return -1;
    if (client->who->rights & rights || strcmp(client->who->user, job->user) == 0)
        return 0;
    return caloris_err_set(err, CALORIS_NOT_FOUND, "no job %" PRIu64, number);
}

static int take_show(struct caloris_broker *b, struct client *client, const client_request *message,
                     struct caloris_err *err)
{
    const uint64_t job = message->show->job;
    struct status_message status;
    struct caloris_buf json = CALORIS_BUF(CALORIS_WIRE_MAX_FRAME);
    if (find_job(b, client, job, RIGHT_READ_ALL, &status.job, err) < 0)
        return -1;
    int rc = caloris_store_read_job(b->store, job, &json, err);
    if (rc == 0) {
        char why_not[CALORIS_ERR_TEXT];
        lease_say_why_not(b, &status.job, why_not);
        answer_status(&status, live_find(b, job));
        status.status.waits = why_not[0] ? why_not : NULL;
        status.status.has_job_json = true;
        status.status.job_json = (ProtobufCBinaryData){json.size, (uint8_t *)json.data};
        send_status(b, client, message, &status);
    }
    caloris_buf_free(&json);
    return rc;
}

static int take_results(struct caloris_broker *b, struct client *client,
                        const client_request *message, struct caloris_err *err)
{
    struct caloris_buf json = CALORIS_BUF(CALORIS_WIRE_MAX_FRAME);
    struct caloris_store_job job;
    if (find_job(b, client, message->results->job, RIGHT_READ_ALL, &job, err) < 0)
        return -1;
    int rc = caloris_store_read_result(b->store, job.job, &json, err);
    if (rc == 0) {
        to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
        Caloris__Wire__Result result = CALORIS__WIRE__RESULT__INIT;
        result.job = message->results->job;
        result.result_json = (ProtobufCBinaryData){json.size, (uint8_t *)json.data};
        answer.request = message->request;
        answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_RESULT;
        answer.result = &result;
        answer_client(b, &client->peer, &answer);
    }
    caloris_buf_free(&json);
    return rc;
}

/* A cancelled job has a result too, which says so. */
static int cancel(struct caloris_broker *b, struct client *client, const client_request *message,
                  const struct caloris_store_job *job, struct caloris_err *err)
{
    struct caloris_err why;
    struct promise promise = {.to = TO_CLIENT, .peer = client->peer, .request = message->request};
    caloris_err_set(&why, CALORIS_CANCELLED, "cancelled on request");
    int rc = end_job(b, job, CALORIS_STORE_CANCELLED, &why, &promise, err);
    if (rc == 0)
        promise_keep(b);
    return rc;
}

static int take_cancel(struct caloris_broker *b, struct client *client,
                       const client_request *message, struct caloris_err *err)
{
    struct caloris_store_job job;
    if (find_job(b, client, message->cancel->job, RIGHT_READ_ALL | RIGHT_ADMIN, &job, err) < 0)
        return -1;
    if (strcmp(client->who->user, job.user) != 0 &&
        admit_check(client->who, RIGHT_ADMIN, "cancelling others' jobs", err) < 0)
        return -1;
    if (job.state == CALORIS_STORE_QUEUED)
        return cancel(b, client, message, &job, err);
    if (job.state != CALORIS_STORE_CANCELLED)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "job %" PRIu64 " has finished already",
                               job.job);
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT; /* asked twice */
    Caloris__Wire__Nothing ok = CALORIS__WIRE__NOTHING__INIT;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK;
    answer.ok = &ok;
    answer_client(b, &client->peer, &answer);
    return 0;
}

/* The answer is the state of now, events follow; a job that has ended is not watched. */
static int take_watch(struct caloris_broker *b, struct client *client,
                      const client_request *message, struct caloris_err *err)
{
    const Caloris__Wire__Watch *watch = message->watch;
    struct watch_seen seen = {.seq = 0};
    struct status_message status;
    if (watch->has_after && watch->lease)
        seen = (struct watch_seen){{watch->lease->epoch, watch->lease->counter}, watch->after};
    if (find_job(b, client, watch->job, RIGHT_READ_ALL, &status.job, err) < 0)
        return -1;
    if (status.job.state == CALORIS_STORE_QUEUED &&
        watch_add(b, client, watch->job, watch->has_canvas && watch->canvas, &seen, err) < 0)
        return -1;
    answer_status(&status, live_find(b, watch->job));
    return send_status(b, client, message, &status);
}

static int take_unwatch(struct caloris_broker *b, struct client *client,
                        const client_request *message, struct caloris_err *err)
{
    (void)err;
    watch_remove(b, client, message->unwatch->job);
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Nothing ok = CALORIS__WIRE__NOTHING__INIT;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK;
    answer.ok = &ok;
    answer_client(b, &client->peer, &answer);
    return 0;
}

static void send_list(struct caloris_broker *b, const struct client *client,
                      const client_request *message, Caloris__Wire__JobList *list)
{
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    list->queued = b->counts.queued - b->n_leased;
    list->running = b->n_leased;
    list->finished = b->counts.finished;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_LIST;
    answer.list = list;
    answer_client(b, &client->peer, &answer);
}

/* Users that have jobs in the queue, into counts [most]; how many. */
static size_t count_users(const struct caloris_broker *b, const struct client *client,
                          Caloris__Wire__UserCount *counts, size_t most)
{
    const bool all = client->who->rights & RIGHT_READ_ALL;
    size_t n = 0;
    for (struct table_node *node = table_first(&b->users); node && n < most;
         node = table_after(&b->users, node)) {
        struct user *user = TABLE_ENTRY(node, struct user, node);
        if (user->queued == 0 || (!all && strcmp(user->name, client->who->user) != 0))
            continue;
        caloris__wire__user_count__init(&counts[n]);
        counts[n].user = user->name;
        counts[n].queued = user->queued - user->running;
        counts[n++].running = user->running;
    }
    return n;
}

static int list_users(struct caloris_broker *b, struct client *client,
                      const client_request *message, struct caloris_err *err)
{
    const size_t most = b->users.count < BROKER_MAX_USERS ? b->users.count : BROKER_MAX_USERS;
    Caloris__Wire__UserCount *counts = calloc(most + 1, sizeof(*counts));
    Caloris__Wire__UserCount **pointers = calloc(most + 1, sizeof(*pointers));
    int rc = 0;
    if (counts && pointers) {
        Caloris__Wire__JobList list = CALORIS__WIRE__JOB_LIST__INIT;
        list.n_users = count_users(b, client, counts, most);
        for (size_t i = 0; i < list.n_users; i++)
            pointers[i] = &counts[i];
        list.users = pointers;
        send_list(b, client, message, &list);
    } else {
        rc = caloris_err_sys(err, "counts of %zu users", most);
    }
    free(pointers);
    free(counts);
    return rc;
}

static int take_list(struct caloris_broker *b, struct client *client, const client_request *message,
                     struct caloris_err *err)
{
    const Caloris__Wire__List *asked = message->list;
    if (asked->has_users && asked->users)
        return list_users(b, client, message, err);
    uint32_t limit = asked->has_limit && asked->limit ? asked->limit : DEFAULT_LIST;
    if (limit > CALORIS_WIRE_MAX_LIST)
        limit = CALORIS_WIRE_MAX_LIST;
    const struct caloris_store_filter filter = {
        .user = client->who->rights & RIGHT_READ_ALL ? NULL : client->who->user,
        .finished_too = asked->has_finished && asked->finished,
        .before = asked->has_before ? asked->before : UINT64_MAX,
    };
    struct caloris_store_job *jobs = calloc(limit, sizeof(*jobs));
    struct status_message *messages = calloc(limit, sizeof(*messages));
    Caloris__Wire__JobStatus **pointers = calloc(limit, sizeof(*pointers));
    int n = -1;
    if (!jobs || !messages || !pointers)
        caloris_err_sys(err, "a list of %u jobs", limit);
    else
        n = caloris_store_list(b->store, &filter, (int)limit, jobs, err);
    if (n >= 0) {
        Caloris__Wire__JobList list = CALORIS__WIRE__JOB_LIST__INIT;
        for (int i = 0; i < n; i++) {
            messages[i].job = jobs[i];
            answer_status(&messages[i], live_find(b, jobs[i].job));
            pointers[i] = &messages[i].status;
        }
        list.n_jobs = (size_t)n;
        list.jobs = pointers;
        send_list(b, client, message, &list);
    }
    free(pointers);
    free(messages);
    free(jobs);
    return n < 0 ? -1 : 0;
}

static int take_cluster(struct caloris_broker *b, struct client *client,
                        const client_request *message, struct caloris_err *err)
{
    Caloris__Wire__GroupStatus *groups = calloc(b->n_groups + 1, sizeof(*groups));
    Caloris__Wire__GroupStatus **pointers = calloc(b->n_groups + 1, sizeof(*pointers));
    int rc = 0;
    if (groups && pointers) {
        to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
        Caloris__Wire__Cluster cluster = CALORIS__WIRE__CLUSTER__INIT;
        for (struct group *group = b->groups; group; group = group->next) {
            Caloris__Wire__GroupStatus *status = &groups[cluster.n_groups];
            caloris__wire__group_status__init(status);
            status->name = group->name;
            status->model = group->model;
            status->host = group->host;
            status->ranks = group->ranks;
            status->running = group->n_held;
            status->capacity = group->capacity;
            status->silent_ms = b->now_ms - group->heard_ms;
            status->has_state = status->has_age_ms = true;
            status->state = groups_state(b, group);
            status->age_ms = b->now_ms - group->joined_ms;
            status->version = group->version;
            pointers[cluster.n_groups++] = status;
        }
        cluster.groups = pointers;
        cluster.queued = b->counts.queued - b->n_leased;
        cluster.running = b->n_leased;
        answer.request = message->request;
        answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_CLUSTER;
        answer.cluster = &cluster;
        answer_client(b, &client->peer, &answer);
    } else {
        rc = caloris_err_sys(err, "%zu groups", b->n_groups);
    }
    free(pointers);
    free(groups);
    return rc;
}

static int take_drain(struct caloris_broker *b, struct client *client,
                      const client_request *message, struct caloris_err *err)
{
    const Caloris__Wire__DrainGroup *drain = message->drain;
    if (groups_drain(b, drain->name, drain->has_hand_back && drain->hand_back, err) < 0)
        return -1;
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Nothing ok = CALORIS__WIRE__NOTHING__INIT;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_OK;
    answer.ok = &ok;
    answer_client(b, &client->peer, &answer);
    return 0;
}

static int take_metrics(struct caloris_broker *b, struct client *client,
                        const client_request *message, struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(CALORIS_WIRE_MAX_FRAME / 2);
    int rc = figures_write(b, &text, err);
    if (rc == 0) {
        to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
        Caloris__Wire__Metrics metrics = CALORIS__WIRE__METRICS__INIT;
        metrics.text = (ProtobufCBinaryData){text.size, (uint8_t *)text.data};
        answer.request = message->request;
        answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_METRICS;
        answer.metrics = &metrics;
        answer_client(b, &client->peer, &answer);
    }
    caloris_buf_free(&text);
    return rc;
}

static int take_ping(struct caloris_broker *b, struct client *client, const client_request *message,
                     struct caloris_err *err)
{
    (void)err;
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_PONG;
    answer.pong = &nothing;
    answer_client(b, &client->peer, &answer);
    return 0;
}
enum {
    READ = RIGHT_READ_OWN | RIGHT_READ_ALL,
    CANCEL = RIGHT_SUBMIT | RIGHT_ADMIN,
    LOOK = RIGHTS_ALL & ~RIGHT_SERVE, /* any of a client's */
};

/* What a client may ask for, and which right (any of those named) it needs for it. Whose job may
 * be seen is another question: find_job. */
static const struct {
    Caloris__Wire__ClientToGateway__BodyCase body;
    const char *what;
    int (*take)(struct caloris_broker *b, struct client *client, const client_request *message,
                struct caloris_err *err);
    unsigned rights;
    bool joins; /* goes into the turn's commit; all others see what was committed before them */
    bool large; /* its answer may be: it is for those who read */
} handlers[] = {
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SUBMIT, "submit", submit_take, RIGHT_SUBMIT, true,
     false},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_PING, "ping", take_ping, 0, true, false},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SHOW, "show", take_show, READ, false, true},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_RESULTS, "results", take_results, READ, false, true},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_CANCEL, "cancel", take_cancel, CANCEL, false, false},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_WATCH, "watch", take_watch, READ, false, false},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_UNWATCH, "unwatch", take_unwatch, 0, false, false},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_LIST, "list", take_list, READ, false, true},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_CLUSTER, "cluster", take_cluster, LOOK, false, true},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_DRAIN, "drain", take_drain, RIGHT_ADMIN, false, false},
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_METRICS, "metrics", take_metrics, LOOK, false, true},
};

int request_take(struct caloris_broker *b, struct client *client, const client_request *message,
                 struct caloris_err *err)
{
    for (size_t i = 0; i < sizeof(handlers) / sizeof(*handlers); i++) {
        if (handlers[i].body != message->body_case)
            continue;
        if (admit_check(client->who, handlers[i].rights, handlers[i].what, err) < 0)
            return -1;
        if (handlers[i].large && !clients_have_room(client))
            return caloris_err_set(err, CALORIS_AGAIN,
                                   "%d MiB of answers wait until user %s reads them",
                                   BROKER_MAX_SENDING >> 20, client->user->name);
        if (!handlers[i].joins)
            promise_keep(b);
        return handlers[i].take(b, client, message, err);
    }
    return caloris_err_set(err, CALORIS_BAD_REQUEST, "unknown request: field %u of %s",
                           message->base.n_unknown_fields ? message->base.unknown_fields[0].tag : 0,
                           message->base.descriptor->name);
}
