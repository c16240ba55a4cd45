/* What an administrator does with a queue's directory: copy it, check it, make it small. */
#include "coordinator/gateway/store/store.h"

#include "base/err.h"
#include "base/file.h"
#include "coordinator/gateway/store/migrate.h"
#include "coordinator/gateway/store/place.h"
#include "coordinator/gateway/store/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The database of a directory, beside the gateway that may have it open. */
static int open_beside(struct caloris_store *store, const char *dir, struct caloris_err *err)
{
    char path[PATH_MAX];
    int64_t version;
    *store = (struct caloris_store){.lock = -1};
    if (caloris_file_join(path, sizeof(path), dir, "queue.db", err) < 0)
        return -1;
    store->path = strdup(path);
    if (!store->path)
        return caloris_err_sys(err, "%s", dir);
    if (access(path, F_OK) < 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: there is no queue", dir);
    int owner = store_owner_absent(dir, err);
    if (owner < 0)
        return caloris_err_prefix(err, "a gateway has it for itself (--state-on-network-fs); stop "
                                       "it first");
    store->network_fs = owner == 1 || store_place_is_network(dir);
    return store_file_open(store, err) < 0 || store_version(store, &version, err) < 0 ? -1 : 0;
}

static void close_beside(struct caloris_store *store)
{
    sqlite3_close(store->db);
    free(store->path);
    if (store->lock >= 0)
        close(store->lock);
}

/* ---- backup ---- */

/* Whoever goes back to a copy forgets jobs whose numbers are known to submitters and to groups that
 * still hold them. So a copy's next number is far beyond any that was given since, and it is a
 * queue that has not begun to live: no lease of before counts (caloris_store_first_epoch). */
static int set_apart(struct caloris_store *copy, struct caloris_err *err)
{
    return store_execute(copy,
                         "BEGIN;"
                         "INSERT INTO sqlite_sequence (name, seq) SELECT 'jobs', 0"
                         "  WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'jobs');"
                         "UPDATE sqlite_sequence SET seq = seq + 1000000 WHERE name = 'jobs';"
                         "UPDATE life SET first_epoch = 0;"
                         "COMMIT",
                         err);
}

static int copy(struct caloris_store *from, struct caloris_store *to, struct caloris_err *err)
{
    sqlite3_backup *backup = sqlite3_backup_init(to->db, "main", from->db, "main");
    if (!backup)
        return store_failed(to, "copying", err);
    /* All pages in one step: one state of the queue, whatever the gateway does meanwhile. */
    int rc = sqlite3_backup_step(backup, -1);
    sqlite3_backup_finish(backup);
    if (rc != SQLITE_DONE)
        return store_failed(to, "copying", err);
    if (store_execute(to, "PRAGMA journal_mode = DELETE", err) < 0) /* one file, and no other */
        return -1;
    return set_apart(to, err);
}

static int sync_file(const char *path, struct caloris_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return caloris_err_sys(err, "%s", path);
    int rc = fsync(fd) < 0 ? caloris_err_sys(err, "syncing %s", path) : 0;
    close(fd);
    return rc;
}

int caloris_store_backup(const char *dir, const char *file, struct caloris_err *err)
{
    char part[PATH_MAX];
    struct caloris_store from, to = {.lock = -1};
    int rc = -1, fd;
    if (snprintf(part, sizeof(part), "%s.part", file) >= (int)sizeof(part))
        return caloris_err_set(err, CALORIS_USAGE, "%.80s…: too long", file);
    if (open_beside(&from, dir, err) < 0)
        goto out;
    if (access(file, F_OK) == 0) {
        caloris_err_set(err, CALORIS_USAGE, "%s is there already", file);
        goto out;
    }
    fd = open(part, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600); /* prompts are in it */
    if (fd < 0) {
        caloris_err_sys(err, "%s", part);
        goto out;
    }
    close(fd);
    to.path = part;
    if (sqlite3_open_v2(part, &to.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        store_failed(&to, "opening", err);
    else
        rc = copy(&from, &to, err);
    sqlite3_close(to.db);
    if (rc == 0)
        rc = sync_file(part, err);
    if (rc == 0 && rename(part, file) < 0)
        rc = caloris_err_sys(err, "%s", file);
    if (rc < 0)
        unlink(part);
out:
    close_beside(&from);
    return rc;
}

/* ---- check ---- */

/* Each counts what must not be. */
static const struct {
    const char *sql, *words;
} invariants[] = {
    {"SELECT count(*) FROM jobs WHERE job NOT IN (SELECT job FROM bodies)", "jobs have no request"},
    {"SELECT count(*) FROM bodies WHERE job NOT IN (SELECT job FROM jobs)",
     "requests belong to no job"},
    {"SELECT count(*) FROM jobs WHERE state > 1 AND job NOT IN (SELECT job FROM results)",
     "jobs that have ended have no result"},
    {"SELECT count(*) FROM results WHERE job NOT IN (SELECT job FROM jobs WHERE state > 1)",
     "results belong to no job that has ended"},
    {"SELECT count(*) FROM hand_overs WHERE job NOT IN (SELECT job FROM jobs WHERE state = 1)",
     "hand-overs belong to no job that is queued"},
    {"SELECT count(*) FROM jobs JOIN bodies USING (job) WHERE state = 1 AND bytes <> length(body)",
     "jobs have requests of another size than is counted"},
    {"SELECT count(*) FROM jobs WHERE state NOT IN (1, 3, 4, 5, 6)", "jobs are in no known state"},
    {"SELECT count(*) FROM jobs WHERE job > (SELECT seq FROM sqlite_sequence WHERE name = 'jobs')",
     "jobs have numbers that will be given again"},
};

static int check(struct caloris_store *store, struct caloris_store_counts *counts,
                 struct caloris_err *err)
{
    char text[STORE_TEXT];
    int64_t value, version, finished;
    if (store_version(store, &version, err) < 0 ||
        store_ask(store, "PRAGMA integrity_check(1)", &value, text, err) < 0)
        return -1;
    if (strcmp(text, "ok") != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is damaged: %s", store->path, text);
    if (version != store_newest_version())
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s has schema version %" PRId64
                               "; a gateway of this version must open it once",
                               store->path, version);
    for (size_t i = 0; i < sizeof(invariants) / sizeof(invariants[0]); i++) {
        if (store_ask(store, invariants[i].sql, &value, NULL, err) < 0)
            return -1;
        if (value != 0)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %" PRId64 " %s", store->path,
                                   value, invariants[i].words);
    }
    if (store_ask(store, "SELECT count(*) FROM jobs WHERE state = 1", &value, NULL, err) < 0 ||
        store_ask(store, "SELECT count(*) FROM jobs WHERE state > 1", &finished, NULL, err) < 0)
        return -1;
    *counts = (struct caloris_store_counts){(uint64_t)value, (uint64_t)finished};
    return 0;
}

int caloris_store_check(const char *dir, struct caloris_store_counts *counts,
                        struct caloris_err *err)
{
    struct caloris_store store;
    int rc = -1;
    /* One transaction: one state of the queue. */
    if (open_beside(&store, dir, err) == 0 && store_execute(&store, "BEGIN", err) == 0)
        rc = check(&store, counts, err);
    close_beside(&store);
    return rc;
}

/* ---- compact ---- */

static int file_bytes(const char *path, uint64_t *bytes, struct caloris_err *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return caloris_err_sys(err, "%s", path);
    *bytes = (uint64_t)st.st_size;
    return 0;
}

int caloris_store_compact(const char *dir, uint64_t *before, uint64_t *after,
                          struct caloris_err *err)
{
    struct caloris_store store;
    int rc = -1;
    if (open_beside(&store, dir, err) < 0)
        goto out;
    store.lock = store_place_lock(dir, store.network_fs, err);
    if (store.lock < 0) {
        caloris_err_prefix(err, "stop it first");
        goto out;
    }
    if (store_execute(&store, "PRAGMA wal_checkpoint(TRUNCATE)", err) < 0 ||
        file_bytes(store.path, before, err) < 0 || store_execute(&store, "VACUUM", err) < 0 ||
        store_execute(&store, "PRAGMA wal_checkpoint(TRUNCATE)", err) < 0 ||
        file_bytes(store.path, after, err) < 0)
        goto out;
    rc = 0;
out:
    close_beside(&store);
    return rc;
}
