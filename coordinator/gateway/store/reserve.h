/* coordinator/gateway/store/reserve.h (inside store): room for a start on a full disk.
 *
 * To open a queue takes some room: the log's index, and a life's number in the log. A gateway that
 * died on a full disk would stay down until somebody clears it, and nobody could read what is
 * there. So DIR/reserve holds that room, is given up before the database is opened, and is made
 * again behind it, as large as there is room for: what it leaves free would be the submitters'.
 */
#ifndef CALORIS_STORE_RESERVE_H
#define CALORIS_STORE_RESERVE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct caloris_err;

struct store_reserve {
    char path[PATH_MAX];
    bool whole;
    uint64_t tried_ms;
};

/* Gives the room to whoever writes next: us, by a directory that is ours. */
int store_reserve_use(struct store_reserve *reserve, const char *dir, struct caloris_err *err);

/* Holds it again, or what there is of it. */
void store_reserve_make(struct store_reserve *reserve);

/* Call when something could be written: tries again now and then, until it is whole. */
void store_reserve_mend(struct store_reserve *reserve);

#endif
