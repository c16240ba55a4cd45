#include "coordinator/gateway/store/schema.h"

#include "base/err.h"
#include "base/time.h"
#include "coordinator/gateway/store/migrate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    CHECK_UP_TO_BYTES = 64 << 20, /* larger databases are not read through at every start */
};

#define JOB_COLUMNS                                                                                \
    "job, state, submitted_ms, started_ms, finished_ms, crashes, id, code, text, priority,"        \
    " attempts, alone, deadline_ms, user, model, bytes"

static const char *const statements[STORE_STATEMENTS] = {
    [STORE_BEGIN] = "BEGIN IMMEDIATE",
    [STORE_COMMIT] = "COMMIT",
    [STORE_ROLLBACK] = "ROLLBACK",
    [STORE_ADD] = "INSERT INTO jobs (state, submitted_ms, seed, id, key, user, model, priority,"
                  " deadline_ms, added, bytes) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9,"
                  " ?10)",
    [STORE_ADD_BODY] = "INSERT INTO bodies VALUES (?1, ?2)",
    [STORE_BY_KEY] = "SELECT job, body, added FROM jobs JOIN bodies USING (job)"
                     " WHERE user = ?1 AND key = ?2",
    [STORE_FINISH] = "UPDATE jobs SET state = ?2, started_ms = ?3, finished_ms = ?4, code = ?5,"
                     " text = ?6 WHERE job = ?1 AND state = 1",
    [STORE_ADD_RESULT] = "INSERT INTO results VALUES (?1, ?2)",
    [STORE_PUT_HAND_OVER] = "INSERT OR REPLACE INTO hand_overs"
                            " SELECT job, ?2, ?3 FROM jobs WHERE job = ?1 AND state = 1",
    [STORE_DROP_HAND_OVER] = "DELETE FROM hand_overs WHERE job = ?1",
    [STORE_READ_HAND_OVER] = "SELECT block, hand_over FROM hand_overs WHERE job = ?1",
    [STORE_COUNT_CRASH] = "UPDATE jobs SET crashes = crashes + 1, attempts = attempts + ?2,"
                          " alone = crashes + 1 >= ?3 WHERE job = ?1",
    [STORE_COUNT_QUEUED] = "SELECT count(*) FROM jobs WHERE state = 1",
    [STORE_COUNT_ALL] = "SELECT count(*) FROM jobs",
    [STORE_FIND] = "SELECT " JOB_COLUMNS " FROM jobs WHERE job = ?1",
    [STORE_NEXT] = "SELECT job FROM jobs INDEXED BY jobs_waiting WHERE state = 1 AND alone = ?1"
                   " AND model = ?2 AND priority = ?3 AND user = ?4 AND job >= ?5"
                   " ORDER BY job LIMIT 1",
    [STORE_WAITING] = "SELECT alone, model, priority, user, count(*), min(job), sum(bytes)"
                      " FROM jobs INDEXED BY jobs_waiting WHERE state = 1"
                      " GROUP BY alone, model, priority, user",
    [STORE_NEXT_DEADLINE] = "SELECT job, deadline_ms FROM jobs INDEXED BY jobs_deadline"
                            " WHERE state = 1 AND deadline_ms > 0 ORDER BY deadline_ms LIMIT 1",
    [STORE_OLDEST] = "SELECT job FROM jobs INDEXED BY jobs_finished"
                     " WHERE state > 1 AND finished_ms < ?1 ORDER BY finished_ms LIMIT 1",
    [STORE_FORGET] = "DELETE FROM jobs WHERE job = ?1",
    [STORE_FORGET_BODY] = "DELETE FROM bodies WHERE job = ?1",
    [STORE_FORGET_RESULT] = "DELETE FROM results WHERE job = ?1",
    [STORE_READ_JOB] = "SELECT body, seed FROM jobs JOIN bodies USING (job) WHERE job = ?1",
    [STORE_READ_RESULT] = "SELECT state, result FROM jobs LEFT JOIN results USING (job)"
                          " WHERE job = ?1",
    [STORE_LIST_QUEUED] = "SELECT " JOB_COLUMNS " FROM jobs INDEXED BY jobs_queued"
                          " WHERE state = 1 AND job < ?1 ORDER BY job DESC LIMIT ?2",
    [STORE_LIST_ALL] = "SELECT " JOB_COLUMNS " FROM jobs WHERE job < ?1 ORDER BY job DESC LIMIT ?2",
    [STORE_LIST_QUEUED_OF] = "SELECT " JOB_COLUMNS " FROM jobs INDEXED BY jobs_queued_of WHERE"
                             " state = 1 AND user = ?3 AND job < ?1 ORDER BY job DESC LIMIT ?2",
    [STORE_LIST_ALL_OF] = "SELECT " JOB_COLUMNS " FROM jobs INDEXED BY jobs_of WHERE user = ?3"
                          " AND job < ?1 ORDER BY job DESC LIMIT ?2",
};

/* What a full disk is also called: a quota, a file's largest size, a device that went read-only.
 * With the request nothing was wrong, and nothing of it is kept. */
