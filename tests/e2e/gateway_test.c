/* caloris-gateway and its clients: what is accepted, what is refused, what is still there
 * afterwards. */
#include "tests/e2e/gateway_support.h"

#include "base/time.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#include "proto/jobs.h"
#include "proto/wire.h"

enum {
#if defined(__SANITIZE_THREAD__)
    BLOATED = 3 << 20, /* bytes; every word that libzmq hands over is a race to be suppressed */
#else
    BLOATED = CALORIS_JOB_MAX_BYTES,
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    MEMORY_MIB = 1024, /* what is freed is kept back for a while */
#else
    MEMORY_MIB = 128,
#endif
};

static struct gateway gateway;

static int setup(void **state)
{
    (void)state;
    gateway_start(&gateway, "20s");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ends_finish();
    gateway_remove(&gateway);
    return 0;
}

static void jobs_are_accepted_shown_and_listed(void **state)
{
    (void)state;
    bool again;
    void *client = client_dial(&gateway);
    uint64_t first = client_submit(client, "k1", "{\"prompt\": \"a\", \"id\": \"one\"}", &again);
    assert_false(again);
    uint64_t second = client_submit(client, "k2", "{\"ids\": [1], \"seed\": 5}", &again);
    assert_true(second > first);

    from_gateway *answer = client_show(client, first);
    Caloris__Wire__JobStatus *status = answer->status;
    assert_int_equal(status->state, STATE(QUEUED));
    assert_string_equal(status->id, "one");
    assert_true(status->submitted_ms > 1600000000000);
    assert_false(status->has_finished_ms);
    assert_int_equal(status->crashes, 0);
    /* A seed was drawn at accept, the preset's fields were written out; the rest of the job is as
     * it came. */
    char json[512];
    unsigned long long seed;
    assert_true(status->has_job_json && status->job_json.len < sizeof(json));
    memcpy(json, status->job_json.data, status->job_json.len);
    json[status->job_json.len] = '\0';
    assert_int_equal(sscanf(json, "{\"seed\": %llu, ", &seed), 1);
    assert_true(seed < 1ull << 53);
    assert_non_null(strstr(json, "\"cache\": \""));
    const char *rest = strstr(json, "\"prompt\"");
    assert_non_null(rest);
    assert_string_equal(rest, "\"prompt\": \"a\", \"id\": \"one\"}");
    answer_free(answer);

    answer = client_show(client, second);
    assert_null(answer->status->id);
    static const char second_rest[] = "\"ids\": [1], \"seed\": 5}";
    const ProtobufCBinaryData *stored = &answer->status->job_json;
    assert_true(stored->len > sizeof(second_rest));
    assert_memory_equal(stored->data + stored->len - strlen(second_rest), second_rest,
                        strlen(second_rest));
    answer_free(answer);

    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__List list = CALORIS__WIRE__LIST__INIT;
    message.body_case = REQUEST(LIST);
    message.list = &list;
    list.has_limit = true;
    list.limit = 1;
    answer = client_call(client, &message, ANSWER(LIST));
    assert_int_equal(answer->list->n_jobs, 1);
    assert_int_equal(answer->list->jobs[0]->job, second);
    assert_int_equal(answer->list->queued, 2);
    assert_int_equal(answer->list->running, 0);
    assert_int_equal(answer->list->finished, 0);
    answer_free(answer);
    list.has_before = true;
    list.before = second;
    answer = client_call(client, &message, ANSWER(LIST));
    assert_int_equal(answer->list->n_jobs, 1);
    assert_int_equal(answer->list->jobs[0]->job, first);
    answer_free(answer);
    hang_up(client);
}

static void a_key_means_one_job(void **state)
{
    (void)state;
    bool again;
    void *client = client_dial(&gateway), *other = client_dial(&gateway);
    uint64_t job = client_submit(client, "same", "{\"prompt\": \"a\"}", NULL);
    assert_int_equal(client_submit(other, "same", "{\"prompt\": \"a\"}", &again), job);
    assert_true(again);

    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    char body[] = "{\"prompt\": \"b\"}";
    submit.key = (ProtobufCBinaryData){4, (uint8_t *)(uintptr_t) "same"};
    submit.job_json = (ProtobufCBinaryData){strlen(body), (uint8_t *)body};
    message.body_case = REQUEST(SUBMIT);
    message.submit = &submit;
    client_expect_failure(client, &message, "bad_request", "another body");
    hang_up(client);
    hang_up(other);
}

