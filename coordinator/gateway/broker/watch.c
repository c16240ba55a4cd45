#include "coordinator/gateway/broker/state.h"

#include <inttypes.h>
#include <stdlib.h>

enum { SNAPSHOT_EVERY_MS = 250 }; /* per job, however many viewers fall behind */

struct live *live_find(const struct caloris_broker *b, uint64_t job)
{
    struct table_node *node = table_find(&b->live, job);
    return node ? TABLE_ENTRY(node, struct live, node) : NULL;
}

struct live *live_need(struct caloris_broker *b, uint64_t job, struct caloris_err *err)
{
    struct live *live = live_find(b, job);
    if (live)
        return live;
    live = calloc(1, sizeof(*live));
    if (!live || table_add(&b->live, &live->node, job, err) < 0) {
        caloris_err_sys(err, "job %" PRIu64, job);
        free(live);
        return NULL;
    }
    live->job = job;
    return live;
}

void live_drop_unused(struct caloris_broker *b, struct live *live)
{
    if (live->group || live->watches || live->hand_over.bytes)
        return;
    table_remove(&b->live, &live->node);
    free(live);
}

/* ---- who watches ---- */

static struct watch *watch_find(const struct client *client, uint64_t job)
{
    struct watch *watch = client->watches;
    while (watch && watch->live->job != job)
        watch = watch->next_of_client;
    return watch;
}

/* Unlinks and frees it; the job stays, even unused. */
static void watch_drop(struct caloris_broker *b, struct watch *watch)
{
    struct watch **at = &watch->client->watches;
    while (*at != watch)
        at = &(*at)->next_of_client;
    *at = watch->next_of_client;
    at = &watch->live->watches;
    while (*at != watch)
        at = &(*at)->next_of_live;
    *at = watch->next_of_live;
    watch->client->user->watches--;
    b->n_watches--;
    b->n_owed -= watch->owed;
    free(watch);
}

/* It has every step that the group has told of: those to come build on what it has. */
static bool is_up_to_date(const struct live *live, const struct watch_seen *seen)
{
    return live->following && live->told_seq > 0 && seen->seq == live->told_seq &&
           seen->lease.epoch == live->lease.epoch && seen->lease.counter == live->lease.counter;
}

int watch_room(const struct caloris_broker *b, const struct user *user, size_t arriving,
               struct caloris_err *err)
{
    if (user->watches + arriving >= BROKER_MAX_USER_WATCHES)
        return caloris_err_set(err, CALORIS_AGAIN, "user %s watches %d jobs; that is the limit",
                               user->name, BROKER_MAX_USER_WATCHES);
    if (b->n_watches + arriving < BROKER_MAX_WATCHES)
        return 0;
    return caloris_err_set(err, CALORIS_AGAIN, "%d jobs are watched; that is the limit",
                           BROKER_MAX_WATCHES);
}

int watch_add(struct caloris_broker *b, struct client *client, uint64_t job, bool canvas,
              const struct watch_seen *seen, struct caloris_err *err)
{
    struct watch *watch = watch_find(client, job);
    if (!watch) {
        if (watch_room(b, client->user, 0, err) < 0)
            return -1;
        struct live *live = live_need(b, job, err);
        if (!live)
            return -1;
        watch = calloc(1, sizeof(*watch));
        if (!watch) {
            caloris_err_sys(err, "watching job %" PRIu64, job);
            live_drop_unused(b, live);
            return -1;
        }
        watch->client = client;
        watch->live = live;
        watch->next_of_client = client->watches;
        client->watches = watch;
        watch->next_of_live = live->watches;
        live->watches = watch;
        client->user->watches++;
        b->n_watches++;
    }
    watch->canvas = canvas;
    watch->stale = !is_up_to_date(watch->live, seen);
    watch_follow(b, watch->live);
    return 0;
}

void watch_remove(struct caloris_broker *b, struct client *client, uint64_t job)
{
    struct watch *watch = watch_find(client, job);
    if (!watch)
        return;
    struct live *live = watch->live;
    watch_drop(b, watch);
    watch_follow(b, live);
    live_drop_unused(b, live);
}

void watch_remove_all(struct caloris_broker *b, struct client *client)
{
    while (client->watches)
        watch_remove(b, client, client->watches->live->job);
}

/* ---- what they see ---- */

static int tell(struct caloris_broker *b, struct watch *watch, Caloris__Wire__Event *event)
{
    to_client message = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_EVENT;
    message.event = event;
    const int rc =
        clients_have_room(watch->client) ? answer_client(b, &watch->client->peer, &message) : -1;
    watch->full = rc < 0;
    return rc;
}

/* Whether a message would get through; one whose viewer has read nothing since the last one found
 * no room would not. */
