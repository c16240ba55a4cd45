/* base/scratch.h: directories that shall not outlive their process, not even one that was killed.
 *
 * Its owner holds a lock (flock) on the directory, which the kernel lifts when the owner is gone,
 * however it went. Whoever makes one removes those beside it, of the same prefix and user, that
 * nobody has a lock on: after kill -9 a directory stays until the next one is made.
 */
#ifndef CALORIS_SCRATCH_H
#define CALORIS_SCRATCH_H

struct caloris_err;

enum { CALORIS_SCRATCH_PATH = 256 };

struct caloris_scratch {
    char path[CALORIS_SCRATCH_PATH]; /* PARENT/PREFIX.XXXXXX, mode 0700; "": none */
    int lock;                        /* closed in programs that it executes */
};

/* -1 and err: parent cannot be written to, or the path is too long. */
int caloris_scratch_make(struct caloris_scratch *scratch, const char *parent, const char *prefix,
                         struct caloris_err *err);

/* The directory with all that is in it. Nothing happens where there is none. */
void caloris_scratch_remove(struct caloris_scratch *scratch);

#endif