static void bad_jobs_are_refused_by_name(void **state)
{
    (void)state;
    static const char key65[] = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
    static const struct {
        const char *key, *json, *words;
    } bad[] = {
        {"k", "", "JSON"},
        {"k", "[]", "object"},
        {"k", "{\"prompt\": \"a\", \"prompt\": \"b\"}", "duplicate"},
        {"k", "{\"prompt\": \"a\", \"gen_lenght\": 4}", "gen_lenght"},
        {"k", "{\"prompt\": \"a\", \"temperature\": -1}", "temperature"},
        {"k", "{\"prompt\": \"a\", \"seed\": 9007199254740992}", "seed"},
        {"", "{\"prompt\": \"a\"}", "key"},
        {key65, "{\"prompt\": \"a\"}", "key"},
    };
    void *client = client_dial(&gateway);
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    message.body_case = REQUEST(SUBMIT);
    message.submit = &submit;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        submit.key = (ProtobufCBinaryData){strlen(bad[i].key), (uint8_t *)(uintptr_t)bad[i].key};
        submit.job_json =
            (ProtobufCBinaryData){strlen(bad[i].json), (uint8_t *)(uintptr_t)bad[i].json};
        client_expect_failure(client, &message, "bad_request", bad[i].words);
    }
    /* Larger than any job may be, smaller than any frame. As large as one may be is taken. */
    static const char begin[] = "{\"prompt\": \"a\"";
    size_t n = CALORIS_JOB_MAX_BYTES + 1;
    uint8_t *large = malloc(n + 1);
    assert_non_null(large);
    memset(large, ' ', n);
    memcpy(large, begin, sizeof(begin) - 1);
    large[n - 1] = '}';
    large[n] = '\0';
    submit.key = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "k"};
    submit.job_json = (ProtobufCBinaryData){n, large};
    client_expect_failure(client, &message, "bad_request", "job_json");
    large[n - 2] = '}';
    large[n - 1] = '\0';
    assert_true(client_submit(client, "largest", (const char *)large, NULL) > 0);
    free(large);

    /* A submission from the future: field 9 of Submit. */
    uint8_t frame[64];
    static const uint8_t inner[] = {0x0A, 1, 'k', 0x12, 2, '{', '}', 0x48, 1};
    frame[0] = 0x08;
    frame[1] = 77; /* request */
    frame[2] = 0x1A;
    frame[3] = sizeof(inner);
    memcpy(frame + 4, inner, sizeof(inner));
    send_bytes(client, frame, 4 + sizeof(inner), 0);
    uint8_t answer[512];
    zmq_pollitem_t item = {.socket = client, .events = ZMQ_POLLIN};
    assert_int_equal(zmq_poll(&item, 1, PATIENCE_MS), 1);
    int got = zmq_recv(client, answer, sizeof(answer), 0);
    assert_true(got > 0 && got < (int)sizeof(answer));
    from_gateway *failure = caloris__wire__gateway_to_client__unpack(NULL, (size_t)got, answer);
    assert_non_null(failure);
    assert_int_equal(failure->request, 77);
    assert_int_equal(failure->body_case, ANSWER(FAILURE));
    assert_string_equal(failure->failure->text, "caloris.wire.Submit: unknown field 9");
    answer_free(failure);
    hang_up(client);
}

/* What a job may hold is bounded before it is parsed: 2 bytes of text are 160 of memory. */
static void bloated_jobs_cost_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *entry, *words;
    } bloated[] = {{"{},", "more than"}, {"[],", "more than"}, {"1,", "more than"}, {"[", "deep"}};
    void *client = client_dial(&gateway);
    char *json = malloc(BLOATED);
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    assert_non_null(json);
    submit.key = (ProtobufCBinaryData){1, (uint8_t *)json};
    message.body_case = REQUEST(SUBMIT);
    message.submit = &submit;
    for (size_t i = 0; i < sizeof(bloated) / sizeof(*bloated); i++) {
        const size_t step = strlen(bloated[i].entry);
        size_t n = (size_t)sprintf(json, "{\"ids\":[");
        for (; n + step <= (i == 3 ? 1000u : BLOATED); n += step)
            memcpy(json + n, bloated[i].entry, step);
        submit.job_json = (ProtobufCBinaryData){n, (uint8_t *)json};
        client_expect_failure(client, &message, "bad_request", bloated[i].words);
    }
    free(json);
    const unsigned peak = gateway_memory_mib(&gateway, "VmHWM:");
    printf("%d MiB of nothing, refused: the gateway had %u MiB at most\n", BLOATED >> 20, peak);
    assert_in_range(peak, 1, MEMORY_MIB);
    hang_up(client);
}

