/* coordinator/gateway/broker/state.h (inside broker): what the broker keeps in memory.
 *
 * Bounded by who is connected, what they watch and what is leased; queued jobs stay in the store.
 *
 *   client --watches--> watch <--watches-- live --> group
 *                                          live <--held-- group
 */
#ifndef CALORIS_BROKER_STATE_H
#define CALORIS_BROKER_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "coordinator/gateway/broker/authorized.h"
#include "coordinator/gateway/broker/broker.h"
#include "coordinator/gateway/broker/figures.h"
#include "coordinator/gateway/broker/lanes.h"
#include "coordinator/gateway/broker/table.h"
#include "coordinator/gateway/store/store.h"
#include "proto/caloris.pb-c.h"
#include "proto/endpoint.h"
#include "proto/wire.h"

enum {
    BROKER_MAX_CLIENTS = 16384,
    BROKER_MAX_USER_CLIENTS = 4096, /* of them, of one user */
    BROKER_MAX_SENDING = 64 << 20, /* bytes under way to one user's clients before a large answer */
    BROKER_MAX_WATCHES = 65536,    /* of all clients together */
    BROKER_MAX_USER_WATCHES = 16384, /* of one user's */
    BROKER_MAX_GROUPS = 1024,
    BROKER_MAX_LOST = 256,             /* names of lost groups, to be known when they come back */
    BROKER_MAX_NAME = 128,             /* bytes of a group's name, model, host */
    BROKER_MAX_USERS = 10000,          /* users in one answer */
    BROKER_MAX_HAND_OVERS = 256 << 20, /* bytes of progress in memory, of all jobs together */
    BROKER_BATCH = 256, /* messages taken from a socket per turn: one commit for all */
};

/* A lease is good in one life of the gateway, and is given once in it. */
struct lease_id {
    uint64_t epoch, counter;
};

struct watch {
    struct client *client;
    struct live *live;
    bool canvas;
    bool full;  /* its viewer reads too slowly: the last message found no room */
    bool owed;  /* a change of state could not be sent yet */
    bool stale; /* its viewer lacks something: nothing more until a full canvas comes */
    struct watch *next_of_client, *next_of_live;
};

struct client {
    struct table_node node; /* by the hash of the routing id */
    struct caloris_peer peer;
    const struct caloris_identity *who;
    struct user *user;
    uint64_t heard_ms;
    bool gone; /* its connection is: it is forgotten at the end of the turn */
    struct watch *watches;
};

/* Where a job stands: what the next group is told. A help: losing it costs steps, no job. */
struct hand_over {
    uint8_t *bytes; /* [n]; NULL: nothing is known here (the store may know) */
    size_t n;
    uint32_t block;
    bool unsaved; /* newer than what is on disk */
};

/* A job that somebody computes or watches, or has left somewhere on its way. */
struct live {
    struct table_node node; /* by job number */
    uint64_t job;
    struct group *group; /* who has the lease; NULL: nobody */
    struct lane *lane;   /* where it came from, while it is leased */
    struct lease_id lease;
    bool alone;          /* the group shall hold nothing else: its crash is an attempt */
    uint64_t started_ms; /* since 1970 */
    bool following;      /* the group was told to send every step */
    uint64_t asked_ms;   /* when it was last told */
    uint64_t told_seq;   /* of the last progress under this lease; 0: none */
    uint32_t step, masks_left;
    bool progress;    /* step and masks_left are known */
    bool first_block; /* is behind it */
    struct hand_over hand_over;
    bool resumed; /* its group was told to go on from resumed_block */
    uint32_t resumed_block;
    struct watch *watches;
    struct live *next_held;
};

