#include "proto/curve.h"

#include "base/err.h"
#include "proto/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>
#include <zmq.h>

enum {
    HANDSHAKE_MS = 5000, /* a connection that shows no key is closed */
    REQUEST_FRAMES = 7,  /* version, request, domain, address, routing id, mechanism, key */
    LONGEST = 256,       /* bytes of a frame that anything is made of */
};

static int set(void *socket, int option, const void *value, size_t n, const char *what,
               struct caloris_err *err)
{
    if (zmq_setsockopt(socket, option, value, n) == 0)
        return 0;
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %s", what, zmq_strerror(zmq_errno()));
}

/* ZeroMQ speaks IPv4 alone unless it is told. */
static int prepare_ipv6(void *socket, const char *endpoint, struct caloris_err *err)
{
    const int yes = 1;
    return strchr(endpoint, '[') ? set(socket, ZMQ_IPV6, &yes, sizeof(yes), "IPv6", err) : 0;
}

static int prepare_server(void *socket, const struct caloris_keys *server, const char *domain,
                          struct caloris_err *err)
{
    const int yes = 1, handshake = HANDSHAKE_MS;
    if (set(socket, ZMQ_CURVE_SERVER, &yes, sizeof(yes), "CURVE", err) < 0 ||
        set(socket, ZMQ_CURVE_SECRETKEY, server->secret_key, CALORIS_KEY_TEXT + 1, "secret key",
            err) < 0 ||
        set(socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain), "ZAP domain", err) < 0 ||
        set(socket, ZMQ_HANDSHAKE_IVL, &handshake, sizeof(handshake), "handshake time", err) < 0)
        return -1;
    return 0;
}

int caloris_curve_bind(void *socket, const char *endpoint, const struct caloris_keys *server,
                       const char *domain, char bound[CALORIS_ENDPOINT_MAX],
                       struct caloris_err *err)
{
    size_t size = CALORIS_ENDPOINT_MAX;
    if (caloris_endpoint_needs_keys(endpoint)) {
        if (!server)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: a TCP address needs keys",
                                   endpoint);
        if (prepare_server(socket, server, domain, err) < 0 ||
            prepare_ipv6(socket, endpoint, err) < 0)
            return -1;
    }
    if (zmq_bind(socket, endpoint) == 0 &&
        zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &size) == 0)
        return 0;
    const int why = zmq_errno();
    const bool no_sockets =
        (why == EPERM || why == EOPNOTSUPP) && strncmp(endpoint, "ipc:", 4) == 0;
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %s%s", endpoint, zmq_strerror(why),
                           no_sockets ? ": a file system without sockets? Name a local place" : "");
}

int caloris_curve_dial(void *socket, const struct caloris_address *address, struct caloris_err *err)
{
    bool keys = caloris_endpoint_needs_keys(address->endpoint);
    if (keys && (set(socket, ZMQ_CURVE_SERVERKEY, address->server_key, CALORIS_KEY_TEXT + 1,
                     "the gateway's key", err) < 0 ||
                 set(socket, ZMQ_CURVE_PUBLICKEY, address->keys.public_key, CALORIS_KEY_TEXT + 1,
                     "public key", err) < 0 ||
                 set(socket, ZMQ_CURVE_SECRETKEY, address->keys.secret_key, CALORIS_KEY_TEXT + 1,
                     "secret key", err) < 0))
        return -1;
    if (keys && prepare_ipv6(socket, address->endpoint, err) < 0)
        return -1;
    if (zmq_connect(socket, address->endpoint) != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %s", address->endpoint,
                               zmq_strerror(zmq_errno()));
    return 0;
}

/* ---- what becomes of a connection ------------------------------------------------------------ */

void *caloris_curve_watch(void *context, void *socket, const char *name, struct caloris_err *err)
{
    const int linger = 0;
    char endpoint[80];
    void *watch = zmq_socket(context, ZMQ_PAIR);
    snprintf(endpoint, sizeof(endpoint), "inproc://%s", name);
    if (watch && zmq_setsockopt(watch, ZMQ_LINGER, &linger, sizeof(linger)) == 0 &&
        zmq_socket_monitor(socket, endpoint,
                           ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                               ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) == 0 &&
        zmq_connect(watch, endpoint) == 0)
        return watch;
    caloris_err_set(err, CALORIS_INTERNAL, "watching a connection: %s", zmq_strerror(zmq_errno()));
    if (watch)
        zmq_close(watch);
    return NULL;
}

