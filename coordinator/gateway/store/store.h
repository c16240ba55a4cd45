/* coordinator/gateway/store/store.h: the durable queue: every accepted job, and what became of it.
 *
 * SQLite in the state directory, WAL, synchronous=FULL: what caloris_store_commit has returned for
 * survives kill -9 and power loss. States on disk are queued, done, failed, cancelled, expired;
 * which queued job is leased to whom is the broker's knowledge and dies with it, so after a restart
 * whatever had not finished is queued. One store per directory, one thread. Writes gather in a
 * transaction until caloris_store_commit: one sync for many.
 */
#ifndef CALORIS_STORE_H
#define CALORIS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/jobs.h"

struct caloris_buf;
struct caloris_err;
struct caloris_store;

/* As they stand in the database; the numbers are those of JobState in caloris.proto. */
enum caloris_store_state {
    CALORIS_STORE_QUEUED = 1,
    CALORIS_STORE_DONE = 3,
    CALORIS_STORE_FAILED = 4,
    CALORIS_STORE_CANCELLED = 5,
    CALORIS_STORE_EXPIRED = 6, /* its deadline passed before it had finished */
};

enum {
    CALORIS_STORE_MAX_USER = 64, /* bytes of a user's name */
    CALORIS_STORE_ALONE = 2,     /* after so many crashes a job shall run alone */
};

struct caloris_store_job {
    uint64_t job;
    enum caloris_store_state state;
    uint64_t submitted_ms, started_ms, finished_ms; /* since 1970; 0: not yet */
    uint64_t deadline_ms;                           /* since 1970; 0: none */
    uint32_t crashes;                               /* groups lost while they held it */
    uint32_t attempts; /* those of them that held nothing else because it had to be alone */
    bool alone;        /* it has to be from now on */
    int32_t priority;
    uint64_t body_bytes; /* as stored; 0 of one that had ended before these were counted */
    char user[CALORIS_STORE_MAX_USER + 1];
    char model[CALORIS_JOB_MAX_MODEL + 1]; /* "": any */
    char id[CALORIS_JOB_MAX_ID + 1];       /* the submitter's; "": none */
    char code[32], text[512];              /* why it failed or was cancelled; "": it was not */
};

struct caloris_store_counts {
    uint64_t queued, finished;
};

struct caloris_store_options {
    const char *user; /* whose the jobs are of databases from before jobs had users */
    bool network_fs;  /* no shared memory, no trust in locks: see store/owner.h */
};

/* Opens or makes DIR/queue.db, and brings what an older version left to the present schema; DIR is
 * made with mode 0700 if it is not there. BAD_CONFIG for a directory that others may enter or that
 * is on a network file system, for a damaged or foreign database or that of a newer version, and
 * when another gateway has it (its pid is named). Free with caloris_store_close. */
struct caloris_store *caloris_store_open(const char *dir,
                                         const struct caloris_store_options *options,
                                         struct caloris_err *err);
/* What is not committed is lost. NULL is fine. */
void caloris_store_close(struct caloris_store *store);

/* Which life of the gateway this is (greater than every earlier one's), and in which the database
 * was made: a job number of an older life means nothing here. */
uint64_t caloris_store_epoch(const struct caloris_store *store);
uint64_t caloris_store_first_epoch(const struct caloris_store *store);

/* Call often, where the directory is on a network file system: REFUSED when it is another
 * gateway's now; this one must end. */
int caloris_store_still_ours(struct caloris_store *store, struct caloris_err *err);

/* ---- writes: on disk after caloris_store_commit ---- */

/* Makes all writes since the last commit durable, or undoes them all (-1): AGAIN when the disk is
 * full. Nothing to write is fine. */
int caloris_store_commit(struct caloris_store *store, struct caloris_err *err);

struct caloris_store_submission {
    const char *user;
    const void *key; /* [key_bytes]; the user's own: others may have chosen the same */
    size_t key_bytes;
    const void *body; /* [body_bytes]: the JSON object, settled (proto/jobs.h) */
    size_t body_bytes;
    size_t added_bytes; /* behind the brace: what the submitter did not write */
    const char *id;     /* NULL: none */
    int64_t seed;       /* drawn for a body that names none; -1: it names one */
    const char *model;  /* NULL: any */
    int32_t priority;
    uint64_t now_ms, deadline_ms;
};
/* 1 and *job: the user's key is known with the same body, as submitted: what was added may differ,
 * as when a preset changed meanwhile; 0: it is not known. Known with another
 * body is BAD_REQUEST. */