struct group {
    struct group *next;
    const struct caloris_identity *who;
    struct caloris_peer peer;
    char name[BROKER_MAX_NAME + 1], model[BROKER_MAX_NAME + 1], host[BROKER_MAX_NAME + 1];
    char version[BROKER_MAX_NAME + 1]; /* of the program */
    uint64_t instance;                 /* which process this is, as it says; 0: it does not */
    uint32_t ranks, capacity;
    uint32_t free;      /* leases it would take now, as far as we know */
    bool draining;      /* says that it takes no more, or wanted nothing in its last beat though it
                           holds less than it could */
    uint64_t joined_ms; /* when it dialled in */
    bool cut_off;       /* its connection is gone */
    bool clearing;      /* gets nothing until it is empty, then a job that must be alone */
    uint64_t idle_turn; /* the last turn in which nothing waited for its model */
    uint64_t heard_ms, told_ms;
    uint64_t ask_ms; /* 0, or when to ask for hello, so that it offers its results again */
    struct live *held;
    uint32_t n_held;
    struct rank_figures *ranks_told; /* [n_ranks_told] of its last beat */
    size_t n_ranks_told;
};

/* A group that was lost, for whoever comes under its name. */
struct lost_group {
    char name[BROKER_MAX_NAME + 1]; /* "": none */
    uint64_t instance;
};

/* What a commit will make true, whom to tell and what to count then. */
enum promise_kind { PROMISE_ACCEPTED, PROMISE_ENDED, PROMISE_TAKEN };
enum promise_to { TO_NOBODY, TO_CLIENT, TO_GROUP };
struct promise {
    enum promise_kind kind;
    enum promise_to to; /* who asked for it */
    struct caloris_peer peer;
    uint64_t request; /* of the client */
    uint64_t job;
    struct lane *lane;    /* of the job; NULL: TAKEN */
    uint64_t body_bytes;  /* of the job; 0: TAKEN */
    bool again;           /* ACCEPTED: it was there */
    bool watch, canvas;   /* ACCEPTED: the client watches it (its canvas) from the start */
    uint64_t deadline_ms; /* ACCEPTED */
    enum caloris_store_state state; /* ENDED: how */
    uint64_t submitted_ms;          /* ENDED, since 1970 */
    json_t *figures;                /* ENDED: what the result says of itself; or NULL */
    struct lease_id lease;          /* the group's */
};

struct caloris_broker {
    struct caloris_store *store;
    struct caloris_broker_options options;
    void *context, *clients_socket, *groups_socket;
    bool clients_keyed, groups_keyed; /* who speaks there has shown a key */
    char clients_bound[CALORIS_ENDPOINT_MAX], groups_bound[CALORIS_ENDPOINT_MAX];
    void *handler;                  /* where ZeroMQ asks about keys; NULL: there are none */
    struct authorized authorized;   /* who may come with a key */
    struct caloris_identity local;  /* who comes without one */
    uint64_t refusals_ms, refusals; /* keys refused in the second that began then */
    struct table clients, live, users, lane_table;
    struct lane *lanes[LANES_PRIORITIES]; /* by falling priority */
    uint64_t swept_ms;                    /* when those that nobody uses were last looked for */
    size_t n_watches, n_owed;
    struct group *groups;
    size_t n_groups;
    struct lost_group lost[BROKER_MAX_LOST];
    size_t next_lost;                   /* the place of the next one */
    struct caloris_store_counts counts; /* on disk; queued: the leased ones too */
    uint64_t n_leased, n_waiting;
    uint64_t next_deadline_ms;    /* since 1970; no queued job expires earlier */
    uint64_t room_ms, room_bytes; /* that submissions may take, as of the turn of then */
    uint64_t forget_ms;           /* when to look for results that were kept long enough */
    uint64_t turn;
    uint64_t lease_counter;
    uint64_t now_ms; /* of the turn; a clock that never jumps */
    uint64_t probed_ms, warned_ms;
    bool some_gone;                    /* of the clients */
    size_t hand_over_bytes, n_unsaved; /* in memory; jobs that have newer progress than on disk */
    uint64_t saved_ms;
    struct promise *promises;
    size_t n_promises, max_promises;
    struct figures figures;
};

/* ---- who gets in (admit.c) ---- */

#define ADMIT_CLIENTS "clients" /* names of the two sockets, for the handler of keys */
#define ADMIT_GROUPS  "groups"

