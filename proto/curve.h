/* proto/curve.h: keys on ZeroMQ sockets (CurveZMQ), and who asks to be let in (ZAP, RFC 27).
 *
 * The side that binds has a pair of keys; whoever dials knows the public one and has a pair of its
 * own. ZeroMQ proves that a peer has the secret of the key it shows; the handler of this page says
 * whether that key gets in. From then on caloris_wire_receive names the key with every message.
 */
#ifndef CALORIS_CURVE_H
#define CALORIS_CURVE_H

#include <stdbool.h>

#include "proto/endpoint.h"
#include "proto/keys.h"

struct caloris_err;

/* Binds. At tcp:// with keys: domain is the word by which the handler knows this socket, and a peer
 * that has not shown a key within some seconds is thrown out. *bound says where: a port * has
 * become a number. */
int caloris_curve_bind(void *socket, const char *endpoint, const struct caloris_keys *server,
                       const char *domain, char bound[CALORIS_ENDPOINT_MAX],
                       struct caloris_err *err);

/* How to dial: where, whom to expect there, and as whom. Keys count for tcp:// alone. */
struct caloris_address;
int caloris_curve_dial(void *socket, const struct caloris_address *address,
                       struct caloris_err *err);

/* ---- what becomes of a connection that was dialled ------------------------------------------- */

enum caloris_connection_event {
    CALORIS_CONNECTION_NOTHING,
    CALORIS_CONNECTION_BROKE,   /* it ended; ZeroMQ dials again */
    CALORIS_CONNECTION_REFUSED, /* our key was refused; ZeroMQ does not dial again */
    CALORIS_CONNECTION_STRANGER /* who listens there has another key, or speaks something else */
};

/* A socket that tells of another one's connections. Before that one dials; name differs between
 * the sockets of a context. NULL and err. To be closed with zmq_close. */
void *caloris_curve_watch(void *context, void *socket, const char *name, struct caloris_err *err);

/* What happened next; never blocks. */
enum caloris_connection_event caloris_curve_next_event(void *watch);

/* ---- who gets in (one handler in a context, before any socket of it binds) ------------------- */

struct caloris_entry {
    char domain[16], address[64]; /* of the socket; of the peer: "10.0.0.7" */
    char key[CALORIS_KEY_TEXT + 1];
};

void *caloris_curve_handler(void *context, struct caloris_err *err); /* zmq_close */

/* 1 and who asks, to be answered before the next is taken; 0: nobody. What is no such question is
 * refused here. */
int caloris_curve_asked(void *handler, struct caloris_entry *entry);
void caloris_curve_answer(void *handler, const struct caloris_entry *entry, bool welcome);

#endif
