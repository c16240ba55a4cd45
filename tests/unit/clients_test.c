/* coordinator/gateway/broker: as many connections as one user may have. Over inproc://, where 4096
 * of them cost little; who comes over it is whom the broker takes for its local user. */
#include "coordinator/gateway/broker/state.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

enum { FILES = BROKER_MAX_USER_CLIENTS + 256 }; /* one for each socket */
static const char endpoint[] = "inproc://clients";

static char dir[64];
static struct caloris_broker b;
static void *many[BROKER_MAX_USER_CLIENTS], *late, *few;

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static void *open_socket(int kind)
{
    struct caloris_err err = {0};
    void *socket = zmq_socket(b.context, kind);
    if (!socket || caloris_wire_prepare(socket, &err) < 0)
        fail_msg("%s %s", zmq_strerror(zmq_errno()), err.text);
    return socket;
}

static int setup(void **state)
{
    (void)state;
    static const struct caloris_store_options options = {.user = "ada"};
    struct caloris_err err = {0};
    snprintf(dir, sizeof(dir), "/tmp/caloris-clients-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    b = (struct caloris_broker){.options = {.limits = {.share = 1}}, .now_ms = 1};
    b.local.rights = RIGHTS_ALL;
    b.store = caloris_store_open(dir, &options, &err);
    if (!b.store)
        fail_msg("%s", err.text);
    b.context = zmq_ctx_new();
    assert_int_equal(zmq_ctx_set(b.context, ZMQ_MAX_SOCKETS, FILES), 0);
    b.clients_socket = open_socket(ZMQ_ROUTER);
    assert_int_equal(zmq_bind(b.clients_socket, endpoint), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    clients_forget_all(&b);
    for (size_t i = 0; i < BROKER_MAX_USER_CLIENTS && many[i]; i++)
        zmq_close(many[i]);
    zmq_close(late);
    zmq_close(few);
    zmq_close(b.clients_socket);
    zmq_ctx_term(b.context);
    table_free(&b.clients);
    lanes_free(&b);
    caloris_store_close(b.store);
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void *dial(void)
{
    void *socket = open_socket(ZMQ_DEALER);
    assert_int_equal(zmq_connect(socket, endpoint), 0);
    return socket;
}

/* What the broker answers to this message of the socket's. */
static Caloris__Wire__GatewayToClient *call(void *socket, const ProtobufCMessage *message)
{
    struct caloris_err err = {0};
    struct caloris_peer peer;
    ProtobufCMessage *got;
    if (caloris_wire_send(socket, NULL, message, &err) < 0 ||
        caloris_wire_receive(b.clients_socket, &peer, &caloris__wire__client_to_gateway__descriptor,
                             &got, &err) != 1)
        fail_msg("asking: %s", err.text);
    clients_take(&b, &peer, (const Caloris__Wire__ClientToGateway *)(const void *)got);
    protobuf_c_message_free_unpacked(got, NULL);
    if (caloris_wire_receive(socket, NULL, &caloris__wire__gateway_to_client__descriptor, &got,
                             &err) != 1)
        fail_msg("no answer: %s", err.text);
    return (Caloris__Wire__GatewayToClient *)(void *)got;
}

/* The same as this user; "": welcome. */
static void hello(void *socket, const char *user, char text[CALORIS_ERR_TEXT])
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Hello hello = CALORIS__WIRE__HELLO__INIT;
    snprintf(b.local.user, sizeof(b.local.user), "%s", user);
    hello.version_min = hello.version_max = CALORIS_PROTOCOL_VERSION;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_HELLO;
    message.hello = &hello;
    Caloris__Wire__GatewayToClient *answer = call(socket, &message.base);
    text[0] = '\0';
    if (answer->body_case != CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_WELCOME) {
        assert_int_equal(answer->body_case, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_FAILURE);
        assert_true(answer->failure->has_retry_after_ms);
        snprintf(text, CALORIS_ERR_TEXT, "%s: %s", answer->failure->code, answer->failure->text);
    }
    protobuf_c_message_free_unpacked(&answer->base, NULL);
}

static void ping(void *socket)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_PING;
    message.ping = &nothing;
    Caloris__Wire__GatewayToClient *answer = call(socket, &message.base);
    assert_int_equal(answer->body_case, CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_PONG);
    protobuf_c_message_free_unpacked(&answer->base, NULL);
}

static void connections_are_a_users_own(void **state)
{
    (void)state;
    char text[CALORIS_ERR_TEXT];
    for (size_t i = 0; i < BROKER_MAX_USER_CLIENTS; i++) {
        many[i] = dial();
        hello(many[i], "many", text);
        assert_string_equal(text, "");
    }
    late = dial();
    few = dial();
    hello(late, "many", text);
    assert_string_equal(text, "try_again: user many has 4096 clients here; that is the limit");
    /* Those that are here go on, and may say hello again; another user comes in. */
    ping(many[0]);
    hello(many[1], "many", text);
    assert_string_equal(text, "");
    hello(few, "few", text);
    assert_string_equal(text, "");
    ping(few);
    /* There is room as soon as one has gone. */
    zmq_close(many[0]);
    many[0] = dial();
    for (size_t i = 0; i < 2; i++) { /* the first look sends, the second has the answer */
        b.now_ms += 60000;
        clients_probe(&b);
    }
    hello(late, "many", text);
    assert_string_equal(text, "");
    hello(many[0], "many", text);
    assert_string_not_equal(text, "");
    ping(few);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(connections_are_a_users_own, setup, teardown),
    };
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < FILES) {
        printf("skipped: %d open files are needed, %llu allowed\n", FILES,
               (unsigned long long)limit.rlim_max);
        return 77;
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return cmocka_run_group_tests_name("clients", tests, NULL, NULL);
}
