/* caloris-gateway and its groups: leases, results, loss, adoption, and what watchers see of it. */
#include "tests/e2e/gateway_support.h"

#include "base/time.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct gateway gateway;

static const char job_json[] = "{\"prompt\": \"a\", \"seed\": 1}";
static const char good[] = "{\"id\": null, \"ids\": [1], \"text\": \"x\"}";

/* Nobody is given up in most tests, however slow the machine. */
static int setup_patient(void **state)
{
    (void)state;
    gateway_start(&gateway, "60s");
    return 0;
}

/* A group without a connection is given up after 2 beats: a moment for a slow machine otherwise. */
static int setup_calm(void **state)
{
    gateway.beat_ms = 5000;
    return setup_patient(state);
}

enum { LOST_MS = 2000 };

static int setup_stopped(void **state)
{
    (void)state;
    gateway_start(&gateway, "2s");
    return 0;
}

static int setup_hasty(void **state)
{
    (void)state;
    gateway_start(&gateway, "400ms");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ends_finish();
    gateway_remove(&gateway);
    gateway.beat_ms = 0;
    return 0;
}

static void expect_state(void *client, uint64_t job, int state)
{
    from_gateway *event = client_event(client);
    assert_non_null(event->event->status);
    assert_int_equal(event->event->job, job);
    assert_int_equal(event->event->status->state, state);
    answer_free(event);
}

static void expect_taken(void *group, const struct lease *lease)
{
    to_group *order = group_next(group, ORDER(TAKEN));
    assert_int_equal(order->taken->job, lease->job);
    assert_int_equal(order->taken->lease->epoch, lease->epoch);
    assert_int_equal(order->taken->lease->counter, lease->counter);
    order_free(order);
}

static void expect_crashes(void *client, uint64_t job, uint32_t crashes)
{
    from_gateway *answer = client_show(client, job);
    assert_int_equal(answer->status->crashes, crashes);
    answer_free(answer);
}

static void a_job_goes_the_whole_way(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *watcher = client_dial(&gateway);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    assert_int_equal(client_watch(watcher, job, false), STATE(QUEUED));
    void *group = group_dial(&gateway, "g", 4);

    to_group *order = group_next(group, ORDER(LEASE));
    assert_int_equal(order->lease->job, job);
    /* What it left open, then what the client said (but for the brace). */
    const ProtobufCBinaryData *leased = &order->lease->job_json;
    const size_t said = strlen(job_json) - 1;
    assert_true(leased->len > said);
    assert_memory_equal(leased->data + leased->len - said, job_json + 1, said);
    assert_false(order->lease->canvas);
    struct lease lease = {job, order->lease->lease->epoch, order->lease->lease->counter};
    order_free(order);
    expect_state(watcher, job, STATE(RUNNING));

    from_gateway *answer = client_show(client, job);
    assert_string_equal(answer->status->group, "g");
    assert_true(answer->status->has_started_ms);
    answer_free(answer);
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = REQUEST(CLUSTER);
    message.cluster = &nothing;
    answer = client_call(client, &message, ANSWER(CLUSTER));
    assert_int_equal(answer->cluster->n_groups, 1);
    assert_string_equal(answer->cluster->groups[0]->name, "g");
    assert_string_equal(answer->cluster->groups[0]->model, "tinycoder");
    assert_int_equal(answer->cluster->groups[0]->running, 1);
    assert_int_equal(answer->cluster->groups[0]->capacity, 4);
    assert_int_equal(answer->cluster->running, 1);
    assert_int_equal(answer->cluster->queued, 0);
    answer_free(answer);

    group_result(group, &lease, good);
    expect_taken(group, &lease);
    expect_state(watcher, job, STATE(DONE));
    expect_silence(watcher);
    char *json = client_results(client, job);
    assert_string_equal(json, good);
    free(json);
    /* Said twice: taken twice, stored once. */
    group_result(group, &lease, "{\"id\": null, \"ids\": [2]}");
    expect_taken(group, &lease);
    json = client_results(client, job);
    assert_string_equal(json, good);
    free(json);
    assert_int_equal(client_watch(watcher, job, false), STATE(DONE));
    hang_up(group);
    hang_up(client);
    hang_up(watcher);
}

