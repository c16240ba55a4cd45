/* What has been acknowledged is really on disk: a real gateway under libdisk_log.so, which writes
 * down all writes and syncs of the queue's files. Afterwards the files are put together as a crash
 * of the machine would have left them just before each sync was over: with what had been synced,
 * and besides with any part of what had not. In each must be all that had been acknowledged. */
#include "tests/e2e/gateway_support.h"

#include "base/time.h"
#include "proto/wire.h"
#include "tests/tools/disk_log.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

enum {
    CLIENTS = 4,
    ROUNDS = 120,
    JOBS = CLIENTS * ROUNDS,
    PROMPT_BYTES = 6000, /* so much that the log is taken into the database a few times */
    SECTOR = 512,        /* of a disk: written as a whole or not at all */
    DONE_EVERY = 3,
    CANCEL_EVERY = 5,
};

/* ---- what is promised ---- */

struct promise {
    uint64_t time_ns; /* when the answer was here */
    uint64_t job;
    int state; /* at least queued; or ended so */
};
static struct promise promises[3 * JOBS];
static size_t n_promises;

static void promised(uint64_t job, int state)
{
    assert_true(n_promises < sizeof(promises) / sizeof(promises[0]));
    promises[n_promises++] = (struct promise){caloris_time_ns(), job, state};
}

/* ---- a gateway at work ---- */

static struct gateway gateway;
static char log_path[128];

/* All clients ask before any looks for its answer: several jobs share a commit. */
static void submit_round(void *const *clients, int round, char *prompt)
{
    char key[32], *json = NULL;
    for (int i = 0; i < CLIENTS; i++) {
        Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
        request message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
        const int n = snprintf(key, sizeof(key), "%d of %d", round, i);
        const int json_bytes = asprintf(&json, "{\"prompt\": \"%s\"}", prompt);
        assert_true(json_bytes > 0);
        submit.key = (ProtobufCBinaryData){(size_t)n, (uint8_t *)key};
        submit.job_json = (ProtobufCBinaryData){(size_t)json_bytes, (uint8_t *)json};
        message.request = 1000000 + (uint64_t)round;
        message.body_case = REQUEST(SUBMIT);
        message.submit = &submit;
        send_message(clients[i], &message);
        free(json);
    }
    for (int i = 0; i < CLIENTS; i++) {
        from_gateway *answer = client_answer(clients[i]);
        assert_int_equal(answer->body_case, ANSWER(ACCEPTED));
        promised(answer->accepted->job, STATE(QUEUED));
        answer_free(answer);
    }
}

/* A client that is promised 4 jobs in a round and sees some of them end. */
static void work(int from_round, int to_round)
{
    char prompt[PROMPT_BYTES + 1];
    void *clients[CLIENTS];
    void *group = group_dial(&gateway, "g", 1);
    memset(prompt, 'x', PROMPT_BYTES);
    prompt[PROMPT_BYTES] = '\0';
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_dial(&gateway);
    for (int round = from_round; round < to_round; round++) {
        submit_round(clients, round, prompt);
        if (round % DONE_EVERY == 0) {
            struct lease lease = group_take_lease(group);
            group_result(group, &lease, "{\"text\": \"y\"}");
            order_free(group_next(group, ORDER(TAKEN)));
            promised(lease.job, STATE(DONE));
            group_beat(group, 1);
        }
        if (round % CANCEL_EVERY == 0) {
            const uint64_t job = promises[n_promises - 1].job;
            if (promises[n_promises - 1].state == STATE(QUEUED)) {
                client_cancel(clients[0], job);
                promised(job, STATE(CANCELLED));
            }
        }
    }
    for (int i = 0; i < CLIENTS; i++)
        hang_up(clients[i]);
    hang_up(group);
}

/* ---- the disk, as it may have been ---- */

struct image {
    unsigned char *bytes;
    size_t length, room;
};

static void image_resize(struct image *image, size_t length)
{
    if (length > image->room) {
        image->room = 2 * length;
        image->bytes = realloc(image->bytes, image->room);
        assert_non_null(image->bytes);
    }
    if (length > image->length)
        memset(image->bytes + image->length, 0, length - image->length);
    image->length = length;
}

static void image_write(struct image *image, uint64_t offset, const void *bytes, size_t n)
{
    if (offset + n > image->length)
        image_resize(image, offset + n);
    memcpy(image->bytes + offset, bytes, n);
}

struct disk_state {
    struct image image;  /* what has been synced */
    bool created, there; /* its name, too, is on disk */
};
static struct disk_state disk[DISK_FILES];

