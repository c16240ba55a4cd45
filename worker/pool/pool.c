#include "worker/pool/pool.h"

#include "base/err.h"
#include "base/time.h"
#include "worker/pool/cores.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How long a thread looks for work before it sleeps: longer than the gap between two kernels of a
 * layer, far shorter than anything a user could notice as load. Not at all when there are more
 * threads than cores. */
enum { SPIN_NS = 20000, LOOKS_PER_CLOCK = 64 };

struct thread {
    struct caloris_pool *pool;
    pthread_t id;
    int index;
};

/* A run is a generation. `ticket` holds generation << 32 | tasks not yet handed out; a thread takes
 * one by a compare and swap. A thread that comes late may read the fields of the next run half
 * written, but then the run it saw is over, its ticket will never be current again, the swap fails
 * and nothing it read is used. So the caller waits for the tasks to return and for nothing else:
 * not for sleepers to wake. */
struct caloris_pool {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t done; /* tasks of this run that have returned */
    _Atomic bool waiting;               /* the caller sleeps on done */
    _Alignas(64) _Atomic uint32_t bell; /* rung once per run: idle threads sleep on it */
    _Atomic uint32_t sleepers;
    _Atomic bool stopping;
    _Atomic(caloris_pool_task_fn) task;
    _Atomic(void *) arg;
    _Atomic uint32_t count;
    int threads;
    int cores;   /* that this process may run on */
    int started; /* threads made so far; the caller, thread 0, is not one of them */
    struct thread *workers;
    cpu_set_t *core; /* [threads]: of each thread its own, or NULL when there are not as many */
    cpu_set_t caller_cpus; /* where the caller may run, worker's cores included */
};

/* Threads of all pools of this process: ranks that are threads share its cores. */
static _Atomic int threads_in_process;

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int cores_of_process(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);
}

/* Looks at word for SPIN_NS at most; true as soon as it is no longer `seen`. */
static bool changes_soon(const struct caloris_pool *pool, _Atomic uint32_t *word, uint32_t seen)
{
    if (atomic_load(word) != seen)
        return true;
    if (atomic_load_explicit(&threads_in_process, memory_order_relaxed) > pool->cores)
        return false;
    uint64_t end = caloris_time_ns() + SPIN_NS;
    do {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen)
                return true;
            relax();
        }
    } while (caloris_time_ns() < end);
    return false;
}

/* Runs tasks of the current run until none is left to hand out. */
static void work(struct caloris_pool *pool, int thread)
{
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while ((uint32_t)ticket > 0) {
        caloris_pool_task_fn task = atomic_load_explicit(&pool->task, memory_order_relaxed);
        void *arg = atomic_load_explicit(&pool->arg, memory_order_relaxed);
        uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
        uint32_t left = (uint32_t)ticket;
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        task(arg, count - left, thread);
        /* Sequentially consistent on both sides: either we see that the caller waits, or it sees
         * our count. */
        if (atomic_fetch_add(&pool->done, 1) + 1 == count && atomic_load(&pool->waiting))
            futex_wake(&pool->done, 1);
        ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    }
}

/* The kernel may wake a thread on the core of the one that wakes it, and for a run of some ms
 * leaves it there. So when each thread can have a core, the others are bound to theirs, and the
 * caller, which is not ours to bind (threads that it starts would be bound like it), steps aside
 * when it finds itself on one of them. */
static void go_home(const struct caloris_pool *pool)
{
    int cpu = pool->core ? sched_getcpu() : -1;
    if (cpu < 0 || CPU_ISSET((size_t)cpu, &pool->core[0]) ||
        atomic_load_explicit(&threads_in_process, memory_order_relaxed) > pool->cores)
        return;
    if (sched_setaffinity(0, sizeof(pool->core[0]), &pool->core[0]) == 0)
        sched_setaffinity(0, sizeof(pool->caller_cpus), &pool->caller_cpus);
}

static void *worker_main(void *arg)
{
    struct thread *self = arg;
    struct caloris_pool *pool = self->pool;
    if (pool->core) /* refused: it works as well, only slower */
        sched_setaffinity(0, sizeof(pool->core[0]), &pool->core[self->index]);
    uint32_t heard = 0;
    while (!atomic_load(&pool->stopping)) {
        if (!changes_soon(pool, &pool->bell, heard)) {
            atomic_fetch_add(&pool->sleepers, 1);
            if (atomic_load(&pool->bell) == heard)
                futex_wait(&pool->bell, heard);
            atomic_fetch_sub(&pool->sleepers, 1);
        }
        heard = atomic_load(&pool->bell);
        work(pool, self->index);
    }
    return NULL;
}

