/* worker/comm/comm.h: the ranks of one world, and what they say to each other.
 *
 * Three transports (MPI, threads of this process, one rank) give the same bits. Calls are
 * collective: every rank makes them in the same order. A collective that fails on one rank fails
 * the world: its err says what was lost, and the rank must leave by caloris_comm_abort. Sums are
 * taken in rank order in fp32, so results do not depend on arrival and are the same bits on every
 * rank. See docs/ARCHITECTURE.md, "The step". */
#ifndef CALORIS_COMM_H
#define CALORIS_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"

struct caloris_err;
struct caloris_comm;

/* The world this process was launched into by mpirun or srun (one rank when by neither). Call once,
 * before starting any thread; collective calls come from the thread that called this. NULL and err
 * on failure. Says so when a launcher started several processes that MPI does not know of (srun
 * without --mpi=pmix). Free with caloris_comm_close. */
struct caloris_comm *caloris_comm_open_mpi(struct caloris_err *err);

/* A world of one. */
struct caloris_comm *caloris_comm_open_self(struct caloris_err *err);

/* n ranks as threads of this process: calls body(comm, arg, err) once per rank and returns when all
 * have returned; the comm belongs to this call. -1 and the first failing rank's err if any body
 * failed. */
int caloris_comm_run_threads(int n,
                             int (*body)(struct caloris_comm *, void *arg, struct caloris_err *),
                             void *arg, struct caloris_err *err);

int caloris_comm_rank(const struct caloris_comm *comm);
int caloris_comm_size(const struct caloris_comm *comm);

/* Name of the host that this rank runs on. */
const char *caloris_comm_host(const struct caloris_comm *comm);

/* "mpi (Open MPI v4.1.4)", "threads", "self". Ranks of one host that could not share memory say why
 * behind it. */
const char *caloris_comm_transport(const struct caloris_comm *comm);

/* How many ranks run on this rank's host, and which of them it is (0-based): for binding and
 * memory. */
void caloris_comm_neighbours(const struct caloris_comm *comm, int *index, int *count);

/* n bytes from rank 0 to everybody. The receiver waits actively: for use inside a step. */
int caloris_comm_broadcast(struct caloris_comm *comm, void *bytes, size_t n,
                           struct caloris_err *err);

/* The same, for "what shall we do next": a waiting rank tests and sleeps with back-off up to 1 ms,
 * so that an idle world burns no core (a blocked MPI call burns one). */
int caloris_comm_broadcast_idle(struct caloris_comm *comm, void *bytes, size_t n,
                                struct caloris_err *err);

/* bytes [n] of every rank, in rank order, into all [size * n] on rank 0 (ignored elsewhere). */
int caloris_comm_gather(struct caloris_comm *comm, const void *bytes, size_t n, void *all,
                        struct caloris_err *err);

/* Scratch that an all-reduce of up to count floats needs: at most some count floats; SIZE_MAX when
 * that does not fit. */
size_t caloris_comm_scratch_bytes(const struct caloris_comm *comm, size_t count);

/* x[i] = sum over ranks of x[i], i < count: two-shot (each rank sums its slice in rank order in
 * fp32, then all gather the slices). scratch: caloris_comm_scratch_bytes(comm, count), 64-byte
 * aligned. Allocates nothing. */
int caloris_comm_allreduce_f32(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                               struct caloris_err *err);

/* The same sum by the transport's own means (MPI_Allreduce; a plain loop over the ranks): what
 * tests and benchmarks hold ours against. Its rounding may differ. */
int caloris_comm_allreduce_reference_f32(struct caloris_comm *comm, float *x, size_t count,
                                         void *scratch, struct caloris_err *err);

/* x[i] = the largest of all ranks' x[i], i < count; not for NaN. all: [size * count] on rank 0
 * (ignored elsewhere). By way of rank 0: for loading, not for a step. */
int caloris_comm_allreduce_max_f32(struct caloris_comm *comm, float *x, size_t count, float *all,
                                   struct caloris_err *err);