static void a_failed_job_says_why(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);
    group_result(
        group, &lease,
        "{\"id\": null, \"error\": {\"code\": \"bad_request\", \"message\": \"mask_id: no\"}}");
    expect_taken(group, &lease);
    from_gateway *answer = client_show(client, job);
    assert_int_equal(answer->status->state, STATE(FAILED));
    assert_string_equal(answer->status->failure->code, "bad_request");
    assert_string_equal(answer->status->failure->text, "mask_id: no");
    answer_free(answer);
    char *json = client_results(client, job);
    assert_non_null(strstr(json, "mask_id: no"));
    free(json);
    hang_up(group);
    hang_up(client);
}

/* A model's answer may be any bytes. */
static void a_result_may_hold_a_nul(void **state)
{
    (void)state;
    static const char nul[] = "{\"id\": null, \"text\": \"a\\u0000b\"}";
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);
    group_result(group, &lease, nul);
    expect_taken(group, &lease);
    client_await(client, job, STATE(DONE));
    char *json = client_results(client, job);
    assert_string_equal(json, nul);
    free(json);
    hang_up(group);
    hang_up(client);
}

/* What is no result ends its job, once, and frees its place. */
static void a_result_that_is_none_is_a_failure(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words;
    } bad[] = {
        {"{\"id\": null, \"ids\": [1", "result:1:"},
        {"[1, 2]", "result: not a JSON object"},
        {"", "result:1:"},
        {"{\"id\": 1, \"id\": 2}", "duplicate"},
    };
    char key[8];
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        snprintf(key, sizeof(key), "k%zu", i);
        uint64_t job = client_submit(client, key, "{\"prompt\": \"a\", \"id\": \"mine\"}", NULL);
        struct lease lease = group_take_lease(group);
        assert_int_equal(lease.job, job);
        group_result(group, &lease, bad[i].json);
        group_result(group, &lease, bad[i].json);
        expect_taken(group, &lease);
        expect_taken(group, &lease);
        from_gateway *answer = client_show(client, job);
        assert_int_equal(answer->status->state, STATE(FAILED));
        assert_string_equal(answer->status->failure->code, "internal");
        if (!strstr(answer->status->failure->text, bad[i].words))
            fail_msg("\"%s\" does not say \"%s\"", answer->status->failure->text, bad[i].words);
        answer_free(answer);
        char *json = client_results(client, job);
        assert_non_null(strstr(json, "\"mine\""));
        assert_non_null(strstr(json, "group g: result"));
        free(json);
    }
    hang_up(group);
    hang_up(client);
}

/* Oldest first, never more than there is room for, a freed place filled at once. */
static void leases_follow_the_room(void **state)
{
    (void)state;
    char key[8];
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 2);
    uint64_t jobs[5];
    for (int i = 0; i < 5; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        jobs[i] = client_submit(client, key, job_json, NULL);
    }
    struct lease a = group_take_lease(group), b = group_take_lease(group);
    assert_int_equal(a.job, jobs[0]);
    assert_int_equal(b.job, jobs[1]);
    group_expect_nothing(group);
    group_result(group, &a, good);
    expect_taken(group, &a);
    struct lease c = group_take_lease(group);
    assert_int_equal(c.job, jobs[2]);
    /* Nothing more for a group that drains, though it gives back what it held. */
    group_beat(group, 0);
    group_give_back(group, &c);
    group_beat(group, 0);
    group_expect_nothing(group);
    client_await(client, jobs[2], STATE(QUEUED));
    expect_crashes(client, jobs[2], 0);
    void *other = group_dial(&gateway, "h", 1);
    struct lease d = group_take_lease(other);
    assert_int_equal(d.job, jobs[2]); /* before the younger ones */
    assert_true(d.counter != c.counter);
    /* What the first one says of it counts no more. */
    group_result(group, &c, good);
    to_group *order = group_next(group, ORDER(CANCEL));
    assert_int_equal(order->cancel->job, jobs[2]);
    order_free(order);
    client_await(client, jobs[2], STATE(RUNNING));
    group_leave(group);
    client_await(client, jobs[1], STATE(QUEUED));
    expect_crashes(client, jobs[1], 0);
    hang_up(group);
    hang_up(other);
    hang_up(client);
}

