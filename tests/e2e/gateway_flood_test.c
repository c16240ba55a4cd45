/* More jobs than the gateway takes, all at once: it says when to try again, serves others
 * meanwhile, loses nothing of what it accepted, and all get through in the end. */
#include "tests/e2e/gateway_support.h"

#include "base/time.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CLIENTS = 4, EACH = 150, JOBS = CLIENTS * EACH, ROOM = 200 };
enum {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    UNREAD_MIB = 1024, /* what is freed is kept back for a while */
#else
    UNREAD_MIB = 160,
#endif
};

static struct gateway gateway;

static int setup(void **state)
{
    (void)state;
    char room[16];
    snprintf(room, sizeof(room), "%d", ROOM);
    setenv("CALORIS_MAX_QUEUED", room, 1);
    gateway_start(&gateway, "100s");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unsetenv("CALORIS_MAX_QUEUED");
    ends_finish();
    gateway_remove(&gateway);
    return 0;
}

/* One client of the flood, and what became of its jobs. */
struct flooder {
    void *socket;
    uint64_t jobs[EACH]; /* 0: not accepted yet */
};

/* Sends whatever was not accepted, and reads no answer meanwhile; how many. */
static int pour(struct flooder *f, int number)
{
    int sent = 0;
    for (int i = 0; i < EACH; i++) {
        char key[32], json[64];
        if (f->jobs[i])
            continue;
        snprintf(key, sizeof(key), "%d-%d", number, i);
        snprintf(json, sizeof(json), "{\"prompt\": \"x\", \"id\": \"%s\"}", key);
        Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
        request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
        submit.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        submit.job_json = (ProtobufCBinaryData){strlen(json), (uint8_t *)json};
        message.request = 1000000u + (unsigned)i;
        message.body_case = REQUEST(SUBMIT);
        message.submit = &submit;
        send_message(f->socket, &message);
        sent++;
    }
    return sent;
}

/* So many answers: each says that the job is accepted, or when to come again. */
static int take_answers(struct flooder *f, int n)
{
    int accepted = 0;
    for (int i = 0; i < n; i++) {
        from_gateway *answer = client_answer(f->socket);
        assert_in_range(answer->request, 1000000, 1000000 + EACH - 1);
        uint64_t *job = &f->jobs[answer->request - 1000000];
        assert_int_equal(*job, 0); /* one answer to each */
        if (answer->body_case == ANSWER(ACCEPTED)) {
            assert_false(answer->accepted->again);
            *job = answer->accepted->job;
            accepted++;
        } else {
            assert_int_equal(answer->body_case, ANSWER(FAILURE));
            assert_string_equal(answer->failure->code, "try_again");
            assert_true(answer->failure->retry_after_ms > 0);
            assert_non_null(strstr(answer->failure->text, "max_queued: user "));
        }
        answer_free(answer);
    }
    return accepted;
}

static uint64_t count_queued(void *client)
{
    Caloris__Wire__List list = CALORIS__WIRE__LIST__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    message.body_case = REQUEST(LIST);
    message.list = &list;
    from_gateway *answer = client_call(client, &message, ANSWER(LIST));
    const uint64_t queued = answer->list->queued + answer->list->running;
    answer_free(answer);
    return queued;
}

/* The group computes so many jobs; a job's result is its number. */
static void compute(void *group, int n)
{
    for (int i = 0; i < n; i++) {
        char json[64];
        struct lease lease = group_take_lease(group);
        snprintf(json, sizeof(json), "{\"id\": null, \"ids\": [%d]}", (int)lease.job);
        group_result(group, &lease, json);
        order_free(group_next(group, ORDER(TAKEN)));
    }
}

static void a_flood_ends_and_nothing_is_lost(void **state)
{
    (void)state;
    struct flooder flooders[CLIENTS] = {{.socket = NULL}};
    void *other = client_dial(&gateway);
    int sent[CLIENTS], left = JOBS;
    for (int c = 0; c < CLIENTS; c++)
        flooders[c].socket = client_dial(&gateway);
    for (int round = 0; left > 0; round++) {
        int accepted = 0;
        for (int c = 0; c < CLIENTS; c++)
            sent[c] = pour(&flooders[c], c);
        assert_true(count_queued(other) <= ROOM); /* others are served meanwhile */
        for (int c = 0; c < CLIENTS; c++)
            accepted += take_answers(&flooders[c], sent[c]);
        assert_int_equal(accepted, left < ROOM ? left : ROOM);
        left -= accepted;
        if (round == 0) { /* what was accepted is on disk */
            gateway_end(&gateway, SIGKILL);
            gateway_start_again(&gateway, "100s");
            hang_up(other);
            other = client_dial(&gateway);
            for (int c = 0; c < CLIENTS; c++) {
                hang_up(flooders[c].socket);
                flooders[c].socket = client_dial(&gateway);
            }
        }
        assert_int_equal(count_queued(other), accepted);
        void *group = group_dial(&gateway, "g", 1);
        compute(group, accepted);
        group_leave(group);
        hang_up(group);
        assert_int_equal(count_queued(other), 0);
    }
    for (int c = 0; c < CLIENTS; c++) {
        for (int i = 0; i < EACH; i++) {
            char id[32], ids[32];
            const uint64_t job = flooders[c].jobs[i];
            from_gateway *answer = client_show(other, job);
            snprintf(id, sizeof(id), "%d-%d", c, i);
            assert_int_equal(answer->status->state, STATE(DONE));
            assert_string_equal(answer->status->id, id);
            answer_free(answer);
            char *json = client_results(other, job);
            snprintf(ids, sizeof(ids), "[%d]", (int)job);
            assert_non_null(strstr(json, ids));
            free(json);
        }
        hang_up(flooders[c].socket);
    }
    hang_up(other);
}