enum caloris_connection_event caloris_curve_next_event(void *watch)
{
    uint8_t first[8], address[LONGEST];
    uint16_t event;
    if (zmq_recv(watch, first, sizeof(first), ZMQ_DONTWAIT) < (int)sizeof(event))
        return CALORIS_CONNECTION_NOTHING;
    zmq_recv(watch, address, sizeof(address), ZMQ_DONTWAIT);
    memcpy(&event, first, sizeof(event));
    switch (event) {
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return CALORIS_CONNECTION_REFUSED;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return CALORIS_CONNECTION_STRANGER;
    default:
        return CALORIS_CONNECTION_BROKE;
    }
}

/* ---- who gets in ----------------------------------------------------------------------------- */

void *caloris_curve_handler(void *context, struct caloris_err *err)
{
    const int linger = 0;
    void *handler = zmq_socket(context, ZMQ_REP);
    if (handler && zmq_setsockopt(handler, ZMQ_LINGER, &linger, sizeof(linger)) == 0 &&
        zmq_bind(handler, "inproc://zeromq.zap.01") == 0)
        return handler;
    caloris_err_set(err, CALORIS_INTERNAL, "the handler of keys: %s", zmq_strerror(zmq_errno()));
    if (handler)
        zmq_close(handler);
    return NULL;
}

struct frame {
    char bytes[LONGEST + 1];
    size_t n;
};

/* Frames of one message into frames [REQUEST_FRAMES]: how many there were; -1: none waits. */
static int receive_all(void *handler, struct frame *frames)
{
    int count = 0, more = 1;
    size_t size = sizeof(more);
    struct frame rest;
    for (; more; count++) {
        struct frame *frame = count < REQUEST_FRAMES ? &frames[count] : &rest;
        int n;
        do
            n = zmq_recv(handler, frame->bytes, LONGEST, ZMQ_DONTWAIT);
        while (n < 0 && zmq_errno() == EINTR);
        if (n < 0)
            return -1;
        frame->n = n < LONGEST ? (size_t)n : LONGEST;
        frame->bytes[frame->n] = '\0';
        if (zmq_getsockopt(handler, ZMQ_RCVMORE, &more, &size) < 0)
            return -1;
    }
    return count;
}

static void send_answer(void *handler, const char *status, const char *text, const char *user)
{
    /* ZeroMQ asks one question per connection, always as number 1. */
    const char *const frames[] = {"1.0", "1", status, text, user, ""};
    const size_t count = sizeof(frames) / sizeof(frames[0]);
    for (size_t i = 0; i < count; i++)
        zmq_send(handler, frames[i], strlen(frames[i]),
                 ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0));
}

int caloris_curve_asked(void *handler, struct caloris_entry *entry)
{
    struct frame frames[REQUEST_FRAMES];
    for (;;) {
        int n = receive_all(handler, frames);
        if (n < 0)
            return 0;
        if (n == REQUEST_FRAMES && strcmp(frames[0].bytes, "1.0") == 0 &&
            strcmp(frames[5].bytes, "CURVE") == 0 && frames[6].n == CALORIS_KEY_BYTES) {
            snprintf(entry->domain, sizeof(entry->domain), "%.15s", frames[2].bytes);
            snprintf(entry->address, sizeof(entry->address), "%.63s", frames[3].bytes);
            caloris_keys_text((const uint8_t *)frames[6].bytes, entry->key);
            return 1;
        }
        send_answer(handler, "400", "not CURVE", "");
    }
}

void caloris_curve_answer(void *handler, const struct caloris_entry *entry, bool welcome)
{
    if (welcome)
        send_answer(handler, "200", "welcome", entry->key);
    else
        send_answer(handler, "400", "key refused", "");
}
