#include "coordinator/gateway/broker/state.h"

#include "base/json.h"
#include "base/log.h"
#include "base/time.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Caloris__Wire__GroupToGateway word;

struct group *groups_find(const struct caloris_broker *b, const struct caloris_peer *peer)
{
    struct group *group = b->groups;
    while (group &&
           !(group->peer.size == peer->size && memcmp(group->peer.id, peer->id, peer->size) == 0))
        group = group->next;
    return group;
}

static struct group *find_name(const struct caloris_broker *b, const char *name)
{
    struct group *group = b->groups;
    while (group && strcmp(group->name, name) != 0)
        group = group->next;
    return group;
}

/* ---- leases come and go ---- */

void groups_unlease(struct caloris_broker *b, struct live *live)
{
    struct group *group = live->group;
    if (!group)
        return;
    struct live **at = &group->held;
    while (*at != live)
        at = &(*at)->next_held;
    *at = live->next_held;
    group->n_held--;
    b->n_leased--;
    live->lane->user->running--;
    live->lane->refs--;
    live->group = NULL;
    live->lane = NULL;
    live->alone = false;
    live->following = live->progress = live->resumed = live->first_block = false;
    live->told_seq = 0;
}

/* Somebody else shall compute it, before all that came after it in its lane. */
static void requeue(struct caloris_broker *b, struct live *live, struct lane *lane)
{
    groups_unlease(b, live);
    lane_enter(b, lane, live->job);
    watch_tell_state(b, live);
    live_drop_unused(b, live);
}

static void requeue_all(struct caloris_broker *b, struct group *group)
{
    while (group->held)
        requeue(b, group->held, group->held->lane);
}

static void forget(struct caloris_broker *b, struct group *group)
{
    struct group **at = &b->groups;
    while (*at != group)
        at = &(*at)->next;
    *at = group->next;
    b->n_groups--;
    free(group->ranks_told);
    free(group);
}

void groups_forget_all(struct caloris_broker *b)
{
    while (b->groups) {
        while (b->groups->held)
            groups_unlease(b, b->groups->held);
        forget(b, b->groups);
    }
}

/* A job that was alone in its last crash once too often is not tried again. */
static int count_crash(struct caloris_broker *b, const struct live *live, struct caloris_err *err)
{
    struct caloris_store_job job;
    struct caloris_err why;
    struct promise promise = {.to = TO_NOBODY};
    if (caloris_store_count_crash(b->store, live->job, live->alone, err) < 0 ||
        caloris_store_find(b->store, live->job, &job, err) < 0)
        return -1;
    if (!live->alone || job.attempts < b->options.attempts)
        return 0;
    caloris_err_set(&why, CALORIS_DEAD_LETTER,
                    "given up: %u groups were lost while they computed it, %u of them while it was "
                    "their only job",
                    job.crashes, job.attempts);
    caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = job.job}, "of %s: %s",
                      job.user, why.text);
    return end_job(b, &job, CALORIS_STORE_FAILED, &why, &promise, err) < 0 ? -1 : 0;
}

/* Every job it held counts a crash: a job that kills its groups shall be known by that. */
static void crash(struct caloris_broker *b, struct group *group)
{
    struct caloris_err err;
    struct caloris_store_job job;
    promise_keep(b);
    for (const struct live *live = group->held; live; live = live->next_held) {
        if (count_crash(b, live, &err) < 0)
            caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = live->job}, "%s",
                              err.text);
    }
    promise_keep(b);
    while (group->held) {
        struct live *live = group->held;
        struct lane *lane = NULL; /* from now on perhaps one of those that run alone */
        if (caloris_store_find(b->store, live->job, &job, &err) == 0)
            lane = lane_of(b, &job, &err);
        if (!lane)
            caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = live->job}, "%s",
                              err.text);
        requeue(b, live, lane ? lane : live->lane);
    }
}