/* Jobs of so many kinds of one user are all that wait; he is told, others are not concerned. */
static void kinds_are_a_users_own(void **state)
{
    (void)state;
    enum { KINDS = 1024 };
    char key[32], json[128];
    use_key("many");
    void *many = client_dial(&gateway);
    use_key("few");
    void *few = client_dial(&gateway);
    uint64_t job = 0;
    for (int i = 0; i < KINDS; i++) {
        snprintf(key, sizeof(key), "%d", i);
        snprintf(json, sizeof(json), "{\"prompt\": \"x\", \"model\": \"m%d\"}", i);
        job = client_submit(many, key, json, NULL);
    }
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    static char another[] = "{\"prompt\": \"x\", \"model\": \"another\"}";
    submit.key = submit.job_json = (ProtobufCBinaryData){strlen(another), (uint8_t *)another};
    message.body_case = REQUEST(SUBMIT);
    message.submit = &submit;
    client_expect_failure(many, &message, "try_again", "jobs of 1024 kinds");
    client_submit(many, "known", json, NULL);
    client_submit(few, "free", another, NULL);
    /* There is room again when a kind is gone, though no group looks for any. */
    client_cancel(many, job);
    client_cancel(many, job + 1);
    const uint64_t deadline_ns = caloris_time_ns() + PATIENCE_MS * 1000000ull;
    from_gateway *answer = NULL;
    do {
        answer_free(answer);
        caloris_time_sleep_ms(100);
        message.request++;
        send_message(many, &message);
        answer = client_answer(many);
    } while (answer->body_case == ANSWER(FAILURE) && caloris_time_ns() < deadline_ns);
    assert_int_equal(answer->body_case, ANSWER(ACCEPTED));
    answer_free(answer);
    hang_up(many);
    hang_up(few);
}

static int setup_keyed(void **state)
{
    (void)state;
    static const char *const users[] = {"many", "few", NULL};
    gateway_start_keyed(&gateway, "100s", users);
    return 0;
}

static void ask(void *socket, int what, uint64_t job, uint64_t number)
{
    Caloris__Wire__JobRef reference = CALORIS__WIRE__JOB_REF__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    reference.job = job;
    message.request = number;
    message.body_case = (Caloris__Wire__ClientToGateway__BodyCase)what;
    message.show = &reference;
    send_message(socket, &message);
}

/* Somebody asks for a large job, again and again, and reads nothing: the gateway keeps a bounded
 * number of bytes for him. When he reads, he is served as before. */
static void unread_answers_are_bounded(void **state)
{
    (void)state;
    enum { ASKED = 200, LARGE = 8 << 20 };
#if defined(__SANITIZE_THREAD__)
    skip(); /* libzmq hands over words in races to be suppressed: minutes for each answer */
#endif
    void *client = client_dial_narrow(&gateway), *other = client_dial(&gateway);
    char *json = malloc(LARGE);
    assert_non_null(json);
    memset(json, 'x', LARGE);
    const size_t head = (size_t)sprintf(json, "{\"prompt\": \"");
    json[head] = 'x';
    memcpy(json + LARGE - 512, "\"}", 3);
    const uint64_t job = client_submit(client, "large", json, NULL);
    free(json);
    const unsigned before = gateway_memory_mib(&gateway, "VmRSS:");
    for (int i = 0; i < ASKED; i++)
        ask(client, REQUEST(SHOW), job, (uint64_t)i + 1000000);
    /* Others are served meanwhile. Once his share is full, the rest of it is refused at once. */
    client_cancel(other, client_submit(other, "small", "{\"prompt\": \"x\"}", NULL));
    const uint64_t deadline_ns = caloris_time_ns() + PATIENCE_MS * 1000000ull;
    while (gateway_memory_mib(&gateway, "VmRSS:") < before + 40 && caloris_time_ns() < deadline_ns)
        caloris_time_sleep_ms(10);
    for (unsigned last = 0, now = 1; now != last && caloris_time_ns() < deadline_ns;) {
        last = now;
        caloris_time_sleep_ms(1000);
        now = gateway_memory_mib(&gateway, "VmRSS:");
    }
    const unsigned peak = gateway_memory_mib(&gateway, "VmHWM:");
    int shown = 0, refused = 0;
    while (shown + refused < ASKED) {
        from_gateway *answer = client_answer(client);
        if (answer->body_case == ANSWER(STATUS)) {
            assert_true(answer->status->job_json.len > LARGE - 1024);
            shown++;
        } else {
            assert_int_equal(answer->body_case, ANSWER(FAILURE));
            assert_string_equal(answer->failure->code, "try_again");
            assert_non_null(strstr(answer->failure->text, "MiB of answers wait"));
            refused++;
        }
        answer_free(answer);
    }
    printf("%d large answers, unread: %d sent, %d refused; memory %u MiB, at most %u MiB\n", ASKED,
           shown, refused, before, peak);
    assert_in_range(shown, 8, 100);
    assert_in_range(peak, before, before + UNREAD_MIB);
    answer_free(client_show(client, job));
    hang_up(other);
    hang_up(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(unread_answers_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(a_flood_ends_and_nothing_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(kinds_are_a_users_own, setup_keyed, teardown),
    };
    return cmocka_run_group_tests_name("gateway_flood", tests, NULL, NULL);
}
