#include "coordinator/gateway/store/store.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "coordinator/gateway/store/place.h"
#include "coordinator/gateway/store/schema.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct caloris_store *caloris_store_open(const char *dir,
                                         const struct caloris_store_options *options,
                                         struct caloris_err *err)
{
    char path[PATH_MAX];
    struct caloris_store *store = calloc(1, sizeof(*store));
    if (!store) {
        caloris_err_sys(err, "%s: queue", dir);
        return NULL;
    }
    store->lock = -1;
    store->network_fs = options->network_fs;
    if (store_place_prepare(dir, options->network_fs, err) < 0 ||
        caloris_file_join(path, sizeof(path), dir, "queue.db", err) < 0)
        goto fail;
    store->path = strdup(path);
    if (!store->path) {
        caloris_err_sys(err, "%s: queue", dir);
        goto fail;
    }
    store->lock = store_place_lock(dir, options->network_fs, err);
    if (store->lock < 0 || (options->network_fs && store_owner_take(&store->owner, dir, err) < 0) ||
        store_reserve_use(&store->reserve, dir, err) < 0 ||
        store_schema_open(store, options, err) < 0 || store_place_sync(dir, err) < 0)
        goto fail;
    store_reserve_make(&store->reserve);
    return store;
fail:
    caloris_store_close(store);
    return NULL;
}

void caloris_store_close(struct caloris_store *store)
{
    if (!store)
        return;
    for (int i = 0; i < STORE_STATEMENTS; i++)
        sqlite3_finalize(store->statement[i]);
    sqlite3_close(store->db);
    store_owner_leave(&store->owner);
    if (store->lock >= 0)
        close(store->lock);
    free(store->path);
    free(store);
}

int caloris_store_still_ours(struct caloris_store *store, struct caloris_err *err)
{
    return store_owner_keep(&store->owner, err);
}

uint64_t caloris_store_epoch(const struct caloris_store *store)
{
    return store->epoch;
}

uint64_t caloris_store_first_epoch(const struct caloris_store *store)
{
    return store->first_epoch;
}

/* ---- statements ---- */

/* Numbers are ours or bounded by the caller; SQLite knows signed ones only. */
static void bind_number(sqlite3_stmt *statement, int at, uint64_t value)
{
    sqlite3_bind_int64(statement, at, value < INT64_MAX ? (int64_t)value : INT64_MAX);
}

static uint64_t column_number(sqlite3_stmt *statement, int at)
{
    return (uint64_t)sqlite3_column_int64(statement, at);
}

static void bind_text(sqlite3_stmt *statement, int at, const char *text)
{
    sqlite3_bind_text(statement, at, text, -1, SQLITE_STATIC);
}

static void bind_bytes(sqlite3_stmt *statement, int at, const void *bytes, size_t n)
{
    sqlite3_bind_blob64(statement, at, bytes, n, SQLITE_STATIC);
}

/* One step: SQLITE_ROW or SQLITE_DONE, or -1 and err. Rows are read before done(). */
static int step(struct caloris_store *store, enum store_statement which, const char *doing,
                struct caloris_err *err)
{
    int rc = sqlite3_step(store->statement[which]);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? rc : store_failed(store, doing, err);
}

/* Forgets the row and what was bound: bytes bound are the caller's. */
static void done(struct caloris_store *store, enum store_statement which)
{
    sqlite3_reset(store->statement[which]);
    sqlite3_clear_bindings(store->statement[which]);
}

static int run(struct caloris_store *store, enum store_statement which, const char *doing,
               struct caloris_err *err)
{
    int rc = step(store, which, doing, err);
    done(store, which);
    return rc < 0 ? -1 : 0;
}

static int refused(const struct caloris_store *store, struct caloris_err *err)
{
    return caloris_err_set(err, CALORIS_AGAIN, "%s: the disk refused a write", store->path);
}

