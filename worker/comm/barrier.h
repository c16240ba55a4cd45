/* worker/comm/barrier.h: a meeting point in memory that threads or processes of one host share.
 *
 * A waiting rank spins for as long as that is likely to pay, then sleeps in the kernel (futex), so
 * that oversubscribed ranks leave the core to those who have work. A rank that leaves breaks the
 * barrier: whoever waits for it, now or later, gets an error instead of waiting forever. Zeroed
 * memory is a barrier that nobody has reached yet. */
#ifndef CALORIS_BARRIER_H
#define CALORIS_BARRIER_H

#include <stdatomic.h>
#include <stdint.h>

struct barrier {
    _Atomic uint32_t state;   /* 2 * meetings held + (broken ? 1 : 0); what sleepers sleep on */
    _Atomic uint32_t arrived; /* ranks at the meeting that is being waited for */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t breaker; /* 1 + the first rank that left; 0: none did */
};

/* How a rank waits. */
struct barrier_wait {
    uint32_t ranks;
    uint32_t looks, looks_per_yield; /* before sleeping: see barrier_set_pace */
    uint32_t nap_ms;                 /* 0: sleep until woken; else call pulse after each nap */
    int (*pulse)(void *pulse_arg);   /* not 0: give up waiting */
    void *pulse_arg;
};

/* Sets looks and looks_per_yield to what pays when how->ranks share so many cores. */
void barrier_set_pace(struct barrier_wait *how, int cores);

/* 0 when all ranks have arrived, -1 when one has left instead (or pulse gave up). */
int barrier_meet(struct barrier *barrier, const struct barrier_wait *how);

/* This rank will not come again. */
void barrier_break(struct barrier *barrier, int rank);

/* The first rank that left, or -1. */
int barrier_broken_by(const struct barrier *barrier);

#endif
