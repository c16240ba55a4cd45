/* coordinator/gateway/broker/lanes.h: whose job is next, held against a plain search of all. */
#include "coordinator/gateway/broker/state.h"

#include "base/err.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MOST = 600 };

static char dir[64];
static struct caloris_broker b;
static struct entry {
    const char *user, *model;
    int32_t priority;
    bool alone, waits, leased;
} jobs[MOST + 1]; /* by number */
static uint64_t n_jobs;

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static void open_store(void)
{
    static const struct caloris_store_options options = {.user = "ada"};
    struct caloris_err err = {0};
    b = (struct caloris_broker){.options = {.limits = {.share = 1}}};
    b.store = caloris_store_open(dir, &options, &err);
    if (!b.store)
        fail_msg("%s", err.text);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/caloris-lanes-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    n_jobs = 0;
    open_store();
    return 0;
}

static void forget_all(void)
{
    struct table_node *node;
    while ((node = table_first(&b.live)) != NULL) {
        table_remove(&b.live, node);
        free(TABLE_ENTRY(node, struct live, node));
    }
    table_free(&b.live);
    lanes_free(&b);
    caloris_store_close(b.store);
}

static int teardown(void **state)
{
    (void)state;
    forget_all();
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct user *user(const char *name)
{
    struct user *found = user_need(&b, name, NULL);
    assert_non_null(found);
    return found;
}

static struct lane *lane_of_entry(uint64_t job)
{
    const struct entry *e = &jobs[job];
    struct lane *lane = lane_need(&b, user(e->user), e->model, e->priority, e->alone, NULL);
    assert_non_null(lane);
    return lane;
}

static uint64_t add(const char *name, const char *model, int32_t priority)
{
    char key[24];
    uint64_t job;
    snprintf(key, sizeof(key), "%d", (int)n_jobs);
    const struct caloris_store_submission s = {
        .user = name,
        .key = key,
        .key_bytes = strlen(key),
        .body = "{}",
        .body_bytes = 2,
        .seed = -1,
        .model = model,
        .priority = priority,
    };
    assert_int_equal(caloris_store_add(b.store, &s, &job, NULL), 0);
    assert_int_equal(caloris_store_commit(b.store, NULL), 0);
    assert_int_equal(job, ++n_jobs);
    jobs[job] = (struct entry){name, model, priority, false, true, false};
    lane_enter(&b, lane_of_entry(job), job);
    return job;
}

/* The group that leased jobs have; the lanes only look whether there is one. */
static struct group somebody;

static void lease(uint64_t job)
{
    struct live *live = live_need(&b, job, NULL);
    assert_non_null(live);
    live->group = &somebody;
    lane_leave(&b, lane_of_entry(job), job);
    user(jobs[job].user)->running++;
    jobs[job].waits = false;
    jobs[job].leased = true;
}

static void unlease(uint64_t job)
{
    struct live *live = live_find(&b, job);
    live->group = NULL;
    live_drop_unused(&b, live);
    user(jobs[job].user)->running--;
    jobs[job].leased = false;
}

static void end(uint64_t job)
{
    const struct caloris_store_end done = {
        .state = CALORIS_STORE_DONE, .result = "{}", .result_bytes = 2};
    assert_int_equal(caloris_store_finish(b.store, job, &done, NULL), 0);
    assert_int_equal(caloris_store_commit(b.store, NULL), 0);
    if (jobs[job].waits)
        lane_leave(&b, lane_of_entry(job), job);
    if (jobs[job].leased)
        unlease(job);
    jobs[job].waits = false;
}

static void give_back(uint64_t job)
{
    unlease(job);
    lane_enter(&b, lane_of_entry(job), job);
    jobs[job].waits = true;
}

/* Two crashes: among those that must be alone from now on. */
static void crash_twice(uint64_t job)
{
    for (int i = 0; i < 2; i++)
        assert_int_equal(caloris_store_count_crash(b.store, job, false, NULL), 0);
    assert_int_equal(caloris_store_commit(b.store, NULL), 0);
    jobs[job].alone = true;
    give_back(job);
}

static uint64_t pick(const char *model, enum lane_kind kind)
{
    struct lane *lane;
    uint64_t job;
    struct caloris_err err = {0};
    int rc = lanes_pick(&b, model, kind, &lane, &job, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    return rc == 1 ? job : 0;
}

/* The same by looking at every job. */
static uint64_t search(const char *model, enum lane_kind kind)
{
    uint64_t best = 0;
    for (uint64_t job = 1; job <= n_jobs; job++) {
        const struct entry *e = &jobs[job], *other = &jobs[best];
        const struct user *u = e->waits ? user(e->user) : NULL;
        if (!u || (e->model[0] && strcmp(e->model, model) != 0) ||
            (kind != LANES_ALL && e->alone != (kind == LANES_ALONE)) ||
            (u->limits.max_running && u->running >= u->limits.max_running))
            continue;
        double mine = (double)u->running / u->limits.share;
        double others =
            best ? (double)user(other->user)->running / user(other->user)->limits.share : 0;
        if (!best || e->priority > other->priority ||
            (e->priority == other->priority && mine < others))
            best = job;
    }
    return best;
}

static void shares_are_fair(void **state)
{
    (void)state;
    /* 2 : 1 while both have jobs, the older one where they are even; then the rest. */
    static const char expected[] = "abaababbbb";
    char order[sizeof(expected)] = "";
    user("a")->limits.share = 2;
    for (int i = 0; i < 4; i++)
        add("a", "", 0);
    for (int i = 0; i < 6; i++)
        add("b", "", 0);
    for (size_t i = 0; i < 10; i++) {
        uint64_t job = pick("m", LANES_ALL);
        assert_int_not_equal(job, 0);
        assert_int_equal(job, search("m", LANES_ALL));
        order[i] = jobs[job].user[0];
        lease(job);
    }
    assert_string_equal(order, expected);
    assert_int_equal(pick("m", LANES_ALL), 0);
    assert_int_equal(b.n_waiting, 0);
}

static void every_pick_is_that_of_a_plain_search(void **state)
{
    (void)state;
    static const char *const users[] = {"ada", "bob", "eve"}, *const models[] = {"", "m", "n"};
    const int32_t priorities[] = {-1, 0, 7};
    uint64_t random = 1;
    user("bob")->limits.share = 3;
    user("eve")->limits.max_running = 4;
    for (int turn = 0; turn < 4000; turn++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const unsigned dice = (unsigned)(random >> 33);
        const uint64_t some = n_jobs ? 1 + dice / 64 % n_jobs : 0;
        switch (dice % 8) {
        case 0:
        case 1:
            if (n_jobs < MOST)
                add(users[dice / 8 % 3], models[dice / 24 % 3], priorities[dice / 72 % 3]);
            break;
        case 2:
            if (some && (jobs[some].waits || jobs[some].leased))
                end(some);
            break;
        case 3:
            if (some && jobs[some].leased && dice & 512)
                crash_twice(some);
            else if (some && jobs[some].leased)
                give_back(some);
            break;
        case 4:
            if (turn % 50 == 0) { /* a new life: all leases are gone */
                forget_all();
                open_store();
                user("bob")->limits.share = 3;
                user("eve")->limits.max_running = 4;
                assert_int_equal(lanes_load(&b, NULL), 0);
                for (uint64_t job = 1; job <= n_jobs; job++) {
                    jobs[job].waits |= jobs[job].leased;
                    jobs[job].leased = false;
                }
            }
            break;
        default: {
            const char *model = dice & 256 ? "m" : "n";
            const enum lane_kind kind = (enum lane_kind)(dice / 512 % 3);
            const uint64_t job = pick(model, kind);
            if (job != search(model, kind))
                fail_msg("turn %d: job %d, not %d", turn, (int)job, (int)search(model, kind));
            if (job)
                lease(job);
        }
        }
    }
    assert_int_equal(n_jobs, MOST);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(shares_are_fair),
        CASE(every_pick_is_that_of_a_plain_search),
    };
    return cmocka_run_group_tests_name("lanes", tests, NULL, NULL);
}