static void cancelling(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *watcher = client_dial(&gateway);
    uint64_t queued = client_submit(client, "k1", "{\"prompt\": \"a\", \"id\": \"mine\"}", NULL);
    client_watch(watcher, queued, true);
    client_cancel(client, queued);
    expect_state(watcher, queued, STATE(CANCELLED));
    char *json = client_results(client, queued);
    assert_non_null(strstr(json, "\"mine\""));
    assert_non_null(strstr(json, "\"cancelled\""));
    free(json);
    client_cancel(client, queued); /* twice is fine */

    uint64_t running = client_submit(client, "k2", job_json, NULL);
    void *group = group_dial(&gateway, "g", 1);
    struct lease lease = group_take_lease(group);
    assert_int_equal(lease.job, running); /* not the cancelled one */
    uint64_t next = client_submit(client, "k3", job_json, NULL);
    client_cancel(client, running);
    to_group *order = group_next(group, ORDER(CANCEL));
    assert_int_equal(order->cancel->job, running);
    order_free(order);
    group_result(group, &lease, good); /* it was done a moment before: too late */
    order_free(group_next(group, ORDER(TAKEN)));
    from_gateway *answer = client_show(client, running);
    assert_int_equal(answer->status->state, STATE(CANCELLED));
    answer_free(answer);

    group_beat(group, 1);
    lease = group_take_lease(group);
    assert_int_equal(lease.job, next);
    group_result(group, &lease, good);
    expect_taken(group, &lease);
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__JobRef reference = CALORIS__WIRE__JOB_REF__INIT;
    reference.job = next;
    message.body_case = REQUEST(CANCEL);
    message.cancel = &reference;
    client_expect_failure(client, &message, "bad_request", "finished already");
    hang_up(group);
    hang_up(client);
    hang_up(watcher);
}

static void a_silent_group_loses_its_jobs(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    client_watch(client, job, false);
    struct lease lease = group_take_lease(group);
    client_await(client, job, STATE(QUEUED)); /* it never beats */
    expect_crashes(client, job, 1);
    /* It wakes up: the gateway does not know it any more, and adopts what it still holds. */
    group_result(group, &lease, good);
    order_free(group_next(group, ORDER(HELLO_AGAIN)));
    to_group *welcome = group_hello(group, "g", 1, &lease, 1);
    assert_int_equal(welcome->welcome->n_adopted, 1);
    struct lease anew = {job, welcome->welcome->adopted[0]->lease->epoch,
                         welcome->welcome->adopted[0]->lease->counter};
    order_free(welcome);
    assert_true(anew.counter > lease.counter);
    group_result(group, &anew, good);
    expect_taken(group, &anew);
    expect_crashes(client, job, 1);
    hang_up(group);

    /* A connection that is gone is silent sooner; another group takes over. */
    void *doomed = group_dial(&gateway, "d", 1);
    uint64_t second = client_submit(client, "k2", job_json, NULL);
    assert_int_equal(group_take_lease(doomed).job, second);
    hang_up(doomed);
    client_await(client, second, STATE(QUEUED));
    expect_crashes(client, second, 1);
    void *heir = group_dial(&gateway, "e", 1);
    assert_int_equal(group_take_lease(heir).job, second);
    hang_up(heir);
    hang_up(client);
}

/* What a gateway that was stopped did not hear is not the groups' silence. */
static void a_stopped_gateway_loses_nobody(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);
    group_beat(group, 0);
    client_await(client, job, STATE(RUNNING));
    assert_int_equal(kill(gateway.pid, SIGSTOP), 0);
    caloris_time_sleep_ms(3 * LOST_MS / 2);
    assert_int_equal(kill(gateway.pid, SIGCONT), 0);
    for (int i = 0; i < 10; i++) {
        caloris_time_sleep_ms(20);
        group_beat(group, 0);
    }
    client_await(client, job, STATE(RUNNING));
    group_result(group, &lease, good);
    expect_taken(group, &lease);
    expect_crashes(client, job, 0);
    /* Its own silence counts as before. */
    uint64_t next = client_submit(client, "k2", job_json, NULL);
    assert_int_equal(group_take_lease(group).job, next);
    client_await(client, next, STATE(QUEUED));
    expect_crashes(client, next, 1);
    hang_up(group);
    hang_up(client);
}

