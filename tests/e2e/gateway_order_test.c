/* caloris-gateway: who gets which job and when; what is not computed, and why. */
#include "tests/e2e/gateway_support.h"

#include "base/err.h"
#include "base/time.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct gateway gateway;
#define LOST "100s" /* a group whose connection is gone is given up after two beats */
static const char good[] = "{\"id\": null, \"ids\": [1]}";

static int setup(void **state)
{
    (void)state;
    gateway_start(&gateway, LOST);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ends_finish();
    gateway_remove(&gateway);
    return 0;
}

/* Options of the gateway: a name and a value, and so on, and NULL. */
static void start_with(const char *const *environment)
{
    gateway_end(&gateway, SIGTERM);
    for (const char *const *at = environment; *at; at += 2)
        setenv(at[0], at[1], 1);
    gateway_start_again(&gateway, LOST);
    for (const char *const *at = environment; *at; at += 2)
        unsetenv(at[0]);
}

static uint64_t submit(void *client, const char *fields)
{
    static unsigned count;
    char json[256], key[16];
    snprintf(key, sizeof(key), "key-%u", ++count);
    snprintf(json, sizeof(json), "{\"prompt\": \"x\"%s%s}", *fields ? ", " : "", fields);
    return client_submit(client, key, json, NULL);
}

static void expect_lease(void *group, uint64_t job)
{
    struct lease lease = group_take_lease(group);
    assert_int_equal(lease.job, job);
    group_result(group, &lease, good);
    order_free(group_next(group, ORDER(TAKEN)));
}

/* What show says of a job's waiting holds these words; NULL: it says nothing. */
static void expect_waits(void *client, uint64_t job, const char *words)
{
    from_gateway *answer = client_show(client, job);
    const char *waits = answer->status->waits;
    if (!waits != !words || (words && !strstr(waits, words)))
        fail_msg("job %d waits: \"%s\", not \"%s\"", (int)job, waits ? waits : "(none)",
                 words ? words : "(none)");
    answer_free(answer);
}

static void priority_goes_before_age(void **state)
{
    (void)state;
    void *client = client_dial(&gateway);
    uint64_t plain = submit(client, ""), low = submit(client, "\"priority\": -100"),
             high = submit(client, "\"priority\": 7"), high_too = submit(client, "\"priority\": 7"),
             after = submit(client, "");
    expect_waits(client, plain, "no group is connected");
    gateway_end(&gateway, SIGKILL); /* the order is on disk */
    gateway_start_again(&gateway, LOST);
    hang_up(client);
    void *group = group_dial(&gateway, "g", 1);
    expect_lease(group, high);
    expect_lease(group, high_too);
    expect_lease(group, plain);
    expect_lease(group, after);
    expect_lease(group, low);
    group_expect_nothing(group);
    hang_up(group);
}

static void models_route(void **state)
{
    (void)state;
    void *client = client_dial(&gateway);
    void *a = group_dial_as(&gateway, &(struct group_face){"a", "model-a", 1, 4});
    void *b = group_dial_as(&gateway, &(struct group_face){"b", "model-b", 2, 2});
    uint64_t for_c = submit(client, "\"model\": \"model-c\", \"priority\": 100");
    uint64_t for_b = submit(client, "\"model\": \"model-b\"");
    expect_lease(b, for_b);
    expect_waits(client, for_c, "no group serves model model-c");
    uint64_t for_any = submit(client, "");
    expect_lease(a, for_any); /* the group with the most room */
    group_expect_nothing(a);
    group_expect_nothing(b);
    void *c = group_dial_as(&gateway, &(struct group_face){"c", "model-c", 3, 1});
    expect_lease(c, for_c);
    hang_up(a);
    hang_up(b);
    hang_up(c);
    hang_up(client);
}

static void expect_expired(void *client, uint64_t job)
{
    char *json = client_results(client, job);
    assert_non_null(strstr(json, "\"code\":\"expired\""));
    assert_non_null(strstr(json, "not finished by its deadline, 20"));
    free(json);
    from_gateway *answer = client_show(client, job);
    assert_string_equal(answer->status->failure->code, "expired");
    assert_true(answer->status->has_deadline_ms);
    answer_free(answer);
}

