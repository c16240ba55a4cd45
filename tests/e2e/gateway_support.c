/* Those who speak to a gateway: clients and groups. */
#include "tests/e2e/gateway_support.h"

#include "base/err.h"
#include "base/time.h"
#include "proto/cluster.h"
#include "proto/curve.h"
#include "proto/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include <cmocka.h>

/* ---- sockets ---- */

/* A test that fails leaves its sockets open; the context could not end before they are closed. */
enum { MAX_SOCKETS = 64 };
static void *context;
static void *sockets[MAX_SOCKETS];

static void *prepared_socket(void)
{
    struct caloris_err err;
    if (!context)
        context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER);
    assert_non_null(socket);
    size_t free = 0;
    while (sockets[free])
        assert_true(++free < MAX_SOCKETS);
    sockets[free] = socket;
    assert_int_equal(caloris_wire_prepare(socket, &err), 0);
    return socket;
}

static struct caloris_address as; /* its keys; "": none */

void use_key(const char *user)
{
    char path[160];
    struct caloris_err err;
    snprintf(path, sizeof(path), "%s/server.pub", getenv("HOME"));
    if (caloris_keys_find_public(path, as.server_key, &err) < 0)
        fail_msg("%s", err.text);
    snprintf(path, sizeof(path), "%s/%s", getenv("HOME"), user);
    if (caloris_keys_load(path, &as.keys, &err) < 0)
        fail_msg("%s", err.text);
}

static void connect_to(void *socket, const char *endpoint)
{
    struct caloris_err err;
    struct caloris_address address = as;
    snprintf(address.endpoint, sizeof(address.endpoint), "%s", endpoint);
    if (caloris_curve_dial(socket, &address, &err) < 0)
        fail_msg("%s", err.text);
}

void *dial(const char *endpoint)
{
    void *socket = prepared_socket();
    connect_to(socket, endpoint);
    return socket;
}

void hang_up(void *socket)
{
    zmq_close(socket);
    for (size_t i = 0; i < MAX_SOCKETS; i++)
        sockets[i] = sockets[i] == socket ? NULL : sockets[i];
}

void ends_finish(void)
{
    for (size_t i = 0; i < MAX_SOCKETS; i++) {
        if (sockets[i])
            zmq_close(sockets[i]);
        sockets[i] = NULL;
    }
    if (context)
        zmq_ctx_term(context);
    context = NULL;
}

void send_message(void *socket, const void *message)
{
    struct caloris_err err = {0};
    int tries = 0;
    while (caloris_wire_send(socket, NULL, message, &err) < 0) {
        if (err.code != CALORIS_AGAIN || ++tries > PATIENCE_MS)
            fail_msg("%s", err.text);
        caloris_time_sleep_ms(1);
    }
}

void send_bytes(void *socket, const void *bytes, size_t n, int flags)
{
    assert_int_equal(zmq_send(socket, bytes, n, flags), n);
}

/* The next message, or NULL when none comes in wait_ms. */
static ProtobufCMessage *receive(void *socket, const ProtobufCMessageDescriptor *type, long wait_ms)
{
    zmq_pollitem_t item = {.socket = socket, .events = ZMQ_POLLIN};
    ProtobufCMessage *message;
    struct caloris_err err;
    uint64_t deadline_ns = caloris_time_ns() + (uint64_t)wait_ms * 1000000;
    for (;;) {
        int rc = caloris_wire_receive(socket, NULL, type, &message, &err);
        if (rc < 0)
            fail_msg("%s", err.text);
        if (rc > 0)
            return message;
        uint64_t now = caloris_time_ns();
        if (now >= deadline_ns)
            return NULL;
        zmq_poll(&item, 1, (long)((deadline_ns - now) / 1000000) + 1);
    }
}

/* ---- clients ---- */

void answer_free(from_gateway *answer)
{
    if (answer)
        protobuf_c_message_free_unpacked(&answer->base, NULL);
}

static from_gateway *client_receive(void *socket, long wait_ms)
{
    return (from_gateway *)(void *)receive(socket, &caloris__wire__gateway_to_client__descriptor,
                                           wait_ms);
}

from_gateway *client_event(void *socket)
{
    for (;;) {
        from_gateway *event = client_receive(socket, PATIENCE_MS);
        assert_non_null(event);
        if (event->body_case == ANSWER(EVENT))
            return event;
        answer_free(event);
    }
}

from_gateway *client_answer(void *socket)
{
    from_gateway *answer = client_receive(socket, PATIENCE_MS);
    assert_non_null(answer);
    return answer;
}