/* The gateway is killed; the group computes on, dials again, says what it holds. */
static void a_group_outlives_the_gateway(void **state)
{
    (void)state;
    enum { JOBS = 4 };
    char key[8];
    uint64_t jobs[JOBS];
    struct lease held[JOBS + 2];
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", JOBS);
    for (int i = 0; i < JOBS; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        jobs[i] = client_submit(client, key, job_json, NULL);
        held[i] = group_take_lease(group);
        assert_int_equal(held[i].job, jobs[i]);
    }
    group_result(group, &held[0], good);
    expect_taken(group, &held[0]);
    gateway_end(&gateway, SIGKILL);
    gateway_start_again(&gateway, "60s");
    hang_up(client);
    client = client_dial(&gateway);
    for (int i = 0; i < JOBS; i++)
        client_await(client, jobs[i], i == 0 ? STATE(DONE) : STATE(QUEUED));
    client_cancel(client, jobs[1]);

    /* Words under the old lease are answered with a question. */
    group_result(group, &held[2], good);
    order_free(group_next(group, ORDER(HELLO_AGAIN)));
    held[JOBS] = (struct lease){4711, held[0].epoch, 9}; /* no such job */
    held[JOBS + 1] = (struct lease){jobs[3], 1, 1};      /* of a database that lay here before */
    struct lease said[] = {held[0], held[1], held[2], held[JOBS], held[JOBS + 1]};
    to_group *welcome = group_hello(group, "g", 2, said, 5);
    assert_int_equal(welcome->welcome->n_adopted, 1);
    assert_int_equal(welcome->welcome->adopted[0]->job, jobs[2]);
    struct lease anew = {jobs[2], welcome->welcome->adopted[0]->lease->epoch,
                         welcome->welcome->adopted[0]->lease->counter};
    assert_true(anew.epoch > held[2].epoch);
    order_free(welcome);

    struct lease other = group_take_lease(group);
    assert_int_equal(other.job, jobs[3]);
    /* Hello said twice changes nothing, also for the lease that was under way. */
    welcome = group_hello(group, "g", 2, said, 5);
    assert_int_equal(welcome->welcome->n_adopted, 2);
    order_free(welcome);

    group_result(group, &held[2], good); /* the old lease */
    order_free(group_next(group, ORDER(CANCEL)));
    group_result(group, &anew, good);
    expect_taken(group, &anew);
    group_result(group, &other, good);
    expect_taken(group, &other);
    for (int i = 0; i < JOBS; i++) {
        client_await(client, jobs[i], i == 1 ? STATE(CANCELLED) : STATE(DONE));
        expect_crashes(client, jobs[i], 0);
    }
    hang_up(group);
    hang_up(client);
}

static void names_of_groups(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);

    /* The same process dials again; a moment later the gateway has noticed that its old connection
     * is gone. */
    hang_up(group);
    group = dial(gateway.groups);
    to_group *welcome = NULL;
    for (int i = 0; i < 100 && !welcome; i++) {
        caloris_time_sleep_ms(10);
        welcome = group_try_hello(group, "g", 1, &lease, 1);
        if (welcome->body_case == ORDER(WELCOME))
            break;
        assert_string_equal(welcome->failure->code, "refused");
        order_free(welcome);
        welcome = NULL;
    }
    assert_non_null(welcome);
    assert_int_equal(welcome->welcome->n_adopted, 1);
    assert_int_equal(welcome->welcome->adopted[0]->job, job);
    order_free(welcome);
    expect_crashes(client, job, 0);

    static const struct {
        const char *name;
        uint32_t capacity;
        const char *code, *words;
    } bad[] = {
        {"g", 1, "refused", "names must differ"},  {"", 1, "bad_request", "name"},
        {"a\nb", 1, "bad_request", "printable"},   {"h", 0, "bad_request", "capacity"},
        {"h", 1000000, "bad_request", "capacity"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        void *other = dial(gateway.groups);
        group_beat(group, 0); /* alive */
        to_group *order = group_try_hello(other, bad[i].name, bad[i].capacity, NULL, 0);
        assert_int_equal(order->body_case, ORDER(FAILURE));
        assert_string_equal(order->failure->code, bad[i].code);
        /* Whoever has the name may be gone soon; all else is final. */
        assert_int_equal(order->failure->has_retry_after_ms, i == 0);
        assert_non_null(strstr(order->failure->text, bad[i].words));
        order_free(order);
        hang_up(other);
    }
    hang_up(group);
    hang_up(client);
}

