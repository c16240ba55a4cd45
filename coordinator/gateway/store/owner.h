/* coordinator/gateway/store/owner.h (inside store): whose a directory on a network file system is.
 *
 * Locks of such a file system are not to be trusted. DIR/owner names host, process, a number drawn
 * at start, a count that grows every few seconds, and where the process number means something.
 * Whoever finds the file waits until the count has stood still for long enough, then takes the
 * directory over; whoever finds another's number in it has lost the directory and must end. */
#ifndef CALORIS_STORE_OWNER_H
#define CALORIS_STORE_OWNER_H

#include <limits.h>
#include <stdint.h>

struct caloris_err;

struct store_owner {
    char path[PATH_MAX];
    uint64_t instance; /* drawn at start; 0: this is nobody */
    uint64_t count;
    uint64_t told_ms; /* when the count last grew: a clock that never jumps */
    uint64_t tried_ms;
};

enum {
    STORE_OWNER_EVERY_MS = 3000,    /* the count grows */
    STORE_OWNER_PATIENCE_MS = 15000 /* and has stood still for so long: its owner is gone */
};

/* BAD_CONFIG names host and process when somebody lives in dir. */
int store_owner_take(struct store_owner *owner, const char *dir, struct caloris_err *err);

/* Call often. REFUSED: somebody else has the directory. A count that cannot be written is an error
 * only when others may soon take this gateway for gone. */
int store_owner_keep(struct store_owner *owner, struct caloris_err *err);

/* 0: dir has no owner; 1: it had one that is gone; BAD_CONFIG names one that lives. */
int store_owner_absent(const char *dir, struct caloris_err *err);

void store_owner_leave(struct store_owner *owner);

#endif
