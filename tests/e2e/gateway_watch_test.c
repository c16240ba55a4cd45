/* Watchers that come back go on from the last step they saw: with the same gateway, and with the
 * one that was started after it was killed. And what else the client's library does with more
 * than one answer: long lists. */
#include "tests/e2e/gateway_support.h"

#include "base/time.h"
#include "client/client.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

static void expect_follow(void *group, uint64_t job)
{
    to_group *order = group_next(group, ORDER(FOLLOW));
    assert_int_equal(order->follow->lease->job, job);
    assert_true(order->follow->canvas);
    order_free(order);
}

static void expect_progress(void *client, const struct lease *lease, uint64_t seq, bool full)
{
    from_gateway *event = client_event(client);
    assert_non_null(event->event->progress);
    assert_int_equal(event->event->progress->seq, seq);
    assert_int_equal(event->event->progress->full, full);
    assert_non_null(event->event->lease);
    assert_int_equal(event->event->lease->epoch, lease->epoch);
    assert_int_equal(event->event->lease->counter, lease->counter);
    answer_free(event);
}

/* A second viewer keeps the steps coming while the first one is away. */
static void a_watcher_continues_from_its_number(void **state)
{
    (void)state;
    void *viewer = client_dial(&gateway), *other = client_dial(&gateway);
    void *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(other, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);
    client_watch(viewer, job, true);
    expect_follow(group, job);
    caloris_time_sleep_ms(ASKED_EVERY_MS + 50);
    client_watch(other, job, true);
    expect_follow(group, job);
    group_progress(group, &lease, 1, true);
    group_progress(group, &lease, 2, false);
    for (int i = 0; i < 2; i++) {
        expect_progress(i ? other : viewer, &lease, 1, true);
        expect_progress(i ? other : viewer, &lease, 2, false);
    }

    /* Nothing happened while it was away: the group is not asked, the next step follows. */
    hang_up(viewer);
    viewer = client_dial(&gateway);
    caloris_time_sleep_ms(ASKED_EVERY_MS + 50);
    client_watch_after(viewer, job, true, &lease, 2);
    group_expect_nothing(group);
    group_progress(group, &lease, 3, false);
    expect_progress(viewer, &lease, 3, false);
    expect_progress(other, &lease, 3, false);

    /* It missed a step: the newest canvas, and what comes after it. */
    hang_up(viewer);
    group_progress(group, &lease, 4, false);
    expect_progress(other, &lease, 4, false);
    viewer = client_dial(&gateway);
    client_watch_after(viewer, job, true, &lease, 3);
    group_progress(group, &lease, 5, false);
    expect_follow(group, job);
    group_progress(group, &lease, 6, true);
    group_progress(group, &lease, 7, false);
    expect_progress(viewer, &lease, 6, true);
    expect_progress(viewer, &lease, 7, false);

    /* The number is right, the lease is another: what it saw was another group's. */
    const struct lease past = {job, lease.epoch, lease.counter + 1};
    hang_up(viewer);
    caloris_time_sleep_ms(ASKED_EVERY_MS + 50);
    viewer = client_dial(&gateway);
    client_watch_after(viewer, job, true, &past, 7);
    expect_follow(group, job);
    group_progress(group, &lease, 8, false);
    group_progress(group, &lease, 9, true);
    expect_progress(viewer, &lease, 9, true);
    hang_up(viewer);
    hang_up(other);
    hang_up(group);
}

/* A viewer that was killed: the group is told with the first step that finds nobody, and is not
 * asked for a canvas before that. */
static void a_dead_watcher_is_forgotten_at_once(void **state)
{
    (void)state;
    void *viewer = client_dial(&gateway), *client = client_dial(&gateway);
    void *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);
    client_watch(viewer, job, true);
    expect_follow(group, job);
    group_progress(group, &lease, 1, true);
    expect_progress(viewer, &lease, 1, true);
    hang_up(viewer);
    to_group *order = NULL;
    for (uint64_t seq = 2; !order; seq++) { /* until the gateway's socket has noticed */
        group_progress(group, &lease, seq, false);
        order = group_order_or_none(group);
        assert_true(seq < PATIENCE_MS / SILENCE_MS);
    }
    assert_int_equal(order->body_case, ORDER(FOLLOW));
    assert_false(order->follow->canvas);
    order_free(order);
    group_result(group, &lease, good);
    order_free(group_next(group, ORDER(TAKEN)));
    client_await(client, job, STATE(DONE));
    hang_up(client);
    hang_up(group);
}

