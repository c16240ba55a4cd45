/* coordinator/gateway/store: queues that older versions left are opened, and nothing of them
 * is lost. */
#include "coordinator/gateway/store/store.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cmocka.h>

enum { VERSIONS = 1, /* dumps in tests/unit/queues: v1.sql … */ SCHEMA = 32768 };

static char dir[64], path[80];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/caloris-store-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/queue.db", dir);
    return 0;
}

static int remove_entry(const char *entry, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(entry);
}

static int teardown(void **state)
{
    (void)state;
    return nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct caloris_store *open_store(void)
{
    static const struct caloris_store_options options = {.user = "ada"};
    struct caloris_err err = {0};
    struct caloris_store *store = caloris_store_open(dir, &options, &err);
    if (!store)
        fail_msg("%s", err.text);
    return store;
}

static void restore(int version, const char *more)
{
    char dump[512];
    struct caloris_buf sql = CALORIS_BUF(1 << 20);
    struct caloris_err err = {0};
    sqlite3 *db;
    const char *source = getenv("CALORIS_SOURCE_DIR");
    snprintf(dump, sizeof(dump), "%s/tests/unit/queues/v%d.sql", source ? source : ".", version);
    if (caloris_file_read(dump, &sql, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql.data, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, more, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", dump, sqlite3_errmsg(db));
    sqlite3_close(db);
    caloris_buf_free(&sql);
}

static int add_line(void *text, int n, char **values, char **names)
{
    (void)n;
    (void)names;
    size_t used = strlen(text);
    assert_true(used + strlen(values[0]) + 2 < SCHEMA);
    snprintf((char *)text + used, SCHEMA - used, "%s\n", values[0]);
    return 0;
}

static void read_schema(char text[SCHEMA])
{
    sqlite3 *db;
    text[0] = '\0';
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db,
                                  "SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name",
                                  add_line, text, NULL),
                     SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db, "SELECT user_version FROM pragma_user_version", add_line, text, NULL),
        SQLITE_OK);
    sqlite3_close(db);
}

static void expect_json(struct caloris_store *store, uint64_t job, const char *expected,
                        int (*read)(struct caloris_store *, uint64_t, struct caloris_buf *,
                                    struct caloris_err *))
{
    struct caloris_buf json = CALORIS_BUF(1 << 20);
    struct caloris_err err = {0};
    if (read(store, job, &json, &err) < 0)
        fail_msg("%s", err.text);
    if (!strstr(json.data, expected))
        fail_msg("job %d: \"%s\" without \"%s\"", (int)job, json.data, expected);
    caloris_buf_free(&json);
}

/* The jobs of every dump: one done, one failed, one queued, one cancelled, one queued. */
static void expect_jobs(struct caloris_store *store)
{
    static const struct {
        enum caloris_store_state state;
        uint32_t crashes;
        const char *id, *code, *body, *result;
    } jobs[] = {
        {CALORIS_STORE_DONE, 0, "done-1", "", "\"def f(a):\"", "def power_2(s):"},
        {CALORIS_STORE_FAILED, 0, "fails", "bad_request", "2000000000", "outside the vocabulary"},
        {CALORIS_STORE_QUEUED, 0, "it's \"quoted\"", "", "\"seed\":5}", NULL},
        {CALORIS_STORE_CANCELLED, 0, "gone", "cancelled", "\"y\"", "cancelled on request"},
        {CALORIS_STORE_QUEUED, 2, "", "", "{\"seed\": 2515857650717447, ", NULL},
    };
    for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
        struct caloris_store_job job;
        assert_int_equal(caloris_store_find(store, i + 1, &job, NULL), 0);
        assert_int_equal(job.state, jobs[i].state);
        assert_int_equal(job.crashes, jobs[i].crashes);
        assert_int_equal(job.alone, jobs[i].crashes >= CALORIS_STORE_ALONE);
        assert_int_equal(job.attempts, 0);
        assert_int_equal(job.priority, 0);
        assert_int_equal(job.deadline_ms, 0);
        assert_string_equal(job.user, "ada");
        assert_string_equal(job.model, "");
        assert_string_equal(job.id, jobs[i].id);
        assert_string_equal(job.code, jobs[i].code);
        expect_json(store, i + 1, jobs[i].body, caloris_store_read_job);
        if (jobs[i].result)
            expect_json(store, i + 1, jobs[i].result, caloris_store_read_result);
    }
}

