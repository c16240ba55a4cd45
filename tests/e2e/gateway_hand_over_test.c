/* Where jobs stand, on its way from one group to the next: through memory, over the gateway's
 * death, and never from whoever has no right to say it. The gateway does not look inside. */
#include "tests/e2e/gateway_support.h"

#include "proto/wire.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static struct gateway gateway;

static const char job_json[] = "{\"prompt\": \"a\", \"seed\": 1}";
static const char good[] = "{\"id\": null, \"ids\": [1], \"text\": \"x\"}";

static int setup(void **state)
{
    (void)state;
    gateway_start(&gateway, "60s");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ends_finish();
    gateway_remove(&gateway);
    return 0;
}

static void say(void *group, const struct lease *lease, uint32_t block, const void *bytes, size_t n)
{
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    Caloris__Wire__LeaseHandOver hand_over = CALORIS__WIRE__LEASE_HAND_OVER__INIT;
    word message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    id.epoch = lease->epoch;
    id.counter = lease->counter;
    hand_over.job = lease->job;
    hand_over.lease = &id;
    hand_over.block = block;
    hand_over.hand_over = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)bytes};
    message.body_case = WORD(HAND_OVER);
    message.hand_over = &hand_over;
    send_message(group, &message);
}

/* The next lease; text: what it hands over, NULL: nothing. */
static struct lease take(void *group, const char *text)
{
    to_group *order = group_next(group, ORDER(LEASE));
    const Caloris__Wire__Lease *from = order->lease;
    const struct lease lease = {from->job, from->lease->epoch, from->lease->counter};
    if (!!from->has_hand_over != !!text)
        fail_msg("job %d: %s", (int)lease.job, text ? "nothing is handed over" : "something is");
    if (text) {
        assert_int_equal(from->hand_over.len, strlen(text));
        assert_memory_equal(from->hand_over.data, text, strlen(text));
    }
    order_free(order);
    return lease;
}

/* What show says; -1: nothing. Also waits for all words said on other sockets before. */
static void expect_blocks(void *client, uint64_t job, int block, int resumed)
{
    from_gateway *answer = client_show(client, job);
    const Caloris__Wire__JobStatus *status = answer->status;
    assert_int_equal(status->has_block ? (int)status->block : -1, block);
    assert_int_equal(status->has_resumed_block ? (int)status->resumed_block : -1, resumed);
    answer_free(answer);
}

static void the_newest_word_goes_to_the_next_group(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    const uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = take(group, NULL);
    expect_blocks(client, job, -1, -1);
    say(group, &lease, 1, "one", 3);
    say(group, &lease, 2, "second", 6);
    say(group, &(struct lease){job, lease.epoch, lease.counter + 1}, 9, "no lease", 8);
    say(group, &(struct lease){job + 1, lease.epoch, lease.counter}, 9, "no job", 6);
    say(group, &lease, 9, "", 0);
    group_give_back(group, &lease);
    group_beat(group, 1);
    const struct lease again = take(group, "second");
    expect_blocks(client, job, 2, 2);
    say(group, &lease, 9, "of an old lease", 15);
    say(group, &again, 3, "three", 5);
    group_leave(group);
    client_await(client, job, STATE(QUEUED));
    expect_blocks(client, job, 3, -1);
    void *heir = group_dial(&gateway, "h", 1);
    lease = take(heir, "three");
    expect_blocks(client, job, 3, 3);

    group_result(heir, &lease, good);
    order_free(group_next(heir, ORDER(TAKEN)));
    expect_blocks(client, job, -1, -1);
    const uint64_t other = client_submit(client, "k2", job_json, NULL);
    group_beat(heir, 1);
    assert_int_equal(take(heir, NULL).job, other);
    hang_up(group);
    hang_up(heir);
    hang_up(client);
}

static void too_much_is_left_out(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    char *large = calloc(1, CALORIS_WIRE_MAX_HAND_OVER + 1);
    assert_non_null(large);
    client_submit(client, "k", job_json, NULL);
    struct lease lease = take(group, NULL);
    say(group, &lease, 1, "small", 5);
    say(group, &lease, 2, large, CALORIS_WIRE_MAX_HAND_OVER + 1);
    group_give_back(group, &lease);
    group_beat(group, 1);
    take(group, "small");
    free(large);
    hang_up(group);
    hang_up(client);
}

/* Written within a moment; a gateway that dies sooner costs steps only, so tries are repeated. */
static void it_outlives_the_gateway(void **state)
{
    (void)state;
    enum { TRIES = 10, STEP_MS = 500 };
    void *client = client_dial(&gateway);
    const uint64_t job = client_submit(client, "k", job_json, NULL);
    bool kept = false;
    for (int i = 1; i <= TRIES && !kept; i++) {
        const struct timespec pause = {STEP_MS * i / 1000, STEP_MS * i % 1000 * 1000000L};
        void *group = group_dial(&gateway, "g", 1);
        const struct lease lease = take(group, NULL);
        say(group, &lease, 7, "seven", 5);
        expect_blocks(client, job, 7, -1);
        nanosleep(&pause, NULL);
        gateway_end(&gateway, SIGKILL);
        hang_up(group);
        hang_up(client);
        gateway_start_again(&gateway, "60s");
        client = client_dial(&gateway);
        group = group_dial(&gateway, "h", 1);
        to_group *order = group_next(group, ORDER(LEASE));
        kept = order->lease->has_hand_over;
        if (kept)
            assert_memory_equal(order->lease->hand_over.data, "seven", 5);
        const struct lease again = {job, order->lease->lease->epoch, order->lease->lease->counter};
        order_free(order);
        if (kept) {
            expect_blocks(client, job, 7, 7);
            group_result(group, &again, good);
            order_free(group_next(group, ORDER(TAKEN)));
        } else {
            group_leave(group);
        }
        hang_up(group);
    }
    assert_true(kept);
    hang_up(client);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(the_newest_word_goes_to_the_next_group),
        CASE(too_much_is_left_out),
        CASE(it_outlives_the_gateway),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
