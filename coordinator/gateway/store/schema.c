#include "coordinator/gateway/store/schema.h"

#include "base/err.h"
#include "base/time.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    APPLICATION_ID = 0x43616C6F, /* "Calo", in the file's header */
    SCHEMA_VERSION = 1,
    CHECK_UP_TO_BYTES = 64 << 20, /* larger databases are not read through at every start */
};

/* Small columns come first: a list reads no page of the bodies behind them. The key's uniqueness is
 * what makes a repeated submission harmless; the partial index finds the next queued job among
 * millions of finished ones. */
static const char schema[] =
    "CREATE TABLE life (first_epoch INTEGER NOT NULL, epoch INTEGER NOT NULL);"
    "INSERT INTO life VALUES (0, 0);"
    "CREATE TABLE jobs ("
    "  job INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  state INTEGER NOT NULL,"
    "  submitted_ms INTEGER NOT NULL,"
    "  started_ms INTEGER NOT NULL DEFAULT 0,"
    "  finished_ms INTEGER NOT NULL DEFAULT 0,"
    "  crashes INTEGER NOT NULL DEFAULT 0,"
    "  seed INTEGER,"
    "  id TEXT,"
    "  code TEXT,"
    "  text TEXT,"
    "  key BLOB NOT NULL UNIQUE,"
    "  body BLOB NOT NULL,"
    "  result BLOB);"
    "CREATE INDEX jobs_queued ON jobs (state) WHERE state = 1;";

#define JOB_COLUMNS "job, state, submitted_ms, started_ms, finished_ms, crashes, id, code, text"

static const char *const statements[STORE_STATEMENTS] = {
    [STORE_BEGIN] = "BEGIN IMMEDIATE",
    [STORE_COMMIT] = "COMMIT",
    [STORE_ROLLBACK] = "ROLLBACK",
    [STORE_ADD] = "INSERT INTO jobs (state, submitted_ms, seed, id, key, body)"
                  " VALUES (1, ?1, ?2, ?3, ?4, ?5)",
    [STORE_BY_KEY] = "SELECT job, body FROM jobs WHERE key = ?1",
    [STORE_FINISH] = "UPDATE jobs SET state = ?2, started_ms = ?3, finished_ms = ?4, code = ?5,"
                     " text = ?6, result = ?7 WHERE job = ?1 AND state = 1",
    [STORE_COUNT_CRASH] = "UPDATE jobs SET crashes = crashes + 1 WHERE job = ?1",
    [STORE_COUNT_QUEUED] = "SELECT count(*) FROM jobs WHERE state = 1",
    [STORE_COUNT_ALL] = "SELECT count(*) FROM jobs",
    [STORE_FIND] = "SELECT " JOB_COLUMNS " FROM jobs WHERE job = ?1",
    [STORE_NEXT] = "SELECT job FROM jobs WHERE state = 1 AND job >= ?1 ORDER BY job LIMIT 1",
    [STORE_READ_JOB] = "SELECT body, seed FROM jobs WHERE job = ?1",
    [STORE_READ_RESULT] = "SELECT state, result FROM jobs WHERE job = ?1",
    [STORE_LIST_QUEUED] = "SELECT " JOB_COLUMNS " FROM jobs WHERE state = 1 AND job < ?1"
                          " ORDER BY job DESC LIMIT ?2",
    [STORE_LIST_ALL] = "SELECT " JOB_COLUMNS " FROM jobs WHERE job < ?1 ORDER BY job DESC LIMIT ?2",
};

int store_failed(const struct caloris_store *store, const char *doing, struct caloris_err *err)
{
    int why = sqlite3_errcode(store->db) & 0xFF;
    enum caloris_code code = why == SQLITE_FULL                              ? CALORIS_AGAIN
                             : why == SQLITE_BUSY                            ? CALORIS_AGAIN
                             : why == SQLITE_NOTADB || why == SQLITE_CORRUPT ? CALORIS_BAD_CONFIG
                             : why == SQLITE_NOMEM                           ? CALORIS_NO_MEMORY
                             : why == SQLITE_MISUSE                          ? CALORIS_INTERNAL
                                                                             : CALORIS_IO;
    return caloris_err_set(err, code, "%s: %s: %s", store->path, doing, sqlite3_errmsg(store->db));
}