/* What is queued is counted by its bytes, as the bodies are. */
static void expect_bytes(struct caloris_store *store)
{
    struct caloris_store_waiting found;
    struct caloris_store_counts counts;
    struct caloris_err err = {0};
    uint64_t jobs = 0, bytes = 0, body_bytes = 0;
    while (caloris_store_waiting(store, &found, NULL) == 1) {
        jobs += found.jobs;
        bytes += found.body_bytes;
    }
    for (uint64_t job = 1; job <= 5; job++) {
        struct caloris_store_job one;
        assert_int_equal(caloris_store_find(store, job, &one, NULL), 0);
        assert_true((one.body_bytes > 0) == (one.state == CALORIS_STORE_QUEUED));
        body_bytes += one.body_bytes;
    }
    assert_int_equal(jobs, 2);
    assert_int_equal(bytes, body_bytes);
    if (caloris_store_check(dir, &counts, &err) < 0)
        fail_msg("%s", err.text);
}

static void old_queues_are_brought_up_to_date(void **state)
{
    char fresh[SCHEMA], migrated[SCHEMA];
    struct caloris_store_counts counts;
    for (int version = 1; version <= VERSIONS; version++) {
        caloris_store_close(open_store());
        read_schema(fresh);
        teardown(state);
        assert_int_equal(setup(state), 0);

        restore(version, "");
        struct caloris_store *store = open_store();
        expect_jobs(store);
        assert_int_equal(caloris_store_count(store, &counts, NULL), 0);
        assert_int_equal(counts.queued, 2);
        assert_int_equal(counts.finished, 3);
        expect_bytes(store);
        caloris_store_close(store);
        read_schema(migrated);
        assert_string_equal(migrated, fresh);

        store = open_store(); /* and once more: nothing is left to do */
        expect_jobs(store);
        caloris_store_close(store);
    }
}

/* A number once given is never another job's, also when the last jobs are gone. */
static void numbers_and_keys_go_on(void **state)
{
    (void)state;
    restore(1, "UPDATE sqlite_sequence SET seq = 40;"
               "UPDATE jobs SET key = x'6b' WHERE job = 3;");
    struct caloris_store *store = open_store();
    struct caloris_store_submission s = {
        .user = "ada",
        .key = "new",
        .key_bytes = 3,
        .body = "{\"ids\": [1]}",
        .body_bytes = 12,
        .seed = -1,
    };
    uint64_t job;
    assert_int_equal(caloris_store_add(store, &s, &job, NULL), 0);
    assert_int_equal(job, 41);
    struct caloris_err err;
    s.key = "k";
    s.key_bytes = 1;
    assert_int_equal(caloris_store_known(store, &s, &job, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_REQUEST);
    assert_non_null(strstr(err.text, "job 3 "));
    caloris_store_close(store);
}

/* One of its steps fails: the old queue is as it was. */
static void half_a_migration_is_none(void **state)
{
    (void)state;
    static const struct caloris_store_options options = {.user = "ada"};
    struct caloris_err err = {0};
    char before[SCHEMA], after[SCHEMA];
    restore(1, "CREATE TABLE results (url TEXT)"); /* in the way */
    read_schema(before);
    assert_null(caloris_store_open(dir, &options, &err));
    assert_non_null(strstr(err.text, "schema version 2"));
    read_schema(after);
    assert_string_equal(after, before);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(old_queues_are_brought_up_to_date),
        CASE(numbers_and_keys_go_on),
        CASE(half_a_migration_is_none),
    };
    return cmocka_run_group_tests_name("store_versions", tests, NULL, NULL);
}
