#include "worker/comm/barrier.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BROKEN = 1, MEETING = 2 };

/* Before a rank sleeps. With a core of its own: some 100 µs, longer than ranks differ in a balanced
 * layer. On a shared core: give way often, for the rank that is waited for may need this very core;
 * 50 yields were two to four times faster than sleeping at once (4 and 7 ranks on 2 cores,
 * tests/bench/allreduce.c). */
static const struct {
    uint32_t looks, looks_per_yield;
} own_core = {20000, 64}, shared_core = {400, 8};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Neither call uses the PRIVATE forms: the word may lie in memory shared by processes. */
static void sleep_while(_Atomic uint32_t *word, uint32_t value, uint32_t nap_ms)
{
    struct timespec nap = {nap_ms / 1000, (long)(nap_ms % 1000) * 1000000};
    syscall(SYS_futex, word, FUTEX_WAIT, value, nap_ms ? &nap : NULL, NULL, 0);
}

static void wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void barrier_set_pace(struct barrier_wait *how, int cores)
{
    bool own = how->ranks <= (uint32_t)cores;
    how->looks = own ? own_core.looks : shared_core.looks;
    how->looks_per_yield = own ? own_core.looks_per_yield : shared_core.looks_per_yield;
}

/* Has the meeting that was being waited for in `before` been held? (A later break does not undo
 * it.) */
static bool was_held(uint32_t before, uint32_t now)
{
    return (now & ~(uint32_t)BROKEN) != before;
}

int barrier_meet(struct barrier *barrier, const struct barrier_wait *how)
{
    uint32_t before = atomic_load_explicit(&barrier->state, memory_order_acquire);
    if (before & BROKEN)
        return -1;
    if (atomic_fetch_add(&barrier->arrived, 1) + 1 == how->ranks) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_fetch_add(&barrier->state, MEETING);
        if (atomic_load(&barrier->sleepers) > 0)
            wake_all(&barrier->state);
        return 0;
    }

    uint32_t now = before;
    for (uint32_t look = 1; look <= how->looks && now == before; look++) {
        if (look % how->looks_per_yield == 0)
            sched_yield();
        else
            relax();
        now = atomic_load_explicit(&barrier->state, memory_order_acquire);
    }
    if (now == before) {
        bool given_up = false;
        atomic_fetch_add(&barrier->sleepers, 1);
        while ((now = atomic_load(&barrier->state)) == before && !given_up) {
            sleep_while(&barrier->state, before, how->nap_ms);
            if (how->pulse)
                given_up = how->pulse(how->pulse_arg) != 0;
        }
        atomic_fetch_sub(&barrier->sleepers, 1);
    }
    return was_held(before, now) ? 0 : -1;
}

void barrier_break(struct barrier *barrier, int rank)
{
    uint32_t nobody = 0;
    atomic_compare_exchange_strong(&barrier->breaker, &nobody, (uint32_t)rank + 1);
    atomic_fetch_or(&barrier->state, BROKEN);
    wake_all(&barrier->state);
}

int barrier_broken_by(const struct barrier *barrier)
{
    return (int)atomic_load(&barrier->breaker) - 1;
}