int caloris_store_known(struct caloris_store *store,
                        const struct caloris_store_submission *submission, uint64_t *job,
                        struct caloris_err *err);
/* One whose key is not known. */
int caloris_store_add(struct caloris_store *store,
                      const struct caloris_store_submission *submission, uint64_t *job,
                      struct caloris_err *err);

/* A queued job ends: *state says how. result: its JSON. 1: it was not queued, nothing changed. */
struct caloris_store_end {
    enum caloris_store_state state;
    uint64_t started_ms, finished_ms;
    const char *code, *text; /* NULL when done */
    const void *result;      /* [result_bytes] */
    size_t result_bytes;
};
int caloris_store_finish(struct caloris_store *store, uint64_t job,
                         const struct caloris_store_end *end, struct caloris_err *err);

/* The group that computed it was lost; attempt: it held nothing else because it had to. */
int caloris_store_count_crash(struct caloris_store *store, uint64_t job, bool attempt,
                              struct caloris_err *err);

/* Removes up to limit jobs that ended before before_ms, results, keys and all: how many, or -1. */
int caloris_store_forget(struct caloris_store *store, uint64_t before_ms, int limit,
                         struct caloris_err *err);
/* Where a queued job stands (HandOver of caloris.proto; block: the one to enter), until it
 * ends. Nothing for any other job. */
int caloris_store_hand_over(struct caloris_store *store, uint64_t job, uint32_t block,
                            const void *bytes, size_t n, struct caloris_err *err);

/* ---- reads ---- */

/* The newest of them, appended to bytes: 1; 0: there is none; -1 and err. */
int caloris_store_read_hand_over(struct caloris_store *store, uint64_t job, uint32_t *block,
                                 struct caloris_buf *bytes, struct caloris_err *err);

int caloris_store_count(struct caloris_store *store, struct caloris_store_counts *counts,
                        struct caloris_err *err);

/* NOT_FOUND names the job. */
int caloris_store_find(struct caloris_store *store, uint64_t job, struct caloris_store_job *found,
                       struct caloris_err *err);

/* Queued jobs of a kind: the oldest whose number is at least from. 1 and *job; 0: there is none. */
struct caloris_store_lane {
    bool alone;
    const char *model; /* "": of those that name none */
    int32_t priority;
    const char *user;
};
int caloris_store_next(struct caloris_store *store, const struct caloris_store_lane *lane,
                       uint64_t from, uint64_t *job, struct caloris_err *err);

/* What is queued, kind by kind, one with every call: 1 and *found; 0: that was all (the next call
 * starts anew). */
struct caloris_store_waiting {
    bool alone;
    char model[CALORIS_JOB_MAX_MODEL + 1];
    int32_t priority;
    char user[CALORIS_STORE_MAX_USER + 1];
    uint64_t jobs, first, body_bytes;
};
int caloris_store_waiting(struct caloris_store *store, struct caloris_store_waiting *found,
                          struct caloris_err *err);

/* The queued job whose deadline comes first: 1, *job and *deadline_ms; 0: none has one. */
int caloris_store_next_deadline(struct caloris_store *store, uint64_t *job, uint64_t *deadline_ms,
                                struct caloris_err *err);

/* Appends the job's JSON, with the seed that was drawn for it. */
int caloris_store_read_job(struct caloris_store *store, uint64_t job, struct caloris_buf *json,
                           struct caloris_err *err);

/* Appends the result's JSON; AGAIN when the job has not finished. */
int caloris_store_read_result(struct caloris_store *store, uint64_t job, struct caloris_buf *json,
                              struct caloris_err *err);

/* Up to limit jobs, newest first, into jobs [limit]; how many, or -1. */
struct caloris_store_filter {
    const char *user; /* NULL: everybody's */
    bool finished_too;
    uint64_t before; /* numbers below this one only */
};
int caloris_store_list(struct caloris_store *store, const struct caloris_store_filter *filter,
                       int limit, struct caloris_store_job *jobs, struct caloris_err *err);

/* ---- a directory, by hand (the gateway's own user) ---- */

/* Copies the queue as it is now to a new file, which is there whole or not at all; a gateway may
 * run. */
int caloris_store_backup(const char *dir, const char *file, struct caloris_err *err);

/* Reads all of it, and tests what must hold between the tables; a gateway may run. BAD_CONFIG says
 * what is wrong. */
int caloris_store_check(const char *dir, struct caloris_store_counts *counts,
                        struct caloris_err *err);

/* Gives what is free in the file back to the disk; bytes before and after. No gateway may run. */
int caloris_store_compact(const char *dir, uint64_t *before, uint64_t *after,
                          struct caloris_err *err);

#endif
