/* worker/comm/beat/beat.h: do all ranks get on? Asked and told beside MPI, which never says.
 *
 * A rank writes down how far it is in a struct beat_progress: plain relaxed atomics, so that a step
 * pays nothing. A small thread of each rank sends that to rank 0 by UDP once a beat; rank 0 answers
 * each beat and judges (judge.h). A rank that is silent, or that stands still for too long, is the
 * end of the world: rank 0 logs one line that names it, its answers carry the verdict, and all
 * leave. A rank that gets no answer leaves too: it is cut off, or rank 0 is gone.
 *
 * Time in which a thread was not run itself (a stopped process, a suspended job) does not count.
 * Datagrams are hostile until checked: size, magic, a random token of this run. */
#ifndef CALORIS_BEAT_H
#define CALORIS_BEAT_H

#include "worker/comm/comm.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

/* What a rank does outside of collectives. */
enum beat_phase { BEAT_IDLE, BEAT_LOADING, BEAT_STEP, BEAT_LEAVING, BEAT_GONE, BEAT_PHASES };

/* The collective that it is in. ORDER: for what to do next; may last for ever. */
enum beat_wait {
    BEAT_NOTHING,
    BEAT_ALLREDUCE,
    BEAT_BROADCAST,
    BEAT_GATHER,
    BEAT_AGREEMENT,
    BEAT_ORDER,
    BEAT_WAITS
};

enum { BEAT_NO_LAYER = UINT32_MAX };

/* Written by the rank's main thread alone (but loaded: by every thread that reads weights). */
struct beat_progress {
    _Atomic uint64_t count; /* grows with everything that gets done */
    _Atomic uint64_t loaded_bytes;
    _Atomic uint64_t step;
    _Atomic uint64_t allreduces; /* entered so far */
    _Atomic uint64_t expect_ns;  /* the longest that an operation of this step should take */
    _Atomic uint32_t phase, wait;
    _Atomic uint32_t layer, in_layer; /* BEAT_NO_LAYER: the embedding; all-reduces entered in it */
    /* Of all steps: */
    _Atomic uint64_t compute_ns, allreduce_ns, wait_ns, sent_bytes, rows;
    _Atomic uint64_t attention_ns, mlp_ns, head_ns;          /* parts of compute_ns */
    _Atomic uint64_t steps_by_rows[CALORIS_METRICS_CLASSES]; /* base/metrics.h */
};

/* A copy of it: what a beat carries. */
struct beat_report {
    uint64_t count, loaded_bytes, step, allreduces, expect_ns;
    uint32_t phase, wait, layer, in_layer;
    uint64_t compute_ns, allreduce_ns, wait_ns, sent_bytes, rows;
    uint64_t attention_ns, mlp_ns, head_ns;
    uint64_t steps_by_rows[CALORIS_METRICS_CLASSES];
    uint64_t asked; /* the signal that asked this process to leave; 0: none did */
};
void beat_read(const struct beat_progress *progress, struct beat_report *report);

struct beat_times {
    uint64_t beat_ms;   /* between two beats */
    uint64_t silent_ms; /* a rank is lost that is not heard of for so long */
    uint64_t stands_ms; /* or that does not get on for so long, or for 20 x what it expected */
};

/* Where rank 0 hears beats: for all ranks, by MPI. */
enum { BEAT_ADDRESSES = 16, BEAT_TOKEN = 16, BEAT_HOST = 65 };
struct beat_invitation {
    uint8_t token[BEAT_TOKEN];
    uint32_t addresses[BEAT_ADDRESSES]; /* IPv4, network order */
    uint32_t n_addresses;
    uint16_t port; /* network order */
};

struct beat;

/* Every rank: what its thread works with. */
struct beat_options {
    int rank, size;
    struct beat_times times;
    const struct beat_progress *mine;
    /* Ranks that are threads of this process: everybody's, on rank 0; NULL: beats go by UDP. */
    const struct beat_progress *const *all; /* [size], copied */
    const char (*hosts)[BEAT_HOST];         /* [size] on rank 0, copied */
    const char *host_of_0;                  /* copied */
    void (*leave)(void);                    /* ends the process; called by the beat's thread */
    const _Atomic int *asked; /* other ranks: written by a handler of signals; may be NULL */
    void (*ask)(int rank, int signal); /* rank 0: that rank was asked; with every beat; or NULL */
};

/* Rank 0: opens a socket (one_host: on the loopback alone) and starts to listen. */
struct beat *beat_open_seat(const struct beat_options *options, bool one_host,
                            struct beat_invitation *invitation, struct caloris_err *err);

/* Other ranks: starts to beat, and waits until rank 0 has answered. Fails when it does not, e.g.
 * because the network lets no UDP through. */
struct beat *beat_join(const struct beat_options *options, const struct beat_invitation *invitation,
                       struct caloris_err *err);

/* All are there: from now on silence counts. */
void beat_judge(struct beat *beat);

/* Rank 0: the newest report of a rank; false: none yet. For any thread. */
bool beat_latest(struct beat *beat, int rank, struct beat_report *report);

/* Ends the thread. NULL is fine. */
void beat_close(struct beat *beat);

#endif
