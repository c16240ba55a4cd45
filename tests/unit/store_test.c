/* coordinator/gateway/store: what is on disk after which call, and what is refused. */
#include "coordinator/gateway/store/store.h"

#include "base/buf.h"
#include "base/err.h"
#include "coordinator/gateway/store/place.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];
static const struct caloris_store_options options = {.user = "ada"};

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/caloris-store-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct caloris_store *open_store(void)
{
    struct caloris_err err = {0};
    struct caloris_store *store = caloris_store_open(dir, &options, &err);
    if (!store)
        fail_msg("%s", err.text);
    return store;
}

static struct caloris_store_submission submission(const char *key, const char *body)
{
    return (struct caloris_store_submission){
        .user = "ada",
        .key = key,
        .key_bytes = strlen(key),
        .body = body,
        .body_bytes = strlen(body),
        .seed = -1,
        .now_ms = 1700000000000,
    };
}

static uint64_t add(struct caloris_store *store, const char *key, const char *body)
{
    struct caloris_err err = {0};
    uint64_t job = 0;
    const struct caloris_store_submission s = submission(key, body);
    if (caloris_store_add(store, &s, &job, &err) < 0)
        fail_msg("%s", err.text);
    return job;
}

static void commit(struct caloris_store *store)
{
    struct caloris_err err = {0};
    if (caloris_store_commit(store, &err) < 0)
        fail_msg("%s", err.text);
}

static void finish(struct caloris_store *store, uint64_t job, const char *result)
{
    struct caloris_err err = {0};
    const struct caloris_store_end end = {
        .state = CALORIS_STORE_DONE,
        .started_ms = 5,
        .finished_ms = 6,
        .result = result,
        .result_bytes = strlen(result),
    };
    assert_int_equal(caloris_store_finish(store, job, &end, &err), 0);
}