from_gateway *client_event_or_none(void *socket)
{
    for (;;) {
        from_gateway *event = client_receive(socket, 1000);
        if (!event || event->body_case == ANSWER(EVENT))
            return event;
        answer_free(event);
    }
}

void expect_silence(void *socket)
{
    from_gateway *event = client_receive(socket, SILENCE_MS);
    if (event)
        fail_msg("a message of kind %d came", (int)event->body_case);
}

from_gateway *client_call(void *socket, request *message, int expected)
{
    static uint64_t requests;
    message->request = ++requests;
    send_message(socket, message);
    for (;;) {
        from_gateway *answer = client_receive(socket, PATIENCE_MS);
        assert_non_null(answer);
        if (answer->request != message->request) {
            answer_free(answer);
            continue;
        }
        if ((int)answer->body_case != expected && answer->body_case == ANSWER(FAILURE))
            fail_msg("%s: %s", answer->failure->code, answer->failure->text);
        assert_int_equal(answer->body_case, expected);
        return answer;
    }
}

void client_expect_failure(void *socket, request *message, const char *code, const char *words)
{
    from_gateway *answer = client_call(socket, message, ANSWER(FAILURE));
    assert_string_equal(answer->failure->code, code);
    if (!strstr(answer->failure->text, words))
        fail_msg("\"%s\" does not say \"%s\"", answer->failure->text, words);
    answer_free(answer);
}

static Caloris__Wire__Hello our_hello(void)
{
    Caloris__Wire__Hello hello = CALORIS__WIRE__HELLO__INIT;
    hello.version_min = CALORIS_PROTOCOL_OLDEST;
    hello.version_max = CALORIS_PROTOCOL_VERSION;
    return hello;
}

static void greet(void *socket)
{
    Caloris__Wire__Hello hello = our_hello();
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    message.body_case = REQUEST(HELLO);
    message.hello = &hello;
    from_gateway *answer = client_call(socket, &message, ANSWER(WELCOME));
    assert_int_equal(answer->welcome->version, CALORIS_PROTOCOL_VERSION);
    assert_true(answer->welcome->boot_epoch > 0);
    answer_free(answer);
}

void *client_dial(const struct gateway *gateway)
{
    void *socket = dial(gateway->clients);
    greet(socket);
    return socket;
}

void *client_dial_narrow(const struct gateway *gateway)
{
    const int few = 8, small = 4096;
    void *socket = prepared_socket();
    assert_int_equal(zmq_setsockopt(socket, ZMQ_RCVHWM, &few, sizeof(few)), 0);
    assert_int_equal(zmq_setsockopt(socket, ZMQ_RCVBUF, &small, sizeof(small)), 0);
    connect_to(socket, gateway->clients);
    greet(socket);
    return socket;
}

uint64_t client_submit(void *socket, const char *key, const char *json, bool *again)
{
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    submit.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
    submit.job_json = (ProtobufCBinaryData){strlen(json), (uint8_t *)(uintptr_t)json};
    message.body_case = REQUEST(SUBMIT);
    message.submit = &submit;
    from_gateway *answer = client_call(socket, &message, ANSWER(ACCEPTED));
    uint64_t job = answer->accepted->job;
    if (again)
        *again = answer->accepted->again;
    answer_free(answer);
    return job;
}

/* A request that names a job and nothing else: they lie in the same place of the union. */
static from_gateway *ask_about(void *socket, uint64_t job, int what, int expected)
{
    Caloris__Wire__JobRef reference = CALORIS__WIRE__JOB_REF__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    reference.job = job;
    message.body_case = (Caloris__Wire__ClientToGateway__BodyCase)what;
    message.show = &reference;
    return client_call(socket, &message, expected);
}

from_gateway *client_show(void *socket, uint64_t job)
{
    return ask_about(socket, job, REQUEST(SHOW), ANSWER(STATUS));
}

void client_await(void *socket, uint64_t job, int state)
{
    uint64_t deadline_ns = caloris_time_ns() + PATIENCE_MS * 1000000ull;
    for (;;) {
        from_gateway *answer = client_show(socket, job);
        int now = (int)answer->status->state;
        answer_free(answer);
        if (now == state)
            return;
        if (caloris_time_ns() > deadline_ns)
            fail_msg("job %lu is in state %d, not %d", (unsigned long)job, now, state);
        caloris_time_sleep_ms(10);
    }
}

char *client_results(void *socket, uint64_t job)
{
    from_gateway *answer = ask_about(socket, job, REQUEST(RESULTS), ANSWER(RESULT));
    char *json =
        strndup((const char *)answer->result->result_json.data, answer->result->result_json.len);
    answer_free(answer);
    return json;
}

void client_cancel(void *socket, uint64_t job)
{
    answer_free(ask_about(socket, job, REQUEST(CANCEL), ANSWER(OK)));
}

