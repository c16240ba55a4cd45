#include "worker/comm/comm_impl.h"

#include "base/err.h"
#include "base/time.h"
#include "worker/comm/two_shot.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void comm_init(struct caloris_comm *comm, const struct comm_ops *ops, int rank, int size,
               const char *transport)
{
    comm->ops = ops;
    comm->rank = rank;
    comm->size = size;
    comm->neighbour_index = 0;
    comm->neighbour_count = 1;
    if (gethostname(comm->host, sizeof(comm->host)) != 0)
        snprintf(comm->host, sizeof(comm->host), "unknown");
    comm->host[sizeof(comm->host) - 1] = '\0';
    snprintf(comm->transport, sizeof(comm->transport), "%s", transport);
    comm->counters = (struct caloris_comm_counters){0};
    memset(&comm->progress, 0, sizeof(comm->progress));
    comm->beat = NULL;
    comm->threads = false;
    comm->layer_first = comm->left_ns = comm->longest_ns = 0;
}

void comm_name_failure(struct caloris_err *to, int rank, const char *host,
                       const struct caloris_err *from)
{
    caloris_err_set(to, from->code, "rank %d on %s: %.400s", rank, host, from->text);
}

int comm_cores(void)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof(cores), &cores) == 0)
        return CPU_COUNT(&cores);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

int caloris_comm_rank(const struct caloris_comm *comm)
{
    return comm->rank;
}

int caloris_comm_size(const struct caloris_comm *comm)
{
    return comm->size;
}

const char *caloris_comm_host(const struct caloris_comm *comm)
{
    return comm->host;
}

const char *caloris_comm_transport(const struct caloris_comm *comm)
{
    return comm->transport;
}

void caloris_comm_neighbours(const struct caloris_comm *comm, int *index, int *count)
{
    *index = comm->neighbour_index;
    *count = comm->neighbour_count;
}

int caloris_comm_broadcast(struct caloris_comm *comm, void *bytes, size_t n,
                           struct caloris_err *err)
{
    comm_enter(comm, BEAT_BROADCAST);
    const int rc = comm->ops->broadcast(comm, bytes, n, err);
    comm_leave(comm);
    return rc;
}

int caloris_comm_broadcast_idle(struct caloris_comm *comm, void *bytes, size_t n,
                                struct caloris_err *err)
{
    comm_enter(comm, BEAT_ORDER);
    const int rc = comm->ops->broadcast_idle(comm, bytes, n, err);
    comm_leave(comm);
    return rc;
}

int caloris_comm_gather(struct caloris_comm *comm, const void *bytes, size_t n, void *all,
                        struct caloris_err *err)
{
    comm_enter(comm, BEAT_GATHER);
    const int rc = comm->ops->gather(comm, bytes, n, all, err);
    comm_leave(comm);
    return rc;
}

size_t caloris_comm_scratch_bytes(const struct caloris_comm *comm, size_t count)
{
    return comm->size == 1 ? 0 : comm->ops->scratch_bytes(comm, count);
}

int caloris_comm_allreduce_f32(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                               struct caloris_err *err)
{
    struct caloris_comm_counters *counters = &comm->counters;
    counters->allreduces++;
    if (count == 0 || comm->size == 1)
        return 0;
    comm_enter(comm, BEAT_ALLREDUCE);
    uint64_t start = caloris_time_ns();
    uint64_t wait_ns = 0;
    int rc = comm->ops->allreduce(comm, x, count, scratch, &wait_ns, err);
    comm_leave(comm);
    counters->allreduce_s += (double)(caloris_time_ns() - start) * 1e-9;
    counters->wait_s += (double)wait_ns * 1e-9;

    /* To every other rank: its slice of mine, and the sum of my slice. */
    size_t first, mine;
    two_shot_slice(count, comm->size, comm->rank, &first, &mine);
    counters->bytes_sent += (count - mine + (size_t)(comm->size - 1) * mine) * sizeof(float);
    return rc;
}

int caloris_comm_allreduce_reference_f32(struct caloris_comm *comm, float *x, size_t count,
                                         void *scratch, struct caloris_err *err)
{
    if (count == 0 || comm->size == 1)
        return 0;
    return comm->ops->allreduce_reference(comm, x, count, scratch, err);
}

int caloris_comm_allreduce_max_f32(struct caloris_comm *comm, float *x, size_t count, float *all,
                                   struct caloris_err *err)
{
    if (count == 0 || comm->size == 1)
        return 0;
    if (caloris_comm_gather(comm, x, count * sizeof(*x), all, err) < 0)
        return -1;
    for (size_t i = 0; comm->rank == 0 && i < (size_t)comm->size * count; i++)
        x[i % count] = all[i] > x[i % count] ? all[i] : x[i % count];
    return caloris_comm_broadcast(comm, x, count * sizeof(*x), err);
}

int caloris_comm_agree(struct caloris_comm *comm, const struct caloris_err *mine,
                       struct caloris_err *err)
{
    comm_enter(comm, BEAT_AGREEMENT);
    const int rc = comm->ops->agree(comm, mine, err);
    comm_leave(comm);
    return rc;
}

void caloris_comm_abort(struct caloris_comm *comm, int exit_code)
{
    comm->ops->abort(comm, exit_code);
}

void caloris_comm_counters(const struct caloris_comm *comm, struct caloris_comm_counters *out)
{
    *out = comm->counters;
}

void caloris_comm_close(struct caloris_comm *comm)
{
    if (!comm)
        return;
    caloris_comm_at(comm, CALORIS_COMM_LEAVING, 0);
    comm->ops->close(comm);
}