/* The operation on the image; torn: each sector of it, or not. */
static void apply(struct image *image, const struct disk_record *record, bool torn)
{
    const unsigned char *bytes = (const unsigned char *)(record + 1);
    if (record->kind == DISK_TRUNCATE && !(torn && rand() % 2))
        image_resize(image, record->offset);
    for (uint64_t at = 0; record->kind == DISK_WRITE && at < record->length;) {
        uint64_t n = SECTOR - (record->offset + at) % SECTOR;
        n = n < record->length - at ? n : record->length - at;
        if (!(torn && rand() % 2))
            image_write(image, record->offset + at, bytes + at, n);
        at += n;
    }
}

/* A log in memory; offsets of its records. */
struct log {
    unsigned char *bytes;
    size_t length, *at, n;
};

static const struct disk_record *record_of(const struct log *log, size_t i)
{
    return (const struct disk_record *)(const void *)(log->bytes + log->at[i]);
}

static struct log log_read(void)
{
    struct log log = {0};
    struct stat st;
    int fd = open(log_path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    log.length = (size_t)st.st_size;
    unsigned char *file = mmap(NULL, log.length, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(file, MAP_FAILED);
    close(fd);
    /* Copied, so that every header is aligned. */
    log.bytes = malloc(2 * log.length);
    log.at = calloc(log.length / sizeof(struct disk_record) + 1, sizeof(*log.at));
    assert_non_null(log.bytes);
    assert_non_null(log.at);
    size_t from = 0, to = 0;
    while (from < log.length) {
        struct disk_record record;
        assert_true(log.length - from >= sizeof(record));
        memcpy(&record, file + from, sizeof(record));
        const size_t n = sizeof(record) + (record.kind == DISK_WRITE ? record.length : 0);
        assert_true(log.length - from >= n && record.file < DISK_FILES);
        memcpy(log.bytes + to, file + from, n);
        log.at[log.n++] = to;
        from += n;
        to += (n + 7) / 8 * 8;
    }
    munmap(file, log.length);
    return log;
}

/* ---- is it there? ---- */

static void put_file(const char *name, const struct disk_state *state, const struct image *image)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/rebuilt/%s", gateway.dir, name);
    unlink(path);
    if (!state->there)
        return;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(image->bytes, 1, image->length, file), image->length);
    assert_int_equal(fclose(file), 0);
}

