/* coordinator/gateway/broker/authorized.h (inside broker): who may do what: a directory with one
 * file per key.
 *
 *   user = "alice"              # whose the jobs are; not said: the file's name, less .pub
 *   rights = "submit read-own"  # that, where the line is missing; "": none
 *   limits                      # of the user's jobs; what is not said is the gateway's
 *       max_queued = 10000
 *       max_bytes = 2GiB        # of their bodies
 *       max_running = 64
 *       share = 2               # of the machine, beside other users' 1
 *       max_priority = 0        # of the jobs that this key submits
 *   curve
 *       public-key = "…"
 *
 * That is the public certificate that "caloris keygen" writes, with lines added. Read all or
 * nothing: a file that is wrong leaves the keys of before.
 */
#ifndef CALORIS_BROKER_AUTHORIZED_H
#define CALORIS_BROKER_AUTHORIZED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/keys.h"

struct caloris_err;

enum {
    AUTHORIZED_MAX_USER = 64, /* bytes of a user's name, of a file's */
    AUTHORIZED_MAX_KEYS = 10000,
    AUTHORIZED_MAX_SHARE = 1000,
    AUTHORIZED_MAX_PRIORITY = 100, /* as JOBS.md has it; the lowest is as far below 0 */
    AUTHORIZED_RIGHTS_TEXT = 64,
};

enum right {
    RIGHT_SUBMIT = 1, /* and cancel one's own */
    RIGHT_READ_OWN = 2,
    RIGHT_READ_ALL = 4,
    RIGHT_SERVE = 8,  /* lease jobs, as a group */
    RIGHT_ADMIN = 16, /* drain groups, cancel anybody's job */
    RIGHTS_ALL = 31,
    RIGHTS_SAID = 32, /* while a file is read: it names its rights, if only none */
};

/* Who is at the other end of a connection. */
struct caloris_identity {
    char user[AUTHORIZED_MAX_USER + 1];
    unsigned rights;                  /* enum right */
    uint64_t max_queued, max_running; /* jobs of the user; 0: as the gateway has it */
    uint64_t max_bytes;               /* of the queued ones; likewise */
    int32_t max_priority;             /* of a job that this key submits */
    uint32_t share;                   /* 1 … AUTHORIZED_MAX_SHARE */
    char key[CALORIS_KEY_TEXT + 1];   /* "": none, a local user */
    char file[AUTHORIZED_MAX_USER + 1];
};

struct authorized {
    struct caloris_identity *entries; /* [n], by file name */
    size_t n;
};

/* Every file in dir but those whose names begin with a point. Files and directory belong to us or
 * root and nobody else may write them; no key stands twice. BAD_CONFIG with file and line. */
int authorized_load(const char *dir, struct authorized *set, struct caloris_err *err);
void authorized_free(struct authorized *set);

/* One file's text; file names it, also where no user is said. */
int authorized_read(const char *file, const char *text, size_t n, struct caloris_identity *who,
                    struct caloris_err *err);

/* Who has this key; NULL: nobody. It takes the same time for every key. */
const struct caloris_identity *authorized_find(const struct authorized *set, const char *key);

/* One more entry behind those of the files: the gateway's own token. */
int authorized_add(struct authorized *set, const struct caloris_identity *who,
                   struct caloris_err *err);

/* "submit read-own". Returns text. */
const char *authorized_rights(unsigned rights, char text[AUTHORIZED_RIGHTS_TEXT]);

#endif