int client_watch(void *socket, uint64_t job, bool canvas)
{
    return client_watch_after(socket, job, canvas, NULL, 0);
}

int client_watch_after(void *socket, uint64_t job, bool canvas, const struct lease *seen,
                       uint64_t seq)
{
    Caloris__Wire__Watch watch = CALORIS__WIRE__WATCH__INIT;
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    if (seen) {
        id.epoch = seen->epoch;
        id.counter = seen->counter;
        watch.lease = &id;
        watch.has_after = true;
        watch.after = seq;
    }
    watch.job = job;
    watch.has_canvas = true;
    watch.canvas = canvas;
    message.body_case = REQUEST(WATCH);
    message.watch = &watch;
    from_gateway *answer = client_call(socket, &message, ANSWER(STATUS));
    int state = (int)answer->status->state;
    answer_free(answer);
    return state;
}

/* ---- groups ---- */

void order_free(to_group *order)
{
    if (order)
        protobuf_c_message_free_unpacked(&order->base, NULL);
}

/* The next order that is no beat; NULL when none comes in wait_ms. */
static to_group *receive_order(void *socket, long wait_ms)
{
    const uint64_t deadline_ns = caloris_time_ns() + (uint64_t)wait_ms * 1000000;
    for (;;) {
        to_group *order = (to_group *)(void *)receive(
            socket, &caloris__wire__gateway_to_group__descriptor, wait_ms);
        if (order && order->body_case != ORDER(BEAT))
            return order;
        order_free(order);
        if (caloris_time_ns() >= deadline_ns)
            return NULL;
    }
}

to_group *group_order(void *socket)
{
    to_group *order = receive_order(socket, PATIENCE_MS);
    assert_non_null(order);
    return order;
}

to_group *group_next(void *socket, int expected)
{
    to_group *order = receive_order(socket, PATIENCE_MS);
    if (!order)
        fail_msg("no order of kind %d came", expected);
    if ((int)order->body_case != expected && order->body_case == ORDER(FAILURE))
        fail_msg("%s: %s", order->failure->code, order->failure->text);
    assert_int_equal(order->body_case, expected);
    return order;
}

to_group *group_order_or_none(void *socket)
{
    return receive_order(socket, SILENCE_MS);
}

void group_expect_nothing(void *socket)
{
    to_group *order = group_order_or_none(socket);
    if (order)
        fail_msg("an order of kind %d came", (int)order->body_case);
}

void group_take_past_follows(void *socket, int expected)
{
    for (;;) {
        to_group *order = receive_order(socket, PATIENCE_MS);
        assert_non_null(order);
        int kind = (int)order->body_case;
        order_free(order);
        if (kind == expected)
            return;
        assert_int_equal(kind, ORDER(FOLLOW));
    }
}

static void say_hello(void *socket, const struct group_face *face, const struct lease *held,
                      size_t n_held)
{
    enum { MOST = 64 };
    char words[3][64];
    Caloris__Wire__Hello hello = our_hello();
    Caloris__Wire__GroupHello group = CALORIS__WIRE__GROUP_HELLO__INIT;
    Caloris__Wire__Held entries[MOST], *pointers[MOST];
    Caloris__Wire__LeaseId ids[MOST];
    word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    assert_true(n_held <= MOST);
    for (size_t i = 0; i < n_held; i++) {
        caloris__wire__held__init(&entries[i]);
        caloris__wire__lease_id__init(&ids[i]);
        ids[i].epoch = held[i].epoch;
        ids[i].counter = held[i].counter;
        entries[i].job = held[i].job;
        entries[i].lease = &ids[i];
        pointers[i] = &entries[i];
    }
    snprintf(words[0], sizeof(words[0]), "%s", face->name);
    snprintf(words[1], sizeof(words[1]), "%s", face->model);
    snprintf(words[2], sizeof(words[2]), "host-a");
    group.hello = &hello;
    group.name = words[0];
    group.model = words[1];
    group.host = words[2];
    group.ranks = 2;
    group.capacity = face->capacity;
    group.has_instance = face->instance != 0;
    group.instance = face->instance;
    group.n_held = n_held;
    group.held = pointers;
    message.body_case = WORD(HELLO);
    message.hello = &group;
    send_message(socket, &message);
}

to_group *group_hello(void *socket, const char *name, uint32_t capacity, const struct lease *held,
                      size_t n_held)
{
    say_hello(socket, &(struct group_face){name, "tinycoder", 0, capacity}, held, n_held);
    return group_next(socket, ORDER(WELCOME));
}

