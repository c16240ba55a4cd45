/* worker/comm/shared.h: the two-shot all-reduce among processes of one host, through memory that
 * they share.
 *
 * One rank creates the memory, and the others open it through that process (/proc/PID/fd): it never
 * has a name in a file system, so that whenever all are killed nothing is left behind. Its size is
 * fixed: longer vectors go through it in chunks. */
#ifndef CALORIS_SHARED_H
#define CALORIS_SHARED_H

#include "worker/comm/barrier.h"

#include <stddef.h>

struct caloris_err;
struct shared;

enum { SHARED_NAME = 64 };

/* Rank 0 passes an empty name, which is filled; the others pass that name, while rank 0 lends it.
 * Every rank reserves its own part, so that pages lie near the rank that uses them, and too little
 * memory is an error here, not a bus error later. */
struct shared *shared_open(int rank, int size, char name[SHARED_NAME], struct caloris_err *err);

/* Rank 0, when all have opened (or have failed to). NULL is fine. */
void shared_stop_lending(struct shared *shared);

/* How to wait: see struct barrier_wait. ranks is filled by shared_open. */
struct barrier_wait *shared_wait(struct shared *shared);

/* See caloris_comm_allreduce_f32. *wait_ns: until the last rank had arrived. -1: a rank has left.
 */
int shared_allreduce(struct shared *shared, float *x, size_t count, uint64_t *wait_ns);

/* NULL is fine. */
void shared_close(struct shared *shared);

#endif