static void lose(struct caloris_broker *b, struct group *group)
{
    b->figures.groups_lost++;
    caloris_log(CALORIS_LOG_WARN,
                "group %s lost: %s for %" PRIu64 " ms; %u jobs go back to the queue", group->name,
                group->cut_off ? "its connection is gone, silent" : "silent",
                b->now_ms - group->heard_ms, group->n_held);
    crash(b, group);
    forget(b, group);
}

void groups_expel(struct caloris_broker *b, struct group *group)
{
    caloris_log(CALORIS_LOG_WARN,
                "group %s: its key may serve no more; %u jobs go back to the queue", group->name,
                group->n_held);
    requeue_all(b, group);
    forget(b, group);
}

/* ---- hello ---- */

/* Names go into logs and answers as they are. */
static int check_word(const char *what, const char *text, struct caloris_err *err)
{
    size_t n = strlen(text);
    if (n < 1 || n > BROKER_MAX_NAME)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: %zu bytes; it must be 1 to %d", what,
                               n, BROKER_MAX_NAME);
    for (size_t i = 0; i < n; i++) {
        if (text[i] < ' ' || text[i] > '~')
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "%s: byte %zu is no printable ASCII character", what, i);
    }
    return 0;
}

static int check_hello(const Caloris__Wire__GroupHello *hello, struct caloris_err *err)
{
    if (check_word("name", hello->name, err) < 0 || check_word("model", hello->model, err) < 0 ||
        check_word("host", hello->host, err) < 0 ||
        (hello->hello->agent && check_word("agent", hello->hello->agent, err) < 0))
        return -1;
    if (hello->capacity < 1 || hello->capacity > CALORIS_WIRE_MAX_CAPACITY)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "capacity: %u; it must be 1 to %d",
                               hello->capacity, CALORIS_WIRE_MAX_CAPACITY);
    return 0;
}

/* Whether another process that is alive has this name. One that dials again and does not say which
 * it is has a new routing id, and its old connection is gone or silent. */
static bool name_is_taken(struct caloris_broker *b, struct group *group)
{
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_BEAT;
    message.beat = &nothing;
    return b->now_ms - group->heard_ms <= 2 * b->options.beat_ms &&
           answer_group(b, group, &message) == 0;
}

/* The job goes to this group if it is still to be done and nobody else is at it. */
static void adopt(struct caloris_broker *b, struct group *group, const Caloris__Wire__Held *held)
{
    struct caloris_store_job job;
    struct caloris_err err;
    struct live *live = live_find(b, held->job);
    /* A number from before this database was made means another job. */
    if (held->lease->epoch < caloris_store_first_epoch(b->store) || (live && live->group) ||
        group->n_held >= CALORIS_WIRE_MAX_CAPACITY)
        return;
    if (caloris_store_find(b->store, held->job, &job, &err) < 0 ||
        job.state != CALORIS_STORE_QUEUED)
        return;
    struct lane *lane = lane_of(b, &job, &err);
    if (!lane || lease_assign(b, group, lane, held->job, &live, &err) < 0)
        broker_warn(b, "job %" PRIu64 ": %s", held->job, err.text);
    else
        watch_tell_state(b, live);
}

static void welcome(struct caloris_broker *b, struct group *group)
{
    char agent[] = "caloris-gateway " CALORIS_VERSION;
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    Caloris__Wire__GroupWelcome group_welcome = CALORIS__WIRE__GROUP_WELCOME__INIT;
    Caloris__Wire__Welcome inner = CALORIS__WIRE__WELCOME__INIT;
    Caloris__Wire__Held *held = calloc(group->n_held + 1u, sizeof(*held));
    Caloris__Wire__LeaseId *ids = calloc(group->n_held + 1u, sizeof(*ids));
    Caloris__Wire__Held **pointers = calloc(group->n_held + 1u, sizeof(*pointers));
    if (held && ids && pointers) {
        size_t n = 0;
        for (const struct live *live = group->held; live; live = live->next_held, n++) {
            caloris__wire__lease_id__init(&ids[n]);
            ids[n].epoch = live->lease.epoch;
            ids[n].counter = live->lease.counter;
            caloris__wire__held__init(&held[n]);
            held[n].job = live->job;
            held[n].lease = &ids[n];
            pointers[n] = &held[n];
        }
        inner.version = CALORIS_PROTOCOL_VERSION;
        inner.boot_epoch = caloris_store_epoch(b->store);
        inner.agent = agent;
        group_welcome.welcome = &inner;
        group_welcome.beat_ms = b->options.beat_ms;
        group_welcome.lost_ms = b->options.lost_ms;
        group_welcome.n_adopted = n;
        group_welcome.adopted = pointers;
        message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_WELCOME;
        message.welcome = &group_welcome;
        answer_group(b, group, &message);
    }
    free(pointers);
    free(ids);
    free(held);
}

