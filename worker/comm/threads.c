/* Ranks as threads of one process: they lend each other pointers and meet at a barrier. */
#include "worker/comm/comm_impl.h"

#include "base/err.h"
#include "base/size.h"
#include "base/time.h"
#include "worker/comm/barrier.h"
#include "worker/comm/two_shot.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct world {
    struct barrier barrier;
    struct barrier_wait how;
    int size;
    const void **board; /* [size] what each rank lends to the others until the next meeting */
    int (*body)(struct caloris_comm *, void *arg, struct caloris_err *);
    void *arg;
};

/* Aligned, so that ranks do not write to each other's cache lines. */
struct member {
    _Alignas(COMM_CACHE_LINE) struct caloris_comm comm;
    struct world *world;
    pthread_t thread;
    bool started;    /* thread is to be joined */
    bool left_alone; /* a collective failed because another rank had left */
    int rc;
    struct caloris_err err;
};

static struct member *member_of(struct caloris_comm *comm)
{
    return (struct member *)comm; /* comm is its first member */
}

static int meet(struct caloris_comm *comm, const char *doing, struct caloris_err *err)
{
    struct member *member = member_of(comm);
    struct world *world = member->world;
    if (barrier_meet(&world->barrier, &world->how) == 0)
        return 0;
    member->left_alone = true;
    return caloris_err_set(err, CALORIS_PEER_LOST, "%s: rank %d has left the world", doing,
                           barrier_broken_by(&world->barrier));
}

/* Lends mine to the others; afterwards board holds what everybody lends. */
static int lend(struct caloris_comm *comm, const void *mine, const char *doing,
                struct caloris_err *err)
{
    member_of(comm)->world->board[comm->rank] = mine;
    return meet(comm, doing, err);
}

static int broadcast(struct caloris_comm *comm, void *bytes, size_t n, struct caloris_err *err)
{
    if (lend(comm, bytes, "broadcast", err) < 0)
        return -1;
    if (comm->rank != 0 && n > 0)
        memcpy(bytes, member_of(comm)->world->board[0], n);
    return meet(comm, "broadcast", err);
}

static int gather(struct caloris_comm *comm, const void *bytes, size_t n, void *all,
                  struct caloris_err *err)
{
    if (lend(comm, bytes, "gather", err) < 0)
        return -1;
    if (comm->rank == 0 && n > 0) {
        for (int rank = 0; rank < comm->size; rank++)
            memcpy((char *)all + (size_t)rank * n, member_of(comm)->world->board[rank], n);
    }
    return meet(comm, "gather", err);
}

/* Only the reference sum needs any: a whole vector. */
static size_t scratch_bytes(const struct caloris_comm *comm, size_t count)
{
    (void)comm;
    size_t bytes;
    if (!caloris_size_mul(caloris_size_round_up(count, TWO_SHOT_UNIT), sizeof(float), &bytes))
        return SIZE_MAX;
    return bytes;
}

/* In place, without a copy: rank r reads slice r of everybody and writes it into its own x, where
 * nobody else reads or writes it before the second meeting; then each fetches the slices of the
 * others. */
static int allreduce(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                     uint64_t *wait_ns, struct caloris_err *err)
{
    struct member *member = member_of(comm);
    (void)scratch;
    uint64_t start = caloris_time_ns();
    if (lend(comm, x, "all-reduce", err) < 0)
        return -1;
    *wait_ns = caloris_time_ns() - start;

    size_t first, n;
    two_shot_slice(count, comm->size, comm->rank, &first, &n);
    two_shot_sum(x + first, (const float *const *)member->world->board, comm->size, first, n);
    if (meet(comm, "all-reduce", err) < 0)
        return -1;
    for (int rank = 0; rank < comm->size; rank++) {
        two_shot_slice(count, comm->size, rank, &first, &n);
        if (rank != comm->rank && n > 0)
            memcpy(x + first, (const float *)member->world->board[rank] + first, n * sizeof(float));
    }
    return meet(comm, "all-reduce", err);
}

static int allreduce_reference(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                               struct caloris_err *err)
{
    if (lend(comm, x, "reference all-reduce", err) < 0)
        return -1;
    float *sum = scratch;
    for (size_t i = 0; i < count; i++) {
        sum[i] = 0;
        for (int rank = 0; rank < comm->size; rank++)
            sum[i] += ((const float *)member_of(comm)->world->board[rank])[i];
    }
    if (meet(comm, "reference all-reduce", err) < 0)
        return -1;
    memcpy(x, sum, count * sizeof(float));
    return 0;
}