int admit_open(struct caloris_broker *b, struct caloris_err *err);
void admit_close(struct caloris_broker *b);
/* Answers what ZeroMQ asks about keys. */
void admit_take(struct caloris_broker *b);
/* Reads the authorized keys again; a set that is wrong leaves them as they were. */
void admit_reload(struct caloris_broker *b);
/* What a user may have: as his key says, and as the gateway says where it does not. */
struct caloris_user_limits admit_limits(const struct caloris_broker *b, const char *user);
/* Who this peer of a socket is; NULL and REFUSED: a key that is authorized no more. */
const struct caloris_identity *admit_find(const struct caloris_broker *b,
                                          const struct caloris_peer *peer, bool keyed,
                                          struct caloris_err *err);
/* REFUSED unless they have one of these rights (0: whoever got in may). */
int admit_check(const struct caloris_identity *who, unsigned rights, const char *what,
                struct caloris_err *err);

/* ---- answers (answer.c): sending never blocks; what cannot be sent is dropped ---- */

typedef Caloris__Wire__GatewayToClient to_client;
typedef Caloris__Wire__GatewayToGroup to_group;

int answer_client(struct caloris_broker *b, const struct caloris_peer *peer, to_client *message);
/* A pong that answers nothing, which clients ignore: whether there is room for a message. */
int answer_probe(struct caloris_broker *b, const struct caloris_peer *peer);
void answer_failure(struct caloris_broker *b, const struct caloris_peer *peer, uint64_t request,
                    const struct caloris_err *why);
int answer_group(struct caloris_broker *b, struct group *group, to_group *message);

/* "taken" or "cancel": either way the group may forget the job. */
typedef Caloris__Wire__GatewayToGroup__BodyCase group_word;
void answer_lease(struct caloris_broker *b, struct group *group, group_word word, uint64_t job,
                  struct lease_id lease);

/* A JobStatus and what it points to. */
struct status_message {
    Caloris__Wire__JobStatus status;
    Caloris__Wire__Failure failure;
    struct caloris_store_job job;
};
/* From message->job and what is live of it. */
void answer_status(struct status_message *message, const struct live *live);