/* Agree after a stage that can fail on one rank: mine is NULL when this rank is fine, else its
 * error. Returns 0 on every rank when all are fine; else -1 everywhere with err the same text on
 * all: the lowest failing rank, its host and text. */
int caloris_comm_agree(struct caloris_comm *comm, const struct caloris_err *mine,
                       struct caloris_err *err);

/* Leaves without the others: ends the whole world with this exit code (MPI_Abort). For when a
 * collective failed. In a thread world: wakes every rank that waits in a collective, which then
 * fails with PEER_LOST, and returns. */
void caloris_comm_abort(struct caloris_comm *comm, int exit_code);

/* Seconds this rank has spent in all-reduces: moving and summing, and of these waiting for ranks
 * that were late; and bytes this rank sent in them. Monotonic; never reset. */
struct caloris_comm_counters {
    double allreduce_s;
    double wait_s;
    unsigned long long allreduces;
    unsigned long long bytes_sent;
};
void caloris_comm_counters(const struct caloris_comm *comm, struct caloris_comm_counters *out);

/* ---- do all get on? (beat/beat.h) ------------------------------------------------------------ */

struct caloris_comm_watch {
    uint64_t silent_ms; /* a rank that gives no sign of life for so long is lost */
    uint64_t stands_ms; /* so is one that does not get on for so long, and for 20 x what it expected
                         */
    void (*leave)(void); /* ends this process, from a thread of its own, when a rank is lost; the
                            reason has been logged */
    const _Atomic int *asked; /* not 0: the signal that asked this process to leave; or NULL */
    void (*ask)(int rank, int signal); /* on rank 0, from the same thread, again and again: another
                                          rank was asked to leave; or NULL */
};
enum { CALORIS_COMM_WARNING = 256 };

/* Collective, and never fails for want of a network: where some rank cannot reach rank 0 by UDP,
 * nobody is watched, and warning says so. Ends with the world. */
int caloris_comm_watch(struct caloris_comm *comm, const struct caloris_comm_watch *how,
                       char warning[CALORIS_COMM_WARNING], struct caloris_err *err);

/* What this rank does from now on, outside of collectives; in a step: the longest that an operation
 * should take. */
enum caloris_comm_phase {
    CALORIS_COMM_IDLE,
    CALORIS_COMM_LOADING,
    CALORIS_COMM_STEP,
    CALORIS_COMM_LEAVING
};
void caloris_comm_at(struct caloris_comm *comm, enum caloris_comm_phase phase, uint64_t expect_ns);

/* In a step: the all-reduces from now on are this layer's. */
void caloris_comm_at_layer(struct caloris_comm *comm, size_t layer);

/* While loading: so many bytes more have come. From any thread. */
void caloris_comm_loaded(struct caloris_comm *comm, uint64_t bytes);

/* The longest this rank has been outside of collectives since the last caloris_comm_at, in ns: by
 * this, steps to come are judged. */
uint64_t caloris_comm_longest_ns(const struct caloris_comm *comm);

/* What a rank has done, by its last beat: for rank 0, on any thread, while the world is watched.
 * False: not known. */
struct caloris_comm_figures {
    double compute_s, allreduce_s, wait_s; /* in steps; moving and summing; waiting */
    double attention_s, mlp_s, head_s;     /* parts of compute_s */
    uint64_t steps, rows, sent_bytes;
    uint64_t steps_by_rows[CALORIS_METRICS_CLASSES];
};
bool caloris_comm_figures(const struct caloris_comm *comm, int rank,
                          struct caloris_comm_figures *figures);
/* This rank's own, behind a step of so many rows: seconds outside of all-reduces so far. */
struct caloris_comm_work {
    double compute_s, attention_s, mlp_s, head_s;
    uint64_t step_rows;
};
void caloris_comm_did(struct caloris_comm *comm, const struct caloris_comm_work *work);

/* Collective. NULL is fine. */
void caloris_comm_close(struct caloris_comm *comm);

#endif
