#include "coordinator/gateway/store/migrate.h"

#include "base/err.h"
#include "coordinator/gateway/store/schema.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { APPLICATION_ID = 0x43616C6F }; /* "Calo", in the file's header */

/* In each, gateway_user() is the user that this gateway runs as. */
static const char *const steps[] = {
    /* 1 */
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
    "CREATE INDEX jobs_queued ON jobs (state) WHERE state = 1;",

    /* 2: users, priorities, deadlines, models, attempts. What is long moves to a table of its own:
     * lists and counts read no page of it, and later columns cost no copy of it. A key is its
     * user's: nobody learns by trying which keys others chose.
     *   jobs_waiting        the oldest job of a lane (broker/lanes.h) among millions
     *   jobs_queued, …_of   lists of what is queued, newest first: everybody's, one user's
     *   jobs_of             one user's jobs of all states
     *   jobs_deadline       what expires next
     *   jobs_finished       what has been kept longest */
    "ALTER TABLE jobs RENAME TO jobs_1;"
    "DROP INDEX jobs_queued;"
    "CREATE TABLE jobs ("
    "  job INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  state INTEGER NOT NULL,"
    "  priority INTEGER NOT NULL,"
    "  alone INTEGER NOT NULL DEFAULT 0,"
    "  crashes INTEGER NOT NULL DEFAULT 0,"
    "  attempts INTEGER NOT NULL DEFAULT 0,"
    "  submitted_ms INTEGER NOT NULL,"
    "  started_ms INTEGER NOT NULL DEFAULT 0,"
    "  finished_ms INTEGER NOT NULL DEFAULT 0,"
    "  deadline_ms INTEGER NOT NULL,"
    "  seed INTEGER,"
    "  user TEXT NOT NULL,"
    "  model TEXT NOT NULL,"
    "  id TEXT,"
    "  code TEXT,"
    "  text TEXT,"
    "  key BLOB NOT NULL,"
    "  UNIQUE (user, key));"
    "CREATE TABLE bodies (job INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    "CREATE TABLE results (job INTEGER PRIMARY KEY, result BLOB NOT NULL);"
    "INSERT INTO jobs (job, state, priority, alone, crashes, submitted_ms, started_ms, finished_ms,"
    "  deadline_ms, seed, user, model, id, code, text, key)"
    "  SELECT job, state, 0, crashes >= 2, crashes, submitted_ms, started_ms, finished_ms, 0, seed,"
    "    gateway_user(), '', id, code, text, key FROM jobs_1 ORDER BY job;"
    "INSERT INTO bodies SELECT job, body FROM jobs_1 ORDER BY job;"
    "INSERT INTO results SELECT job, result FROM jobs_1 WHERE result IS NOT NULL ORDER BY job;"
    "DELETE FROM sqlite_sequence WHERE name = 'jobs';" /* numbers go on where they were */
    "UPDATE sqlite_sequence SET name = 'jobs' WHERE name = 'jobs_1';"
    "DROP TABLE jobs_1;"
    "CREATE INDEX jobs_waiting ON jobs (alone, model, priority, user) WHERE state = 1;"
    "CREATE INDEX jobs_queued ON jobs (state) WHERE state = 1;"
    "CREATE INDEX jobs_queued_of ON jobs (user) WHERE state = 1;"
    "CREATE INDEX jobs_of ON jobs (user);"
    "CREATE INDEX jobs_deadline ON jobs (deadline_ms) WHERE state = 1 AND deadline_ms > 0;"
    "CREATE INDEX jobs_finished ON jobs (finished_ms) WHERE state > 1;",

    /* 3: where unfinished jobs stand. */
    ("CREATE TABLE hand_overs (job INTEGER PRIMARY KEY, block INTEGER NOT NULL,"
     "  hand_over BLOB NOT NULL);"),

    /* 4: how much of a body the submitter did not write: the bytes behind its brace. */
    "ALTER TABLE jobs ADD COLUMN added INTEGER NOT NULL DEFAULT 0;",

    /* 5: how large a body is, for what a user may have in the queue; what had ended by now counts
     * no more, and keeps 0. The index of lanes holds it, too: at start it is summed without a look
     * at every job. */
    "ALTER TABLE jobs ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;"
    "UPDATE jobs SET bytes ="
    "  ifnull((SELECT length(body) FROM bodies WHERE bodies.job = jobs.job), 0) WHERE state = 1;"
    "DROP INDEX jobs_waiting;"
    "CREATE INDEX jobs_waiting ON jobs (alone, model, priority, user, job, bytes) WHERE state = 1;",
};
enum { NEWEST = sizeof(steps) / sizeof(steps[0]) };

static void gateway_user(sqlite3_context *context, int n, sqlite3_value **values)
{
    (void)n;
    (void)values;
    sqlite3_result_text(context, sqlite3_user_data(context), -1, SQLITE_TRANSIENT);
}

int64_t store_newest_version(void)
{
    return NEWEST;
}

int store_version(struct caloris_store *store, int64_t *version, struct caloris_err *err)
{
    int64_t application, tables;
    if (store_ask(store, "PRAGMA application_id", &application, NULL, err) < 0 ||
        store_ask(store, "PRAGMA user_version", version, NULL, err) < 0 ||
        store_ask(store, "SELECT count(*) FROM sqlite_master", &tables, NULL, err) < 0)
        return -1;
    bool empty = application == 0 && *version == 0 && tables == 0;
    if (!empty && application != APPLICATION_ID)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s is some other program's database, not a queue", store->path);
    if (*version < !empty || *version > NEWEST)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s has schema version %" PRId64
                               "; this is caloris-gateway " CALORIS_VERSION
                               ", which knows 1 to %d: a newer one wrote it",
                               store->path, *version, NEWEST);
    return 0;
}

static int take_steps(struct caloris_store *store, int64_t version, struct caloris_err *err)
{
    char sql[128];
    if (version == NEWEST)
        return 0;
    for (int64_t i = version; i < NEWEST; i++) {
        if (store_execute(store, steps[i], err) < 0)
            return caloris_err_prefix(err, "schema version %" PRId64, i + 1);
    }
    snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %d",
             APPLICATION_ID, NEWEST);
    return store_execute(store, sql, err);
}

int store_migrate(struct caloris_store *store, const char *user, struct caloris_err *err)
{
    int64_t version;
    if (sqlite3_create_function(store->db, "gateway_user", 0, SQLITE_UTF8, (void *)(intptr_t)user,
                                gateway_user, NULL, NULL) != SQLITE_OK)
        return store_failed(store, "gateway_user", err);
    if (store_execute(store, "BEGIN IMMEDIATE", err) < 0)
        return -1;
    if (store_version(store, &version, err) < 0 || take_steps(store, version, err) < 0) {
        store_execute(store, "ROLLBACK", NULL);
        return -1;
    }
    return store_execute(store, "COMMIT", err);
}