static struct caloris_client *open_client(const struct gateway *at)
{
    struct caloris_address address = {.endpoint = ""};
    struct caloris_err err = {0};
    snprintf(address.endpoint, sizeof(address.endpoint), "%s", at->clients);
    const struct caloris_client_options options = {
        .address = &address,
        .timeout_ms = PATIENCE_MS,
        .patience_ms = PATIENCE_MS,
    };
    struct caloris_client *client = caloris_client_open(&options, &err);
    if (!client)
        fail_msg("%s", err.text);
    return client;
}

/* The next event of this kind; those of the other are looked over. */
static caloris_answer *next_event(struct caloris_client *client, bool progress)
{
    for (;;) {
        caloris_answer *event = NULL;
        struct caloris_err err = {0};
        int n = caloris_client_next(client, PATIENCE_MS, &event, &err);
        if (n <= 0)
            fail_msg("no event: %s", err.text);
        if ((event->event->progress != NULL) == progress)
            return event;
        caloris_answer_free(event);
    }
}

static void expect_step(struct caloris_client *client, uint64_t seq, bool full)
{
    caloris_answer *event = next_event(client, true);
    assert_int_equal(event->event->progress->seq, seq);
    assert_int_equal(event->event->progress->full, full);
    caloris_answer_free(event);
}

static void a_watcher_survives_the_gateway(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    uint64_t job;
    void *group = group_dial(&gateway, "g", 1);
    struct caloris_client *client = open_client(&gateway);
    assert_int_equal(caloris_client_submit_watched(client, job_json, strlen(job_json), &job, &err),
                     0);
    struct lease lease = group_take_lease(group);
    group_progress(group, &lease, 1, true);
    group_progress(group, &lease, 2, false);
    expect_step(client, 1, true);
    expect_step(client, 2, false);

    for (int life = 0; life < 2; life++) {
        const uint64_t seq = 2 + 4 * (uint64_t)life;
        gateway_end(&gateway, SIGKILL);
        group_progress(group, &lease, seq + 1, false); /* nobody there to hear it */
        gateway_start_again(&gateway, "60s");
        order_free(group_next(group, ORDER(HELLO_AGAIN)));
        to_group *welcome = group_hello(group, "g", 1, &lease, 1);
        assert_int_equal(welcome->welcome->n_adopted, 1);
        lease.epoch = welcome->welcome->adopted[0]->lease->epoch;
        lease.counter = welcome->welcome->adopted[0]->lease->counter;
        order_free(welcome);

        caloris_answer *event = next_event(client, false); /* it has dialled again */
        assert_int_equal(event->event->status->state, STATE(RUNNING));
        caloris_answer_free(event);
        expect_follow(group, job);
        group_progress(group, &lease, seq + 2, false); /* builds on one that never came */
        group_progress(group, &lease, seq + 3, true);
        group_progress(group, &lease, seq + 4, false);
        expect_step(client, seq + 3, true);
        expect_step(client, seq + 4, false);
    }
    group_result(group, &lease, good);
    caloris_answer *event = next_event(client, false);
    assert_int_equal(event->event->status->state, STATE(DONE));
    caloris_answer_free(event);
    caloris_client_close(client);
    hang_up(group);
}

/* A gateway gives 1000 jobs at a time. */
static void long_lists_come_in_pages(void **state)
{
    enum { JOBS = 2100 };
    static const uint32_t limits[] = {5000, 2050, 2000, 1000, 3};
    (void)state;
    struct caloris_err err = {0};
    void *submitter = client_dial(&gateway);
    char key[16];
    for (int i = 0; i < JOBS; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        client_submit(submitter, key, job_json, NULL);
    }
    struct caloris_client *client = open_client(&gateway);
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        const size_t wanted = limits[i] < JOBS ? limits[i] : JOBS;
        caloris_answer *answer = caloris_client_list(client, true, limits[i], 0, &err);
        if (!answer)
            fail_msg("%s", err.text);
        assert_int_equal(answer->list->n_jobs, wanted);
        for (size_t k = 0; k < wanted; k++)
            assert_int_equal(answer->list->jobs[k]->job, JOBS - k); /* the newest first */
        assert_int_equal(answer->list->queued, JOBS);
        caloris_answer_free(answer);
    }
    caloris_client_close(client);
    hang_up(submitter);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_watcher_continues_from_its_number),
        CASE(a_dead_watcher_is_forgotten_at_once),
        CASE(a_watcher_survives_the_gateway),
        CASE(long_lists_come_in_pages),
    };
    return cmocka_run_group_tests_name("gateway_watch", tests, NULL, NULL);
}
