/* coordinator/gateway/store/schema.h (inside store): the database behind the queue. */
#ifndef CALORIS_STORE_SCHEMA_H
#define CALORIS_STORE_SCHEMA_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "coordinator/gateway/store/owner.h"
#include "coordinator/gateway/store/reserve.h"
#include "coordinator/gateway/store/store.h"

/* Every statement is prepared once, at open. */
enum store_statement {
    STORE_BEGIN,
    STORE_COMMIT,
    STORE_ROLLBACK,
    STORE_ADD,
    STORE_ADD_BODY,
    STORE_BY_KEY,
    STORE_FINISH,
    STORE_ADD_RESULT,
    STORE_PUT_HAND_OVER,
    STORE_DROP_HAND_OVER,
    STORE_READ_HAND_OVER,
    STORE_COUNT_CRASH,
    STORE_COUNT_QUEUED,
    STORE_COUNT_ALL,
    STORE_FIND,
    STORE_NEXT,
    STORE_WAITING,
    STORE_NEXT_DEADLINE,
    STORE_OLDEST, /* finished ones; and what goes with one */
    STORE_FORGET,
    STORE_FORGET_BODY,
    STORE_FORGET_RESULT,
    STORE_READ_JOB,
    STORE_READ_RESULT,
    STORE_LIST_QUEUED,
    STORE_LIST_ALL,
    STORE_LIST_QUEUED_OF,
    STORE_LIST_ALL_OF,
    STORE_STATEMENTS
};
enum {
    STORE_TEXT = 128,
    STORE_BUSY_MS = 5000, /* for others that look at the database */
};

struct caloris_store {
    char *path;
    sqlite3 *db;
    sqlite3_stmt *statement[STORE_STATEMENTS];
    int lock;                 /* file descriptor */
    bool network_fs;          /* no shared memory, no locks of the database's own */
    struct store_owner owner; /* on a network file system; else nobody */
    struct store_reserve reserve;
    bool writing; /* a transaction is open */
    bool broken;  /* a write of it failed halfway: it can only be undone */
    uint64_t epoch, first_epoch;
};

/* Fills err from the database's last error and returns -1. */
int store_failed(const struct caloris_store *store, const char *doing, struct caloris_err *err);

/* SQL without rows; several statements will do. */
int store_execute(struct caloris_store *store, const char *sql, struct caloris_err *err);
/* The first column of the first row, as a number and as text [STORE_TEXT] (may be NULL). */
int store_ask(struct caloris_store *store, const char *sql, int64_t *value, char *text,
              struct caloris_err *err);

/* Opens the database file, as it is: for a gateway, or for an administrator beside it. */
int store_file_open(struct caloris_store *store, struct caloris_err *err);

/* Opens the database file or makes it, brings its schema to date, prepares the statements, begins a
 * new life. */
int store_schema_open(struct caloris_store *store, const struct caloris_store_options *options,
                      struct caloris_err *err);

#endif