to_group *group_try_hello_as(void *socket, const struct group_face *face, const struct lease *held,
                             size_t n_held)
{
    say_hello(socket, face, held, n_held);
    to_group *order = receive_order(socket, PATIENCE_MS);
    assert_non_null(order);
    return order;
}

to_group *group_try_hello(void *socket, const char *name, uint32_t capacity,
                          const struct lease *held, size_t n_held)
{
    return group_try_hello_as(socket, &(struct group_face){name, "tinycoder", 0, capacity}, held,
                              n_held);
}

void *group_dial_as(const struct gateway *gateway, const struct group_face *face)
{
    const uint64_t deadline_ns = caloris_time_ns() + PATIENCE_MS * 1000000ull;
    void *socket = NULL;
    to_group *welcome = NULL;
    do { /* the gateway may not have seen yet that the last one of this name hung up */
        order_free(welcome);
        hang_up(socket);
        socket = dial(gateway->groups);
        say_hello(socket, face, NULL, 0);
        welcome = group_order(socket);
    } while (welcome->body_case == ORDER(FAILURE) && strstr(welcome->failure->text, "names must") &&
             caloris_time_ns() < deadline_ns);
    assert_int_equal(welcome->body_case, ORDER(WELCOME));
    assert_int_equal(welcome->welcome->n_adopted, 0);
    assert_int_equal(welcome->welcome->beat_ms,
                     gateway->beat_ms ? gateway->beat_ms : DEFAULT_BEAT_MS);
    order_free(welcome);
    return socket;
}

void *group_dial(const struct gateway *gateway, const char *name, uint32_t capacity)
{
    return group_dial_as(gateway, &(struct group_face){name, "tinycoder", 0, capacity});
}

struct lease group_take_lease(void *socket)
{
    to_group *order = group_next(socket, ORDER(LEASE));
    struct lease lease = {order->lease->job, order->lease->lease->epoch,
                          order->lease->lease->counter};
    order_free(order);
    return lease;
}

void group_beat(void *socket, uint32_t free)
{
    Caloris__Wire__GroupBeat beat = CALORIS__WIRE__GROUP_BEAT__INIT;
    word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    beat.free = free;
    message.body_case = WORD(BEAT);
    message.beat = &beat;
    send_message(socket, &message);
}

static Caloris__Wire__LeaseId lease_id(const struct lease *lease)
{
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    id.epoch = lease->epoch;
    id.counter = lease->counter;
    return id;
}

void group_result(void *socket, const struct lease *lease, const char *json)
{
    Caloris__Wire__LeaseId id = lease_id(lease);
    Caloris__Wire__LeaseResult result = CALORIS__WIRE__LEASE_RESULT__INIT;
    word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    result.job = lease->job;
    result.lease = &id;
    result.result_json = (ProtobufCBinaryData){strlen(json), (uint8_t *)(uintptr_t)json};
    message.body_case = WORD(RESULT);
    message.result = &result;
    send_message(socket, &message);
}

void group_give_back(void *socket, const struct lease *lease)
{
    Caloris__Wire__LeaseId id = lease_id(lease);
    Caloris__Wire__LeaseRef reference = CALORIS__WIRE__LEASE_REF__INIT;
    word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    reference.job = lease->job;
    reference.lease = &id;
    message.body_case = WORD(GIVE_BACK);
    message.give_back = &reference;
    send_message(socket, &message);
}

void group_leave(void *socket)
{
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    message.body_case = WORD(LEAVE);
    message.leave = &nothing;
    send_message(socket, &message);
}

void group_progress(void *socket, const struct lease *lease, uint64_t seq, bool full)
{
    Caloris__Wire__LeaseId id = lease_id(lease);
    Caloris__Wire__LeaseProgress outer = CALORIS__WIRE__LEASE_PROGRESS__INIT;
    Caloris__Wire__Progress progress = CALORIS__WIRE__PROGRESS__INIT;
    Caloris__Wire__Cell cells[3], *pointers[3];
    word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    for (uint32_t i = 0; i < 3; i++) {
        caloris__wire__cell__init(&cells[i]);
        cells[i].position = i;
        cells[i].kind = full ? CALORIS__WIRE__CELL_KIND__MASK : CALORIS__WIRE__CELL_KIND__REVEALED;
        pointers[i] = &cells[i];
    }
    progress.seq = seq;
    progress.step = (uint32_t)seq;
    progress.masks_left = full ? 3 : 2;
    progress.full = full;
    progress.n_cells = full ? 3 : 1;
    progress.cells = pointers;
    outer.job = lease->job;
    outer.lease = &id;
    outer.progress = &progress;
    message.body_case = WORD(PROGRESS);
    message.progress = &outer;
    send_message(socket, &message);
}