static int begin(struct caloris_store *store, struct caloris_err *err)
{
    /* A full disk may end a transaction on its own; until the commit that tells so, nothing is
     * written. */
    if (store->broken || (store->writing && sqlite3_get_autocommit(store->db)))
        return refused(store, err);
    if (store->writing)
        return 0;
    if (run(store, STORE_BEGIN, "beginning to write", err) < 0)
        return -1;
    store->writing = true;
    return 0;
}

int caloris_store_commit(struct caloris_store *store, struct caloris_err *err)
{
    if (!store->writing)
        return 0;
    int rc = store_owner_keep(&store->owner, err) < 0 ? -1
             : store->broken || sqlite3_get_autocommit(store->db)
                 ? refused(store, err)
                 : run(store, STORE_COMMIT, "committing", err);
    store->writing = store->broken = false;
    if (rc == 0)
        store_reserve_mend(&store->reserve);
    if (rc < 0 && !sqlite3_get_autocommit(store->db))
        run(store, STORE_ROLLBACK, "rolling back", NULL);
    return rc;
}

/* ---- writes ---- */

/* The second half of a write: when it fails, the first must not stay alone. */
static int run_second(struct caloris_store *store, enum store_statement which, uint64_t job,
                      const void *bytes, size_t n, const char *doing, struct caloris_err *err)
{
    bind_number(store->statement[which], 1, job);
    bind_bytes(store->statement[which], 2, bytes ? bytes : "", n);
    if (run(store, which, doing, err) == 0)
        return 0;
    store->broken = true;
    return -1;
}

/* The same job, by what its submitter wrote. What older versions stored does not say which part
 * that is: they count by the whole. */
static bool is_same(const struct caloris_store_submission *a,
                    const struct caloris_store_submission *b)
{
    const size_t written = a->body_bytes - a->added_bytes;
    if (a->body_bytes == b->body_bytes && memcmp(a->body, b->body, a->body_bytes) == 0)
        return true;
    return a->added_bytes < a->body_bytes && b->added_bytes < b->body_bytes &&
           b->body_bytes - b->added_bytes == written &&
           memcmp((const char *)a->body + 1 + a->added_bytes,
                  (const char *)b->body + 1 + b->added_bytes, written - 1) == 0;
}

int caloris_store_known(struct caloris_store *store, const struct caloris_store_submission *s,
                        uint64_t *job, struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_BY_KEY];
    bind_text(q, 1, s->user);
    bind_bytes(q, 2, s->key, s->key_bytes);
    int rc = step(store, STORE_BY_KEY, "looking for a key", err);
    if (rc == SQLITE_DONE)
        rc = 0;
    if (rc == SQLITE_ROW) {
        *job = column_number(q, 0);
        const struct caloris_store_submission before = {
            .body = sqlite3_column_blob(q, 1),
            .body_bytes = (size_t)sqlite3_column_bytes(q, 1),
            .added_bytes = (size_t)column_number(q, 2),
        };
        rc = is_same(&before, s)
                 ? 1
                 : caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "key: job %" PRIu64 " was submitted with this key and another "
                                   "body",
                                   *job);
    }
    done(store, STORE_BY_KEY);
    return rc;
}

int caloris_store_add(struct caloris_store *store, const struct caloris_store_submission *s,
                      uint64_t *job, struct caloris_err *err)
{
    if (begin(store, err) < 0)
        return -1;
    sqlite3_stmt *q = store->statement[STORE_ADD];
    bind_number(q, 1, s->now_ms);
    if (s->seed >= 0)
        sqlite3_bind_int64(q, 2, s->seed);
    bind_text(q, 3, s->id);
    bind_bytes(q, 4, s->key, s->key_bytes);
    bind_text(q, 5, s->user);
    bind_text(q, 6, s->model ? s->model : "");
    sqlite3_bind_int(q, 7, s->priority);
    bind_number(q, 8, s->deadline_ms);
    bind_number(q, 9, s->added_bytes);
    bind_number(q, 10, s->body_bytes);
    if (run(store, STORE_ADD, "adding a job", err) < 0)
        return -1;
    *job = (uint64_t)sqlite3_last_insert_rowid(store->db);
    return run_second(store, STORE_ADD_BODY, *job, s->body, s->body_bytes, "adding a job", err);
}