static void deadlines_pass(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *watcher = client_dial(&gateway);
    uint64_t late = submit(client, "\"deadline\": \"2020-01-01T00:00:00Z\"");
    client_await(client, late, STATE(EXPIRED));
    expect_expired(client, late);

    void *group = group_dial(&gateway, "g", 4);
    uint64_t running = submit(client, "\"deadline\": 2"), other = submit(client, "");
    client_watch(watcher, running, false);
    struct lease lease = group_take_lease(group), kept = group_take_lease(group);
    assert_int_equal(lease.job, running);
    to_group *order = group_next(group, ORDER(CANCEL)); /* the deadline has come */
    assert_int_equal(order->cancel->job, running);
    order_free(order);
    client_await(client, running, STATE(EXPIRED));
    expect_expired(client, running);
    from_gateway *event = client_event(watcher);
    while (event->event->status->state != STATE(EXPIRED)) {
        answer_free(event);
        event = client_event(watcher);
    }
    answer_free(event);
    group_result(group, &lease, good); /* too late: it had ended */
    order_free(group_next(group, ORDER(TAKEN)));
    expect_expired(client, running);
    assert_int_equal(kept.job, other);
    hang_up(client);

    /* One that passes while the gateway is away. */
    client = client_dial(&gateway);
    uint64_t away = submit(client, "\"deadline\": 0.05");
    gateway_end(&gateway, SIGKILL);
    hang_up(client);
    caloris_time_sleep_ms(60);
    gateway_start_again(&gateway, LOST);
    client = client_dial(&gateway);
    client_await(client, away, STATE(EXPIRED));
    hang_up(client);
    hang_up(watcher);
    hang_up(group);
}

static void users_have_limits(void **state)
{
    (void)state;
    static const char *const limits[] = {"CALORIS_MAX_QUEUED", "3", "CALORIS_MAX_RUNNING", "2",
                                         NULL};
    char key[] = "kept", json[] = "{\"prompt\": \"x\"}";
    bool again;
    start_with(limits);
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 8);
    uint64_t jobs[3] = {client_submit(client, key, json, NULL), submit(client, ""),
                        submit(client, "")};
    struct lease leases[2] = {group_take_lease(group), group_take_lease(group)};
    group_expect_nothing(group);
    expect_waits(client, jobs[2], "has 2 jobs running, as many as may be");
    expect_waits(client, jobs[0], NULL);

    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Submit fourth = CALORIS__WIRE__SUBMIT__INIT;
    fourth.key = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "4th"};
    fourth.job_json = (ProtobufCBinaryData){strlen(json), (uint8_t *)json};
    message.body_case = REQUEST(SUBMIT);
    message.submit = &fourth;
    from_gateway *answer = client_call(client, &message, ANSWER(FAILURE));
    assert_string_equal(answer->failure->code, "try_again");
    assert_non_null(strstr(answer->failure->text, "3 jobs in the queue, as many as may be"));
    assert_true(answer->failure->has_retry_after_ms && answer->failure->retry_after_ms > 0);
    answer_free(answer);
    /* What is here already may be asked for again. */
    assert_int_equal(client_submit(client, key, json, &again), jobs[0]);
    assert_true(again);

    group_result(group, &leases[0], good);
    order_free(group_next(group, ORDER(TAKEN)));
    struct lease third = group_take_lease(group);
    assert_int_equal(third.job, jobs[2]);
    client_submit(client, "4th", json, &again);
    assert_false(again);
    hang_up(client);
    hang_up(group);
}

/* A job with so long a prompt, sent without waiting for the answer. */
static void pour(void *client, const char *key, size_t prompt_bytes)
{
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    char *json = malloc(prompt_bytes + 64);
    assert_non_null(json);
    const int head = sprintf(json, "{\"prompt\": \"");
    memset(json + head, 'x', prompt_bytes);
    strcpy(json + head + prompt_bytes, "\"}");
    submit.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
    submit.job_json = (ProtobufCBinaryData){strlen(json), (uint8_t *)json};
    message.request = 1;
    message.body_case = REQUEST(SUBMIT);
    message.submit = &submit;
    send_message(client, &message);
    free(json);
}

/* The next answer: the job that was accepted; 0: refused with this code and words. */
static uint64_t take_accepted(void *client, const char *code, const char *words)
{
    from_gateway *answer = client_answer(client);
    uint64_t job = 0;
    if (answer->body_case == ANSWER(ACCEPTED)) {
        job = answer->accepted->job;
    } else {
        assert_int_equal(answer->body_case, ANSWER(FAILURE));
        assert_string_equal(answer->failure->code, code);
        if (!strstr(answer->failure->text, words))
            fail_msg("\"%s\" does not say \"%s\"", answer->failure->text, words);
        assert_int_equal(answer->failure->has_retry_after_ms, strcmp(code, "try_again") == 0);
    }
    answer_free(answer);
    return job;
}

