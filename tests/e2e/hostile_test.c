/* A gateway at TCP among peers that mean no good: frames that are none, by peers whose key was let
 * in, and connections of everybody else that lie, stop in the middle, or say nothing; then what is
 * legal, as large and as much of it as can be. Somebody honest is served all the while, and the
 * gateway's memory stays what it is. */
#include "tests/e2e/gateway_support.h"

#include "base/err.h"
#include "base/time.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#include "proto/jobs.h"
#include "proto/wire.h"

enum {
    FRAMES = 100000,  /* mutated */
    BATCH = 1000,     /* of them on one connection */
    SILENT = 1000,    /* connections that send nothing */
    HALF_OPEN = 200,  /* and that stop within the greeting */
    GARBAGE = 200,    /* and that send anything but one */
    MAX_FRAME = 4096, /* bytes of a mutated one */
    MAX_FRAMES = 32,  /* kinds */
    SEED = 20261124,
    STRANGERS = 16, /* connections that send one large frame */
    LARGE = 15 << 20,
    SHOWN = 300, /* times that a large job is asked for */
#if defined(__SANITIZE_ADDRESS__)
    BLOATED = 8,       /* jobs of CALORIS_JOB_MAX_BYTES, at once */
    MEMORY_MIB = 1024, /* what is freed is kept back for a while */
#else
    BLOATED = 64,
    MEMORY_MIB = 128,
#endif
    /* Jobs that wait for the gateway, answers that wait for a client (64), what each stranger
     * sends: beside it all at most this. */
    JOBS_MIB = MEMORY_MIB + 32,
    UNREAD_MIB = JOBS_MIB + 64,
    STRANGERS_MIB = UNREAD_MIB + STRANGERS * 16,
};

static struct gateway gateway;
static uint32_t random_state = SEED;

/* xorshift: the same numbers on every machine. */
static uint32_t draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % below;
}

/* ---- somebody honest ------------------------------------------------------------------------- */

static struct gateway there; /* for somebody honest */

/* Takes an order; a lease is answered with a result. The job that was taken, else 0. */
static uint64_t work(void *group)
{
    to_group *order = group_order(group);
    uint64_t taken = order->body_case == ORDER(TAKEN) ? order->taken->job : 0;
    if (order->body_case == ORDER(LEASE)) {
        struct lease lease = {order->lease->job, order->lease->lease->epoch,
                              order->lease->lease->counter};
        group_result(group, &lease, "{\"id\": null, \"text\": \"b\"}");
    }
    order_free(order);
    return taken;
}

/* A process of its own: a client and a group that go through whole jobs, until stdin ends. */
static void be_honest(void **state)
{
    (void)state;
    struct pollfd end = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t rounds = 0, slowest_ns = 0;
    use_key("honest");
    void *client = client_dial(&there), *group = group_dial(&there, "honest", 4);
    while (poll(&end, 1, 20) == 0) {
        char key[32];
        uint64_t started_ns = caloris_time_ns(), job, taken = 0;
        snprintf(key, sizeof(key), "honest-%llu", (unsigned long long)rounds);
        job = client_submit(client, key,
                            "{\"prompt\": \"a\", \"gen_length\": 1, \"block_length\": 1}", NULL);
        while (taken != job) /* others' come, too: some mutated frames are jobs */
            taken = work(group);
        char *result = client_results(client, job);
        assert_non_null(strstr(result, "\"b\""));
        free(result);
        uint64_t took_ns = caloris_time_ns() - started_ns;
        slowest_ns = took_ns > slowest_ns ? took_ns : slowest_ns;
        rounds++;
    }
    group_leave(group);
    ends_finish();
    printf("somebody honest: %llu jobs, the slowest %.0f ms\n", (unsigned long long)rounds,
           (double)slowest_ns * 1e-6);
    assert_true(rounds >= 3);
    assert_true(slowest_ns < PATIENCE_MS * 1000000ull);
}

static pid_t honest;
static int honest_end;