static void expect_json(struct caloris_store *store, uint64_t job, const char *expected,
                        int (*read)(struct caloris_store *, uint64_t, struct caloris_buf *,
                                    struct caloris_err *))
{
    struct caloris_buf json = CALORIS_BUF(1 << 20);
    struct caloris_err err = {0};
    if (read(store, job, &json, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(json.data, expected);
    caloris_buf_free(&json);
}

static void expect_counts(struct caloris_store *store, uint64_t queued, uint64_t finished)
{
    struct caloris_store_counts counts;
    assert_int_equal(caloris_store_count(store, &counts, NULL), 0);
    assert_int_equal(counts.queued, queued);
    assert_int_equal(counts.finished, finished);
}

static int listed(struct caloris_store *store, const char *user, bool finished_too, uint64_t before,
                  int limit, struct caloris_store_job *jobs)
{
    const struct caloris_store_filter filter = {user, finished_too, before};
    return caloris_store_list(store, &filter, limit, jobs, NULL);
}

static void only_what_was_committed_survives(void **state)
{
    (void)state;
    struct caloris_store *store = open_store();
    uint64_t epoch = caloris_store_epoch(store);
    uint64_t one = add(store, "a", "{\"ids\": [1]}");
    uint64_t two = add(store, "b", "{\"ids\": [2]}");
    assert_true(two > one);
    commit(store);
    finish(store, one, "{\"r\": 1}");
    assert_int_equal(caloris_store_count_crash(store, two, false, NULL), 0);
    commit(store);
    uint64_t lost = add(store, "c", "{\"ids\": [3]}");
    finish(store, two, "{}");
    caloris_store_close(store);

    store = open_store();
    struct caloris_store_job job;
    assert_true(caloris_store_epoch(store) > epoch);
    assert_int_equal(caloris_store_first_epoch(store), epoch);
    expect_counts(store, 1, 1);
    assert_int_equal(caloris_store_find(store, one, &job, NULL), 0);
    assert_int_equal(job.state, CALORIS_STORE_DONE);
    assert_int_equal(job.submitted_ms, 1700000000000);
    assert_int_equal(job.started_ms, 5);
    assert_int_equal(job.finished_ms, 6);
    expect_json(store, one, "{\"r\": 1}", caloris_store_read_result);
    assert_int_equal(caloris_store_find(store, two, &job, NULL), 0);
    assert_int_equal(job.state, CALORIS_STORE_QUEUED);
    assert_int_equal(job.crashes, 1);
    struct caloris_err err;
    assert_int_equal(caloris_store_find(store, lost, &job, &err), -1);
    assert_int_equal(err.code, CALORIS_NOT_FOUND);
    caloris_store_close(store);
}

static void a_key_is_one_job(void **state)
{
    (void)state;
    struct caloris_store *store = open_store();
    struct caloris_err err;
    uint64_t job, same;
    struct caloris_store_submission s = submission("k", "{\"ids\": [1]}");
    assert_int_equal(caloris_store_known(store, &s, &same, &err), 0);
    job = add(store, "k", "{\"ids\": [1]}");
    for (int committed = 0; committed < 2; committed++) {
        assert_int_equal(caloris_store_known(store, &s, &same, &err), 1);
        assert_int_equal(same, job);
        commit(store);
    }
    s = submission("k", "{\"ids\": [2]}");
    assert_int_equal(caloris_store_known(store, &s, &same, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_REQUEST);
    /* Bytes, not text. */
    s = submission("k\0x", "{\"ids\": [3]}");
    s.key_bytes = 3;
    assert_int_equal(caloris_store_known(store, &s, &same, &err), 0);
    assert_int_equal(caloris_store_add(store, &s, &same, &err), 0);
    /* Somebody else's key of the same bytes is another one. */
    s = submission("k", "{\"ids\": [4]}");
    s.user = "grace";
    assert_int_equal(caloris_store_known(store, &s, &same, &err), 0);
    assert_int_equal(caloris_store_add(store, &s, &same, &err), 0);
    assert_int_equal(caloris_store_known(store, &s, &job, &err), 1);
    assert_int_equal(job, same);
    commit(store);
    expect_counts(store, 3, 0);
    caloris_store_close(store);
}

/* What the gateway added to a body tells no jobs apart: a preset may have changed. */
static void a_key_means_what_was_submitted(void **state)
{
    (void)state;
    static const char before[] = "{\"commit\": \"quota\", \"ids\": [1]}";
    static const struct {
        const char *body;
        size_t added;
        int known;
    } again[] = {
        {before, 19, 1},
        {"{\"commit\": \"factor\", \"cache\": \"dual\", \"ids\": [1]}", 37, 1},
        {"{\"ids\": [1]}", 0, 1},
        {before, 0, 1}, /* as an older version would have stored it */
        {"{\"commit\": \"factor\", \"ids\": [1]}", 0, -1},
        {"{\"commit\": \"quota\", \"ids\": [2]}", 19, -1},
        {"{\"commit\": \"quota\", \"ids\": [1 ]}", 19, -1},
        {"{\"ids\": [1]}", 13, -1},
    };
    struct caloris_store *store = open_store();
    struct caloris_store_submission s = submission("k", before);
    struct caloris_err err;
    uint64_t job, same;
    s.added_bytes = 19;
    assert_int_equal(caloris_store_add(store, &s, &job, &err), 0);
    commit(store);
    for (size_t i = 0; i < sizeof(again) / sizeof(again[0]); i++) {
        s = submission("k", again[i].body);
        s.added_bytes = again[i].added;
        if (caloris_store_known(store, &s, &same, &err) != again[i].known)
            fail_msg("%s, %zu added", again[i].body, again[i].added);
        assert_true(again[i].known < 0 || same == job);
    }
    caloris_store_close(store);
}

static void a_drawn_seed_stays_with_its_job(void **state)
{
    (void)state;
    static const struct {
        int64_t seed;
        const char *body, *expected;
    } cases[] = {
        {-1, "{\"ids\": [1], \"seed\": 3}", "{\"ids\": [1], \"seed\": 3}"},
        {7, "{\"ids\": [1]}", "{\"seed\": 7, \"ids\": [1]}"},
        {(1ll << 53) - 1, " \n{\"ids\":[1]} ", "{\"seed\": 9007199254740991, \"ids\":[1]} "},
    };
    struct caloris_store *store = open_store();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char key[2] = {(char)('a' + i), 0};
        struct caloris_store_submission s = submission(key, cases[i].body);
        uint64_t job;
        s.seed = cases[i].seed;
        assert_int_equal(caloris_store_add(store, &s, &job, NULL), 0);
        expect_json(store, job, cases[i].expected, caloris_store_read_job);
    }
    caloris_store_close(store);
}

static void jobs_end_once(void **state)
{
    (void)state;
    struct caloris_store *store = open_store();
    struct caloris_err err;
    struct caloris_buf json = CALORIS_BUF(100);
    uint64_t job = add(store, "k", "{\"ids\": [1]}");
    assert_int_equal(caloris_store_read_result(store, job, &json, &err), -1);
    assert_int_equal(err.code, CALORIS_AGAIN);
    struct caloris_store_end end = {
        .state = CALORIS_STORE_FAILED,
        .finished_ms = 1,
        .code = "bad_request",
        .text = "ids: no",
        .result = "{\"error\": 1}",
        .result_bytes = 12,
    };
    assert_int_equal(caloris_store_finish(store, job, &end, &err), 0);
    end.state = CALORIS_STORE_DONE;
    assert_int_equal(caloris_store_finish(store, job, &end, &err), 1);
    assert_int_equal(caloris_store_finish(store, job + 1, &end, &err), 1);
    commit(store);
    struct caloris_store_job found;
    assert_int_equal(caloris_store_find(store, job, &found, NULL), 0);
    assert_int_equal(found.state, CALORIS_STORE_FAILED);
    assert_string_equal(found.code, "bad_request");
    assert_string_equal(found.text, "ids: no");
    expect_json(store, job, "{\"error\": 1}", caloris_store_read_result);
    caloris_buf_free(&json);
    caloris_store_close(store);
}

static void queued_jobs_are_found_in_order(void **state)
{
    (void)state;
    enum { JOBS = 50 };
    struct caloris_store *store = open_store();
    struct caloris_store_job list[JOBS];
    uint64_t jobs[JOBS], job;
    for (int i = 0; i < JOBS; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        jobs[i] = add(store, key, "{\"ids\": [1]}");
        if (i % 3 == 0)
            finish(store, jobs[i], "{}");
    }
    commit(store);
    int n = 0;
    const struct caloris_store_lane lane = {false, "", 0, "ada"};
    for (uint64_t from = 0; caloris_store_next(store, &lane, from, &job, NULL) == 1;
         from = job + 1) {
        assert_int_equal(job, jobs[n / 2 * 3 + n % 2 + 1]);
        n++;
    }
    assert_int_equal(n, 33);
    expect_counts(store, 33, 17);
    assert_int_equal(listed(store, NULL, true, UINT64_MAX, JOBS, list), JOBS);
    assert_int_equal(list[0].job, jobs[JOBS - 1]);
    assert_int_equal(listed(store, NULL, false, UINT64_MAX, JOBS, list), 33);
    assert_int_equal(listed(store, NULL, true, jobs[4], 3, list), 3);
    assert_int_equal(list[0].job, jobs[3]);
    assert_int_equal(list[0].state, CALORIS_STORE_DONE);
    assert_int_equal(list[2].job, jobs[1]);
    struct caloris_store_submission s = submission("his", "{\"ids\": [1]}");
    s.user = "bob";
    s.model = "tiny";
    s.priority = -3;
    s.deadline_ms = 77;
    assert_int_equal(caloris_store_add(store, &s, &job, NULL), 0);
    for (int finished_too = 0; finished_too < 2; finished_too++) {
        assert_int_equal(listed(store, "bob", finished_too, UINT64_MAX, JOBS, list), 1);
        assert_int_equal(list[0].job, job);
        assert_string_equal(list[0].user, "bob");
        assert_string_equal(list[0].model, "tiny");
        assert_int_equal(list[0].priority, -3);
        assert_int_equal(list[0].deadline_ms, 77);
        assert_int_equal(listed(store, "nobody", finished_too, UINT64_MAX, JOBS, list), 0);
    }
    assert_int_equal(listed(store, "ada", false, UINT64_MAX, JOBS, list), 33);
    assert_int_equal(listed(store, "ada", true, UINT64_MAX, JOBS, list), JOBS);
    caloris_store_close(store);
}

/* Where a job stands, newest last; it goes when the job ends. */
static void progress_lasts_as_long_as_its_job(void **state)
{
    (void)state;
    struct caloris_store *store = open_store();
    struct caloris_buf bytes = CALORIS_BUF(64);
    uint32_t block = 0;
    const uint64_t job = add(store, "k", "{}"), other = add(store, "l", "{}");
    assert_int_equal(caloris_store_read_hand_over(store, job, &block, &bytes, NULL), 0);
    assert_int_equal(caloris_store_hand_over(store, job, 3, "abc", 3, NULL), 0);
    assert_int_equal(caloris_store_hand_over(store, job, 4, "d\0ef", 4, NULL), 0);
    assert_int_equal(caloris_store_hand_over(store, other, 1, "o", 1, NULL), 0);
    assert_int_equal(caloris_store_hand_over(store, other + 7, 1, "no such job", 11, NULL), 0);
    commit(store);
    caloris_store_close(store);
    store = open_store();
    assert_int_equal(caloris_store_read_hand_over(store, job, &block, &bytes, NULL), 1);
    assert_int_equal(block, 4);
    assert_int_equal(bytes.size, 4);
    assert_memory_equal(bytes.data, "d\0ef", 4);
    assert_int_equal(caloris_store_read_hand_over(store, other + 7, &block, &bytes, NULL), 0);
    finish(store, job, "{}");
    assert_int_equal(caloris_store_hand_over(store, job, 5, "too late", 8, NULL), 0);
    commit(store);
    assert_int_equal(caloris_store_read_hand_over(store, job, &block, &bytes, NULL), 0);
    caloris_buf_clear(&bytes);
    assert_int_equal(caloris_store_read_hand_over(store, other, &block, &bytes, NULL), 1);
    assert_true(block == 1 && bytes.size == 1);
    caloris_buf_free(&bytes);
    caloris_store_close(store);
}

static void one_gateway_per_directory(void **state)
{
    (void)state;
    struct caloris_err err;
    char pid[32];
    struct caloris_store *store = open_store();
    assert_null(caloris_store_open(dir, &options, &err));
    assert_int_equal(err.code, CALORIS_BAD_CONFIG);
    snprintf(pid, sizeof(pid), "process %d", (int)getpid());
    assert_non_null(strstr(err.text, pid));
    caloris_store_close(store);
    caloris_store_close(open_store());
}

/* In place of the queue. */
static void go_back_to(const char *copy)
{
    static const char *const old[] = {"queue.db", "queue.db-wal", "queue.db-shm"};
    char path[96];
    for (size_t i = 0; i < sizeof(old) / sizeof(old[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, old[i]);
        unlink(path);
    }
    snprintf(path, sizeof(path), "%s/queue.db", dir);
    assert_int_equal(rename(copy, path), 0);
}

static void a_copy_gives_no_number_again(void **state)
{
    (void)state;
    char copy[96];
    struct caloris_err err = {0};
    snprintf(copy, sizeof(copy), "%s/copy.db", dir);
    for (int jobs = 0; jobs < 2; jobs++) {
        struct caloris_store *store = open_store();
        const uint64_t epoch = caloris_store_epoch(store);
        uint64_t before = jobs > 0 ? add(store, "a", "{\"ids\": [1]}") : 0;
        commit(store);
        if (caloris_store_backup(dir, copy, &err) < 0)
            fail_msg("%s", err.text);
        uint64_t since = add(store, "b", "{\"ids\": [2]}");
        commit(store);
        caloris_store_close(store);

        go_back_to(copy);
        store = open_store();
        expect_counts(store, (uint64_t)jobs, 0);
        assert_true(add(store, "c", "{\"ids\": [3]}") >= since + 999999);
        assert_true(since > before);
        /* What a group has from before: no lease of it is one of this queue. */
        assert_true(caloris_store_first_epoch(store) > epoch);
        caloris_store_close(store);
        store = open_store();
        assert_true(caloris_store_first_epoch(store) < caloris_store_epoch(store));
        caloris_store_close(store);
    }
}

/* Writes something over the database. */
static void scribble(const char *name, long at, const char *bytes, size_t n)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

static void run_sql(const char *sql)
{
    char path[128];
    sqlite3 *db;
    snprintf(path, sizeof(path), "%s/queue.db", dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void make_store(void)
{
    struct caloris_store *store = open_store();
    for (int i = 0; i < 200; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        add(store, key, "{\"prompt\": \"so that there are a few pages of it\"}");
    }
    commit(store);
    caloris_store_close(store);
}

static void damage_header(void)
{
    make_store();
    scribble("queue.db", 0, "no header at all", 16);
}

static void damage_page(void)
{
    char noise[3000];
    make_store();
    memset(noise, 0x5A, sizeof(noise));
    scribble("queue.db", 3 * 4096, noise, sizeof(noise));
}

static void make_text(void)
{
    static char text[2000];
    memset(text, 'x', sizeof(text));
    scribble("queue.db", 0, text, sizeof(text));
}

static void make_foreign(void)
{
    run_sql("CREATE TABLE bookmarks (url TEXT)");
}

static void make_newer(void)
{
    make_store();
    run_sql("PRAGMA user_version = 999");
}

static void open_to_others(void)
{
    assert_int_equal(chmod(dir, 0755), 0);
}

static void bad_places_are_refused(void **state)
{
    static const struct {
        void (*make)(void);
        const char *words;
    } cases[] = {
        {damage_header, "not a database"},  {damage_page, "damaged"},
        {make_text, "not a database"},      {make_foreign, "some other program's"},
        {make_newer, "schema version 999"}, {open_to_others, "0755"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct caloris_err err = {0};
        cases[i].make();
        struct caloris_store *store = caloris_store_open(dir, &options, &err);
        if (store || err.code != CALORIS_BAD_CONFIG || !strstr(err.text, cases[i].words))
            fail_msg("case %zu: code %d, \"%s\"", i, (int)err.code, err.text);
        teardown(state);
        assert_int_equal(setup(state), 0);
    }
    assert_string_equal(store_network_fs(0x6969), "NFS");
    assert_string_equal(store_network_fs(0x0BD00BD0), "Lustre");
    assert_string_equal(store_network_fs(0xFF534D42), "CIFS");
    assert_null(store_network_fs(0xEF53));     /* ext4 */
    assert_null(store_network_fs(0x01021994)); /* tmpfs */
}

/* A process that may write no more than this much plays the full disk (its writes fail, SIGXFSZ
 * ignored). What was committed before stays, what is not committed is refused and undone. */
static int fill_disk(void)
{
    struct caloris_err err = {0};
    struct caloris_store *store = caloris_store_open(dir, &options, &err);
    const struct rlimit limit = {400 << 10, 400 << 10};
    static char body[50000];
    uint64_t job;
    memset(body, ' ', sizeof(body));
    memcpy(body, "{\"ids\": [1]", 11);
    body[sizeof(body) - 1] = '}';
    signal(SIGXFSZ, SIG_IGN);
    if (!store || setrlimit(RLIMIT_FSIZE, &limit) < 0)
        return 1;
    for (int i = 0; i < 100; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        const struct caloris_store_submission s = {
            .user = "ada",
            .key = key,
            .key_bytes = strlen(key),
            .body = body,
            .body_bytes = sizeof(body),
            .seed = -1,
            .now_ms = 1,
        };
        int rc = caloris_store_add(store, &s, &job, &err);
        if (caloris_store_commit(store, &err) < 0 || rc < 0) {
            struct caloris_store_counts counts;
            bool kind = err.code == CALORIS_AGAIN || err.code == CALORIS_IO;
            if (!kind || caloris_store_count(store, &counts, &err) < 0)
                return 2;
            caloris_store_close(store);
            return counts.queued == (uint64_t)i && i > 0 ? 100 + i : 3;
        }
    }
    return 4;
}

static void a_full_disk_loses_nothing(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(fill_disk());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_in_range(WEXITSTATUS(status), 101, 199);
    struct caloris_store *store = open_store();
    expect_counts(store, (uint64_t)WEXITSTATUS(status) - 100, 0);
    add(store, "next", "{\"ids\": [1]}");
    commit(store);
    caloris_store_close(store);
}

/* So much in one turn that the database cannot hold it in memory: it is a statement that meets the
 * limit, not the commit. */
static int spill(void)
{
    struct caloris_err err = {0};
    struct caloris_store *store = caloris_store_open(dir, &options, &err);
    const struct rlimit limit = {4 << 20, 4 << 20};
    static char body[500000];
    uint64_t job;
    memset(body, ' ', sizeof(body));
    memcpy(body, "{\"ids\": [1]", 11);
    body[sizeof(body) - 1] = '}';
    signal(SIGXFSZ, SIG_IGN);
    if (!store || setrlimit(RLIMIT_FSIZE, &limit) < 0)
        return 1;
    for (int i = 0; i < 100; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        struct caloris_store_submission s = submission(key, "");
        s.body = body;
        s.body_bytes = sizeof(body);
        if (caloris_store_add(store, &s, &job, &err) < 0) {
            const bool told = err.code == CALORIS_AGAIN;
            const bool undone = caloris_store_commit(store, &err) < 0 && err.code == CALORIS_AGAIN;
            caloris_store_close(store);
            return !told ? 2 : !undone ? 3 : 0;
        }
    }
    return 4;
}

static void a_write_refused_in_a_statement_is_for_later(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(spill());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    struct caloris_store *store = open_store();
    expect_counts(store, 0, 0);
    caloris_store_close(store);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(only_what_was_committed_survives),
        CASE(a_key_is_one_job),
        CASE(a_key_means_what_was_submitted),
        CASE(a_drawn_seed_stays_with_its_job),
        CASE(jobs_end_once),
        CASE(queued_jobs_are_found_in_order),
        CASE(progress_lasts_as_long_as_its_job),
        CASE(one_gateway_per_directory),
        CASE(a_copy_gives_no_number_again),
        CASE(bad_places_are_refused),
        CASE(a_full_disk_loses_nothing),
        CASE(a_write_refused_in_a_statement_is_for_later),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