static uint64_t submit_long(void *client, const char *key, size_t prompt_bytes)
{
    pour(client, key, prompt_bytes);
    return take_accepted(client, "try_again", "KiB of jobs in the queue, and may have 100.0 KiB");
}

/* Room for three of these jobs, whichever way one leaves: with a result, cancelled; and in the next
 * life of the gateway. */
static void users_have_room_in_bytes(void **state)
{
    (void)state;
    enum { LONG = 30000, POURED = 5 };
    static const char *const limit[] = {"CALORIS_MAX_BYTES", "100KiB", NULL};
    static const char *const keys[POURED] = {"a", "b", "c", "d", "e"};
    uint64_t jobs[POURED], accepted = 0;
    start_with(limit);
    void *client = client_dial(&gateway);
    for (int i = 0; i < POURED; i++) /* most likely taken in one turn */
        pour(client, keys[i], LONG);
    for (int i = 0; i < POURED; i++) { /* no is said before the commit, yes after it */
        jobs[accepted] = take_accepted(client, "try_again", "max_bytes: user ");
        accepted += jobs[accepted] > 0;
    }
    assert_int_equal(accepted, 3);
    assert_int_equal(submit_long(client, "c", LONG), jobs[2]); /* known */
    assert_int_equal(submit_long(client, "f", LONG), 0);
    const uint64_t small = submit_long(client, "small", 10);
    assert_true(small > 0);
    pour(client, "never", 100 << 10);
    assert_int_equal(take_accepted(client, "bad_request", "max_bytes: the job takes 100."), 0);

    start_with(limit);
    hang_up(client);
    client = client_dial(&gateway);
    assert_int_equal(submit_long(client, "f", LONG), 0);
    void *group = group_dial(&gateway, "g", 1);
    expect_lease(group, jobs[0]);
    struct lease held = group_take_lease(group); /* what runs counts, too */
    assert_int_equal(held.job, jobs[1]);
    assert_true(submit_long(client, "f", LONG) > 0);
    assert_int_equal(submit_long(client, "g", LONG), 0);
    client_cancel(client, jobs[2]);
    assert_true(submit_long(client, "g", LONG) > 0);
    assert_int_equal(submit_long(client, "h", LONG), 0);
    client_cancel(client, held.job);
    client_cancel(client, small);
    assert_true(submit_long(client, "h", LONG) > 0);
    assert_int_equal(submit_long(client, "i", LONG), 0);
    hang_up(client);
    hang_up(group);
}

/* ---- poison ---------------------------------------------------------------------------------- */

static from_gateway *await_crashes(void *client, uint64_t job, uint32_t crashes)
{
    for (int i = 0; i < PATIENCE_MS / 10; i++) {
        from_gateway *answer = client_show(client, job);
        if (answer->status->crashes == crashes && answer->status->state != STATE(RUNNING))
            return answer;
        answer_free(answer);
        caloris_time_sleep_ms(10);
    }
    fail_msg("job %d was not in %u crashes", (int)job, crashes);
    return NULL;
}

static void expect_attempts(void *client, uint64_t job, uint32_t crashes, uint32_t attempts)
{
    from_gateway *answer = await_crashes(client, job, crashes);
    assert_int_equal(answer->status->attempts, attempts);
    answer_free(answer);
}

static void poison_ends_as_a_dead_letter(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *group;
    uint64_t poison = submit(client, ""), innocent = submit(client, "");
    for (uint64_t crash = 1; crash <= 2; crash++) { /* in company; the first by its silence */
        group = group_dial_as(&gateway, &(struct group_face){"g", "m", crash, 2});
        assert_int_equal(group_take_lease(group).job, poison);
        assert_int_equal(group_take_lease(group).job, innocent);
        hang_up(group);
        if (crash == 1)
            expect_attempts(client, poison, 1, 0);
    }
    /* A process of the same name is there before the silence was long enough. */
    group = group_dial_as(&gateway, &(struct group_face){"g", "m", 3, 2});
    expect_attempts(client, innocent, 2, 0);
    uint64_t young = submit(client, "");
    assert_int_equal(group_take_lease(group).job, poison);
    group_expect_nothing(group); /* alone */
    expect_waits(client, innocent, "was in 2 crashes: waits for a group that holds nothing else");
    hang_up(group);
    expect_attempts(client, poison, 3, 1);
    gateway_end(&gateway, SIGKILL); /* all that is on disk */
    gateway_start_again(&gateway, LOST);
    hang_up(client);
    client = client_dial(&gateway);

    for (uint32_t attempt = 2; attempt <= 3; attempt++) {
        group = group_dial_as(&gateway, &(struct group_face){"g", "m", 2 + attempt, 2});
        assert_int_equal(group_take_lease(group).job, poison);
        hang_up(group);
        expect_attempts(client, poison, 2 + attempt, attempt);
    }
    from_gateway *answer = client_show(client, poison);
    assert_int_equal(answer->status->state, STATE(FAILED));
    assert_string_equal(answer->status->failure->code, "dead_letter");
    assert_non_null(strstr(answer->status->failure->text, "5 groups were lost"));
    answer_free(answer);
    char *json = client_results(client, poison);
    assert_non_null(strstr(json, "\"code\":\"dead_letter\""));
    free(json);

    group = group_dial_as(&gateway, &(struct group_face){"g", "m", 9, 2});
    expect_lease(group, innocent); /* alone, and done */
    expect_lease(group, young);
    hang_up(group);
    hang_up(client);
}

