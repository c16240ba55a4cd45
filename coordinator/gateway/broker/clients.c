#include "coordinator/gateway/broker/state.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/time.h"
#include "proto/jobs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum { KEEP_AT_MOST = 8 }; /* the part of the file system that submissions leave free */
enum { DEFAULT_LIST = 100, PROBE_AFTER_MS = 30000, PROBE_EVERY_MS = 10000 };

typedef Caloris__Wire__ClientToGateway request;

struct client *clients_find(const struct caloris_broker *b, const struct caloris_peer *peer)
{
    struct table_node *node = table_find(&b->clients, table_hash(peer->id, peer->size));
    for (; node; node = table_find_next(node)) {
        struct client *client = TABLE_ENTRY(node, struct client, node);
        if (client->peer.size == peer->size && memcmp(client->peer.id, peer->id, peer->size) == 0)
            return client;
    }
    return NULL;
}

bool clients_have_room(const struct client *client)
{
    return atomic_load(&client->user->sending) < BROKER_MAX_SENDING;
}

static void forget(struct caloris_broker *b, struct client *client)
{
    watch_remove_all(b, client);
    client->user->clients--;
    table_remove(&b->clients, &client->node);
    free(client);
}

void clients_expel(struct caloris_broker *b, struct client *client)
{
    struct caloris_err why;
    caloris_err_set(&why, CALORIS_REFUSED, "the server refuses your key from now on");
    answer_failure(b, &client->peer, 0, &why);
    forget(b, client);
}

void clients_watch(struct caloris_broker *b, const struct caloris_peer *peer, uint64_t job,
                   bool canvas)
{
    struct client *client = clients_find(b, peer);
    const struct watch_seen nothing = {.seq = 0};
    struct caloris_err why;
    if (client && watch_add(b, client, job, canvas, &nothing, &why) < 0)
        broker_warn(b, "%s", why.text);
}

void clients_forget_all(struct caloris_broker *b)
{
    struct table_node *node;
    while ((node = table_first(&b->clients)) != NULL)
        forget(b, TABLE_ENTRY(node, struct client, node));
}

void clients_gone(struct caloris_broker *b, const struct caloris_peer *peer)
{
    struct client *client = clients_find(b, peer);
    if (client)
        client->gone = b->some_gone = true;
}

void clients_forgive(struct caloris_broker *b, uint64_t ms)
{
    for (struct table_node *node = table_first(&b->clients); node;
         node = table_after(&b->clients, node))
        TABLE_ENTRY(node, struct client, node)->heard_ms += ms;
}

/* ZeroMQ does not tell that a client went away, but refuses to send to one that did. */
void clients_probe(struct caloris_broker *b)
{
    const bool due = b->now_ms - b->probed_ms >= PROBE_EVERY_MS;
    if (!due && !b->some_gone)
        return;
    b->probed_ms = due ? b->now_ms : b->probed_ms;
    b->some_gone = false; /* forgetting one may find another */
    for (struct table_node *node = table_first(&b->clients), *next; node; node = next) {
        next = table_after(&b->clients, node);
        struct client *client = TABLE_ENTRY(node, struct client, node);
        if (due && !client->gone && b->now_ms - client->heard_ms >= PROBE_AFTER_MS)
            answer_probe(b, &client->peer);
        if (client->gone)
            forget(b, client);
    }
}

/* ---- requests: 0 when answered or promised, -1 and err to be answered ---- */

static int take_hello(struct caloris_broker *b, const struct caloris_peer *peer,
                      const request *message, struct caloris_err *err)
{
    const Caloris__Wire__Hello *hello = message->hello;
    uint32_t version = caloris_wire_version(hello->version_min, hello->version_max, err);
    if (version == 0)
        return -1;
    const struct caloris_identity *who = admit_find(b, peer, b->clients_keyed, err);
    if (!who)
        return -1;
    struct client *client = clients_find(b, peer);
    if (!client) {
        if (b->clients.count >= BROKER_MAX_CLIENTS)
            return caloris_err_set(err, CALORIS_AGAIN, "%d clients are here; that is the limit",
                                   BROKER_MAX_CLIENTS);
        struct user *user = user_need(b, who->user, err);
        if (!user)
            return -1;
        if (user->clients >= BROKER_MAX_USER_CLIENTS)
            return caloris_err_set(err, CALORIS_AGAIN,
                                   "user %s has %d clients here; that is the limit", user->name,
                                   BROKER_MAX_USER_CLIENTS);
        client = calloc(1, sizeof(*client));
        if (!client ||
            table_add(&b->clients, &client->node, table_hash(peer->id, peer->size), err) < 0) {
            free(client);
            return caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for another client");
        }
        client->peer = *peer;
        client->who = who;
        client->user = user;
        user->clients++;
    }
    client->heard_ms = b->now_ms;
    char agent[] = "caloris-gateway " CALORIS_VERSION;
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Welcome welcome = CALORIS__WIRE__WELCOME__INIT;
    welcome.version = version;
    welcome.boot_epoch = caloris_store_epoch(b->store);
    welcome.agent = agent;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_WELCOME;
    answer.welcome = &welcome;
    answer_client(b, peer, &answer);
    return 0;
}

