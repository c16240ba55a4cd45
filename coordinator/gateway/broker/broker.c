#include "coordinator/gateway/broker/broker.h"

#include "base/log.h"
#include "base/time.h"
#include "coordinator/gateway/broker/state.h"
#include "proto/curve.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <zmq.h>

/* Per client, so that neither a flood of large jobs nor a viewer that does not read costs memory
 * without bound: what does not fit waits at the client, and frames for the viewer are dropped. What
 * a turn answers to one client fits in; how much large answers take is bounded in bytes
 * (clients_have_room). */
enum { CLIENT_IN = 4, CLIENT_OUT = BROKER_BATCH };

enum { TAKE_MS = 50 };                   /* of a turn, for what clients ask */
enum { SETTLE_MS = 50, IDLE_MS = 1000 }; /* the longest sleep: nobody is there, nothing is due */

/* hwm: messages that may wait on a connection, in and out. They hold for what is bound after. */
static void *listen_at(struct caloris_broker *b, const char *endpoint, const char *domain,
                       const int hwm[2], char bound[CALORIS_ENDPOINT_MAX], struct caloris_err *err)
{
    if (caloris_endpoint_check(endpoint, err) < 0)
        return NULL;
    if (!caloris_endpoint_needs_keys(endpoint) && caloris_endpoint_in_use(endpoint)) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: another process listens there", endpoint);
        return NULL;
    }
    void *socket = zmq_socket(b->context, ZMQ_ROUTER);
    if (!socket) {
        caloris_err_set(err, CALORIS_INTERNAL, "%s: %s", endpoint, zmq_strerror(errno));
        return NULL;
    }
    if (caloris_wire_prepare(socket, err) < 0)
        goto fail;
    if (zmq_setsockopt(socket, ZMQ_RCVHWM, &hwm[0], sizeof(hwm[0])) < 0 ||
        zmq_setsockopt(socket, ZMQ_SNDHWM, &hwm[1], sizeof(hwm[1])) < 0) {
        caloris_err_set(err, CALORIS_INTERNAL, "%s: %s", endpoint, zmq_strerror(errno));
        goto fail;
    }
    if (caloris_curve_bind(socket, endpoint, b->options.server, domain, bound, err) == 0)
        return socket;
fail:
    zmq_close(socket);
    return NULL;
}

struct caloris_broker *caloris_broker_open(struct caloris_store *store,
                                           const struct caloris_broker_options *options,
                                           struct caloris_err *err)
{
    static const int client_hwm[] = {CLIENT_IN, CLIENT_OUT};
    static const int group_hwm[] = {CALORIS_WIRE_MAX_QUEUED, CALORIS_WIRE_MAX_QUEUED};
    struct caloris_broker *b = calloc(1, sizeof(*b));
    if (!b) {
        caloris_err_sys(err, "broker");
        return NULL;
    }
    b->store = store;
    b->options = *options;
    figures_open(&b->figures);
    b->now_ms = b->probed_ms = caloris_time_ns() / 1000000u;
    if (caloris_store_count(store, &b->counts, err) < 0)
        goto fail;
    b->context = zmq_ctx_new();
    if (!b->context) {
        caloris_err_set(err, CALORIS_INTERNAL, "ZeroMQ: %s", zmq_strerror(errno));
        goto fail;
    }
    if (admit_open(b, err) < 0 || lanes_load(b, err) < 0)
        goto fail;
    b->clients_keyed = caloris_endpoint_needs_keys(options->clients);
    b->groups_keyed = caloris_endpoint_needs_keys(options->groups);
    b->clients_socket =
        listen_at(b, options->clients, ADMIT_CLIENTS, client_hwm, b->clients_bound, err);
    if (!b->clients_socket)
        goto fail;
    b->groups_socket = listen_at(b, options->groups, ADMIT_GROUPS, group_hwm, b->groups_bound, err);
    if (!b->groups_socket)
        goto fail;
    caloris_log(CALORIS_LOG_INFO, "%" PRIu64 " jobs queued, %" PRIu64 " finished", b->counts.queued,
                b->counts.finished);
    return b;
fail:
    caloris_broker_close(b);
    return NULL;
}

void caloris_broker_close(struct caloris_broker *b)
{
    if (!b)
        return;
    clients_forget_all(b);
    groups_forget_all(b);
    for (struct table_node *node; (node = table_first(&b->live)) != NULL;) {
        struct live *live = TABLE_ENTRY(node, struct live, node);
        hand_over_drop(b, live);
        table_remove(&b->live, node);
        free(live);
    }
    if (b->clients_socket)
        zmq_close(b->clients_socket);
    if (b->groups_socket)
        zmq_close(b->groups_socket);
    admit_close(b);
    if (b->context)
        zmq_ctx_term(b->context);
    lanes_free(b);
    table_free(&b->clients);
    table_free(&b->live);
    free(b->promises);
    free(b);
}