/* A warning that may come with every message: one a second. */
void broker_warn(struct caloris_broker *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- live jobs and their watchers (watch.c) ---- */

struct live *live_find(const struct caloris_broker *b, uint64_t job);
struct live *live_need(struct caloris_broker *b, uint64_t job, struct caloris_err *err);
void live_drop_unused(struct caloris_broker *b, struct live *live);

/* What the client saw last of the job: nothing is to come twice, or to be missing between. */
struct watch_seen {
    struct lease_id lease;
    uint64_t seq; /* 0: nothing */
};
/* AGAIN: no room for one more watch of this user, beside those that may come of promises. */
int watch_room(const struct caloris_broker *b, const struct user *user, size_t arriving,
               struct caloris_err *err);
int watch_add(struct caloris_broker *b, struct client *client, uint64_t job, bool canvas,
              const struct watch_seen *seen, struct caloris_err *err);
void watch_remove(struct caloris_broker *b, struct client *client, uint64_t job);
void watch_remove_all(struct caloris_broker *b, struct client *client);

/* Tells every watcher the job's state as the store has it; when it is final, they watch no more.
 * Steps may be lost on a slow watcher, states not: those are owed until they can be sent. */
void watch_tell_state(struct caloris_broker *b, struct live *live);
void watch_settle(struct caloris_broker *b);
void watch_tell_progress(struct caloris_broker *b, struct live *live,
                         Caloris__Wire__Progress *progress);
/* Whether the group shall send every step now; tells it when that changed or a full canvas is
 * due. */
void watch_follow(struct caloris_broker *b, struct live *live);
bool watch_wants_canvas(const struct live *live);

/* ---- where jobs stand (hand_over.c) ---- */

/* The newest word of the group that computes it. */
void hand_over_take(struct caloris_broker *b, struct live *live,
                    const Caloris__Wire__LeaseHandOver *message);
/* For a lease that is about to be sent: what is known, from the store if need be. */
const struct hand_over *hand_over_for_lease(struct caloris_broker *b, struct live *live);
void hand_over_drop(struct caloris_broker *b, struct live *live);
/* Newer ones go to disk, at most once a second, in a commit of their own: when it fails, nothing
 * else does. */
void hand_over_save(struct caloris_broker *b);

/* ---- promises (promise.c) ---- */

/* Room for one promise, to be had before the write that it is about. */
int promise_room(struct caloris_broker *b, struct caloris_err *err);
void promise_add(struct caloris_broker *b, const struct promise *promise);
/* Commits and keeps them, or undoes everything and says so (-1). Call before telling anybody what
 * the store holds. */
int promise_keep(struct caloris_broker *b);

/* ---- ends without a result (end.c) ---- */

/* The queued job ends for this reason, which becomes its result; promise->kind and what it needs
 * are filled in. 1: it had ended. */
int end_job(struct caloris_broker *b, const struct caloris_store_job *job,
            enum caloris_store_state state, const struct caloris_err *why, struct promise *promise,
            struct caloris_err *err);
/* Ends jobs whose deadline has passed; removes results that were kept long enough. */
void end_expired(struct caloris_broker *b);
void end_keeping(struct caloris_broker *b);
/* In how many ms the next deadline passes, at most max_ms. */
uint64_t end_next_ms(const struct caloris_broker *b, uint64_t max_ms);

/* ---- the two sides ---- */

void clients_take(struct caloris_broker *b, const struct caloris_peer *peer,
                  const Caloris__Wire__ClientToGateway *message);
/* The one behind peer; NULL: it has not said hello. */
struct client *clients_find(const struct caloris_broker *b, const struct caloris_peer *peer);
/* Whether its user reads what is sent: what is not read stays in memory. */
bool clients_have_room(const struct client *client);
/* The client behind peer watches the job, if it is still there. */
void clients_watch(struct caloris_broker *b, const struct caloris_peer *peer, uint64_t job,
                   bool canvas);
/* Its connection is gone. Whoever holds it may go on with it in this turn. */
void clients_gone(struct caloris_broker *b, const struct caloris_peer *peer);
/* Forgets clients whose connections are gone. */
void clients_probe(struct caloris_broker *b);
void clients_forget_all(struct caloris_broker *b);
/* So many ms of their silence were ours. */
void clients_forgive(struct caloris_broker *b, uint64_t ms);
/* Forgets one whose key is not what it was, and says so. */
void clients_expel(struct caloris_broker *b, struct client *client);

void groups_take(struct caloris_broker *b, const struct caloris_peer *peer,
                 const Caloris__Wire__GroupToGateway *message);
/* Beats that are due, groups that fell silent. */
void groups_watch_over(struct caloris_broker *b);
/* So many ms of their silence were ours. */
void groups_forgive(struct caloris_broker *b, uint64_t ms);
void groups_forget_all(struct caloris_broker *b);
/* What it holds goes back to the queue, and counts no crash. */
void groups_expel(struct caloris_broker *b, struct group *group);
/* Tells a group to leave. NOT_FOUND. */
int groups_drain(struct caloris_broker *b, const char *name, bool hand_back,
                 struct caloris_err *err);
Caloris__Wire__GroupState groups_state(const struct caloris_broker *b, const struct group *group);
struct group *groups_find(const struct caloris_broker *b, const struct caloris_peer *peer);

/* Hands queued jobs to groups that have room. */
void lease_out(struct caloris_broker *b);
/* Gives the job, which waits in the lane, to the group under a new lease, without telling it. */
int lease_assign(struct caloris_broker *b, struct group *group, struct lane *lane, uint64_t job,
                 struct live **live, struct caloris_err *err);
/* Why nobody computes a queued job yet, into text [CALORIS_ERR_TEXT]; "": it is not its turn. */
void lease_say_why_not(struct caloris_broker *b, const struct caloris_store_job *job, char *text);

#endif
