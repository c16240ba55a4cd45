/* Which groups are here: how they come, beat, leave and are lost. What they hold is held.c's. */
#include "coordinator/gateway/broker/held.h"

#include "base/log.h"
#include "base/time.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
            held_release(b, b->groups->held);
        forget(b, b->groups);
    }
}

/* The latest ones are remembered. */
static void remember_lost(struct caloris_broker *b, const struct group *group)
{
    struct lost_group *lost = &b->lost[b->next_lost++ % BROKER_MAX_LOST];
    memcpy(lost->name, group->name, sizeof(lost->name));
    lost->instance = group->instance;
}

/* Somebody new has this name: whether it is another process than the one that was lost under it. */
static bool is_restart(struct caloris_broker *b, const char *name, uint64_t instance)
{
    bool restart = false;
    for (size_t i = 0; i < BROKER_MAX_LOST; i++) {
        struct lost_group *lost = &b->lost[i];
        if (strcmp(lost->name, name) != 0)
            continue;
        restart |= lost->instance != instance;
        lost->name[0] = '\0';
    }
    return restart;
}

static void lose(struct caloris_broker *b, struct group *group)
{
    b->figures.groups_lost++;
    remember_lost(b, group);
    caloris_log(CALORIS_LOG_WARN,
                "group %s lost: %s for %" PRIu64 " ms; %u jobs go back to the queue", group->name,
                group->cut_off ? "its connection is gone, silent" : "silent",
                b->now_ms - group->heard_ms, group->n_held);
    held_crash(b, group);
    forget(b, group);
}

void groups_expel(struct caloris_broker *b, struct group *group)
{
    caloris_log(CALORIS_LOG_WARN,
                "group %s: its key may serve no more; %u jobs go back to the queue", group->name,
                group->n_held);
    held_requeue_all(b, group);
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
        if (before->instance != hello->instance) {
            b->figures.engine_restarts++;
            held_crash(b, before);
        } else {
            held_requeue_all(b, before);
        }
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
        b->figures.engine_restarts += is_restart(b, hello->name, hello->instance);
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
                "group %s: model %s, %u rank%s on %s, room for %u; it holds %u job%s", group->name,
                group->model, group->ranks, group->ranks == 1 ? "" : "s", group->host,
                group->capacity, group->n_held, group->n_held == 1 ? "" : "s");
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

/* ---- what groups say ---- */

static int take_beat(struct caloris_broker *b, struct group *group, const group_message *message,
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

static int take_leave(struct caloris_broker *b, struct group *group, const group_message *message,
                      struct caloris_err *err)
{
    (void)message;
    (void)err;
    promise_keep(b);
    caloris_log(CALORIS_LOG_INFO, "group %s left; %u jobs go back to the queue", group->name,
                group->n_held);
    held_requeue_all(b, group);
    forget(b, group);
    return 0;
}

static const struct {
    Caloris__Wire__GroupToGateway__BodyCase body;
    int (*take)(struct caloris_broker *b, struct group *group, const group_message *message,
                struct caloris_err *err);
} handlers[] = {
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_BEAT, take_beat},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_RESULT, held_take_result},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_PROGRESS, held_take_progress},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_HAND_OVER, held_take_hand_over},
    {CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_GIVE_BACK, held_take_give_back},
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

void groups_take(struct caloris_broker *b, const struct caloris_peer *peer,
                 const group_message *message)
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
