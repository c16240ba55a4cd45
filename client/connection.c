#include "client/connection.h"

#include "base/err.h"
#include "base/time.h"
#include "proto/curve.h"
#include "proto/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static int err_zmq(struct caloris_err *err, const char *endpoint, const char *what)
{
    return caloris_err_set(err, CALORIS_UNREACHABLE, "%s: %s: %s", endpoint, what,
                           zmq_strerror(zmq_errno()));
}

void caloris_connection_hang_up(struct caloris_client *client)
{
    if (client->socket) {
        zmq_socket_monitor(client->socket, NULL, 0);
        zmq_close(client->socket);
    }
    if (client->monitor)
        zmq_close(client->monitor);
    client->socket = client->monitor = NULL;
}

static int open_socket(struct caloris_client *client, struct caloris_err *err)
{
    const int linger_ms = 0, retry_ms = 50, retry_max_ms = 1000, queue = 10000;
    const int64_t largest = CALORIS_WIRE_MAX_FRAME;
    char name[64];
    snprintf(name, sizeof(name), "monitor-%u", client->dials++);

    client->strangers = 0;
    client->socket = zmq_socket(client->context, ZMQ_DEALER);
    if (!client->socket)
        return err_zmq(err, client->endpoint, "socket");
    zmq_setsockopt(client->socket, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
    zmq_setsockopt(client->socket, ZMQ_RECONNECT_IVL, &retry_ms, sizeof(retry_ms));
    zmq_setsockopt(client->socket, ZMQ_RECONNECT_IVL_MAX, &retry_max_ms, sizeof(retry_max_ms));
    zmq_setsockopt(client->socket, ZMQ_RCVHWM, &queue, sizeof(queue));
    zmq_setsockopt(client->socket, ZMQ_MAXMSGSIZE, &largest, sizeof(largest));
    client->monitor = caloris_curve_watch(client->context, client->socket, name, err);
    if (!client->monitor)
        return -1;
    return caloris_curve_dial(client->socket, &client->address, err);
}

/* What the monitor says: a connection that broke would be followed by one to a gateway that does
 * not know us. A handshake may also fail because the gateway ends in the middle of it; one that
 * fails again and again does so because of its keys. */
static int check_connection(struct caloris_client *client, struct caloris_err *err)
{
    enum { ENOUGH = 3 };
    enum caloris_connection_event event;
    bool keyed = client->address.server_key[0], lost = false;
    while ((event = caloris_curve_next_event(client->monitor)) != CALORIS_CONNECTION_NOTHING) {
        if (event == CALORIS_CONNECTION_REFUSED)
            return caloris_err_set(err, CALORIS_REFUSED, "%s: the server refused your key",
                                   client->endpoint);
        if (keyed && event == CALORIS_CONNECTION_STRANGER && ++client->strangers >= ENOUGH)
            return caloris_err_set(err, CALORIS_REFUSED,
                                   "%s: who listens there does not have the gateway's key %s",
                                   client->endpoint, client->address.server_key);
        lost |= client->strangers == 0;
    }
    if (lost)
        return caloris_err_set(err, CALORIS_PEER_LOST, "%s: the gateway went away",
                               client->endpoint);
    return 0;
}

static int check_stop(const struct caloris_client *client, struct caloris_err *err)
{
    if (client->options.stop && *client->options.stop)
        return caloris_err_set(err, CALORIS_CANCELLED, "interrupted");
    return 0;
}

/* How far a watched job has come: where to go on from, should the connection break. */
static void note_progress(struct caloris_client *client, const caloris_answer *message)
{
    if (message->body_case != CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_EVENT ||
        !message->event->progress || !message->event->lease)
        return;
    for (size_t i = 0; i < client->n_watches; i++) {
        struct watch *watch = &client->watches[i];
        if (watch->job != message->event->job)
            continue;
        watch->seq = message->event->progress->seq;
        watch->epoch = message->event->lease->epoch;
        watch->counter = message->event->lease->counter;
        return;
    }
}

int caloris_connection_receive(struct caloris_client *client, uint64_t deadline_ns,
                               caloris_answer **message, struct caloris_err *err)
{
    /* A signal between the look at stop and the poll is seen this much later. */
    const long slice_ms = 200;
    for (;;) {
        ProtobufCMessage *got = NULL;
        int n = caloris_wire_receive(client->socket, NULL,
                                     &caloris__wire__gateway_to_client__descriptor, &got, err);
        if (n < 0)
            return caloris_err_prefix(err, "%s", client->endpoint);
        if (n > 0) {
            client->heard_ns = caloris_time_ns();
            *message = (caloris_answer *)got;
            note_progress(client, *message);
            return 1;
        }
        if (check_stop(client, err) < 0)
            return -1;
        if (check_connection(client, err) < 0)
            return -1;
        uint64_t now = caloris_time_ns();
        if (now >= deadline_ns)
            return 0;
        uint64_t left_ms = (deadline_ns - now) / 1000000 + 1;
        zmq_pollitem_t items[] = {{client->socket, 0, ZMQ_POLLIN, 0},
                                  {client->monitor, 0, ZMQ_POLLIN, 0}};
        long wait_ms = left_ms < (uint64_t)slice_ms ? (long)left_ms : slice_ms;
        if (zmq_poll(items, 2, wait_ms) < 0 && zmq_errno() != EINTR)
            return err_zmq(err, client->endpoint, "waiting");
    }
}

int caloris_connection_queue(struct caloris_client *client, caloris_answer *message,
                             struct caloris_err *err)
{
    struct event *event = calloc(1, sizeof(*event));
    if (!event) {
        caloris_answer_free(message);
        return caloris_err_sys(err, "an event");
    }
    event->message = message;
    if (client->last)
        client->last->next = event;
    else
        client->first = event;
    client->last = event;
    return 0;
}

/* The gateway says when it is worth another try. */
static int failure(const caloris_answer *answer, struct caloris_err *err)
{
    const Caloris__Wire__Failure *why = answer->failure;
    const enum caloris_code code = caloris_code_from_name(why->code);
    if (code != CALORIS_AGAIN || !why->has_retry_after_ms)
        return caloris_err_set(err, code, "%s", why->text);
    return caloris_err_set(err, code, "%s; try again in %" PRIu64 " s", why->text,
                           why->retry_after_ms / 1000 + (why->retry_after_ms % 1000 > 0));
}

caloris_answer *caloris_connection_exchange(struct caloris_client *client,
                                            Caloris__Wire__ClientToGateway *message,
                                            uint64_t deadline_ns, struct caloris_err *err)
{
    uint64_t started_ns = caloris_time_ns();
    message->request = ++client->request;
    if (caloris_wire_send(client->socket, NULL, &message->base, err) < 0)
        return NULL;
    for (;;) {
        caloris_answer *answer = NULL;
        int n = caloris_connection_receive(client, deadline_ns, &answer, err);
        if (n < 0)
            return NULL;
        if (n == 0) {
            caloris_err_set(err, CALORIS_UNREACHABLE, "%s: no answer from a gateway in %.1f s",
                            client->endpoint, (double)(caloris_time_ns() - started_ns) * 1e-9);
            return NULL;
        }
        if (answer->body_case == CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_EVENT) {
            if (caloris_connection_queue(client, answer, err) < 0)
                return NULL;
        } else if (answer->request != message->request) {
            caloris_answer_free(answer); /* to a request that was given up, or a pong */
        } else if (answer->body_case == CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_FAILURE) {
            failure(answer, err);
            caloris_answer_free(answer);
            return NULL;
        } else {
            return answer;
        }
    }
}

int caloris_connection_ping(struct caloris_client *client, struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.request = ++client->request;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_PING;
    message.ping = &nothing;
    return caloris_wire_send(client->socket, NULL, &message.base, err);
}

int caloris_connection_dial(struct caloris_client *client, uint64_t deadline_ns,
                            struct caloris_err *err)
{
    char agent[] = "caloris " CALORIS_VERSION;
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Hello hello = CALORIS__WIRE__HELLO__INIT;
    caloris_answer *answer = NULL;
    hello.version_min = CALORIS_PROTOCOL_OLDEST;
    hello.version_max = CALORIS_PROTOCOL_VERSION;
    hello.agent = agent;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_HELLO;
    message.hello = &hello;

    caloris_connection_hang_up(client);
    if (open_socket(client, err) < 0)
        goto fail;
    answer = caloris_connection_exchange(client, &message, deadline_ns, err);
    if (!answer)
        goto fail;
    if (answer->body_case != CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_WELCOME) {
        caloris_err_set(err, CALORIS_REFUSED, "%s: what answers there is no gateway",
                        client->endpoint);
        goto fail;
    }
    if (answer->welcome->version < CALORIS_PROTOCOL_OLDEST ||
        answer->welcome->version > CALORIS_PROTOCOL_VERSION) {
        caloris_err_set(err, CALORIS_REFUSED, "%s speaks protocol %u, this client %d to %d",
                        client->endpoint, answer->welcome->version, CALORIS_PROTOCOL_OLDEST,
                        CALORIS_PROTOCOL_VERSION);
        goto fail;
    }
    client->strangers = 0;
    client->boot_epoch = answer->welcome->boot_epoch;
    snprintf(client->agent, sizeof(client->agent), "%s",
             answer->welcome->agent ? answer->welcome->agent : "");
    caloris_answer_free(answer);
    return 0;
fail:
    caloris_answer_free(answer);
    caloris_connection_hang_up(client);
    return -1;
}
