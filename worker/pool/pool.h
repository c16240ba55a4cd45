/* worker/pool/pool.h: the compute threads of one rank.
 *
 * One pool per rank, made once, sized by the cores that the rank really owns (hwloc: its binding,
 * shared with the other ranks of this host that have the same one). Thread 0 is the caller. Kernels
 * are called inside pool tasks and never start threads.
 */
#ifndef CALORIS_POOL_H
#define CALORIS_POOL_H

#include <stddef.h>

struct caloris_err;
struct caloris_pool;

/* Cores this process may run on, divided among `neighbours` ranks of the host when they share them
 * (at least 1). */
int caloris_pool_cores(int neighbours);

/* threads >= 1. Free with caloris_pool_free. When the process owns just as many cores, each thread
 * but the caller is bound to one of them. */
struct caloris_pool *caloris_pool_new(int threads, struct caloris_err *err);
void caloris_pool_free(struct caloris_pool *pool);
int caloris_pool_threads(const struct caloris_pool *pool);

/* Calls task(arg, index, thread) once for every index < count, spread over the threads, and returns
 * when all are done. thread < caloris_pool_threads is the one that runs it (for scratch of its
 * own). Indices are handed out in order, one at a time; with one thread or one index nothing is
 * woken. Between runs threads spin briefly, then sleep. One run at a time: only the thread that
 * made the pool calls it, and no task does. */
typedef void (*caloris_pool_task_fn)(void *arg, size_t index, int thread);
void caloris_pool_run(struct caloris_pool *pool, size_t count, caloris_pool_task_fn task,
                      void *arg);

#endif
