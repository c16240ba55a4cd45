/* coordinator/gateway/store/place.h (inside store): whether a directory can hold a queue. */
#ifndef CALORIS_STORE_PLACE_H
#define CALORIS_STORE_PLACE_H

#include <stdbool.h>

struct caloris_err;

/* The name of the network file system with this statfs magic, or NULL: WAL keeps its index in
 * memory that all openers share, which no network file system gives, and their locks are not to
 * be trusted with accepted jobs. */
const char *store_network_fs(unsigned long magic);

/* Makes the directory (0700) if need be and checks it; -1 and err (BAD_CONFIG). network: on such a
 * file system, too. */
int store_place_prepare(const char *dir, bool network, struct caloris_err *err);

/* Locks DIR/lock for this process: the open file, or -1 and err (BAD_CONFIG, naming the pid that
 * has it). Closing it releases the lock. network: a lock that is not given is a warning: some such
 * file systems have none, others keep those of hosts that are gone; who owns the directory is
 * settled by store/owner.h. */
int store_place_lock(const char *dir, bool network, struct caloris_err *err);

/* Whether dir is on such a file system, as far as statfs tells. */
bool store_place_is_network(const char *dir);

/* Makes the directory's entries durable. */
int store_place_sync(const char *dir, struct caloris_err *err);

#endif