/* ---- a turn ---- */

static void take_groups(struct caloris_broker *b)
{
    struct caloris_peer peer;
    ProtobufCMessage *message;
    struct caloris_err why;
    for (int i = 0; i < BROKER_BATCH; i++) {
        int rc = caloris_wire_receive(b->groups_socket, &peer,
                                      &caloris__wire__group_to_gateway__descriptor, &message, &why);
        if (rc == 0)
            return;
        if (rc < 0) {
            broker_warn(b, "from a group: %s", why.text);
            continue;
        }
        groups_take(b, &peer, (const Caloris__Wire__GroupToGateway *)message);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

/* The sockets deal evenly between their connections: whoever sends large jobs delays another
 * client's request by one of them, and the groups by no more than TAKE_MS. */
static void take_clients(struct caloris_broker *b)
{
    struct caloris_peer peer;
    ProtobufCMessage *message;
    struct caloris_err why;
    const uint64_t end_ns = caloris_time_ns() + TAKE_MS * 1000000ull;
    for (int i = 0; i < BROKER_BATCH && caloris_time_ns() < end_ns; i++) {
        int rc =
            caloris_wire_receive(b->clients_socket, &peer,
                                 &caloris__wire__client_to_gateway__descriptor, &message, &why);
        if (rc == 0)
            return;
        if (rc < 0) {
            broker_warn(b, "from a client: %s", why.text);
            if (peer.size > 0)
                answer_failure(b, &peer, 0, &why);
            continue;
        }
        clients_take(b, &peer, (const Caloris__Wire__ClientToGateway *)message);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

static long sleep_ms(const struct caloris_broker *b)
{
    const uint64_t half = b->options.beat_ms / 2;
    uint64_t ms = b->n_owed > 0 ? SETTLE_MS : IDLE_MS;
    if (b->groups && half < ms)
        ms = half ? half : 1;
    return (long)end_next_ms(b, ms);
}

const char *caloris_broker_clients(const struct caloris_broker *b)
{
    return b->clients_bound;
}

const char *caloris_broker_groups(const struct caloris_broker *b)
{
    return b->groups_bound;
}

/* Takes the signals that came; true when one of them says to end. */
static bool take_signals(struct caloris_broker *b, int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo != SIGHUP)
            return true;
        admit_reload(b);
    }
    return false;
}

/* The turn began so much later than it should have: this process was stopped, or paused with its
 * host, or waited for its disk. What the others said meanwhile is not read yet, and the silence was
 * not theirs. */
static void forgive_silence(struct caloris_broker *b, uint64_t late_ms)
{
    caloris_log(CALORIS_LOG_WARN, "stood still for %" PRIu64 " ms", late_ms);
    groups_forgive(b, late_ms);
    clients_forgive(b, late_ms);
}

int caloris_broker_run(struct caloris_broker *b, int signals, struct caloris_err *err)
{
    zmq_pollitem_t items[] = {
        {.socket = b->groups_socket, .events = ZMQ_POLLIN},
        {.socket = b->clients_socket, .events = ZMQ_POLLIN},
        {.fd = signals, .events = ZMQ_POLLIN},
        {.socket = b->handler, .fd = -1, .events = ZMQ_POLLIN},
    };
    const int n_items = b->handler ? 4 : 3;
    for (;;) {
        const long sleep = sleep_ms(b);
        if (zmq_poll(items, n_items, sleep) < 0 && errno != EINTR)
            return caloris_err_set(err, CALORIS_INTERNAL, "poll: %s", zmq_strerror(errno));
        const uint64_t due_ms = b->now_ms + (uint64_t)sleep;
        b->now_ms = caloris_time_ns() / 1000000u;
        if (b->now_ms > due_ms + 2 * b->options.beat_ms)
            forgive_silence(b, b->now_ms - due_ms);
        if (take_signals(b, signals))
            return 0;
        if (caloris_store_still_ours(b->store, err) < 0)
            return -1;
        admit_take(b);
        take_groups(b);
        take_clients(b);
        promise_keep(b);
        hand_over_save(b);
        end_expired(b);
        end_keeping(b);
        groups_watch_over(b);
        watch_settle(b);
        clients_probe(b);
        lease_out(b);
    }
}
