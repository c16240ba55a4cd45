/* proto/wire: what is refused before, while and after it is unpacked. */
#include "proto/endpoint.h"
#include "proto/wire.h"

#include "base/err.h"
#include "base/rng.h"
#include "proto/caloris.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

typedef const ProtobufCMessageDescriptor *type;

#define CLIENT_TYPE  (&caloris__wire__client_to_gateway__descriptor)
#define GATEWAY_TYPE (&caloris__wire__gateway_to_client__descriptor)
#define GROUP_TYPE   (&caloris__wire__group_to_gateway__descriptor)
#define ORDER_TYPE   (&caloris__wire__gateway_to_group__descriptor)

static const type unions[] = {CLIENT_TYPE, GATEWAY_TYPE, GROUP_TYPE, ORDER_TYPE};

static void expect_words(const struct caloris_err *err, const char *words)
{
    if (!strstr(err->text, words))
        fail_msg("\"%s\" does not say \"%s\"", err->text, words);
}

/* ---- sockets ---- */

struct ends {
    void *context, *router, *dealer;
};

static int setup(void **state)
{
    static struct ends ends;
    struct caloris_err err;
    ends.context = zmq_ctx_new();
    ends.router = zmq_socket(ends.context, ZMQ_ROUTER);
    ends.dealer = zmq_socket(ends.context, ZMQ_DEALER);
    if (caloris_wire_prepare(ends.router, &err) < 0 ||
        caloris_wire_prepare(ends.dealer, &err) < 0 || zmq_bind(ends.router, "inproc://wire") < 0 ||
        zmq_connect(ends.dealer, "inproc://wire") < 0)
        return -1;
    *state = &ends;
    return 0;
}

static int teardown(void **state)
{
    struct ends *ends = *state;
    zmq_close(ends->dealer);
    zmq_close(ends->router);
    zmq_ctx_term(ends->context);
    return 0;
}

static void messages_go_round(void **state)
{
    struct ends *ends = *state;
    struct caloris_err err;
    struct caloris_peer peer;
    ProtobufCMessage *got;
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    assert_int_equal(caloris_wire_receive(ends->router, &peer, CLIENT_TYPE, &got, &err), 0);

    submit.key = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "k\0y"};
    submit.job_json = (ProtobufCBinaryData){2, (uint8_t *)(uintptr_t) "{}"};
    message.request = UINT64_MAX;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SUBMIT;
    message.submit = &submit;
    assert_int_equal(caloris_wire_send(ends->dealer, NULL, &message.base, &err), 0);
    assert_int_equal(caloris_wire_receive(ends->router, &peer, CLIENT_TYPE, &got, &err), 1);
    const Caloris__Wire__ClientToGateway *in = (const void *)got;
    assert_true(in->request == UINT64_MAX);
    assert_int_equal(in->body_case, CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SUBMIT);
    assert_int_equal(in->submit->key.len, 3);
    assert_memory_equal(in->submit->key.data, "k\0y", 3);
    protobuf_c_message_free_unpacked(got, NULL);

    Caloris__Wire__GatewayToClient answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Accepted accepted = CALORIS__WIRE__ACCEPTED__INIT;
    accepted.job = 7;
    answer.request = 1;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_ACCEPTED;
    answer.accepted = &accepted;
    assert_int_equal(caloris_wire_send(ends->router, &peer, &answer.base, &err), 0);
    assert_int_equal(caloris_wire_receive(ends->dealer, NULL, GATEWAY_TYPE, &got, &err), 1);
    assert_int_equal(((const Caloris__Wire__GatewayToClient *)(const void *)got)->accepted->job, 7);
    protobuf_c_message_free_unpacked(got, NULL);
}