/* A cut that neither end has noticed: the group dials again, its old connection seems alive. It is
 * known by its instance, keeps what it holds, and did not crash. */
static void a_group_redials_over_a_cut(void **state)
{
    (void)state;
    const struct group_face face = {"g", "tinycoder", 4711, 2};
    void *client = client_dial(&gateway), *cut = group_dial_as(&gateway, &face);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(cut);
    void *group = dial(gateway.groups);
    group_beat(cut, 1);
    to_group *order = group_try_hello_as(group, &face, &lease, 1);
    assert_int_equal(order->body_case, ORDER(WELCOME));
    assert_int_equal(order->welcome->n_adopted, 1);
    struct lease anew = {job, order->welcome->adopted[0]->lease->epoch,
                         order->welcome->adopted[0]->lease->counter};
    order_free(order);
    /* Somebody else of that name is not it. */
    void *other = dial(gateway.groups);
    order = group_try_hello_as(other, &(struct group_face){"g", "tinycoder", 4712, 2}, NULL, 0);
    assert_int_equal(order->body_case, ORDER(FAILURE));
    assert_string_equal(order->failure->code, "refused");
    order_free(order);
    group_result(group, &anew, good);
    expect_taken(group, &anew);
    expect_crashes(client, job, 0);
    hang_up(other);
    hang_up(group);
    hang_up(cut);
    hang_up(client);
}

static void expect_follow(void *group, uint64_t job, bool canvas)
{
    to_group *order = group_next(group, ORDER(FOLLOW));
    assert_int_equal(order->follow->lease->job, job);
    assert_int_equal(order->follow->canvas, canvas);
    order_free(order);
}

static void expect_progress(void *client, uint64_t seq, bool full)
{
    from_gateway *event = client_event(client);
    assert_non_null(event->event->progress);
    assert_int_equal(event->event->progress->seq, seq);
    assert_int_equal(event->event->progress->full, full);
    assert_int_equal(event->event->progress->n_cells, full ? 3 : 1);
    answer_free(event);
}

static void canvases_reach_their_watchers(void **state)
{
    (void)state;
    void *client = client_dial(&gateway), *late = client_dial(&gateway);
    void *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);
    group_progress(group, &lease, 1, false); /* nobody watches */
    client_watch(client, job, true);
    expect_follow(group, job, true);
    group_progress(group, &lease, 2, false); /* steps before the first whole canvas say nothing */
    group_progress(group, &lease, 3, true);
    group_progress(group, &lease, 4, false);
    expect_progress(client, 3, true);
    expect_progress(client, 4, false);
    from_gateway *answer = client_show(client, job);
    assert_int_equal(answer->status->step, 4);
    assert_int_equal(answer->status->masks_left, 2);
    answer_free(answer);

    /* Another viewer needs a whole canvas as well; the first one just gets it too. */
    caloris_time_sleep_ms(300);
    client_watch(late, job, true);
    expect_follow(group, job, true);
    group_progress(group, &lease, 5, true);
    expect_progress(client, 5, true);
    expect_progress(late, 5, true);

    /* Who watches states alone gets no canvas; when nobody wants it, the group is told. */
    client_watch(client, job, false);
    Caloris__Wire__JobRef reference = CALORIS__WIRE__JOB_REF__INIT;
    request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    reference.job = job;
    message.body_case = REQUEST(UNWATCH);
    message.unwatch = &reference;
    answer_free(client_call(late, &message, ANSWER(OK)));
    expect_follow(group, job, false);
    group_progress(group, &lease, 6, true);
    group_result(group, &lease, good);
    expect_taken(group, &lease);
    expect_state(client, job, STATE(DONE));
    expect_silence(late);

    /* A job that is watched before it runs is followed from its lease on. */
    uint64_t next = client_submit(client, "k2", job_json, NULL);
    lease = group_take_lease(group);
    group_give_back(group, &lease);
    group_beat(group, 0);
    client_await(client, next, STATE(QUEUED));
    client_watch(late, next, true);
    group_beat(group, 1);
    to_group *order = group_next(group, ORDER(LEASE));
    assert_true(order->lease->canvas);
    order_free(order);
    hang_up(group);
    hang_up(late);
    hang_up(client);
}