/* Opens the database as after a crash, and looks for all that was promised before time_ns. */
static void expect_promises(const struct image *db, const struct image *wal, uint64_t time_ns)
{
    static unsigned char state_of[JOBS + 1];
    char path[160];
    sqlite3 *database;
    sqlite3_stmt *jobs;
    snprintf(path, sizeof(path), "%s/rebuilt/queue.db-shm", gateway.dir);
    unlink(path);
    put_file("queue.db", &disk[DISK_DB], db);
    put_file("queue.db-wal", &disk[DISK_WAL], wal);
    snprintf(path, sizeof(path), "%s/rebuilt/queue.db", gateway.dir);
    assert_int_equal(sqlite3_open_v2(path, &database, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    if (sqlite3_prepare_v2(database, "SELECT job, state FROM jobs", -1, &jobs, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(database));
    memset(state_of, 0, sizeof(state_of));
    int rc;
    while ((rc = sqlite3_step(jobs)) == SQLITE_ROW) {
        const int64_t job = sqlite3_column_int64(jobs, 0);
        assert_true(job > 0 && job <= JOBS);
        state_of[job] = (unsigned char)sqlite3_column_int(jobs, 1);
    }
    if (rc != SQLITE_DONE)
        fail_msg("%s", sqlite3_errmsg(database));
    sqlite3_finalize(jobs);
    for (size_t i = 0; i < n_promises && promises[i].time_ns < time_ns; i++) {
        const int state = state_of[promises[i].job];
        if (state == 0 || (promises[i].state != STATE(QUEUED) && state != promises[i].state))
            fail_msg("job %llu was acknowledged in state %d, and is in state %d on disk",
                     (unsigned long long)promises[i].job, promises[i].state, state);
    }
    sqlite3_close(database);
}

/* The machine stops just before record i. */
static void crash(const struct log *log, const size_t *synced, size_t i, uint64_t time_ns)
{
    expect_promises(&disk[DISK_DB].image, &disk[DISK_WAL].image, time_ns);
    struct image torn[DISK_FILES] = {0};
    for (int file = DISK_DB; file <= DISK_WAL; file++) {
        image_write(&torn[file], 0, disk[file].image.bytes, disk[file].image.length);
        for (size_t k = synced[file]; k < i; k++) {
            if (record_of(log, k)->file == (uint32_t)file)
                apply(&torn[file], record_of(log, k), true);
        }
    }
    expect_promises(&torn[DISK_DB], &torn[DISK_WAL], time_ns);
    for (int file = DISK_DB; file <= DISK_WAL; file++)
        free(torn[file].bytes);
}

static void every_promise_is_on_disk_at_every_moment(void **state)
{
    (void)state;
    work(0, ROUNDS / 2);
    gateway_end(&gateway, SIGKILL);
    gateway_start_again(&gateway, "20s");
    work(ROUNDS / 2, ROUNDS);
    gateway_end(&gateway, SIGKILL);

    struct log log = log_read();
    size_t synced[DISK_FILES] = {0}, crashes = 0, checkpoints = 0;
    for (size_t i = 0; i < log.n; i++) {
        const struct disk_record *record = record_of(&log, i);
        struct disk_state *file = &disk[record->file];
        if (record->kind == DISK_CREATE)
            file->created = true;
        if (record->kind != DISK_SYNC)
            continue;
        if (record->time_ns > promises[0].time_ns) {
            crash(&log, synced, i, record->time_ns);
            crashes++;
            checkpoints += record->file == DISK_DB;
        }
        for (size_t k = synced[record->file]; k < i; k++) {
            if (record_of(&log, k)->file == record->file)
                apply(&file->image, record_of(&log, k), false);
        }
        synced[record->file] = i;
        for (int named = DISK_DB; record->file == DISK_DIRECTORY && named <= DISK_WAL; named++)
            disk[named].there = disk[named].created;
    }
    crash(&log, synced, log.n, UINT64_MAX);
    print_message("%zu promises, %zu syncs, %zu of them of checkpoints\n", n_promises, crashes,
                  checkpoints);
    assert_true(crashes > ROUNDS / 2 && checkpoints > 1);
    free(log.bytes);
    free(log.at);
    free(disk[DISK_DB].image.bytes);
    free(disk[DISK_WAL].image.bytes);
}

/* ---- a body that is damaged ---- */

static void execute(const char *sql)
{
    char path[128];
    sqlite3 *db;
    snprintf(path, sizeof(path), "%s/state/queue.db", gateway.dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

/* It fails alone: all that wait behind it are given out. */
static void a_damaged_job_fails_alone(void **state)
{
    (void)state;
    enum { DAMAGED = 3 };
    char key[8];
    uint64_t jobs[DAMAGED + 1];
    void *client = client_dial(&gateway);
    for (int i = 0; i <= DAMAGED; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        jobs[i] = client_submit(client, key, "{\"prompt\": \"a\"}", NULL);
    }
    hang_up(client);
    gateway_end(&gateway, SIGTERM);
    execute("UPDATE bodies SET body = x'' WHERE job = 1");
    execute("UPDATE bodies SET body = 'none' WHERE job = 2");
    execute("DELETE FROM bodies WHERE job = 3");
    gateway_start_again(&gateway, "20s");
    client = client_dial(&gateway);
    void *group = group_dial(&gateway, "g", 1);
    struct lease lease = group_take_lease(group);
    assert_int_equal(lease.job, jobs[DAMAGED]);
    for (int i = 0; i < DAMAGED; i++) {
        char *json = client_results(client, jobs[i]);
        if (!strstr(json, "\"io\"") || !strstr(json, "cannot be read"))
            fail_msg("job %d: %s", i, json);
        free(json);
    }
    group_result(group, &lease, "{\"id\": null, \"ids\": [1]}");
    order_free(group_next(group, ORDER(TAKEN)));
    hang_up(group);
    hang_up(client);
}

static int setup_plain(void **state)
{
    (void)state;
    gateway_start(&gateway, "20s");
    return 0;
}

static int teardown_plain(void **state)
{
    (void)state;
    ends_finish();
    gateway_remove(&gateway);
    return 0;
}

static int setup(void **state)
{
    char path[128];
    (void)state;
    snprintf(log_path, sizeof(log_path), "/tmp/caloris-disk-log-%d", (int)getpid());
    setenv(DISK_LOG_PATH, log_path, 1);
    setenv("LD_PRELOAD", DISK_LOG_LIBRARY, 1);
    gateway_start(&gateway, "20s");
    snprintf(path, sizeof(path), "%s/rebuilt", gateway.dir);
    return mkdir(path, 0700);
}

static int teardown(void **state)
{
    (void)state;
    unlink(log_path);
    unsetenv("LD_PRELOAD");
    return teardown_plain(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_promise_is_on_disk_at_every_moment, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_job_fails_alone, setup_plain, teardown_plain),
    };
    return cmocka_run_group_tests_name("on_disk", tests, NULL, NULL);
}