/* again_ms: how long the group shall go on saying hello before it takes this as final. */
static void refuse(struct caloris_broker *b, const struct caloris_peer *peer, uint64_t again_ms,
                   const struct caloris_err *why)
{
    char code[32], text[CALORIS_ERR_TEXT];
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    Caloris__Wire__Failure failure = CALORIS__WIRE__FAILURE__INIT;
    snprintf(code, sizeof(code), "%s", caloris_code_name(why->code));
    snprintf(text, sizeof(text), "%s", why->text);
    failure.code = code;
    failure.text = text;
    failure.has_retry_after_ms = again_ms > 0;
    failure.retry_after_ms = again_ms;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_FAILURE;
    message.failure = &failure;
    broker_warn(b, "a group was refused: %s", why->text);
    caloris_wire_send(b->groups_socket, peer, &message.base, NULL);
}

/* The same process, which dials again: its old connection may look alive for as long as TCP does
 * not notice that it is cut. */
static bool same_process(const struct group *group, const Caloris__Wire__GroupHello *hello)
{
    return hello->instance != 0 && group->instance == hello->instance;
}

static int take_hello(struct caloris_broker *b, const struct caloris_peer *peer,
                      const Caloris__Wire__GroupHello *hello, struct caloris_err *err)
{
    if (caloris_wire_version(hello->hello->version_min, hello->hello->version_max, err) == 0 ||
        check_hello(hello, err) < 0)
        return -1;
    const struct caloris_identity *who = admit_find(b, peer, b->groups_keyed, err);
    if (!who || admit_check(who, RIGHT_SERVE, "a group", err) < 0)
        return -1;
    promise_keep(b);
    struct group *group = groups_find(b, peer);
    struct group *before = find_name(b, hello->name);
    if (before && before != group) {
        if (!same_process(before, hello) && name_is_taken(b, before)) {
            caloris_err_set(err, CALORIS_REFUSED,
                            "name: another group is called %s; names must differ", hello->name);
            /* One that died a moment ago is given up by then. */
            refuse(b, peer, b->options.lost_ms + b->options.beat_ms, err);
            return 0;
        }
        /* It dialled again: what it still holds stands in its list, the rest is to be done anew.
         * Another process of the same name is there because that one crashed. */
        if (before->instance != hello->instance)
            crash(b, before);
        else
            requeue_all(b, before);
        forget(b, before);
    }
    /* A hello said twice on one connection changes nothing: leases that are on their way to the
     * group reach it before the answer, which lists them. */
    if (!group) {
        if (b->n_groups >= BROKER_MAX_GROUPS)
            return caloris_err_set(err, CALORIS_AGAIN, "%d groups are here; that is the limit",
                                   BROKER_MAX_GROUPS);
        group = calloc(1, sizeof(*group));
        if (!group)
            return caloris_err_sys(err, "group %s", hello->name);
        group->peer = *peer;
        group->who = who;
        group->joined_ms = b->now_ms;
        group->next = b->groups;
        b->groups = group;
        b->n_groups++;
    }
    snprintf(group->name, sizeof(group->name), "%s", hello->name);
    snprintf(group->model, sizeof(group->model), "%s", hello->model);
    snprintf(group->host, sizeof(group->host), "%s", hello->host);
    snprintf(group->version, sizeof(group->version), "%s",
             hello->hello->agent ? hello->hello->agent : "unknown");
    group->instance = hello->instance;
    group->ranks = hello->ranks;
    group->capacity = hello->capacity;
    group->heard_ms = b->now_ms;
    group->ask_ms = 0;
    group->draining = group->clearing = false;
    for (size_t i = 0; i < hello->n_held; i++)
        adopt(b, group, hello->held[i]);
    group->free = group->capacity > group->n_held ? group->capacity - group->n_held : 0;
    welcome(b, group);
    for (struct live *live = group->held; live; live = live->next_held) {
        live->following = false;
        watch_follow(b, live);
    }
    caloris_log(CALORIS_LOG_INFO,
                "group %s: model %s, %u ranks on %s, room for %u; it holds %u jobs", group->name,
                group->model, group->ranks, group->host, group->capacity, group->n_held);
    return 0;
}