static void start_honest(void)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    honest = fork();
    assert_true(honest >= 0);
    if (honest == 0) {
        dup2(ends[0], STDIN_FILENO);
        execl("/proc/self/exe", "hostile", "--honest", gateway.clients, gateway.groups, NULL);
        _exit(127);
    }
    close(ends[0]);
    honest_end = ends[1];
}

static void end_honest(void)
{
    int status;
    close(honest_end);
    assert_int_equal(waitpid(honest, &status, 0), honest);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int setup(void **state)
{
    (void)state;
    static const char *const users[] = {"honest", "mutant", NULL};
    gateway_start_keyed(&gateway, "1s", users);
    use_key("mutant");
    start_honest();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ends_finish();
    end_honest();
    gateway_remove(&gateway);
    return 0;
}

/* ---- frames ---------------------------------------------------------------------------------- */

struct frame {
    uint8_t bytes[MAX_FRAME];
    size_t n;
};
struct kinds {
    struct frame frames[MAX_FRAMES];
    size_t n;
};
static struct kinds from_clients, from_groups;

static void keep(struct kinds *kinds, const void *message)
{
    const ProtobufCMessage *base = message;
    struct frame *frame = &kinds->frames[kinds->n++];
    assert_true(kinds->n <= MAX_FRAMES);
    assert_true(protobuf_c_message_get_packed_size(base) <= MAX_FRAME / 2);
    frame->n = protobuf_c_message_pack(base, frame->bytes);
}

static void make_client_frames(void)
{
    Caloris__Wire__Hello hello = CALORIS__WIRE__HELLO__INIT;
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    Caloris__Wire__JobRef job = CALORIS__WIRE__JOB_REF__INIT;
    Caloris__Wire__Watch watch = CALORIS__WIRE__WATCH__INIT;
    Caloris__Wire__List list = CALORIS__WIRE__LIST__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    static char json[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"abc\"}], \"seed\": 5, "
        "\"gen_length\": 8, \"commit\": \"quota\", \"steps\": 8}";
    char agent[] = "caloris 9";
    hello.version_min = hello.version_max = 1;
    hello.agent = agent;
    submit.key = (ProtobufCBinaryData){4, (uint8_t *)agent};
    submit.job_json = (ProtobufCBinaryData){sizeof(json) - 1, (uint8_t *)json};
    job.job = watch.job = 1;
    watch.has_canvas = watch.canvas = true;
    list.has_finished = list.finished = list.has_limit = true;
    list.limit = 3;
    static const int kinds[] = {
        REQUEST(HELLO), REQUEST(SUBMIT),  REQUEST(SHOW), REQUEST(RESULTS), REQUEST(CANCEL),
        REQUEST(WATCH), REQUEST(UNWATCH), REQUEST(LIST), REQUEST(CLUSTER), REQUEST(PING)};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
        message.request = i + 1;
        message.body_case = (Caloris__Wire__ClientToGateway__BodyCase)kinds[i];
        switch (kinds[i]) {
        case REQUEST(HELLO):
            message.hello = &hello;
            break;
        case REQUEST(SUBMIT):
            message.submit = &submit;
            break;
        case REQUEST(WATCH):
            message.watch = &watch;
            break;
        case REQUEST(LIST):
            message.list = &list;
            break;
        case REQUEST(CLUSTER):
        case REQUEST(PING):
            message.ping = &nothing; /* a union: the same place */
            break;
        default:
            message.show = &job;
        }
        keep(&from_clients, &message);
    }
}

static void make_group_frames(void)
{
    Caloris__Wire__Hello versions = CALORIS__WIRE__HELLO__INIT;
    Caloris__Wire__GroupHello hello = CALORIS__WIRE__GROUP_HELLO__INIT;
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    Caloris__Wire__Held held = CALORIS__WIRE__HELD__INIT, *holds = &held;
    Caloris__Wire__GroupBeat beat = CALORIS__WIRE__GROUP_BEAT__INIT;
    Caloris__Wire__LeaseResult result = CALORIS__WIRE__LEASE_RESULT__INIT;
    Caloris__Wire__LeaseProgress progress = CALORIS__WIRE__LEASE_PROGRESS__INIT;
    Caloris__Wire__Progress step = CALORIS__WIRE__PROGRESS__INIT;
    Caloris__Wire__Cell cell = CALORIS__WIRE__CELL__INIT, *cells = &cell;
    Caloris__Wire__LeaseRef reference = CALORIS__WIRE__LEASE_REF__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    char name[] = "mutant", json[] = "{\"id\": null, \"ids\": [1, 2, 3]}";
    versions.version_min = 7; /* refused, unless the mutation makes it good */
    versions.version_max = 9;
    hello.hello = &versions;
    hello.name = hello.model = hello.host = name;
    hello.ranks = hello.capacity = 1;
    id.epoch = id.counter = 1;
    held.job = result.job = progress.job = reference.job = 1;
    held.lease = result.lease = progress.lease = reference.lease = &id;
    hello.n_held = 1;
    hello.held = &holds;
    result.result_json = (ProtobufCBinaryData){sizeof(json) - 1, (uint8_t *)json};
    cell.kind = CALORIS__WIRE__CELL_KIND__MASK;
    step.n_cells = 1;
    step.cells = &cells;
    progress.progress = &step;
    static const int kinds[] = {WORD(HELLO),    WORD(BEAT),      WORD(RESULT),
                                WORD(PROGRESS), WORD(GIVE_BACK), WORD(LEAVE)};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
        message.body_case = (Caloris__Wire__GroupToGateway__BodyCase)kinds[i];
        switch (kinds[i]) {
        case WORD(HELLO):
            message.hello = &hello;
            break;
        case WORD(BEAT):
            message.beat = &beat;
            break;
        case WORD(RESULT):
            message.result = &result;
            break;
        case WORD(PROGRESS):
            message.progress = &progress;
            break;
        case WORD(LEAVE):
            message.leave = &nothing;
            break;
        default:
            message.give_back = &reference;
        }
        keep(&from_groups, &message);
    }
}