int caloris_store_finish(struct caloris_store *store, uint64_t job,
                         const struct caloris_store_end *end, struct caloris_err *err)
{
    if (begin(store, err) < 0)
        return -1;
    sqlite3_stmt *q = store->statement[STORE_FINISH];
    bind_number(q, 1, job);
    sqlite3_bind_int(q, 2, (int)end->state);
    bind_number(q, 3, end->started_ms);
    bind_number(q, 4, end->finished_ms);
    bind_text(q, 5, end->code);
    bind_text(q, 6, end->text);
    if (run(store, STORE_FINISH, "finishing a job", err) < 0)
        return -1;
    if (sqlite3_changes(store->db) == 0)
        return 1;
    bind_number(store->statement[STORE_DROP_HAND_OVER], 1, job);
    if (run(store, STORE_DROP_HAND_OVER, "finishing a job", err) < 0) {
        store->broken = true;
        return -1;
    }
    return run_second(store, STORE_ADD_RESULT, job, end->result, end->result_bytes,
                      "storing a result", err);
}

int caloris_store_hand_over(struct caloris_store *store, uint64_t job, uint32_t block,
                            const void *bytes, size_t n, struct caloris_err *err)
{
    if (begin(store, err) < 0)
        return -1;
    sqlite3_stmt *q = store->statement[STORE_PUT_HAND_OVER];
    bind_number(q, 1, job);
    bind_number(q, 2, block);
    bind_bytes(q, 3, bytes, n);
    return run(store, STORE_PUT_HAND_OVER, "storing a job's progress", err);
}

int caloris_store_count_crash(struct caloris_store *store, uint64_t job, bool attempt,
                              struct caloris_err *err)
{
    if (begin(store, err) < 0)
        return -1;
    sqlite3_stmt *q = store->statement[STORE_COUNT_CRASH];
    bind_number(q, 1, job);
    sqlite3_bind_int(q, 2, attempt);
    sqlite3_bind_int(q, 3, CALORIS_STORE_ALONE);
    return run(store, STORE_COUNT_CRASH, "counting a crash", err);
}

/* One row in each of the tables that know the job. */
static int forget_job(struct caloris_store *store, uint64_t job, struct caloris_err *err)
{
    static const enum store_statement all[] = {STORE_FORGET_RESULT, STORE_FORGET_BODY,
                                               STORE_FORGET};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        bind_number(store->statement[all[i]], 1, job);
        if (run(store, all[i], "forgetting a job", err) < 0) {
            store->broken |= i > 0;
            return -1;
        }
    }
    return 0;
}

int caloris_store_forget(struct caloris_store *store, uint64_t before_ms, int limit,
                         struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_OLDEST];
    int n = 0;
    for (; n < limit; n++) {
        bind_number(q, 1, before_ms);
        int rc = step(store, STORE_OLDEST, "looking for old results", err);
        uint64_t job = rc == SQLITE_ROW ? column_number(q, 0) : 0;
        done(store, STORE_OLDEST);
        if (rc == SQLITE_DONE)
            break;
        if (rc < 0 || begin(store, err) < 0 || forget_job(store, job, err) < 0)
            return -1;
    }
    return n;
}

/* ---- reads ---- */

static int not_found(uint64_t job, struct caloris_err *err)
{
    return caloris_err_set(err, CALORIS_NOT_FOUND, "no job %" PRIu64, job);
}

int caloris_store_count(struct caloris_store *store, struct caloris_store_counts *counts,
                        struct caloris_err *err)
{
    uint64_t found[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        enum store_statement which = i == 0 ? STORE_COUNT_QUEUED : STORE_COUNT_ALL;
        int rc = step(store, which, "counting jobs", err);
        found[i] = rc == SQLITE_ROW ? column_number(store->statement[which], 0) : 0;
        done(store, which);
        if (rc < 0)
            return -1;
    }
    counts->queued = found[0];
    counts->finished = found[1] - found[0];
    return 0;
}