/* A user who has as many jobs here as may be is told to come back; nothing is lost by that. */
static int check_limits(struct caloris_broker *b, const struct user *user,
                        const struct caloris_job *job, bool watched, struct caloris_err *err)
{
    /* Whoever was told that it is accepted waits for what happens to it. */
    if (watched && watch_room(b, user, b->n_promises, err) < 0)
        return -1;
    const uint64_t most = user->limits.max_queued;
    if (most > 0 && user->queued + user->arriving >= most)
        return caloris_err_set(err, CALORIS_AGAIN,
                               "max_queued: user %s has %" PRIu64
                               " jobs in the queue, as many as may be",
                               user->name, user->queued + user->arriving);
    return lane_room(b, user, job->model ? job->model : "", job->params.priority, err);
}

/* What submissions may still take of the file system, asked once a turn. Results, cancellations and
 * the progress of jobs may take the rest: what was accepted shall end. */
static void ask_room(struct caloris_broker *b)
{
    struct statvfs fs;
    if (b->room_ms == b->now_ms)
        return;
    b->room_ms = b->now_ms;
    b->room_bytes = UINT64_MAX;
    if (b->options.keep_free_bytes == 0 || statvfs(b->options.state, &fs) < 0)
        return;
    const uint64_t all = fs.f_blocks / KEEP_AT_MOST * fs.f_frsize;
    const uint64_t keep = b->options.keep_free_bytes < all ? b->options.keep_free_bytes : all;
    const uint64_t free = (uint64_t)fs.f_bavail * fs.f_frsize;
    b->room_bytes = free > keep ? free - keep : 0;
}

/* A body is written twice: to the log, and from there to the database. */
static int check_disk(struct caloris_broker *b, size_t body_bytes, struct caloris_err *err)
{
    char text[CALORIS_SIZE_TEXT];
    const uint64_t needed = 2 * (uint64_t)body_bytes;
    ask_room(b);
    if (b->room_bytes < needed)
        return caloris_err_set(err, CALORIS_AGAIN,
                               "the queue's disk is full, but for what --keep-free leaves to "
                               "results; there is room for %s",
                               caloris_size_text(b->room_bytes, text));
    b->room_bytes -= b->room_bytes == UINT64_MAX ? 0 : needed;
    return 0;
}

static uint64_t deadline(int64_t deadline_ms, uint64_t now_ms)
{
    return deadline_ms < 0 ? now_ms + (uint64_t)-deadline_ms : (uint64_t)deadline_ms;
}

static int store_submission(struct caloris_broker *b, struct client *client, const request *message,
                            const struct caloris_job *job, struct caloris_err *err)
{
    const Caloris__Wire__Submit *submit = message->submit;
    /* What the job left open stands in the stored one: later versions may have other defaults. */
    struct caloris_buf body = CALORIS_BUF(CALORIS_JOB_MAX_STORED);
    int rc = -1;
    size_t added;
    if (caloris_job_settle((const char *)submit->job_json.data, submit->job_json.len, job, &body,
                           &added, err) < 0)
        goto out;
    const uint64_t now_ms = caloris_time_wall_ms();
    const struct caloris_store_submission submission = {
        .user = client->who->user,
        .key = submit->key.data,
        .key_bytes = submit->key.len,
        .body = body.data,
        .body_bytes = body.size,
        .added_bytes = added,
        .id = job->id,
        .seed = job->params.seed < 0 ? (int64_t)caloris_rng_fresh_seed() : -1,
        .model = job->model,
        .priority = (int32_t)job->params.priority,
        .now_ms = now_ms,
        .deadline_ms = deadline(job->params.deadline_ms, now_ms),
    };
    const bool canvas = submit->has_watch_canvas && submit->watch_canvas;
    struct promise promise = {
        .kind = PROMISE_ACCEPTED,
        .to = TO_CLIENT,
        .peer = client->peer,
        .request = message->request,
        .watch = canvas || (submit->has_watch && submit->watch),
        .canvas = canvas,
        .deadline_ms = submission.deadline_ms,
    };
    struct user *user = client->user;
    int known = caloris_store_known(b->store, &submission, &promise.job, err);
    if (known < 0 || promise_room(b, err) < 0)
        goto out;
    promise.again = known == 1;
    if (!promise.again) {
        promise.lane =
            check_limits(b, user, job, promise.watch, err) < 0 || check_disk(b, body.size, err) < 0
                ? NULL
                : lane_need(b, user, job->model ? job->model : "", job->params.priority, false,
                            err);
        if (!promise.lane || caloris_store_add(b->store, &submission, &promise.job, err) < 0)
            goto out;
    }
    promise_add(b, &promise);
    rc = 0;
out:
    caloris_buf_free(&body);
    return rc;
}

