/* coordinator/gateway/store/migrate.h (inside store): the tables, and how they came to be.
 *
 * A version of the schema is the number of steps taken (PRAGMA user_version). A new database takes
 * all of them, an old one those it lacks, in one transaction: there is all of it or nothing. To
 * change the schema, append a step and a dump of a queue of the last version to
 * tests/golden/queue; never edit a step that was released.
 */
#ifndef CALORIS_STORE_MIGRATE_H
#define CALORIS_STORE_MIGRATE_H

#include <stdint.h>

struct caloris_err;
struct caloris_store;

/* Brings the open database to the newest version. user: whose the jobs are that were stored before
 * jobs had users. BAD_CONFIG for a foreign database or one of a newer program. */
int store_migrate(struct caloris_store *store, const char *user, struct caloris_err *err);

/* The version of the open database, 0 when there is nothing in it; checked likewise. */
int store_version(struct caloris_store *store, int64_t *version, struct caloris_err *err);
int64_t store_newest_version(void);

#endif
