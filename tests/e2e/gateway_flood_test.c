/* More jobs than the gateway takes, all at once: it says when to try again, serves others
 * meanwhile, loses nothing of what it accepted, and all get through in the end. */
#include "tests/e2e/gateway_support.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CLIENTS = 4, EACH = 150, JOBS = CLIENTS * EACH, ROOM = 200 };

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_flood_ends_and_nothing_is_lost, setup, teardown),
    };
    return cmocka_run_group_tests_name("gateway_flood", tests, NULL, NULL);
}