static void bad_requests_are_answered(void **state)
{
    (void)state;
    void *client = client_dial(&gateway);
    uint64_t done = client_submit(client, "k", "{\"prompt\": \"a\"}", NULL);
    Caloris__Wire__JobRef reference = CALORIS__WIRE__JOB_REF__INIT;
    static const int about[] = {REQUEST(SHOW), REQUEST(RESULTS), REQUEST(CANCEL)};
    for (size_t i = 0; i < 3; i++) {
        request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
        reference.job = i == 0 ? UINT64_MAX : 4711;
        message.body_case = (Caloris__Wire__ClientToGateway__BodyCase)about[i];
        message.show = &reference;
        client_expect_failure(client, &message, "not_found", i == 0 ? "no job" : "no job 4711");
    }
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    reference.job = done;
    message.body_case = REQUEST(RESULTS);
    message.results = &reference;
    client_expect_failure(client, &message, "try_again", "has not finished");

    request empty = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    client_expect_failure(client, &empty, "bad_request", "unknown request");

    /* No hello, then one in no version of ours. */
    void *stranger = dial(gateway.clients);
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    request ping = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    ping.body_case = REQUEST(PING);
    ping.ping = &nothing;
    client_expect_failure(stranger, &ping, "peer_lost", "say hello");
    Caloris__Wire__Hello hello = CALORIS__WIRE__HELLO__INIT;
    request greeting = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    hello.version_min = 7;
    hello.version_max = 9;
    greeting.body_case = REQUEST(HELLO);
    greeting.hello = &hello;
    client_expect_failure(stranger, &greeting, "refused", "versions 7 to 9");
    hang_up(stranger);
    hang_up(client);
}

static void noise_harms_nobody_else(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *noisy = dial(gateway.clients);
    void *chosen = dial(gateway.clients);
    send_bytes(noisy, "\xFF\xFF\xFF garbage", 11, 0);
    send_bytes(noisy, "", 0, ZMQ_SNDMORE);
    send_bytes(noisy, "two frames", 10, 0);
    send_bytes(chosen, "", 0, 0);
    /* Too large for any frame: the connection ends, the gateway goes on. */
    size_t n = CALORIS_WIRE_MAX_FRAME + 1;
    void *huge = calloc(1, n);
    assert_non_null(huge);
    send_bytes(noisy, huge, n, 0);
    free(huge);
    client_submit(client, "k", "{\"prompt\": \"a\"}", NULL);
    void *later = client_dial(&gateway);
    client_submit(later, "k2", "{\"prompt\": \"a\"}", NULL);
    hang_up(client);
    hang_up(noisy);
    hang_up(chosen);
    hang_up(later);
}

/* Sends n submissions without waiting for an answer. */
static void burst(void *socket, int n)
{
    for (int i = 0; i < n; i++) {
        char key[16], json[] = "{\"prompt\": \"burst\"}";
        snprintf(key, sizeof(key), "b%d", i);
        Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
        request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
        submit.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        submit.job_json = (ProtobufCBinaryData){strlen(json), (uint8_t *)json};
        message.request = 1000000u + (unsigned)i;
        message.body_case = REQUEST(SUBMIT);
        message.submit = &submit;
        send_message(socket, &message);
    }
}