/* ---- what administrators see and say ---- */

Caloris__Wire__GroupState groups_state(const struct caloris_broker *b, const struct group *group)
{
    if (group->cut_off || b->now_ms - group->heard_ms > 2 * b->options.beat_ms)
        return CALORIS__WIRE__GROUP_STATE__SILENT;
    return group->draining ? CALORIS__WIRE__GROUP_STATE__DRAINING
                           : CALORIS__WIRE__GROUP_STATE__SERVING;
}

int groups_drain(struct caloris_broker *b, const char *name, bool hand_back,
                 struct caloris_err *err)
{
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    Caloris__Wire__Drain drain = CALORIS__WIRE__DRAIN__INIT;
    struct group *group = find_name(b, name);
    if (!group)
        return caloris_err_set(err, CALORIS_NOT_FOUND, "no group is called %.128s", name);
    drain.hand_back = hand_back;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_DRAIN;
    message.drain = &drain;
    if (answer_group(b, group, &message) < 0)
        return caloris_err_set(err, CALORIS_AGAIN, "group %s cannot be reached now", name);
    caloris_log(CALORIS_LOG_INFO, "group %s is told to leave", name);
    group->free = 0;
    group->draining = true;
    return 0;
}

/* ---- all else ---- */

/* The job if that lease is the group's current one. */
static struct live *current(const struct caloris_broker *b, const struct group *group, uint64_t job,
                            const Caloris__Wire__LeaseId *lease)
{
    struct live *live = live_find(b, job);
    return live && live->group == group && live->lease.epoch == lease->epoch &&
                   live->lease.counter == lease->counter
               ? live
               : NULL;
}

/* What the result says of itself: {"error": {"code": …, "message": …}} or not. */
static void judge(json_t *json, struct caloris_store_end *end, struct caloris_err *why)
{
    end->state = CALORIS_STORE_DONE;
    json_t *error = json_object_get(json, "error");
    if (!error)
        return;
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *text = json_string_value(json_object_get(error, "message"));
    caloris_err_set(why, code ? caloris_code_from_name(code) : CALORIS_INTERNAL, "%s",
                    text ? text : "the group gave no reason");
    end->state = CALORIS_STORE_FAILED;
    end->code = caloris_code_name(why->code);
    end->text = why->text;
}

/* A result of a lease that is no longer good: dropped there, whether it is on disk by now or
 * somebody else is at it. */
static void drop_late(struct caloris_broker *b, struct group *group,
                      const Caloris__Wire__LeaseResult *late)
{
    struct caloris_store_job job;
    bool stored = caloris_store_find(b->store, late->job, &job, NULL) == 0 &&
                  job.state != CALORIS_STORE_QUEUED;
    answer_lease(b, group,
                 stored ? CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_TAKEN
                        : CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_CANCEL,
                 late->job, (struct lease_id){late->lease->epoch, late->lease->counter});
}

