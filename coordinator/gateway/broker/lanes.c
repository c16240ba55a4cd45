#include "coordinator/gateway/broker/lanes.h"

#include "base/err.h"
#include "coordinator/gateway/broker/state.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- users ---- */

struct user *user_need(struct caloris_broker *b, const char *name, struct caloris_err *err)
{
    uint64_t key = table_hash(name, strlen(name));
    struct table_node *node = table_find(&b->users, key);
    for (; node; node = table_find_next(node)) {
        struct user *user = TABLE_ENTRY(node, struct user, node);
        if (strcmp(user->name, name) == 0)
            return user;
    }
    struct user *user = calloc(1, sizeof(*user));
    if (!user || table_add(&b->users, &user->node, key, err) < 0) {
        caloris_err_sys(err, "user %s", name);
        free(user);
        return NULL;
    }
    snprintf(user->name, sizeof(user->name), "%s", name);
    user->limits = admit_limits(b, name);
    return user;
}

void users_limit(struct caloris_broker *b)
{
    for (struct table_node *node = table_first(&b->users); node;
         node = table_after(&b->users, node)) {
        struct user *user = TABLE_ENTRY(node, struct user, node);
        user->limits = admit_limits(b, user->name);
    }
}

/* ---- lanes ---- */

static uint64_t hash_lane(const struct user *user, const char *model, int32_t priority, bool alone)
{
    return table_hash(model, strlen(model)) ^ user->node.key * 31u ^
           ((uint64_t)(uint32_t)priority << 1 | alone);
}

/* All lanes of a priority. Their order does not matter: users' shares and the jobs' age decide. */
static struct lane **list_of(struct caloris_broker *b, int64_t priority)
{
    if (priority > LANES_HIGHEST)
        priority = LANES_HIGHEST;
    if (priority < -LANES_HIGHEST)
        priority = -LANES_HIGHEST;
    return &b->lanes[LANES_HIGHEST - priority];
}

static struct lane *lane_find(const struct caloris_broker *b, const struct user *user,
                              const char *model, int64_t priority, bool alone)
{
    uint64_t key = hash_lane(user, model, (int32_t)priority, alone);
    struct table_node *node = table_find(&b->lane_table, key);
    for (; node; node = table_find_next(node)) {
        struct lane *lane = TABLE_ENTRY(node, struct lane, node);
        if (lane->user == user && lane->priority == priority && lane->alone == alone &&
            strcmp(lane->model, model) == 0)
            return lane;
    }
    return NULL;
}

struct lane *lane_need(struct caloris_broker *b, struct user *user, const char *model,
                       int64_t priority, bool alone, struct caloris_err *err)
{
    struct lane *lane = lane_find(b, user, model, priority, alone);
    if (lane)
        return lane;
    lane = calloc(1, sizeof(*lane));
    if (!lane || table_add(&b->lane_table, &lane->node,
                           hash_lane(user, model, (int32_t)priority, alone), err) < 0) {
        caloris_err_sys(err, "a lane of user %s", user->name);
        free(lane);
        return NULL;
    }
    lane->user = user;
    snprintf(lane->model, sizeof(lane->model), "%s", model);
    lane->priority = (int32_t)priority;
    lane->alone = alone;
    struct lane **list = list_of(b, priority);
    lane->next = *list;
    *list = lane;
    user->lanes++;
    return lane;
}

struct lane *lane_of(struct caloris_broker *b, const struct caloris_store_job *job,
                     struct caloris_err *err)
{
    struct user *user = user_need(b, job->user, err);
    return user ? lane_need(b, user, job->model, job->priority, job->alone, err) : NULL;
}

void lane_enter(struct caloris_broker *b, struct lane *lane, uint64_t job)
{
    if (lane->waiting == 0 || job < lane->head) {
        lane->head = job;
        lane->head_waits = true;
    }
    lane->waiting++;
    b->n_waiting++;
}

void lane_leave(struct caloris_broker *b, struct lane *lane, uint64_t job)
{
    if (job == lane->head) {
        lane->head++;
        lane->head_waits = false;
    }
    lane->waiting--;
    b->n_waiting--;
}

static void forget(struct caloris_broker *b, struct lane **at)
{
    struct lane *lane = *at;
    *at = lane->next;
    lane->user->lanes--;
    table_remove(&b->lane_table, &lane->node);
    free(lane);
}

/* A pick forgets those that it passes; without groups there is none. */
static void forget_unused(struct caloris_broker *b)
{
    for (size_t i = 0; i < LANES_PRIORITIES; i++) {
        for (struct lane **at = &b->lanes[i]; *at;) {
            if ((*at)->waiting == 0 && (*at)->refs == 0)
                forget(b, at);
            else
                at = &(*at)->next;
        }
    }
}