/* One of the kinds with bytes changed, cut off, repeated, or another's put behind. */
static size_t mutate(const struct kinds *kinds, uint8_t to[MAX_FRAME])
{
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, '{', '"', '\\'};
    const struct frame *frame = &kinds->frames[draw((uint32_t)kinds->n)];
    const struct frame *other = &kinds->frames[draw((uint32_t)kinds->n)];
    size_t n = frame->n;
    memcpy(to, frame->bytes, n);
    for (uint32_t changes = 1 + draw(4); changes > 0; changes--) {
        uint32_t at = draw((uint32_t)n + 1);
        switch (draw(5)) {
        case 0:
            to[at] = (uint8_t)draw(256);
            n += at == n;
            break;
        case 1:
            to[at] = odd[draw(sizeof(odd))];
            n += at == n;
            break;
        case 2:
            n = at;
            break;
        case 3:
            if (n + other->n <= MAX_FRAME - 8) {
                memmove(to + at + other->n, to + at, n - at);
                memcpy(to + at, other->bytes, other->n);
                n += other->n;
            }
            break;
        default:
            if (n > 0 && n * 2 <= MAX_FRAME - 8) {
                memcpy(to + n, to, n);
                n *= 2;
            }
        }
    }
    return n;
}

static void drain(void *socket)
{
    zmq_msg_t message;
    zmq_msg_init(&message);
    while (zmq_msg_recv(&message, socket, ZMQ_DONTWAIT) >= 0)
        ;
    zmq_msg_close(&message);
}

/* Until the gateway has taken everything that was sent before: a request that no mutation makes is
 * answered. */
static void await_client(void *socket, unsigned sent)
{
    const uint64_t number = 1ull << 40 | sent;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.request = number;
    message.body_case = REQUEST(PING);
    message.ping = &nothing;
    send_message(socket, &message);
    for (bool answered = false; !answered;) {
        from_gateway *answer = client_answer(socket);
        answered = answer->request == number;
        answer_free(answer);
    }
}