/* Those parts of a result that are counted when it is on disk; the rest may be large. */
static json_t *figures_of(const json_t *result)
{
    static const char *const counted[] = {"usage", "forward_passes"};
    json_t *figures = json_object();
    for (size_t i = 0; i < sizeof(counted) / sizeof(*counted); i++)
        json_object_set(figures, counted[i], json_object_get(result, counted[i]));
    return figures;
}

/* 0, or 1 when the job had ended. */
static int finish(struct caloris_broker *b, const struct live *live,
                  const Caloris__Wire__LeaseResult *result, json_t *json, struct promise *promise,
                  struct caloris_err *err)
{
    struct caloris_err why;
    struct caloris_store_end end = {
        .started_ms = live->started_ms,
        .finished_ms = caloris_time_wall_ms(),
        .result = result->result_json.data,
        .result_bytes = result->result_json.len,
    };
    judge(json, &end, &why);
    int rc = caloris_store_finish(b->store, live->job, &end, err);
    if (rc == 0) {
        promise->kind = PROMISE_ENDED;
        promise->job = live->job;
        promise->lane = live->lane;
        promise->state = end.state;
        promise->figures = figures_of(json);
        promise_add(b, promise);
    }
    return rc;
}

/* The same for a result that is none. Nobody else would make a better one of it, and a group that
 * is not told "taken" would keep it, and its place, for ever. */
static int finish_unreadable(struct caloris_broker *b, const struct live *live,
                             struct caloris_err *why, struct promise *promise,
                             struct caloris_err *err)
{
    struct caloris_store_job job;
    char *quote = strstr(why->text, " near '"); /* answers do not belong into logs */
    if (quote)
        *quote = '\0';
    why->code = CALORIS_INTERNAL;
    caloris_err_prefix(why, "group %s", live->group->name);
    caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = live->job}, "%s",
                      why->text);
    if (caloris_store_find(b->store, live->job, &job, err) < 0)
        return -1;
    return job.state == CALORIS_STORE_QUEUED
               ? end_job(b, &job, CALORIS_STORE_FAILED, why, promise, err)
               : 1;
}

/* NULL and why: it is none. */
static json_t *parse_result(const ProtobufCBinaryData *bytes, struct caloris_err *why)
{
    /* 64 answers of any length and some figures; the bytes have a limit of their own. */
    static const struct caloris_json_limits limits = {
        .values = CALORIS_WIRE_MAX_FRAME, .containers = 64 * CALORIS_JOB_MAX_BEST, .depth = 16};
    const char *text = (const char *)bytes->data;
    if (caloris_json_check(text, bytes->len, &limits, "result", why) < 0)
        return NULL;
    json_t *json = caloris_json_parse(text, bytes->len, "result", why);
    if (!json || json_is_object(json))
        return json;
    caloris_err_set(why, CALORIS_INTERNAL, "result: not a JSON object");
    json_decref(json);
    return NULL;
}

static int take_result(struct caloris_broker *b, struct group *group, const word *message,
                       struct caloris_err *err)
{
    const Caloris__Wire__LeaseResult *result = message->result;
    struct live *live = current(b, group, result->job, result->lease);
    if (!live) {
        promise_keep(b);
        drop_late(b, group, result);
        return 0;
    }
    struct caloris_err why;
    struct promise promise = {.to = TO_GROUP, .peer = group->peer, .lease = live->lease};
    json_t *json = parse_result(&result->result_json, &why);
    int rc = promise_room(b, err);
    if (rc == 0)
        rc = json ? finish(b, live, result, json, &promise, err)
                  : finish_unreadable(b, live, &why, &promise, err);
    if (rc == 1) { /* said twice in one turn */
        promise.kind = PROMISE_TAKEN;
        promise.job = live->job;
        promise.lane = NULL;
        promise_add(b, &promise);
    }
    if (rc >= 0)
        group->free += !group->draining && group->free < group->capacity;
    json_decref(json);
    return rc < 0 ? -1 : 0;
}