static int take_submit(struct caloris_broker *b, struct client *client, const request *message,
                       struct caloris_err *err)
{
    const Caloris__Wire__Submit *submit = message->submit;
    struct caloris_job job = {0};
    if (caloris_wire_check_known(&submit->base, err) < 0)
        return -1;
    if (submit->key.len < 1 || submit->key.len > CALORIS_WIRE_MAX_KEY)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "key: %zu bytes; it must be 1 to %d",
                               submit->key.len, CALORIS_WIRE_MAX_KEY);
    if (submit->job_json.len > CALORIS_JOB_MAX_BYTES)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "job_json: %zu bytes; the limit is %d",
                               submit->job_json.len, CALORIS_JOB_MAX_BYTES);
    int rc =
        caloris_job_parse((const char *)submit->job_json.data, submit->job_json.len, &job, err);
    if (rc == 0 && job.params.priority > client->who->max_priority)
        rc = caloris_err_set(err, CALORIS_BAD_REQUEST,
                             "priority: %" PRId64 "; with your key it is %d at most",
                             job.params.priority, client->who->max_priority);
    if (rc == 0)
        rc = store_submission(b, client, message, &job, err);
    caloris_job_free(&job);
    return rc;
}

static int send_status(struct caloris_broker *b, const struct client *client,
                       const request *message, struct status_message *status)
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

static int take_show(struct caloris_broker *b, struct client *client, const request *message,
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

static int take_results(struct caloris_broker *b, struct client *client, const request *message,
                        struct caloris_err *err)
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
static int cancel(struct caloris_broker *b, struct client *client, const request *message,
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

static int take_cancel(struct caloris_broker *b, struct client *client, const request *message,
                       struct caloris_err *err)
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
static int take_watch(struct caloris_broker *b, struct client *client, const request *message,
                      struct caloris_err *err)
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

static int take_unwatch(struct caloris_broker *b, struct client *client, const request *message,
                        struct caloris_err *err)
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

static void send_list(struct caloris_broker *b, const struct client *client, const request *message,
                      Caloris__Wire__JobList *list)
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

static int list_users(struct caloris_broker *b, struct client *client, const request *message,
                      struct caloris_err *err)
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

static int take_list(struct caloris_broker *b, struct client *client, const request *message,
                     struct caloris_err *err)
{
    const Caloris__Wire__List *asked = message->list;
    if (asked->has_users && asked->users)
        return list_users(b, client, message, err);
    uint32_t limit = asked->has_limit && asked->limit ? asked->limit : DEFAULT_LIST;
    if (limit > BROKER_MAX_LIST)
        limit = BROKER_MAX_LIST;
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

static int take_cluster(struct caloris_broker *b, struct client *client, const request *message,
                        struct caloris_err *err)
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

static int take_drain(struct caloris_broker *b, struct client *client, const request *message,
                      struct caloris_err *err)
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

static int take_metrics(struct caloris_broker *b, struct client *client, const request *message,
                        struct caloris_err *err)
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

static int take_ping(struct caloris_broker *b, struct client *client, const request *message,
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
    int (*take)(struct caloris_broker *b, struct client *client, const request *message,
                struct caloris_err *err);
    unsigned rights;
    bool joins; /* goes into the turn's commit; all others see what was committed before them */
    bool large; /* its answer may be: it is for those who read */
} handlers[] = {
    {CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SUBMIT, "submit", take_submit, RIGHT_SUBMIT, true,
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

static int take(struct caloris_broker *b, const struct caloris_peer *peer, const request *message,
                struct caloris_err *err)
{
    if (message->body_case == CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_HELLO)
        return take_hello(b, peer, message, err);
    struct client *client = clients_find(b, peer);
    if (!client)
        return caloris_err_set(err, CALORIS_PEER_LOST, "this gateway does not know you: say hello");
    client->heard_ms = b->now_ms;
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

void clients_take(struct caloris_broker *b, const struct caloris_peer *peer, const request *message)
{
    struct caloris_err why;
    if (take(b, peer, message, &why) < 0)
        answer_failure(b, peer, message->request, &why);
}