static void copy_text(sqlite3_stmt *q, int at, char *to, size_t size)
{
    const unsigned char *text = sqlite3_column_text(q, at);
    snprintf(to, size, "%s", text ? (const char *)text : "");
}

static void copy_job(sqlite3_stmt *q, struct caloris_store_job *to)
{
    to->job = column_number(q, 0);
    to->state = (enum caloris_store_state)sqlite3_column_int(q, 1);
    to->submitted_ms = column_number(q, 2);
    to->started_ms = column_number(q, 3);
    to->finished_ms = column_number(q, 4);
    to->crashes = (uint32_t)sqlite3_column_int(q, 5);
    copy_text(q, 6, to->id, sizeof(to->id));
    copy_text(q, 7, to->code, sizeof(to->code));
    copy_text(q, 8, to->text, sizeof(to->text));
    to->priority = sqlite3_column_int(q, 9);
    to->attempts = (uint32_t)sqlite3_column_int(q, 10);
    to->alone = sqlite3_column_int(q, 11) != 0;
    to->deadline_ms = column_number(q, 12);
    copy_text(q, 13, to->user, sizeof(to->user));
    copy_text(q, 14, to->model, sizeof(to->model));
    to->body_bytes = column_number(q, 15);
}

int caloris_store_find(struct caloris_store *store, uint64_t job, struct caloris_store_job *found,
                       struct caloris_err *err)
{
    bind_number(store->statement[STORE_FIND], 1, job);
    int rc = step(store, STORE_FIND, "looking for a job", err);
    if (rc == SQLITE_ROW)
        copy_job(store->statement[STORE_FIND], found);
    done(store, STORE_FIND);
    if (rc == SQLITE_DONE)
        return not_found(job, err);
    return rc < 0 ? -1 : 0;
}

int caloris_store_next(struct caloris_store *store, const struct caloris_store_lane *lane,
                       uint64_t from, uint64_t *job, struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_NEXT];
    sqlite3_bind_int(q, 1, lane->alone);
    bind_text(q, 2, lane->model);
    sqlite3_bind_int(q, 3, lane->priority);
    bind_text(q, 4, lane->user);
    bind_number(q, 5, from);
    int rc = step(store, STORE_NEXT, "looking for the next job", err);
    if (rc == SQLITE_ROW)
        *job = column_number(q, 0);
    done(store, STORE_NEXT);
    return rc < 0 ? -1 : rc == SQLITE_ROW;
}

int caloris_store_waiting(struct caloris_store *store, struct caloris_store_waiting *found,
                          struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_WAITING];
    int rc = step(store, STORE_WAITING, "counting what waits", err);
    if (rc != SQLITE_ROW) {
        done(store, STORE_WAITING);
        return rc < 0 ? -1 : 0;
    }
    found->alone = sqlite3_column_int(q, 0) != 0;
    copy_text(q, 1, found->model, sizeof(found->model));
    found->priority = sqlite3_column_int(q, 2);
    copy_text(q, 3, found->user, sizeof(found->user));
    found->jobs = column_number(q, 4);
    found->first = column_number(q, 5);
    found->body_bytes = column_number(q, 6);
    return 1;
}

int caloris_store_next_deadline(struct caloris_store *store, uint64_t *job, uint64_t *deadline_ms,
                                struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_NEXT_DEADLINE];
    int rc = step(store, STORE_NEXT_DEADLINE, "looking for a deadline", err);
    if (rc == SQLITE_ROW) {
        *job = column_number(q, 0);
        *deadline_ms = column_number(q, 1);
    }
    done(store, STORE_NEXT_DEADLINE);
    return rc < 0 ? -1 : rc == SQLITE_ROW;
}