/* Killed in the middle of a burst: every number that had been answered is there, under its key. */
static void accepted_means_on_disk(void **state)
{
    (void)state;
    enum { JOBS = 400, BEFORE_KILL = 150 };
    uint64_t accepted[JOBS] = {0};
    void *client = client_dial(&gateway);
    burst(client, JOBS);
    for (int seen = 0; seen < JOBS;) {
        zmq_pollitem_t item = {.socket = client, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, seen < BEFORE_KILL ? PATIENCE_MS : SILENCE_MS) != 1)
            break;
        ProtobufCMessage *message;
        struct caloris_err *none = NULL;
        assert_int_equal(caloris_wire_receive(client, NULL,
                                              &caloris__wire__gateway_to_client__descriptor,
                                              &message, none),
                         1);
        from_gateway *answer = (from_gateway *)(void *)message;
        if (answer->body_case == ANSWER(ACCEPTED)) {
            accepted[answer->request - 1000000] = answer->accepted->job;
            seen++;
        }
        answer_free(answer);
        if (seen == BEFORE_KILL && gateway.pid)
            assert_true(WIFSIGNALED(gateway_end(&gateway, SIGKILL)));
    }
    hang_up(client);
    ends_finish();
    gateway_start_again(&gateway, "20s");

    client = client_dial(&gateway);
    int known = 0;
    for (int i = 0; i < JOBS; i++) {
        char key[16];
        bool again;
        snprintf(key, sizeof(key), "b%d", i);
        uint64_t job = client_submit(client, key, "{\"prompt\": \"burst\"}", &again);
        if (accepted[i]) {
            assert_int_equal(job, accepted[i]);
            assert_true(again);
            known++;
        }
    }
    assert_true(known >= BEFORE_KILL);
    hang_up(client);
}

static bool exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static void a_gateway_is_found_by_name_until_it_ends(void **state)
{
    (void)state;
    char path[128], text[512] = "";
    struct stat st;
    snprintf(path, sizeof(path), "%s/.caloris/t", gateway.dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof(text), file));
    fclose(file);
    assert_non_null(strstr(text, gateway.clients));

    /* kill -9 leaves it; the next one writes it anew; a clean end removes it. */
    gateway_end(&gateway, SIGKILL);
    assert_true(exists(path));
    gateway_start_again(&gateway, "20s");
    assert_true(exists(path));
    int status = gateway_end(&gateway, SIGTERM);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_false(exists(path));
}

static void bad_starts_end_with_2(void **state)
{
    (void)state;
    char same[128], fresh[128], open[128], text[1024], pid[32], damaged[160];
    snprintf(same, sizeof(same), "%s/state", gateway.dir);
    snprintf(fresh, sizeof(fresh), "%s/fresh", gateway.dir);
    snprintf(open, sizeof(open), "%s/open", gateway.dir);
    snprintf(pid, sizeof(pid), "process %d", (int)gateway.pid);
    assert_int_equal(mkdir(open, 0755), 0);
    char long_path[200];
    memset(long_path, 'x', sizeof(long_path));
    memcpy(long_path, "/tmp/", 5);
    long_path[sizeof(long_path) - 1] = '\0';
    const struct {
        const char *arguments[6];
        const char *words;
    } bad[] = {
        {{"--state", same, "--name", "u", NULL}, pid},
        {{"--state", fresh, "--name", "t", NULL}, "--name gives this one another"},
        {{"--state", fresh, "--clients", "tcp://127.0.0.1:7777", NULL}, "needs keys"},
        {{"--state", fresh, "--groups", "ipc:///tmp/groups.sock", NULL}, "0700"},
        {{"--state", fresh, "--groups", gateway.groups, NULL}, "another process listens"},
        {{"--state", open, NULL}, "0700"},
        {{"--state", long_path, NULL}, "107 bytes"},
        {{"--state", fresh, "--name", "../x", NULL}, "letters, digits"},
        {{"--state", fresh, "--beat", "10s", NULL}, "lost"},
        {{"--no-such-option", NULL}, "no-such-option"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(gateway_run(bad[i].arguments, text, sizeof(text)), 2);
        if (!strstr(text, bad[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, text, bad[i].words);
    }
    gateway_end(&gateway, SIGTERM);
    snprintf(damaged, sizeof(damaged), "%s/queue.db", same);
    FILE *file = fopen(damaged, "r+");
    assert_non_null(file);
    fputs("not a database any more", file);
    fclose(file);
    const char *const again[] = {"--state", same, "--name", "t", NULL};
    assert_int_equal(gateway_run(again, text, sizeof(text)), 2);
    assert_non_null(strstr(text, damaged));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(jobs_are_accepted_shown_and_listed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_key_means_one_job, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_jobs_are_refused_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(bloated_jobs_cost_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_requests_are_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(noise_harms_nobody_else, setup, teardown),
        cmocka_unit_test_setup_teardown(accepted_means_on_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(a_gateway_is_found_by_name_until_it_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_starts_end_with_2, setup, teardown),
    };
    return cmocka_run_group_tests_name("gateway and clients", tests, NULL, NULL);
}