/* Fills pool->core if there is a core for every thread, and none to spare that other ranks may
 * have. */
static int find_cores(struct caloris_pool *pool, struct caloris_err *err)
{
    size_t threads = (size_t)pool->threads;
    if (threads == 1 || atomic_load(&threads_in_process) > pool->cores ||
        sched_getaffinity(0, sizeof(pool->caller_cpus), &pool->caller_cpus) < 0)
        return 0;
    pool->core = calloc(threads, sizeof(*pool->core));
    if (!pool->core)
        return caloris_err_sys(err, "cores of %zu compute threads", threads);
    if (caloris_pool_list_cores(pool->core, threads) != threads) {
        free(pool->core);
        pool->core = NULL;
    }
    return 0;
}

struct caloris_pool *caloris_pool_new(int threads, struct caloris_err *err)
{
    if (threads < 1) {
        caloris_err_set(err, CALORIS_INTERNAL, "a pool of %d threads", threads);
        return NULL;
    }
    struct caloris_pool *pool = aligned_alloc(64, sizeof(*pool));
    if (!pool) {
        caloris_err_sys(err, "compute threads");
        return NULL;
    }
    *pool = (struct caloris_pool){.threads = threads, .cores = cores_of_process()};
    atomic_fetch_add(&threads_in_process, threads);
    pool->workers = calloc((size_t)threads, sizeof(*pool->workers));
    if (!pool->workers) {
        caloris_err_sys(err, "%d compute threads", threads);
        goto fail;
    }
    if (find_cores(pool, err) < 0)
        goto fail;
    /* Signals belong to the threads that wait for them, never to one that computes. */
    sigset_t all, before;
    sigfillset(&all);
    /* What a thread does wrong itself must reach whoever handles it, sanitizers among them. */
    const int own[] = {SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGABRT};
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    for (int i = 1; i < threads && !failed; i++) {
        struct thread *thread = &pool->workers[pool->started];
        *thread = (struct thread){.pool = pool, .index = i};
        failed = pthread_create(&thread->id, NULL, worker_main, thread);
        if (!failed)
            pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        errno = failed;
        caloris_err_sys(err, "starting compute thread %d of %d", pool->started + 1, threads);
        goto fail;
    }
    return pool;
fail:
    caloris_pool_free(pool);
    return NULL;
}

void caloris_pool_free(struct caloris_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stopping, true);
    atomic_fetch_add(&pool->bell, 1);
    futex_wake(&pool->bell, INT_MAX);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i].id, NULL);
    atomic_fetch_sub(&threads_in_process, pool->threads);
    free(pool->workers);
    free(pool->core);
    free(pool);
}

int caloris_pool_threads(const struct caloris_pool *pool)
{
    return pool->threads;
}

void caloris_pool_run(struct caloris_pool *pool, size_t count, caloris_pool_task_fn task, void *arg)
{
    if (pool->threads == 1 || count <= 1 || count > UINT32_MAX) {
        for (size_t i = 0; i < count; i++)
            task(arg, i, 0);
        return;
    }
    go_home(pool);
    uint32_t n = (uint32_t)count;
    atomic_store_explicit(&pool->task, task, memory_order_relaxed);
    atomic_store_explicit(&pool->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&pool->count, n, memory_order_relaxed);
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->waiting, false, memory_order_relaxed);
    uint32_t generation = atomic_load_explicit(&pool->bell, memory_order_relaxed) + 1;
    atomic_store_explicit(&pool->ticket, (uint64_t)generation << 32 | n, memory_order_release);
    atomic_store(&pool->bell, generation);
    if (atomic_load(&pool->sleepers) > 0)
        futex_wake(&pool->bell, n <= (uint32_t)pool->threads ? (int)n - 1 : pool->threads - 1);

    work(pool, 0);
    uint32_t done = atomic_load(&pool->done);
    while (done < n) {
        if (!changes_soon(pool, &pool->done, done)) {
            atomic_store(&pool->waiting, true);
            futex_wait(&pool->done, done);
        }
        done = atomic_load(&pool->done);
    }
}