static void sends_fail_instead_of_blocking(void **state)
{
    struct ends *ends = *state;
    struct caloris_err err;
    Caloris__Wire__GatewayToClient message = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_PONG;
    message.pong = &nothing;
    const struct caloris_peer nobody = {.id = {0, 1, 2, 3, 4}, .size = 5};
    assert_int_equal(caloris_wire_send(ends->router, &nobody, &message.base, &err), -1);
    assert_int_equal(err.code, CALORIS_UNREACHABLE);

    int sent = 0;
    while (caloris_wire_send(ends->dealer, NULL, &message.base, &err) == 0 && sent < 1 << 20)
        sent++;
    assert_int_equal(err.code, CALORIS_AGAIN);
    assert_true(sent >= CALORIS_WIRE_MAX_QUEUED);

    Caloris__Wire__Result result = CALORIS__WIRE__RESULT__INIT;
    uint8_t *large = calloc(1, CALORIS_WIRE_MAX_FRAME);
    assert_non_null(large);
    result.result_json = (ProtobufCBinaryData){CALORIS_WIRE_MAX_FRAME, large};
    message.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_RESULT;
    message.result = &result;
    assert_int_equal(caloris_wire_send(ends->dealer, NULL, &message.base, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_REQUEST);
    free(large);
}

static void what_is_no_message_leaves_the_socket_usable(void **state)
{
    struct ends *ends = *state;
    struct caloris_err err;
    struct caloris_peer peer;
    ProtobufCMessage *got;
    static const uint8_t good[] = {0x08, 1, 0x5A, 0}; /* request 1, ping */
    zmq_send(ends->dealer, "", 0, 0);                 /* request is required */
    zmq_send(ends->dealer, "\xFF\xFF", 2, 0);
    zmq_send(ends->dealer, good, sizeof(good), ZMQ_SNDMORE);
    zmq_send(ends->dealer, "x", 1, ZMQ_SNDMORE);
    zmq_send(ends->dealer, "y", 1, 0);
    zmq_send(ends->dealer, good, sizeof(good), 0);
    static const char *const words[] = {"required", "damaged", "3 frames"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(caloris_wire_receive(ends->router, &peer, CLIENT_TYPE, &got, &err), -1);
        assert_int_equal(err.code, CALORIS_BAD_REQUEST);
        expect_words(&err, words[i]);
        assert_true(peer.size > 0);
        assert_null(got);
    }
    assert_int_equal(caloris_wire_receive(ends->router, &peer, CLIENT_TYPE, &got, &err), 1);
    protobuf_c_message_free_unpacked(got, NULL);
    assert_int_equal(caloris_wire_receive(ends->router, &peer, CLIENT_TYPE, &got, &err), 0);

    void *chosen = zmq_socket(ends->context, ZMQ_DEALER);
    zmq_setsockopt(chosen, ZMQ_ROUTING_ID, "me", 2);
    zmq_connect(chosen, "inproc://wire");
    zmq_send(chosen, good, sizeof(good), 0);
    assert_int_equal(caloris_wire_receive(ends->router, &peer, CLIENT_TYPE, &got, &err), -1);
    expect_words(&err, "routing id of your own");
    zmq_close(chosen);
}

/* ---- unpacking ---- */

static void unknown_fields_are_named_where_it_matters(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        type of;
        const char *complaint; /* NULL: nothing unknown */
    } cases[] = {
        {"\x08\x01\x5A\x00", 4, CLIENT_TYPE, NULL},
        {"\x08\x01\x5A\x00\x78\x01", 6, CLIENT_TYPE,
         "caloris.wire.ClientToGateway: unknown field 15"},
        /* submit {key, job_json, 9: 1} */
        {"\x08\x01\x1A\x08\x0A\x01k\x12\x01j\x48\x01", 12, CLIENT_TYPE,
         "caloris.wire.Submit: unknown field 9"},
        /* status {job 1, state 9} */
        {"\x08\x01\x2A\x04\x08\x01\x18\x09", 8, GATEWAY_TYPE,
         "caloris.wire.JobStatus: field state: unknown value 9"},
        {"\x08\x01\x2A\x04\x08\x01\x18\x02", 8, GATEWAY_TYPE, NULL},
        /* event {job, progress {…, cells {position, kind, 8: 0}}}: three levels down */
        {"\x08\x00\x4A\x14\x08\x01\x1A\x10\x08\x01\x10\x01\x18\x01\x20\x00\x3A\x06\x08\x01\x10\x02"
         "\x40"
         "\x00",
         24, GATEWAY_TYPE, "caloris.wire.Cell: unknown field 8"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct caloris_err err = {0};
        const uint8_t *bytes = (const uint8_t *)cases[i].bytes;
        ProtobufCMessage *lenient =
            caloris_wire_unpack(cases[i].of, bytes, cases[i].n, false, &err);
        if (!lenient)
            fail_msg("case %zu: %s", i, err.text);
        protobuf_c_message_free_unpacked(lenient, NULL);
        ProtobufCMessage *strict = caloris_wire_unpack(cases[i].of, bytes, cases[i].n, true, &err);
        assert_true((strict == NULL) == (cases[i].complaint != NULL));
        if (cases[i].complaint)
            assert_string_equal(err.text, cases[i].complaint);
        if (strict)
            protobuf_c_message_free_unpacked(strict, NULL);
    }
}

/* n bytes that repeat a small piece. */
static uint8_t *repeat(const char *piece, size_t size, size_t n)
{
    uint8_t *bytes = malloc(n);
    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)piece[i % size];
    return bytes;
}

