/* coordinator/gateway/broker/lanes.h (inside broker): which job is next, and for whom.
 *
 * A lane is what waits (is queued and not leased) of one user, at one priority, for one model; jobs
 * that must run alone are in lanes of their own. Memory holds a count per lane and the number
 * before which nothing waits in it; the jobs themselves stay in the store, whose index finds the
 * oldest of a lane among millions. So memory and the time of a lease go with the lanes, not with
 * the jobs.
 */
#ifndef CALORIS_BROKER_LANES_H
#define CALORIS_BROKER_LANES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "coordinator/gateway/broker/broker.h"
#include "coordinator/gateway/broker/table.h"
#include "coordinator/gateway/store/store.h"

struct caloris_err;
struct caloris_broker;

enum {
    LANES_HIGHEST = 100, /* priority */
    LANES_PRIORITIES = 2 * LANES_HIGHEST + 1,
    LANES_OF_USER = 1024, /* at most: nobody's kinds of jobs shut others' out */
};

struct user {
    struct table_node node; /* by the hash of the name */
    char name[CALORIS_STORE_MAX_USER + 1];
    struct caloris_user_limits limits;
    uint64_t queued, queued_bytes;     /* on disk, the running ones too; of their bodies */
    uint64_t arriving, arriving_bytes; /* added in this turn, not committed */
    uint64_t running;
    size_t lanes, watches;
    size_t clients;        /* connections */
    atomic_size_t sending; /* bytes under way to them, which they have not read */
};

struct lane {
    struct table_node node; /* by a hash of what follows */
    struct lane *next;      /* of those with its priority */
    struct user *user;
    char model[CALORIS_JOB_MAX_MODEL + 1]; /* "": any */
    int32_t priority;
    bool alone;
    uint64_t waiting;
    uint64_t head;   /* no job that waits here has a lower number */
    bool head_waits; /* and this one does */
    uint64_t refs;   /* promises and leases that name the lane */
};

/* The user of this name; made if need be. */
struct user *user_need(struct caloris_broker *b, const char *name, struct caloris_err *err);
/* The authorized keys, which hold users' limits, were read again. */
void users_limit(struct caloris_broker *b);

/* The lane of such jobs; made if need be. Without refs and jobs it is gone at the next pick. */
struct lane *lane_need(struct caloris_broker *b, struct user *user, const char *model,
                       int64_t priority, bool alone, struct caloris_err *err);
/* Whether lane_need would give one within the limits; AGAIN. Without this question it has none:
 * what was accepted gets a lane. */
int lane_room(struct caloris_broker *b, const struct user *user, const char *model,
              int64_t priority, struct caloris_err *err);
/* The one in which this job waits or waited. */
struct lane *lane_of(struct caloris_broker *b, const struct caloris_store_job *job,
                     struct caloris_err *err);

/* The job waits from now on; it does not any more (it is leased, or has ended). */
void lane_enter(struct caloris_broker *b, struct lane *lane, uint64_t job);
void lane_leave(struct caloris_broker *b, struct lane *lane, uint64_t job);

/* What waits according to the store: at start. */
int lanes_load(struct caloris_broker *b, struct caloris_err *err);
void lanes_free(struct caloris_broker *b);

enum lane_kind { LANES_ALL, LANES_SHARED, LANES_ALONE };
/* The job that a group with this model shall get next: of the highest priority; of the user with
 * the fewest running jobs for the user's share; the oldest. 1, *lane and *job; 0: none; -1. */
int lanes_pick(struct caloris_broker *b, const char *model, enum lane_kind kind, struct lane **lane,
               uint64_t *job, struct caloris_err *err);

#endif