/* A job that must be alone waits for its group to empty; meanwhile another serves the others. */
static void room_is_made_for_who_must_be_alone(void **state)
{
    (void)state;
    void *client = client_dial(&gateway);
    uint64_t suspect = submit(client, "");
    for (uint64_t crash = 1; crash <= 2; crash++) {
        void *group = group_dial_as(&gateway, &(struct group_face){"g", "m", crash, 2});
        uint64_t mate = submit(client, "\"priority\": 1");
        struct lease one = group_take_lease(group), two = group_take_lease(group);
        const struct lease *its = one.job == mate ? &one : &two;
        group_result(group, its, good);
        order_free(group_next(group, ORDER(TAKEN)));
        hang_up(group);
        expect_attempts(client, suspect, (uint32_t)crash, 0);
    }
    void *group = group_dial_as(&gateway, &(struct group_face){"g", "m", 3, 2});
    struct lease alone = group_take_lease(group);
    assert_int_equal(alone.job, suspect);
    group_give_back(group, &alone); /* costs nothing */
    group_beat(group, 2);
    alone = group_take_lease(group);
    uint64_t others[2] = {submit(client, "\"priority\": 9"), submit(client, "\"priority\": 9")};
    group_expect_nothing(group);
    group_give_back(group, &alone);
    group_beat(group, 2);
    struct lease busy[2] = {group_take_lease(group), group_take_lease(group)};
    assert_int_equal(busy[0].job, others[0]);
    assert_int_equal(busy[1].job, others[1]);
    group_result(group, &busy[0], good);
    order_free(group_next(group, ORDER(TAKEN)));
    group_expect_nothing(group); /* it is cleared, though there is room for one */
    submit(client, "");
    group_expect_nothing(group);
    group_result(group, &busy[1], good);
    order_free(group_next(group, ORDER(TAKEN)));
    alone = group_take_lease(group);
    assert_int_equal(alone.job, suspect);
    from_gateway *answer = client_show(client, suspect);
    assert_int_equal(answer->status->crashes, 2);
    assert_int_equal(answer->status->attempts, 0);
    answer_free(answer);
    hang_up(group);
    hang_up(client);
}

static void old_results_are_forgotten(void **state)
{
    (void)state;
    static const char *const soon[] = {"CALORIS_KEEP_RESULTS", "1ms", NULL};
    char key[] = "kept", json[] = "{\"prompt\": \"x\"}";
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    uint64_t old = client_submit(client, key, json, NULL), queued;
    expect_lease(group, old);
    hang_up(group);
    queued = submit(client, "");
    start_with(soon);
    hang_up(client);
    client = client_dial(&gateway);
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__JobRef reference = CALORIS__WIRE__JOB_REF__INIT;
    message.body_case = REQUEST(RESULTS);
    message.results = &reference;
    reference.job = old;
    caloris_time_sleep_ms(100); /* what comes in the gateway's first turn goes before forgetting */
    client_expect_failure(client, &message, "not_found", "no job");
    client_await(client, queued, STATE(QUEUED));
    bool again;
    assert_true(client_submit(client, key, json, &again) > queued);
    assert_false(again);
    hang_up(client);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(priority_goes_before_age),
        CASE(models_route),
        CASE(deadlines_pass),
        CASE(users_have_limits),
        CASE(users_have_room_in_bytes),
        CASE(poison_ends_as_a_dead_letter),
        CASE(room_is_made_for_who_must_be_alone),
        CASE(old_results_are_forgotten),
    };
    return cmocka_run_group_tests_name("gateway_order", tests, NULL, NULL);
}
