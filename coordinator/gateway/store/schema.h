/* coordinator/gateway/store/schema.h (inside store): the database behind the queue. */
#ifndef CALORIS_STORE_SCHEMA_H
#define CALORIS_STORE_SCHEMA_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "coordinator/gateway/store/store.h"

/* Every statement is prepared once, at open. */
enum store_statement {
    STORE_BEGIN,
    STORE_COMMIT,
    STORE_ROLLBACK,
    STORE_ADD,
    STORE_BY_KEY,
    STORE_FINISH,
    STORE_COUNT_CRASH,
    STORE_COUNT_QUEUED,
    STORE_COUNT_ALL,
    STORE_FIND,
    STORE_NEXT,
    STORE_READ_JOB,
    STORE_READ_RESULT,
    STORE_LIST_QUEUED,
    STORE_LIST_ALL,
    STORE_STATEMENTS
};

struct caloris_store {
    char *path;
    sqlite3 *db;
    sqlite3_stmt *statement[STORE_STATEMENTS];
    int lock;     /* file descriptor */
    bool writing; /* a transaction is open */
    uint64_t epoch, first_epoch;
};

/* Fills err from the database's last error and returns -1. */
int store_failed(const struct caloris_store *store, const char *doing, struct caloris_err *err);

/* Opens the database file, makes or checks its schema, prepares the statements, begins a new
 * life. */
int store_schema_open(struct caloris_store *store, struct caloris_err *err);

#endif
