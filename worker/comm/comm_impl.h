/* worker/comm/comm_impl.h: what the transports share. Stays inside the folder (and its tests).
 *
 * A transport is a table of functions and a struct that begins with struct caloris_comm. comm.c
 * calls through the table and keeps the counters, so that they mean the same everywhere. */
#ifndef CALORIS_COMM_IMPL_H
#define CALORIS_COMM_IMPL_H

#include "worker/comm/beat/beat.h"
#include "worker/comm/comm.h"

#include <stdint.h>

enum {
    COMM_HOST_TEXT = 65, /* HOST_NAME_MAX + 1 */
    COMM_TRANSPORT_TEXT = 256,
    COMM_CACHE_LINE = 64,
};

struct comm_ops {
    int (*broadcast)(struct caloris_comm *, void *bytes, size_t n, struct caloris_err *);
    int (*broadcast_idle)(struct caloris_comm *, void *bytes, size_t n, struct caloris_err *);
    int (*gather)(struct caloris_comm *, const void *bytes, size_t n, void *all,
                  struct caloris_err *);
    size_t (*scratch_bytes)(const struct caloris_comm *, size_t count);
    /* *wait_ns: how long until the last rank's data had arrived. Never called with count 0 or in a
     * world of one. */
    int (*allreduce)(struct caloris_comm *, float *x, size_t count, void *scratch,
                     uint64_t *wait_ns, struct caloris_err *);
    int (*allreduce_reference)(struct caloris_comm *, float *x, size_t count, void *scratch,
                               struct caloris_err *);
    int (*agree)(struct caloris_comm *, const struct caloris_err *mine, struct caloris_err *);
    void (*abort)(struct caloris_comm *, int exit_code);
    void (*close)(struct caloris_comm *);
};

struct caloris_comm {
    const struct comm_ops *ops;
    int rank, size;
    int neighbour_index, neighbour_count;
    char host[COMM_HOST_TEXT];
    char transport[COMM_TRANSPORT_TEXT];
    struct caloris_comm_counters counters;
    struct beat_progress progress;
    struct beat *beat;    /* NULL: nobody is watched */
    bool threads;         /* ranks share this process */
    uint64_t layer_first; /* all-reduces entered before this layer */
    uint64_t left_ns;     /* when the last collective was left */
    uint64_t longest_ns;  /* between two collectives */
};

/* Fills everything but neighbours (set to a host of one) and zeroes the counters. */
void comm_init(struct caloris_comm *comm, const struct comm_ops *ops, int rank, int size,
               const char *transport);

/* to = "rank R on HOST: text of from", with from's code: what agree tells everybody. */
void comm_name_failure(struct caloris_err *to, int rank, const char *host,
                       const struct caloris_err *from);

/* Around every collective: where the rank is, for whoever watches. */
void comm_enter(struct caloris_comm *comm, enum beat_wait wait);
void comm_leave(struct caloris_comm *comm);

/* Ends the thread that watches, if there is one. */
void comm_unwatch(struct caloris_comm *comm);

/* Cores that the calling thread may run on. */
int comm_cores(void);

/* A communicator of open_mpi sends messages between all ranks from now on, as if they were on
 * different hosts; and takes the best way again. Collective. For tests and benchmarks. */
void comm_mpi_use_messages(struct caloris_comm *comm);
void comm_mpi_use_best(struct caloris_comm *comm);

#endif