/* What a viewer of progress has seen. */
struct seen {
    uint64_t last;
    size_t frames, gaps;
    int state; /* the last one told */
};

/* Reads until nothing comes any more. Behind a gap, a whole canvas comes first. */
static void see(void *viewer, struct seen *seen)
{
    from_gateway *event;
    while ((event = client_event_or_none(viewer)) != NULL) {
        const Caloris__Wire__Progress *progress = event->event->progress;
        if (progress) {
            assert_true(progress->seq > seen->last);
            assert_true(progress->seq == seen->last + 1 || progress->full);
            seen->gaps += progress->seq != seen->last + 1;
            seen->last = progress->seq;
            seen->frames++;
        } else {
            seen->state = (int)event->event->status->state;
        }
        answer_free(event);
    }
}

/* Everything that the group has sent is dealt with: words are taken in order, and a result of a
 * lease that never was is answered. */
static void settle(void *group, const struct lease *lease)
{
    const struct lease none = {lease->job, lease->epoch, 0};
    group_result(group, &none, good);
    group_take_past_follows(group, ORDER(CANCEL));
}

/* A viewer that does not read loses frames; nobody waits for it, and it hears how the job ends. */
static void a_slow_watcher_loses_frames(void **state)
{
    (void)state;
    enum { FRAMES = 12000, FULL_EVERY = 100, CHECK_EVERY = 500 };
    struct seen seen = {0};
    void *client = client_dial(&gateway), *slow = client_dial_narrow(&gateway);
    void *group = group_dial(&gateway, "g", 1);
    uint64_t job = client_submit(client, "k", job_json, NULL);
    struct lease lease = group_take_lease(group);
    client_watch(slow, job, true);
    expect_follow(group, job, true);
    for (uint64_t seq = 1; seq <= 2 * FRAMES; seq++) {
        group_progress(group, &lease, seq, seq % FULL_EVERY == 1);
        if (seq % CHECK_EVERY == 0) {
            settle(group, &lease);
            client_await(client, job, STATE(RUNNING)); /* others are served meanwhile */
        }
        if (seq == FRAMES) {
            /* It reads nothing: the group is not asked for canvases that nobody would get. */
            caloris_time_sleep_ms(ASKED_EVERY_MS + 50);
            group_progress(group, &lease, ++seq, false);
            group_expect_nothing(group);
            see(slow, &seen);
            assert_true(seen.frames > 0 && seen.last < FRAMES);
        }
    }
    group_result(group, &lease, good);
    group_take_past_follows(group, ORDER(TAKEN));
    client_await(client, job, STATE(DONE));
    see(slow, &seen);
    assert_true(seen.gaps > 0);
    assert_true(seen.last > FRAMES);
    assert_int_equal(seen.state, STATE(DONE));
    hang_up(group);
    hang_up(slow);
    hang_up(client);
}

int main(void)
{
#define CASE(test, setup) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_job_goes_the_whole_way, setup_patient),
        CASE(a_failed_job_says_why, setup_patient),
        CASE(a_result_may_hold_a_nul, setup_patient),
        CASE(a_result_that_is_none_is_a_failure, setup_patient),
        CASE(leases_follow_the_room, setup_patient),
        CASE(cancelling, setup_patient),
        CASE(a_silent_group_loses_its_jobs, setup_hasty),
        CASE(a_stopped_gateway_loses_nobody, setup_stopped),
        CASE(a_group_outlives_the_gateway, setup_patient),
        CASE(names_of_groups, setup_calm),
        CASE(a_group_redials_over_a_cut, setup_calm),
        CASE(canvases_reach_their_watchers, setup_patient),
        CASE(a_slow_watcher_loses_frames, setup_patient),
    };
    return cmocka_run_group_tests_name("gateway and groups", tests, NULL, NULL);
}