static int run(struct caloris_store *store, const char *sql, struct caloris_err *err)
{
    if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return store_failed(store, sql, err);
    return 0;
}

/* The first column of the first row. */
static int ask(struct caloris_store *store, const char *sql, int64_t *value, char text[static 128],
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
    snprintf(text, 128, "%s", word ? (const char *)word : "");
    rc = 0;
out:
    sqlite3_finalize(statement);
    return rc;
}

static int check(struct caloris_store *store, struct caloris_err *err)
{
    struct stat st;
    char text[128];
    int64_t value;
    if (stat(store->path, &st) < 0)
        return caloris_err_sys(err, "%s", store->path);
    if (st.st_size > CHECK_UP_TO_BYTES)
        return 0;
    if (ask(store, "PRAGMA quick_check(1)", &value, text, err) < 0)
        return -1;
    if (strcmp(text, "ok") != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is damaged: %s", store->path, text);
    return 0;
}

/* The schema is made in one transaction with the file's marks, so there is all of it or nothing. */
static int make_or_check(struct caloris_store *store, struct caloris_err *err)
{
    char text[128], sql[128];
    int64_t application, version, tables;
    if (run(store, "BEGIN IMMEDIATE", err) < 0 ||
        ask(store, "PRAGMA application_id", &application, text, err) < 0 ||
        ask(store, "PRAGMA user_version", &version, text, err) < 0 ||
        ask(store, "SELECT count(*) FROM sqlite_master", &tables, text, err) < 0)
        return -1;
    if (application == 0 && version == 0 && tables == 0) {
        snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %d",
                 APPLICATION_ID, SCHEMA_VERSION);
        if (run(store, schema, err) < 0 || run(store, sql, err) < 0)
            return -1;
    } else if (application != APPLICATION_ID) {
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s is some other program's database, not a queue", store->path);
    } else if (version != SCHEMA_VERSION) {
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s has schema version %" PRId64 "; this program knows %d",
                               store->path, version, SCHEMA_VERSION);
    }
    return run(store, "COMMIT", err);
}

/* A greater number than any life before, also when the clock was set back; and than those of a
 * database that lay in this place before, unless it was. */
static int begin_life(struct caloris_store *store, struct caloris_err *err)
{
    char text[128], sql[192];
    int64_t value;
    snprintf(sql, sizeof(sql),
             "UPDATE life SET epoch = max(epoch + 1, %" PRIu64 ");"
             "UPDATE life SET first_epoch = epoch WHERE first_epoch = 0",
             caloris_time_wall_ms());
    if (run(store, "BEGIN IMMEDIATE", err) < 0 || run(store, sql, err) < 0 ||
        run(store, "COMMIT", err) < 0 ||
        ask(store, "SELECT epoch FROM life", &value, text, err) < 0)
        return -1;
    store->epoch = (uint64_t)value;
    if (ask(store, "SELECT first_epoch FROM life", &value, text, err) < 0)
        return -1;
    store->first_epoch = (uint64_t)value;
    return 0;
}

int store_schema_open(struct caloris_store *store, struct caloris_err *err)
{
    static const char *const settings[] = {
        "PRAGMA journal_mode = WAL",   "PRAGMA synchronous = FULL",
        "PRAGMA trusted_schema = OFF", "PRAGMA temp_store = MEMORY",
        "PRAGMA cache_size = -8192",   "PRAGMA journal_size_limit = 67108864",
    };
    char text[128];
    int64_t value;
    if (sqlite3_open_v2(store->path, &store->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        return store_failed(store, "opening", err);
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, 5000); /* somebody looks at it with the sqlite3 tool */
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
        if (run(store, settings[i], err) < 0)
            return -1;
    }
    if (ask(store, "PRAGMA journal_mode", &value, text, err) < 0)
        return -1;
    if (strcmp(text, "wal") != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s: no write-ahead log on this file system (journal mode %s)",
                               store->path, text);
    if (check(store, err) < 0 || make_or_check(store, err) < 0 || begin_life(store, err) < 0)
        return -1;
    for (int i = 0; i < STORE_STATEMENTS; i++) {
        if (sqlite3_prepare_v3(store->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &store->statement[i], NULL) != SQLITE_OK)
            return store_failed(store, statements[i], err);
    }
    return 0;
}