/* Frames that would take many times their size. */
static void small_pieces_cannot_take_much_memory(void **state)
{
    (void)state;
    const size_t n = CALORIS_WIRE_MAX_FRAME;
    struct caloris_err err = {0};
    /* unknown field 15, a varint of one byte: some 100 bytes of notes for 2 */
    uint8_t *bytes = repeat("\x78\x01", 2, n);
    assert_null(caloris_wire_unpack(CLIENT_TYPE, bytes, n, false, &err));
    assert_int_equal(err.code, CALORIS_BAD_REQUEST);
    expect_words(&err, "too much memory");
    free(bytes);
    /* hello {held {}, …}: each is a struct */
    bytes = repeat("\x3A\x00", 2, n);
    assert_null(
        caloris_wire_unpack(&caloris__wire__group_hello__descriptor, bytes, n, false, &err));
    free(bytes);
    /* one byte too many is not looked at */
    bytes = repeat("\x78\x01", 2, n + 1);
    assert_null(caloris_wire_unpack(CLIENT_TYPE, bytes, n + 1, false, &err));
    expect_words(&err, "the limit is 16777216");
    free(bytes);
}

/* A canvas as large as any that is sent: it must fit what unpacking may take. */
static void honest_canvases_fit(void **state)
{
    (void)state;
    enum { CELLS = 100000 };
    struct caloris_err err = {0};
    Caloris__Wire__Cell *cells = calloc(CELLS, sizeof(*cells));
    Caloris__Wire__Cell **pointers = calloc(CELLS, sizeof(*pointers));
    assert_non_null(cells);
    assert_non_null(pointers);
    Caloris__Wire__Progress progress = CALORIS__WIRE__PROGRESS__INIT;
    for (uint32_t i = 0; i < CELLS; i++) {
        caloris__wire__cell__init(&cells[i]);
        cells[i].position = i;
        cells[i].kind = CALORIS__WIRE__CELL_KIND__MASK;
        pointers[i] = &cells[i];
    }
    progress.full = true;
    progress.n_cells = CELLS;
    progress.cells = pointers;
    size_t n = caloris__wire__progress__get_packed_size(&progress);
    uint8_t *bytes = malloc(n);
    assert_non_null(bytes);
    caloris__wire__progress__pack(&progress, bytes);
    ProtobufCMessage *got =
        caloris_wire_unpack(&caloris__wire__progress__descriptor, bytes, n, true, &err);
    if (!got)
        fail_msg("%s", err.text);
    assert_int_equal(((const Caloris__Wire__Progress *)(const void *)got)->n_cells, CELLS);
    protobuf_c_message_free_unpacked(got, NULL);
    free(bytes);
    free(pointers);
    free(cells);
}

/* Messages inside messages: unpacking recurses by type, so the schema itself must have an end. */
static int depth(type message, int level)
{
    int deepest = level;
    assert_true(level < 10);
    for (unsigned i = 0; i < message->n_fields; i++) {
        if (message->fields[i].type == PROTOBUF_C_TYPE_MESSAGE) {
            int below = depth(message->fields[i].descriptor, level + 1);
            deepest = below > deepest ? below : deepest;
        }
    }
    return deepest;
}

