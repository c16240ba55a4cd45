/* client/client.h: a gateway's jobs, from a program: submit, ask, watch, fetch.
 *
 * One client speaks to one gateway over one connection and belongs to one thread. Every request may
 * be repeated without harm (a submission carries a key made of random bytes), so when the gateway
 * goes away the client dials again, says what it watches again, and repeats the request. Answers
 * are the messages of proto/caloris.proto; each call says which one.
 */
#ifndef CALORIS_CLIENT_H
#define CALORIS_CLIENT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/caloris.pb-c.h"
#include "proto/cluster.h"

struct caloris_client;

enum {
    CALORIS_CLIENT_MAX_WATCHES = 4096, /* jobs watched at a time */
};

struct caloris_client_options {
    const struct caloris_address *address; /* copied */
    uint64_t timeout_ms;                   /* for an answer, and for the first connection */
    uint64_t
        patience_ms; /* while waiting for events: how long a gateway that went away is dialled */
    const volatile sig_atomic_t
        *stop; /* may be NULL; becomes not 0: the call returns with CANCELLED */
    void (*notice)(void *arg, const char *text); /* lost, found again; may be NULL */
    void *notice_arg;
};

/* Dials and says hello. NULL and err: UNREACHABLE names the endpoint, REFUSED the versions or the
 * key. */
struct caloris_client *caloris_client_open(const struct caloris_client_options *options,
                                           struct caloris_err *err);
void caloris_client_close(struct caloris_client *client);

/* Which gateway this is: its own words ("caloris-gateway 0.1.0"). Valid until the next call. */
const char *caloris_client_agent(const struct caloris_client *client);

typedef Caloris__Wire__GatewayToClient caloris_answer;
void caloris_answer_free(caloris_answer *answer); /* NULL is fine */

/* The number of the job in json [n] (one object of JOBS.md), once it is on the gateway's disk. */
int caloris_client_submit(struct caloris_client *client, const char *json, size_t n, uint64_t *job,
                          struct caloris_err *err);
/* The same, and watched with its canvas from before its first step; its state comes first. */
int caloris_client_submit_watched(struct caloris_client *client, const char *json, size_t n,
                                  uint64_t *job, struct caloris_err *err);

/* One of many submissions. */
struct caloris_submission {
    const uint8_t *key; /* [key_bytes]: the same key finds the same job again */
    size_t key_bytes;
    const char *json; /* [bytes] */
    size_t bytes;
    /* filled in */
    bool answered, accepted;
    uint64_t job;            /* accepted */
    struct caloris_err why;  /* else */
    uint64_t retry_after_ms; /* of AGAIN */
    uint64_t request;        /* the client's own */
};
/* Submits all [n], many at a time, so that they share the gateway's writes; each is watched (its
 * state) from before its first step. 0 when all are answered, the gateway being dialled for
 * patience_ms; -1 and err: those answered stand all the same. */
int caloris_client_submit_all(struct caloris_client *client, struct caloris_submission *all,
                              size_t n, struct caloris_err *err);

/* Each NULL and err (NOT_FOUND: no such job), else an answer to free. */
caloris_answer *caloris_client_show(struct caloris_client *client, uint64_t job,
                                    struct caloris_err *err); /* ->status */
caloris_answer *caloris_client_results(struct caloris_client *client, uint64_t job,
                                       struct caloris_err *err); /* ->result; AGAIN: not finished */
/* The newest of those before `before` (0: of all), in as many requests as it takes. */
caloris_answer *caloris_client_list(struct caloris_client *client, bool finished, uint32_t limit,
                                    uint64_t before, struct caloris_err *err); /* ->list */
/* No jobs, but how many each user has that have not ended. */
caloris_answer *caloris_client_count(struct caloris_client *client,
                                     struct caloris_err *err); /* ->list */
caloris_answer *caloris_client_cluster(struct caloris_client *client,
                                       struct caloris_err *err); /* ->cluster */
caloris_answer *caloris_client_metrics(struct caloris_client *client,
                                       struct caloris_err *err); /* ->metrics */
/* The group leases no more, finishes what it holds (hand_back: or hands it back) and leaves.
 * NOT_FOUND: no such group. */
int caloris_client_drain(struct caloris_client *client, const char *group, bool hand_back,
                         struct caloris_err *err);
int caloris_client_cancel(struct caloris_client *client, uint64_t job, struct caloris_err *err);

bool caloris_state_is_final(Caloris__Wire__JobState state);
/* The gateway does not know the event's job any more. */
bool caloris_event_is_loss(const Caloris__Wire__Event *event);

/* From now on caloris_client_next tells what happens to the job; its present state comes first.
 * canvas: every step's cells. */
int caloris_client_watch(struct caloris_client *client, uint64_t job, bool canvas,
                         struct caloris_err *err);
int caloris_client_unwatch(struct caloris_client *client, uint64_t job, struct caloris_err *err);

/* 1 and *event (->event; free it), 0 when nothing came in wait_ms, -1 and err. A gateway that
 * goes away meanwhile is dialled for patience_ms, then it is UNREACHABLE; afterwards every
 * watched job tells its state anew. A job whose final state was told is watched no more; nor is one
 * that the gateway then does not know any more (its queue is another): its last event is a
 * loss. */
int caloris_client_next(struct caloris_client *client, uint64_t wait_ms, caloris_answer **event,
                        struct caloris_err *err);

#endif