/* {"prompt": …} -> {"seed": 7, "prompt": …}: the body is an object with at least one member, as the
 * parser of jobs has seen to; the rest of its bytes stay as they came. */
static int append_seeded(struct caloris_buf *json, const char *body, size_t n, int64_t seed,
                         struct caloris_err *err)
{
    const char *brace = memchr(body, '{', n);
    if (!brace)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "the database holds a body without {");
    size_t rest = n - (size_t)(brace + 1 - body);
    if (caloris_buf_printf(json, err, "{\"seed\": %" PRId64 ", ", seed) < 0)
        return -1;
    return caloris_buf_append(json, brace + 1, rest, err);
}

int caloris_store_read_job(struct caloris_store *store, uint64_t job, struct caloris_buf *json,
                           struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_READ_JOB];
    bind_number(q, 1, job);
    int rc = step(store, STORE_READ_JOB, "reading a job", err);
    if (rc == SQLITE_DONE)
        rc = not_found(job, err);
    if (rc == SQLITE_ROW) {
        const char *body = sqlite3_column_blob(q, 0);
        size_t n = (size_t)sqlite3_column_bytes(q, 0);
        bool drawn = sqlite3_column_type(q, 1) != SQLITE_NULL;
        rc = drawn ? append_seeded(json, body, n, sqlite3_column_int64(q, 1), err)
                   : caloris_buf_append(json, body, n, err);
    }
    done(store, STORE_READ_JOB);
    return rc < 0 ? -1 : 0;
}

int caloris_store_read_hand_over(struct caloris_store *store, uint64_t job, uint32_t *block,
                                 struct caloris_buf *bytes, struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_READ_HAND_OVER];
    bind_number(q, 1, job);
    int rc = step(store, STORE_READ_HAND_OVER, "reading a job's progress", err);
    if (rc == SQLITE_DONE)
        rc = 0;
    if (rc == SQLITE_ROW) {
        *block = (uint32_t)column_number(q, 0);
        const void *data = sqlite3_column_blob(q, 1);
        const size_t n = (size_t)sqlite3_column_bytes(q, 1);
        rc = caloris_buf_append(bytes, data ? data : "", n, err) < 0 ? -1 : 1;
    }
    done(store, STORE_READ_HAND_OVER);
    return rc;
}

int caloris_store_read_result(struct caloris_store *store, uint64_t job, struct caloris_buf *json,
                              struct caloris_err *err)
{
    sqlite3_stmt *q = store->statement[STORE_READ_RESULT];
    bind_number(q, 1, job);
    int rc = step(store, STORE_READ_RESULT, "reading a result", err);
    if (rc == SQLITE_DONE)
        rc = not_found(job, err);
    else if (rc == SQLITE_ROW && sqlite3_column_int(q, 0) == CALORIS_STORE_QUEUED)
        rc = caloris_err_set(err, CALORIS_AGAIN, "job %" PRIu64 " has not finished", job);
    else if (rc == SQLITE_ROW)
        rc = caloris_buf_append(json, sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1),
                                err);
    done(store, STORE_READ_RESULT);
    return rc < 0 ? -1 : 0;
}

int caloris_store_list(struct caloris_store *store, const struct caloris_store_filter *filter,
                       int limit, struct caloris_store_job *jobs, struct caloris_err *err)
{
    static const enum store_statement lists[2][2] = {
        {STORE_LIST_QUEUED, STORE_LIST_ALL},
        {STORE_LIST_QUEUED_OF, STORE_LIST_ALL_OF},
    };
    enum store_statement which = lists[filter->user != NULL][filter->finished_too];
    sqlite3_stmt *q = store->statement[which];
    bind_number(q, 1, filter->before);
    sqlite3_bind_int(q, 2, limit);
    if (filter->user)
        bind_text(q, 3, filter->user);
    int n = 0, rc;
    while ((rc = step(store, which, "listing jobs", err)) == SQLITE_ROW && n < limit)
        copy_job(q, &jobs[n++]);
    done(store, which);
    return rc < 0 ? -1 : n;
}
