/* coordinator/gateway/broker/broker.h: jobs between clients and groups, on one thread.
 *
 * Two ROUTER sockets, the store behind them. Every turn takes what has arrived, commits once, and
 * only then says what the commit made true: accepted, taken, cancelled. Leases, watches and who is
 * there live in memory and die with the process; proto/PROTOCOL.md says what everybody does then.
 */
#ifndef CALORIS_BROKER_H
#define CALORIS_BROKER_H

#include <stdint.h>

struct caloris_broker;
struct caloris_err;
struct caloris_keys;
struct caloris_store;

/* What a user may have at a time; 0: as many as there are. */
struct caloris_user_limits {
    uint64_t max_queued;  /* jobs on disk that have not finished; one more is refused */
    uint64_t max_bytes;   /* of their bodies, as stored; a job that goes beyond it is refused */
    uint64_t max_running; /* jobs leased; the others wait */
    double share;         /* of what can run, in proportion to others' shares; above 0 */
};

struct caloris_broker_options {
    const char *clients, *groups;      /* endpoints to bind (proto/endpoint.h) */
    const struct caloris_keys *server; /* of this gateway, for tcp://; NULL: none */
    const char *authorized;            /* directory with a file per key that may come; or NULL */
    const char *token;                 /* public key that may come and do everything; or NULL */
    const char *user;                  /* who comes without a key: whoever runs this */
    const char *state;                 /* the directory of the queue */
    uint64_t keep_free_bytes;          /* that submissions leave free there; 0: none */
    struct caloris_user_limits limits; /* of users who have none of their own */
    uint32_t attempts; /* crashes while alone after which a job is a dead letter; at least 1 */
    uint64_t keep_ms;  /* how long finished jobs stay; 0: for ever */
    uint64_t beat_ms;  /* how often either side of a group's connection gives a sign */
    uint64_t lost_ms;  /* the silence after which a group's jobs go to others */
};

/* Binds both sockets; from now on messages arrive. BAD_CONFIG for endpoints that are refused or
 * that some other process answers at. The store stays the caller's. Free with
 * caloris_broker_close. */
struct caloris_broker *caloris_broker_open(struct caloris_store *store,
                                           const struct caloris_broker_options *options,
                                           struct caloris_err *err);

/* Where clients and groups are listened to: as it was said, ports that were * filled in. */
const char *caloris_broker_clients(const struct caloris_broker *broker);
const char *caloris_broker_groups(const struct caloris_broker *broker);

/* Serves until a signal comes from signals (a signalfd); SIGHUP makes it read the authorized keys
 * again. What can fail meanwhile fails alone, is answered and logged; -1 and err only when nothing
 * works any more. */
int caloris_broker_run(struct caloris_broker *broker, int signals, struct caloris_err *err);

void caloris_broker_close(struct caloris_broker *broker); /* NULL is fine */

#endif