static int take_progress(struct caloris_broker *b, struct group *group, const word *message,
                         struct caloris_err *err)
{
    (void)err;
    struct live *live = current(b, group, message->progress->job, message->progress->lease);
    if (live)
        watch_tell_progress(b, live, message->progress->progress);
    return 0;
}

static int take_hand_over(struct caloris_broker *b, struct group *group, const word *message,
                          struct caloris_err *err)
{
    (void)err;
    struct live *live = current(b, group, message->hand_over->job, message->hand_over->lease);
    if (live)
        hand_over_take(b, live, message->hand_over);
    return 0;
}

static int take_beat(struct caloris_broker *b, struct group *group, const word *message,
                     struct caloris_err *err)
{
    (void)b;
    (void)err;
    group->free = message->beat->free;
    figures_of_group(group, message->beat);
    group->draining = (message->beat->has_draining && message->beat->draining) ||
                      (group->free == 0 && group->n_held < group->capacity);
    return 0;
}

static int take_give_back(struct caloris_broker *b, struct group *group, const word *message,
                          struct caloris_err *err)
{
    (void)err;
    promise_keep(b);
    struct live *live = current(b, group, message->give_back->job, message->give_back->lease);
    if (live)
        requeue(b, live, live->lane);
    return 0;
}

static int take_leave(struct caloris_broker *b, struct group *group, const word *message,
                      struct caloris_err *err)
{
    (void)message;
    (void)err;
    promise_keep(b);
    caloris_log(CALORIS_LOG_INFO, "group %s left; %u jobs go back to the queue", group->name,
                group->n_held);
    requeue_all(b, group);
    forget(b, group);
    return 0;
}

static const struct {
    Caloris__Wire__GroupToGateway__BodyCase body;
    int (*take)(struct caloris_broker *b, struct group *group, const word *message,
                struct caloris_err *err);
} handlers[] = {
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_BEAT, take_beat},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_RESULT, take_result},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_PROGRESS, take_progress},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_HAND_OVER, take_hand_over},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_GIVE_BACK, take_give_back},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_LEAVE, take_leave},
};

static void say_hello_again(struct caloris_broker *b, const struct caloris_peer *peer)
{
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_HELLO_AGAIN;
    message.hello_again = &nothing;
    caloris_wire_send(b->groups_socket, peer, &message.base, NULL);
}

void groups_take(struct caloris_broker *b, const struct caloris_peer *peer, const word *message)
{
    struct caloris_err why;
    if (message->body_case == CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_HELLO) {
        if (take_hello(b, peer, message->hello, &why) < 0)
            refuse(b, peer, 0, &why);
        return;
    }
    struct group *group = groups_find(b, peer);
    if (!group) {
        if (message->body_case != CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_LEAVE)
            say_hello_again(b, peer);
        return;
    }
    group->heard_ms = b->now_ms;
    for (size_t i = 0; i < sizeof(handlers) / sizeof(*handlers); i++) {
        if (handlers[i].body == message->body_case) {
            if (handlers[i].take(b, group, message, &why) < 0)
                broker_warn(b, "group %s: %s", group->name, why.text);
            return;
        }
    }
}

void groups_forgive(struct caloris_broker *b, uint64_t ms)
{
    for (struct group *group = b->groups; group; group = group->next)
        group->heard_ms += ms;
}

void groups_watch_over(struct caloris_broker *b)
{
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_BEAT;
    message.beat = &nothing;
    for (struct group *group = b->groups, *next; group; group = next) {
        next = group->next;
        uint64_t silent_ms = b->now_ms - group->heard_ms;
        /* A process that lives dials again within a moment; one without a connection is dead. */
        uint64_t patience_ms = group->cut_off ? 2 * b->options.beat_ms : b->options.lost_ms;
        if (silent_ms > patience_ms) {
            lose(b, group);
            continue;
        }
        if (group->ask_ms && b->now_ms >= group->ask_ms) {
            group->ask_ms = 0;
            say_hello_again(b, &group->peer);
        }
        if (b->now_ms - group->told_ms >= b->options.beat_ms)
            answer_group(b, group, &message);
    }
}