static void the_schema_has_no_cycles(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_in_range(depth(unions[i], 1), 2, 6);
}

/* ---- hostile frames ---- */

/* A message with something in every field, made from the descriptor. */
static size_t sample(type message, uint8_t *to, size_t room, int level)
{
    size_t used = 0;
    for (unsigned i = 0; i < message->n_fields && used + 600 < room; i++) {
        const ProtobufCFieldDescriptor *field = &message->fields[i];
        uint8_t *at = to + used;
        switch (field->type) {
        case PROTOBUF_C_TYPE_MESSAGE: {
            uint8_t inner[512];
            size_t n = level < 4 ? sample(field->descriptor, inner, sizeof(inner), level + 1) : 0;
            n = n > 120 ? 120 : n; /* a length of one byte; cut off ones are hostile enough */
            at[0] = (uint8_t)(field->id << 3 | 2);
            at[1] = (uint8_t)n;
            memcpy(at + 2, inner, n);
            used += n + 2;
            break;
        }
        case PROTOBUF_C_TYPE_BYTES:
        case PROTOBUF_C_TYPE_STRING:
            memcpy(at, "\0\3abc", 5);
            at[0] = (uint8_t)(field->id << 3 | 2);
            used += 5;
            break;
        case PROTOBUF_C_TYPE_FLOAT:
            memcpy(at, "\0\0\0\0?", 5);
            at[0] = (uint8_t)(field->id << 3 | 5);
            used += 5;
            break;
        default:
            at[0] = (uint8_t)(field->id << 3);
            at[1] = 1;
            used += 2;
        }
    }
    return used;
}

/* Bytes changed, cut, doubled: whatever comes out is a message or an error, and nothing else
 * happens (the sanitizers watch). */
static void mutated_frames_are_harmless(void **state)
{
    (void)state;
    enum { ROUNDS = 20000, ROOM = 4096 };
    static const uint32_t key[2] = {2026, 11};
    static uint8_t original[ROOM], frame[ROOM];
    size_t good = 0, bad = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        type of = unions[round % 4];
        /* One field of the union per round, so that required ones of the others do not matter. */
        const ProtobufCFieldDescriptor *field =
            &of->fields[1 % of->n_fields + round / 4 % (of->n_fields - 1)];
        size_t n = 0;
        if (of->fields[0].type != PROTOBUF_C_TYPE_MESSAGE) {
            memcpy(original, "\x08\x05", 2);
            n = 2;
        }
        size_t inner = field->type == PROTOBUF_C_TYPE_MESSAGE
                           ? sample(field->descriptor, original + n + 3, ROOM / 2, 1)
                           : 0;
        original[n] = (uint8_t)(field->id << 3 | 2);
        original[n + 1] = (uint8_t)(0x80 | (inner & 0x7F));
        original[n + 2] = (uint8_t)(inner >> 7);
        n += 3 + inner;
        memcpy(frame, original, n);
        uint32_t random[4];
        const uint32_t counter[4] = {round, 0, 0, 0};
        caloris_rng_philox(counter, key, random);
        for (uint32_t k = 0; k < random[0] % 4; k++)
            frame[random[1 + k % 3] / (k + 1) % n] = (uint8_t)(random[3] >> (8 * k));
        if (random[2] % 8 == 0)
            n = random[1] % (n + 1);
        struct caloris_err err;
        /* The exact size on the heap: a byte read behind it is found. */
        uint8_t *exact = malloc(n ? n : 1);
        assert_non_null(exact);
        memcpy(exact, frame, n);
        ProtobufCMessage *message = caloris_wire_unpack(of, exact, n, round % 2, &err);
        good += message != NULL;
        bad += message == NULL;
        if (message)
            protobuf_c_message_free_unpacked(message, NULL);
        free(exact);
    }
    /* Both happened often: the samples are near enough to messages, and far enough. */
    assert_true(good > ROUNDS / 20);
    assert_true(bad > ROUNDS / 20);
}