int lane_room(struct caloris_broker *b, const struct user *user, const char *model,
              int64_t priority, struct caloris_err *err)
{
    enum { SWEEP_EVERY_MS = 1000 };
    if (lane_find(b, user, model, priority, false) || user->lanes < LANES_OF_USER)
        return 0;
    if (b->now_ms - b->swept_ms >= SWEEP_EVERY_MS) {
        b->swept_ms = b->now_ms;
        forget_unused(b);
    }
    return user->lanes < LANES_OF_USER
               ? 0
               : caloris_err_set(err, CALORIS_AGAIN,
                                 "jobs of %d kinds (models, priorities) of user %s wait; that is "
                                 "the limit",
                                 LANES_OF_USER, user->name);
}

int lanes_load(struct caloris_broker *b, struct caloris_err *err)
{
    struct caloris_store_waiting found;
    int rc;
    while ((rc = caloris_store_waiting(b->store, &found, err)) == 1) {
        struct user *user = user_need(b, found.user, err);
        struct lane *lane =
            user ? lane_need(b, user, found.model, found.priority, found.alone, err) : NULL;
        if (!lane)
            return -1;
        lane->waiting = found.jobs;
        lane->head = found.first;
        lane->head_waits = true;
        user->queued += found.jobs;
        user->queued_bytes += found.body_bytes;
        b->n_waiting += found.jobs;
    }
    return rc;
}

void lanes_free(struct caloris_broker *b)
{
    struct table_node *node;
    for (size_t i = 0; i < LANES_PRIORITIES; i++) {
        while (b->lanes[i])
            forget(b, &b->lanes[i]);
    }
    while ((node = table_first(&b->users)) != NULL) {
        table_remove(&b->users, node);
        free(TABLE_ENTRY(node, struct user, node));
    }
    table_free(&b->lane_table);
    table_free(&b->users);
}

/* ---- who is next ---- */

/* Moves the head past what is leased or has ended. */
static int find_head(struct caloris_broker *b, struct lane *lane, struct caloris_err *err)
{
    while (!lane->head_waits) {
        const struct caloris_store_lane where = {lane->alone, lane->model, lane->priority,
                                                 lane->user->name};
        int rc = caloris_store_next(b->store, &where, lane->head, &lane->head, err);
        if (rc < 0)
            return -1;
        if (rc == 0) {
            caloris_err_set(err, CALORIS_INTERNAL,
                            "%" PRIu64 " jobs of user %s are missing in the queue", lane->waiting,
                            lane->user->name);
            b->n_waiting -= lane->waiting;
            lane->waiting = 0;
            return -1;
        }
        const struct live *live = live_find(b, lane->head);
        if (live && live->group)
            lane->head++;
        else
            lane->head_waits = true;
    }
    return 0;
}

static double usage(const struct user *user)
{
    return (double)user->running / user->limits.share;
}

static bool fits(const struct lane *lane, const char *model, enum lane_kind kind)
{
    const struct user *user = lane->user;
    return (kind == LANES_ALL || lane->alone == (kind == LANES_ALONE)) &&
           (!lane->model[0] || strcmp(lane->model, model) == 0) &&
           (user->limits.max_running == 0 || user->running < user->limits.max_running);
}

/* Of one list; *best as lanes_pick has it. */
static int pick_of(struct caloris_broker *b, struct lane **at, const char *model,
                   enum lane_kind kind, struct lane **best, struct caloris_err *err)
{
    while (*at) {
        struct lane *here = *at;
        if (here->waiting == 0 && here->refs == 0) {
            forget(b, at);
            continue;
        }
        at = &here->next;
        if (here->waiting == 0 || !fits(here, model, kind) ||
            (*best && usage(here->user) > usage((*best)->user)))
            continue;
        if (find_head(b, here, err) < 0)
            return -1;
        if (!*best || usage(here->user) < usage((*best)->user) || here->head < (*best)->head)
            *best = here;
    }
    return 0;
}

int lanes_pick(struct caloris_broker *b, const char *model, enum lane_kind kind, struct lane **lane,
               uint64_t *job, struct caloris_err *err)
{
    struct lane *best = NULL;
    for (size_t i = 0; i < LANES_PRIORITIES && !best; i++) {
        if (pick_of(b, &b->lanes[i], model, kind, &best, err) < 0)
            return -1;
    }
    if (!best)
        return 0;
    *lane = best;
    *job = best->head;
    return 1;
}