static int agree(struct caloris_comm *comm, const struct caloris_err *mine, struct caloris_err *err)
{
    if (lend(comm, mine, "agreement", err) < 0)
        return -1;
    const void **board = member_of(comm)->world->board;
    int failing = 0;
    while (failing < comm->size && !board[failing])
        failing++;
    struct caloris_err verdict = {CALORIS_OK, ""};
    if (failing < comm->size)
        comm_name_failure(&verdict, failing, comm->host, board[failing]);
    if (meet(comm, "agreement", err) < 0)
        return -1;
    return failing == comm->size ? 0 : caloris_err_set(err, verdict.code, "%s", verdict.text);
}

static void leave(struct caloris_comm *comm, int exit_code)
{
    (void)exit_code;
    barrier_break(&member_of(comm)->world->barrier, comm->rank);
}

/* The comm belongs to run_threads. */
static void keep(struct caloris_comm *comm)
{
    (void)comm;
}

static const struct comm_ops thread_ops = {
    .broadcast = broadcast,
    .broadcast_idle = broadcast, /* whoever waits at the barrier for long sleeps */
    .gather = gather,
    .scratch_bytes = scratch_bytes,
    .allreduce = allreduce,
    .allreduce_reference = allreduce_reference,
    .agree = agree,
    .abort = leave,
    .close = keep,
};

static void *run_member(void *arg)
{
    struct member *member = arg;
    struct world *world = member->world;
    member->rc = world->body(&member->comm, world->arg, &member->err);
    comm_unwatch(&member->comm);
    barrier_break(&world->barrier, member->comm.rank);
    return NULL;
}

/* The lowest rank that failed by itself; if none did, the lowest that failed at all. */
static const struct member *first_failure(const struct member *members, int n)
{
    const struct member *first = NULL;
    for (int rank = n - 1; rank >= 0; rank--) {
        const struct member *member = &members[rank];
        if (member->rc != 0 && (!member->left_alone || !first || first->left_alone))
            first = member;
    }
    return first;
}

int caloris_comm_run_threads(int n,
                             int (*body)(struct caloris_comm *, void *arg, struct caloris_err *),
                             void *arg, struct caloris_err *err)
{
    if (n < 1)
        return caloris_err_set(err, CALORIS_USAGE, "a world of %d ranks", n);
    int rc = -1;
    size_t bytes;
    struct world world = {
        .how = {.ranks = (uint32_t)n},
        .size = n,
        .board = calloc((size_t)n, sizeof(*world.board)),
        .body = body,
        .arg = arg,
    };
    barrier_set_pace(&world.how, comm_cores());
    struct member *members = NULL;
    if (caloris_size_mul((size_t)n, sizeof(*members), &bytes))
        members = aligned_alloc(COMM_CACHE_LINE, bytes);
    if (!world.board || !members) {
        caloris_err_set(err, CALORIS_NO_MEMORY, "a world of %d threads: out of memory", n);
        goto out;
    }
    memset(members, 0, bytes);
    for (int rank = 0; rank < n; rank++) {
        comm_init(&members[rank].comm, &thread_ops, rank, n, "threads");
        members[rank].comm.threads = true;
        members[rank].comm.neighbour_index = rank;
        members[rank].comm.neighbour_count = n;
        members[rank].world = &world;
    }

    /* Rank 0 is the calling thread. */
    int failed_start = 0;
    for (int rank = 1; rank < n && !failed_start; rank++) {
        failed_start = pthread_create(&members[rank].thread, NULL, run_member, &members[rank]);
        members[rank].started = failed_start == 0;
        if (failed_start)
            barrier_break(&world.barrier, rank);
    }
    if (!failed_start)
        run_member(&members[0]);
    for (int rank = 1; rank < n; rank++) {
        if (members[rank].started)
            pthread_join(members[rank].thread, NULL);
    }
    if (failed_start) {
        caloris_err_set(err, CALORIS_NO_MEMORY, "a world of %d threads: %s", n,
                        strerror(failed_start));
        goto out;
    }
    const struct member *failure = first_failure(members, n);
    if (failure)
        caloris_err_set(err, failure->err.code, "%s", failure->err.text);
    else
        rc = 0;
out:
    free(members);
    free(world.board);
    return rc;
}