/* The result of a lease that never was is answered with that lease. */
static void await_group(void *socket, const char *name, unsigned sent)
{
    const struct lease never = {1ull << 40 | sent, 1, 1};
    drain(socket);
    order_free(group_try_hello(socket, name, 1, NULL, 0)); /* welcome, or what came before */
    group_result(socket, &never, "{}");
    for (bool answered = false; !answered;) {
        to_group *order = group_order(socket);
        answered = order->body_case == ORDER(CANCEL) && order->cancel->job == never.job;
        order_free(order);
    }
    group_leave(socket);
}

static void mutated_frames(void **state)
{
    (void)state;
    const int patience = PATIENCE_MS;
    uint8_t bytes[MAX_FRAME];
    make_client_frames();
    make_group_frames();
    for (unsigned sent = 0; sent < FRAMES;) {
        bool group = sent / BATCH % 2;
        /* Half of them come from peers that are welcome so far. */
        bool greets = sent / BATCH % 4 < 2;
        char name[32];
        snprintf(name, sizeof(name), "mutant-%u", sent);
        void *socket = !greets ? dial(group ? gateway.groups : gateway.clients)
                       : group ? group_dial(&gateway, name, 1)
                               : client_dial(&gateway);
        zmq_setsockopt(socket, ZMQ_SNDTIMEO, &patience, sizeof(patience));
        for (unsigned i = 0; i < BATCH; i++, sent++) {
            size_t n = mutate(group ? &from_groups : &from_clients, bytes);
            send_bytes(socket, bytes, n, draw(200) == 0 ? ZMQ_SNDMORE : 0);
            if (i % 64 == 0)
                drain(socket);
        }
        send_bytes(socket, "", 0, 0); /* the end of what may have been one frame of several */
        if (group)
            await_group(socket, name, sent);
        else
            await_client(socket, sent);
        hang_up(socket);
    }
    printf("%d mutated frames (seed %d)\n", FRAMES, SEED);
}

static void wrong_versions_and_sizes(void **state)
{
    (void)state;
    static const uint32_t ranges[][2] = {{0, 0}, {2, 99}, {9, 1}, {UINT32_MAX, UINT32_MAX}};
    void *client = dial(gateway.clients);
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        Caloris__Wire__Hello hello = CALORIS__WIRE__HELLO__INIT;
        request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
        hello.version_min = ranges[i][0];
        hello.version_max = ranges[i][1];
        message.body_case = REQUEST(HELLO);
        message.hello = &hello;
        client_expect_failure(client, &message, "refused", "1 to 1 here");
    }
    hang_up(client);
    /* A frame that is too large ends its connection, at both sockets. */
    const size_t large = CALORIS_WIRE_MAX_FRAME + 4096;
    char *bytes = calloc(1, large);
    assert_non_null(bytes);
    for (int i = 0; i < 4; i++) {
        void *socket = dial(i % 2 ? gateway.groups : gateway.clients);
        assert_int_equal(zmq_send(socket, bytes, large, 0), large);
        hang_up(socket);
    }
    free(bytes);
}

/* ---- connections ----------------------------------------------------------------------------- */

static int raw[HALF_OPEN + GARBAGE + SILENT];
static size_t n_raw;

static int connect_raw(const char *endpoint)
{
    const char *port = strrchr(endpoint, ':') + 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(port)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    raw[n_raw++] = fd;
    return fd;
}

/* How this protocol begins: signature, version, mechanism. */
static const uint8_t greeting[64] = {0xff, 0, 0, 0,   0,   0,   0,   0,  1,
                                     0x7f, 3, 0, 'C', 'U', 'R', 'V', 'E'};

