/* tests/e2e/gateway_support.h: a real caloris-gateway in a directory of its own, and the two
 * kinds of ends that speak to it. What does not come within PATIENCE_MS fails the test. */
#ifndef CALORIS_TESTS_GATEWAY_SUPPORT_H
#define CALORIS_TESTS_GATEWAY_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/caloris.pb-c.h"

enum { PATIENCE_MS = 20000, SILENCE_MS = 150, DEFAULT_BEAT_MS = 50 };
enum { ASKED_EVERY_MS = 250 }; /* a group is asked for its canvas no more often */

typedef Caloris__Wire__GatewayToClient from_gateway;
typedef Caloris__Wire__GatewayToGroup to_group;
typedef Caloris__Wire__ClientToGateway request;
typedef Caloris__Wire__GroupToGateway word;

/* Short names of what protoc-c makes of GatewayToClient.accepted and its kin. */
#define ANSWER(kind)  CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_##kind
#define REQUEST(kind) CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_##kind
#define ORDER(kind)   CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_##kind
#define WORD(kind)    CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_##kind
#define STATE(kind)   CALORIS__WIRE__JOB_STATE__##kind

/* ---- the program ---- */

struct gateway {
    char dir[64]; /* HOME is here, too */
    char clients[128], groups[128];
    bool keyed;       /* they are tcp:// */
    unsigned beat_ms; /* 0: DEFAULT_BEAT_MS */
    pid_t pid;
};

/* A directory, and a gateway in it that gives silent groups up after this time. */
void gateway_start(struct gateway *gateway, const char *lost);
/* The same at TCP, with a key for each of these users (the last NULL), who may submit, read what is
 * theirs, and serve. */
void gateway_start_keyed(struct gateway *gateway, const char *lost, const char *const *users);
/* In the same directory, after gateway_end. */
void gateway_start_again(struct gateway *gateway, const char *lost);
/* Sends the signal, waits; the wait status. */
int gateway_end(struct gateway *gateway, int signal);
void gateway_remove(struct gateway *gateway);
/* "VmHWM:": its peak, in MiB; "VmRSS:": what it has now. */
unsigned gateway_memory_mib(const struct gateway *gateway, const char *what);

/* Runs the program with these arguments (the last NULL) until it ends: exit code, and what it
 * wrote to stderr. */
int gateway_run(const char *const *arguments, char *text, size_t size);

/* ---- sockets ---- */

void *dial(const char *endpoint);
/* As this user, from now on, at the gateway whose directory is HOME. */
void use_key(const char *user);
void hang_up(void *socket);
void ends_finish(void); /* the last one */

void send_message(void *socket, const void *message);
void send_bytes(void *socket, const void *bytes, size_t n, int flags);

struct lease {
    uint64_t job, epoch, counter;
};

/* ---- clients ---- */

void *client_dial(const struct gateway *gateway);
/* One that takes in no more than a few messages it has not read. */
void *client_dial_narrow(const struct gateway *gateway);
/* The answer to message; events before it are dropped. */
from_gateway *client_call(void *socket, request *message, int expected);
from_gateway *client_event(void *socket);
/* The next message, whatever it is. */
from_gateway *client_answer(void *socket);
/* NULL when nothing came for a second. */
from_gateway *client_event_or_none(void *socket);
/* Nothing comes for SILENCE_MS. */
void expect_silence(void *socket);
/* The request fails with this code, and a text that holds these words. */
void client_expect_failure(void *socket, request *message, const char *code, const char *words);
void answer_free(from_gateway *answer);

/* key and json: text. *again may be NULL. */
uint64_t client_submit(void *socket, const char *key, const char *json, bool *again);
from_gateway *client_show(void *socket, uint64_t job);
/* Waits until the job is in this state. */
void client_await(void *socket, uint64_t job, int state);
char *client_results(void *socket, uint64_t job); /* free() */
void client_cancel(void *socket, uint64_t job);
/* The answer's state. */
int client_watch(void *socket, uint64_t job, bool canvas);
/* The same by one who has seen this of it. */
int client_watch_after(void *socket, uint64_t job, bool canvas, const struct lease *seen,
                       uint64_t seq);

/* ---- groups ---- */

/* What a group says of itself; instance 0: it does not say. */
struct group_face {
    const char *name, *model;
    uint64_t instance;
    uint32_t capacity;
};
void *group_dial_as(const struct gateway *gateway, const struct group_face *face);
/* The same with model tinycoder. */
void *group_dial(const struct gateway *gateway, const char *name, uint32_t capacity);
to_group *group_hello(void *socket, const char *name, uint32_t capacity, const struct lease *held,
                      size_t n_held);
/* The next order that is no beat: whichever; this one. */
to_group *group_order(void *socket);
to_group *group_next(void *socket, int expected);
/* Whatever the answer to this hello is. */
to_group *group_try_hello(void *socket, const char *name, uint32_t capacity,
                          const struct lease *held, size_t n_held);
to_group *group_try_hello_as(void *socket, const struct group_face *face, const struct lease *held,
                             size_t n_held);
/* NULL when nothing but beats came for SILENCE_MS. */
to_group *group_order_or_none(void *socket);
/* No order but beats for SILENCE_MS. */
void group_expect_nothing(void *socket);
/* Waits for this order, whatever orders to follow come before it. */
void group_take_past_follows(void *socket, int expected);
struct lease group_take_lease(void *socket);
void group_result(void *socket, const struct lease *lease, const char *json);
void group_beat(void *socket, uint32_t free);
void group_give_back(void *socket, const struct lease *lease);
void group_leave(void *socket);
/* full: three masked cells; else one revealed one. */
void group_progress(void *socket, const struct lease *lease, uint64_t seq, bool full);
void order_free(to_group *order);

#endif