static bool has_room(struct caloris_broker *b, struct watch *watch)
{
    if (watch->full)
        watch->full = watch->client->gone || !clients_have_room(watch->client) ||
                      answer_probe(b, &watch->client->peer) < 0;
    return !watch->full;
}

static void owe(struct caloris_broker *b, struct watch *watch, bool owed)
{
    b->n_owed += owed;
    b->n_owed -= watch->owed;
    watch->owed = owed;
}

/* Tells those who are owed it; final: they watch no more. */
static void tell_owed(struct caloris_broker *b, struct live *live)
{
    struct status_message message;
    struct caloris_err err;
    if (caloris_store_find(b->store, live->job, &message.job, &err) < 0) {
        broker_warn(b, "%s", err.text);
        while (err.code == CALORIS_NOT_FOUND && live->watches) /* ended, kept, and forgotten */
            watch_drop(b, live->watches);
        return;
    }
    answer_status(&message, live);
    Caloris__Wire__Event event = CALORIS__WIRE__EVENT__INIT;
    event.job = live->job;
    event.status = &message.status;
    bool final = message.job.state != CALORIS_STORE_QUEUED;
    for (struct watch *watch = live->watches, *next; watch; watch = next) {
        next = watch->next_of_live;
        if (!watch->owed || tell(b, watch, &event) < 0)
            continue;
        owe(b, watch, false);
        watch->stale = true; /* whoever computes it next starts from an empty canvas */
        if (final)
            watch_drop(b, watch);
    }
}

void watch_tell_state(struct caloris_broker *b, struct live *live)
{
    for (struct watch *watch = live->watches; watch; watch = watch->next_of_live)
        owe(b, watch, true);
    if (live->watches)
        tell_owed(b, live);
}

void watch_settle(struct caloris_broker *b)
{
    if (b->n_owed == 0)
        return;
    for (struct table_node *node = table_first(&b->live), *next; node; node = next) {
        next = table_after(&b->live, node);
        struct live *live = TABLE_ENTRY(node, struct live, node);
        bool owed = false;
        for (const struct watch *watch = live->watches; watch; watch = watch->next_of_live)
            owed |= watch->owed;
        if (owed)
            tell_owed(b, live);
        live_drop_unused(b, live);
    }
}

void watch_tell_progress(struct caloris_broker *b, struct live *live,
                         Caloris__Wire__Progress *progress)
{
    live->progress = true;
    live->step = progress->step;
    live->masks_left = progress->masks_left;
    live->told_seq = progress->seq;
    Caloris__Wire__LeaseId lease = CALORIS__WIRE__LEASE_ID__INIT;
    Caloris__Wire__Event event = CALORIS__WIRE__EVENT__INIT;
    lease.epoch = live->lease.epoch;
    lease.counter = live->lease.counter;
    event.job = live->job;
    event.progress = progress;
    event.lease = &lease;
    for (struct watch *watch = live->watches; watch; watch = watch->next_of_live) {
        if (!watch->canvas || watch->owed || (watch->stale && !progress->full))
            continue;
        /* Steps build on each other: who misses one has to wait for the next whole canvas. */
        watch->stale = tell(b, watch, &event) < 0;
    }
    watch_follow(b, live);
}

bool watch_wants_canvas(const struct live *live)
{
    for (const struct watch *watch = live->watches; watch; watch = watch->next_of_live) {
        if (watch->canvas)
            return true;
    }
    return false;
}

/* Somebody needs a full canvas, and could take it in: those who read nothing cost the group
 * nothing. */
static bool canvas_is_due(struct caloris_broker *b, const struct live *live)
{
    for (struct watch *watch = live->watches; watch; watch = watch->next_of_live) {
        if (watch->canvas && watch->stale && has_room(b, watch))
            return true;
    }
    return false;
}

void watch_follow(struct caloris_broker *b, struct live *live)
{
    if (!live->group)
        return;
    bool wanted = watch_wants_canvas(live);
    bool again =
        wanted && b->now_ms - live->asked_ms >= SNAPSHOT_EVERY_MS && canvas_is_due(b, live);
    if (wanted == live->following && !again)
        return;
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    Caloris__Wire__LeaseRef lease = CALORIS__WIRE__LEASE_REF__INIT;
    Caloris__Wire__Follow follow = CALORIS__WIRE__FOLLOW__INIT;
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    id.epoch = live->lease.epoch;
    id.counter = live->lease.counter;
    lease.job = live->job;
    lease.lease = &id;
    follow.lease = &lease;
    follow.canvas = wanted;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_FOLLOW;
    message.follow = &follow;
    if (answer_group(b, live->group, &message) == 0) {
        live->following = wanted;
        live->asked_ms = b->now_ms;
    }
}