static void connections_that_lie(void **state)
{
    (void)state;
    for (size_t i = 0; i < HALF_OPEN; i++) {
        uint8_t bytes[sizeof(greeting) + 16] = {0};
        memcpy(bytes, greeting, sizeof(greeting));
        if (i % 4 == 1)
            bytes[10] = (uint8_t)i; /* other versions */
        if (i % 4 == 2)
            memcpy(bytes + 12, i % 8 == 2 ? "NULL\0" : "PLAIN", 5);
        /* A command of 2^63 bytes is announced, and one of 15 MiB. */
        static const uint8_t large[][9] = {{6, 0x80}, {6, 0, 0, 0, 0, 0, 0xf0}};
        memcpy(bytes + sizeof(greeting), large[i % 2], sizeof(large[0]));
        int fd = connect_raw(i % 2 ? gateway.groups : gateway.clients);
        size_t length = i % 4 == 3 ? sizeof(greeting) + 9 : 1 + i % (sizeof(greeting) + 9);
        (void)!send(fd, bytes, length, MSG_NOSIGNAL);
    }
    for (size_t i = 0; i < GARBAGE; i++) {
        uint8_t bytes[1024];
        for (size_t k = 0; k < sizeof(bytes); k++)
            bytes[k] = (uint8_t)draw(256);
        int fd = connect_raw(i % 2 ? gateway.groups : gateway.clients);
        (void)!send(fd, bytes, 1 + draw(sizeof(bytes)), MSG_NOSIGNAL);
    }
}

static void connections_that_say_nothing(void **state)
{
    (void)state;
    struct rlimit limit;
    size_t n = SILENT;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < n_raw + SILENT + 64)
        n = limit.rlim_cur - n_raw - 64;
    for (size_t i = 0; i < n; i++)
        connect_raw(i % 2 ? gateway.groups : gateway.clients);
    /* They cannot keep others out while they last. */
    void *client = client_dial(&gateway);
    client_submit(client, "beside", "{\"prompt\": \"a\"}", NULL);
    printf("%zu silent connections: the gateway has %u MiB\n", n,
           gateway_memory_mib(&gateway, "VmRSS:"));
    hang_up(client);
}

/* Nobody who has not shown a key stays. */
static void all_of_them_are_closed(void **state)
{
    (void)state;
    uint64_t deadline_ns = caloris_time_ns() + PATIENCE_MS * 1000000ull;
    for (size_t i = 0; i < n_raw; i++) {
        char bytes[256];
        for (;;) {
            ssize_t got = recv(raw[i], bytes, sizeof(bytes), 0);
            if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
                break;
            if (caloris_time_ns() > deadline_ns)
                fail_msg("connection %zu of %zu is still open", i, n_raw);
            if (got < 0)
                caloris_time_sleep_ms(5);
        }
        close(raw[i]);
    }
    n_raw = 0;
}

static void memory_stays(const char *after, unsigned most_mib)
{
    const unsigned now = gateway_memory_mib(&gateway, "VmRSS:");
    const unsigned peak = gateway_memory_mib(&gateway, "VmHWM:");
    printf("%s: the gateway has %u MiB, so far at most %u MiB\n", after, now, peak);
    assert_in_range(peak, 1, most_mib);
}

static void memory_is_bounded(void **state)
{
    (void)state;
    memory_stays("all of that", MEMORY_MIB);
}

/* ---- as much as is legal --------------------------------------------------------------------- */

/* Jobs of the largest size that would take 80 times their size, all on their way at once. */
static void bloated_jobs(void **state)
{
    (void)state;
    static uint8_t json[CALORIS_JOB_MAX_BYTES], frame[CALORIS_JOB_MAX_BYTES + 256];
    const int patience = PATIENCE_MS;
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    memcpy(json, "{\"ids\":[", 8);
    for (size_t i = 8; i + 3 <= sizeof(json); i += 3)
        memcpy(json + i, "{},", 3);
    submit.key = (ProtobufCBinaryData){7, json};
    submit.job_json = (ProtobufCBinaryData){sizeof(json), json};
    message.request = 1ull << 41;
    message.body_case = REQUEST(SUBMIT);
    message.submit = &submit;
    const size_t n = protobuf_c_message_pack(&message.base, frame);
    void *client = client_dial(&gateway);
    zmq_setsockopt(client, ZMQ_SNDTIMEO, &patience, sizeof(patience));
    for (int i = 0; i < BLOATED; i++)
        send_bytes(client, frame, n, 0);
    for (int i = 0; i < BLOATED; i++) {
        from_gateway *answer = client_answer(client);
        assert_int_equal(answer->request, message.request);
        assert_int_equal(answer->body_case, ANSWER(FAILURE));
        assert_string_equal(answer->failure->code, "bad_request");
        answer_free(answer);
    }
    hang_up(client);
    memory_stays("bloated jobs", JOBS_MIB);
}