static bool refused_write(int extended)
{
    static const int writes[] = {SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC,
                                 SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_SHMSIZE};
    for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
        if (extended == writes[i])
            return true;
    }
    return false;
}

int store_failed(const struct caloris_store *store, const char *doing, struct caloris_err *err)
{
    const int extended = sqlite3_extended_errcode(store->db);
    const int why = extended & 0xFF;
    enum caloris_code code = why == SQLITE_FULL                              ? CALORIS_AGAIN
                             : refused_write(extended)                       ? CALORIS_AGAIN
                             : why == SQLITE_BUSY                            ? CALORIS_AGAIN
                             : why == SQLITE_NOTADB || why == SQLITE_CORRUPT ? CALORIS_BAD_CONFIG
                             : why == SQLITE_NOMEM                           ? CALORIS_NO_MEMORY
                             : why == SQLITE_MISUSE                          ? CALORIS_INTERNAL
                                                                             : CALORIS_IO;
    return caloris_err_set(err, code, "%s: %.80s: %s", store->path, doing,
                           sqlite3_errmsg(store->db));
}

int store_execute(struct caloris_store *store, const char *sql, struct caloris_err *err)
{
    if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return store_failed(store, sql, err);
    return 0;
}

int store_ask(struct caloris_store *store, const char *sql, int64_t *value, char *text,
              struct caloris_err *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = -1;
    if (sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW) {
        store_failed(store, sql, err);
        goto out;
    }
    *value = sqlite3_column_int64(statement, 0);
    const unsigned char *word = sqlite3_column_text(statement, 0);
    if (text)
        snprintf(text, STORE_TEXT, "%s", word ? (const char *)word : "");
    rc = 0;
out:
    sqlite3_finalize(statement);
    return rc;
}

static int check(struct caloris_store *store, struct caloris_err *err)
{
    struct stat st;
    char text[STORE_TEXT];
    int64_t value;
    if (stat(store->path, &st) < 0)
        return caloris_err_sys(err, "%s", store->path);
    if (st.st_size > CHECK_UP_TO_BYTES)
        return 0;
    if (store_ask(store, "PRAGMA quick_check(1)", &value, text, err) < 0)
        return -1;
    if (strcmp(text, "ok") != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is damaged: %s", store->path, text);
    return 0;
}

/* A greater number than any life before, also when the clock was set back; and than those of a
 * database that lay in this place before, unless it was. */
static int begin_life(struct caloris_store *store, struct caloris_err *err)
{
    char text[STORE_TEXT], sql[192];
    int64_t value;
    snprintf(sql, sizeof(sql),
             "UPDATE life SET epoch = max(epoch + 1, %" PRIu64 ");"
             "UPDATE life SET first_epoch = epoch WHERE first_epoch = 0",
             caloris_time_wall_ms());
    if (store_execute(store, "BEGIN IMMEDIATE", err) < 0 || store_execute(store, sql, err) < 0 ||
        store_execute(store, "COMMIT", err) < 0 ||
        store_ask(store, "SELECT epoch FROM life", &value, text, err) < 0)
        return -1;
    store->epoch = (uint64_t)value;
    if (store_ask(store, "SELECT first_epoch FROM life", &value, text, err) < 0)
        return -1;
    store->first_epoch = (uint64_t)value;
    return 0;
}

int store_file_open(struct caloris_store *store, struct caloris_err *err)
{
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    /* unix-none asks the file system for no lock: Lustre may have none, NFS those of dead hosts. */
    if (sqlite3_open_v2(store->path, &store->db, flags, store->network_fs ? "unix-none" : NULL) !=
        SQLITE_OK)
        return store_failed(store, "opening", err);
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, STORE_BUSY_MS);
    /* Before the log is first used: its index then is this process's own memory. */
    return store->network_fs ? store_execute(store, "PRAGMA locking_mode = EXCLUSIVE", err) : 0;
}

int store_schema_open(struct caloris_store *store, const struct caloris_store_options *options,
                      struct caloris_err *err)
{
    static const char *const settings[] = {
        "PRAGMA journal_mode = WAL",   "PRAGMA synchronous = FULL",
        "PRAGMA trusted_schema = OFF", "PRAGMA temp_store = MEMORY",
        "PRAGMA cache_size = -8192",   "PRAGMA journal_size_limit = 67108864",
    };
    char text[STORE_TEXT];
    int64_t value;
    if (store_file_open(store, err) < 0)
        return -1;
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
        if (store_execute(store, settings[i], err) < 0)
            return -1;
    }
    if (store_ask(store, "PRAGMA journal_mode", &value, text, err) < 0)
        return -1;
    if (strcmp(text, "wal") != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s: no write-ahead log on this file system (journal mode %s)",
                               store->path, text);
    if (check(store, err) < 0 || store_migrate(store, options->user, err) < 0 ||
        begin_life(store, err) < 0)
        return -1;
    for (int i = 0; i < STORE_STATEMENTS; i++) {
        if (sqlite3_prepare_v3(store->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &store->statement[i], NULL) != SQLITE_OK)
            return store_failed(store, statements[i], err);
    }
    return 0;
}
