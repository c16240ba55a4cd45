/* client/connection.h: one socket to a gateway: dial, exchange, events that came in between. */
#ifndef CALORIS_CLIENT_CONNECTION_H
#define CALORIS_CLIENT_CONNECTION_H

#include "base/time.h"
#include "client/client.h"

struct watch {
    uint64_t job;
    bool canvas;
    uint64_t seq;            /* of the last progress that came; 0: none */
    uint64_t epoch, counter; /* the lease that it came with */
};

struct event {
    struct event *next;
    caloris_answer *message;
};

struct caloris_client {
    struct caloris_client_options options;
    struct caloris_address address;
    const char *endpoint; /* its */
    char agent[64];       /* the gateway's */
    void *context;        /* ZeroMQ */
    void *socket;         /* DEALER; NULL: not connected */
    void *monitor;        /* tells what becomes of the socket's connection (proto/curve.h) */
    unsigned strangers;  /* handshakes in a row that failed: who listens there is not our gateway */
    unsigned dials;      /* names the monitors */
    uint64_t request;    /* the last number used */
    uint64_t heard_ns;   /* when something last came */
    uint64_t boot_epoch; /* of the gateway; 0: never welcomed */
    struct watch *watches;
    size_t n_watches;
    struct event *first, *last;
};

/* So long from now, on the clock of caloris_time_ns. */
static inline uint64_t caloris_connection_deadline(uint64_t ms)
{
    return caloris_time_ns() + ms * 1000000;
}

/* A new socket that has been welcomed by deadline_ns, else UNREACHABLE, REFUSED or CANCELLED. */
int caloris_connection_dial(struct caloris_client *client, uint64_t deadline_ns,
                            struct caloris_err *err);
void caloris_connection_hang_up(struct caloris_client *client);

/* Sends message and waits for its answer; events that come before it are queued. PEER_LOST: the
 * connection broke; UNREACHABLE: no answer by deadline_ns; a Failure of the gateway is an error
 * with its code and text. */
caloris_answer *caloris_connection_exchange(struct caloris_client *client,
                                            Caloris__Wire__ClientToGateway *message,
                                            uint64_t deadline_ns, struct caloris_err *err);

/* Waits until something came, at most until deadline_ns. 1: *message is there; 0: nothing; -1:
 * PEER_LOST, CANCELLED … */
int caloris_connection_receive(struct caloris_client *client, uint64_t deadline_ns,
                               caloris_answer **message, struct caloris_err *err);

/* Sends a ping whose answer nobody waits for. */
int caloris_connection_ping(struct caloris_client *client, struct caloris_err *err);

/* Puts an event at the end of the queue; takes it over. */
int caloris_connection_queue(struct caloris_client *client, caloris_answer *message,
                             struct caloris_err *err);

#endif