/* Large answers that nobody reads. */
static void unread_answers(void **state)
{
    (void)state;
    static const char head[] = "{\"model\":\"none\",\"prompt\":\"";
    char *json = malloc(CALORIS_JOB_MAX_BYTES);
    assert_non_null(json);
    memset(json, 'x', CALORIS_JOB_MAX_BYTES);
    memcpy(json, head, sizeof(head) - 1);
    memcpy(json + CALORIS_JOB_MAX_BYTES - 512, "\"}", 3);
    void *client = client_dial_narrow(&gateway);
    Caloris__Wire__JobRef reference = CALORIS__WIRE__JOB_REF__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    reference.job = client_submit(client, "large", json, NULL);
    free(json);
    message.body_case = REQUEST(SHOW);
    message.show = &reference;
    for (int i = 0; i < SHOWN; i++) {
        message.request = (1ull << 42) + (unsigned)i;
        send_message(client, &message);
    }
    int shown = 0, refused = 0;
    while (shown + refused < SHOWN / 2) { /* what found no room has no answer */
        caloris_time_sleep_ms(10);        /* somebody slow */
        from_gateway *answer = client_answer(client);
        shown += answer->body_case == ANSWER(STATUS);
        refused += answer->body_case == ANSWER(FAILURE);
        answer_free(answer);
    }
    await_client(client, 1u << 30); /* and is served as before */
    printf("%d large answers, %d were refused\n", shown, refused);
    assert_in_range(shown, 8, SHOWN / 4);
    hang_up(client);
    memory_stays("large answers", UNREAD_MIB);
}

/* Frames are held before it is known whose they are: as long as a handshake may take. */
static void strangers_with_large_frames(void **state)
{
    (void)state;
    static const uint8_t zeros[1 << 16], head[9] = {6, 0, 0, 0, 0, 0, LARGE >> 16};
    size_t sent[STRANGERS] = {0}, left = STRANGERS;
    const uint64_t end_ns = caloris_time_ns() + PATIENCE_MS * 1000000ull;
    for (size_t i = 0; i < STRANGERS; i++) {
        int fd = connect_raw(i % 2 ? gateway.groups : gateway.clients);
        assert_int_equal(send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL), sizeof(greeting));
        assert_int_equal(send(fd, head, sizeof(head), MSG_NOSIGNAL), sizeof(head));
    }
    while (left > 0 && caloris_time_ns() < end_ns) {
        left = 0;
        for (size_t i = 0; i < STRANGERS; i++) {
            const size_t rest = LARGE - 1 - sent[i]; /* never the last byte */
            const size_t n = rest < sizeof(zeros) ? rest : sizeof(zeros);
            const ssize_t got = send(raw[i], zeros, n, MSG_NOSIGNAL);
            sent[i] += got > 0 ? (size_t)got : 0;
            left += sent[i] < LARGE - 1 && (got > 0 || errno == EAGAIN);
        }
    }
    memory_stays("large frames of strangers", STRANGERS_MIB);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--honest") == 0) {
        const struct CMUnitTest honesty[] = {cmocka_unit_test(be_honest)};
        snprintf(there.clients, sizeof(there.clients), "%s", argv[2]);
        snprintf(there.groups, sizeof(there.groups), "%s", argv[3]);
        return cmocka_run_group_tests_name("somebody honest", honesty, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutated_frames),
        cmocka_unit_test(wrong_versions_and_sizes),
        cmocka_unit_test(connections_that_lie),
        cmocka_unit_test(connections_that_say_nothing),
        cmocka_unit_test(all_of_them_are_closed),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(bloated_jobs),
        cmocka_unit_test(unread_answers),
        cmocka_unit_test(strangers_with_large_frames),
        cmocka_unit_test(all_of_them_are_closed),
    };
    return cmocka_run_group_tests_name("hostile peers", tests, setup, teardown);
}