/* ---- versions and endpoints ---- */

static void versions(void **state)
{
    (void)state;
    static const struct {
        uint32_t min, max, spoken;
    } cases[] = {{1, 1, 1}, {1, 9, 1}, {0, 1, 1}, {2, 9, 0}, {0, 0, 0}, {9, 1, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct caloris_err err = {0};
        assert_int_equal(caloris_wire_version(cases[i].min, cases[i].max, &err), cases[i].spoken);
        if (!cases[i].spoken) {
            assert_int_equal(err.code, CALORIS_REFUSED);
            expect_words(&err, "1 to 1 here");
        }
    }
}

static void endpoints(void **state)
{
    (void)state;
    char dir[] = "/tmp/caloris-wire-XXXXXX", open_dir[64], good[128], in_open[128], missing[128];
    char longest[128], too_long[160];
    struct caloris_err err;
    assert_non_null(mkdtemp(dir));
    snprintf(open_dir, sizeof(open_dir), "%s/open", dir);
    assert_int_equal(mkdir(open_dir, 0750), 0);
    snprintf(good, sizeof(good), "ipc://%s/s", dir);
    snprintf(in_open, sizeof(in_open), "ipc://%s/s", open_dir);
    snprintf(missing, sizeof(missing), "ipc://%s/no/s", dir);
    snprintf(longest, sizeof(longest), "ipc://%s/%0*d", dir, (int)(106 - strlen(dir)), 1);
    snprintf(too_long, sizeof(too_long), "%s0", longest);
    const struct {
        const char *endpoint, *words;
    } bad[] = {
        {in_open, "mode 0750"},        {missing, "/no"},
        {too_long, "108 bytes"},       {"ipc://s", "absolute"},
        {"ipc://@s", "absolute"},      {"ipc://*", "absolute"},
        {"ipc:///tmp/", "path"},       {"ipc://", "absolute"},
        {"inproc://s", "neither ipc"}, {"", "neither ipc"},
        {"ipc:///tmp/s", "0700"},      {"tcp://h", "a port"},
        {"tcp://h:0", "a port"},       {"tcp://h:65536", "a port"},
        {"tcp://:1", "a host"},        {"tcp://h:1x", "a port"},
        {"tcp://h i:1", "a host"},     {"tcp://[::1:7", "a host"},
        {"tcp://[::1]7", "a host"},    {"tcp://eth0;h:1", "a host"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(caloris_endpoint_check(bad[i].endpoint, &err), -1);
        expect_words(&err, bad[i].words);
    }
    static const char *const good_tcp[] = {"tcp://127.0.0.1:7711", "tcp://*:*", "tcp://[::1]:1",
                                           "tcp://login-1.cluster:65535"};
    for (size_t i = 0; i < sizeof(good_tcp) / sizeof(*good_tcp); i++)
        assert_int_equal(caloris_endpoint_check(good_tcp[i], &err), 0);
    assert_int_equal(caloris_endpoint_check(good, &err), 0);
    assert_int_equal(caloris_endpoint_check(longest, &err), 0);
    assert_true(strlen(longest) < CALORIS_ENDPOINT_MAX);

    /* The longest path is one that the system takes. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, longest + 6, strlen(longest + 6));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_false(caloris_endpoint_in_use(longest));
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_false(caloris_endpoint_in_use(longest));
    assert_int_equal(listen(fd, 1), 0);
    assert_true(caloris_endpoint_in_use(longest));
    close(fd);
    unlink(longest + 6);
    rmdir(open_dir);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(messages_go_round, setup, teardown),
        cmocka_unit_test_setup_teardown(sends_fail_instead_of_blocking, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_message_leaves_the_socket_usable, setup,
                                        teardown),
        cmocka_unit_test(unknown_fields_are_named_where_it_matters),
        cmocka_unit_test(small_pieces_cannot_take_much_memory),
        cmocka_unit_test(honest_canvases_fit),
        cmocka_unit_test(the_schema_has_no_cycles),
        cmocka_unit_test(mutated_frames_are_harmless),
        cmocka_unit_test(versions),
        cmocka_unit_test(endpoints),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
