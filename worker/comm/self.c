/* A world of one: nobody to wait for, nothing to add. */
#include "worker/comm/comm_impl.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

static int broadcast(struct caloris_comm *comm, void *bytes, size_t n, struct caloris_err *err)
{
    (void)comm, (void)bytes, (void)n, (void)err;
    return 0;
}

static int gather(struct caloris_comm *comm, const void *bytes, size_t n, void *all,
                  struct caloris_err *err)
{
    (void)comm, (void)err;
    if (n > 0)
        memcpy(all, bytes, n);
    return 0;
}

static size_t scratch_bytes(const struct caloris_comm *comm, size_t count)
{
    (void)comm, (void)count;
    return 0;
}

static int allreduce(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                     uint64_t *wait_ns, struct caloris_err *err)
{
    (void)comm, (void)x, (void)count, (void)scratch, (void)wait_ns, (void)err;
    return 0;
}

static int allreduce_reference(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                               struct caloris_err *err)
{
    (void)comm, (void)x, (void)count, (void)scratch, (void)err;
    return 0;
}

static int agree(struct caloris_comm *comm, const struct caloris_err *mine, struct caloris_err *err)
{
    if (!mine)
        return 0;
    if (err)
        comm_name_failure(err, comm->rank, comm->host, mine);
    return -1;
}

static void nobody_to_wake(struct caloris_comm *comm, int exit_code)
{
    (void)comm, (void)exit_code;
}

static void free_comm(struct caloris_comm *comm)
{
    comm_unwatch(comm);
    free(comm);
}

static const struct comm_ops self_ops = {
    .broadcast = broadcast,
    .broadcast_idle = broadcast,
    .gather = gather,
    .scratch_bytes = scratch_bytes,
    .allreduce = allreduce,
    .allreduce_reference = allreduce_reference,
    .agree = agree,
    .abort = nobody_to_wake,
    .close = free_comm,
};

struct caloris_comm *caloris_comm_open_self(struct caloris_err *err)
{
    struct caloris_comm *comm = malloc(sizeof(*comm));
    if (!comm) {
        caloris_err_sys(err, "a world of one rank");
        return NULL;
    }
    comm_init(comm, &self_ops, 0, 1, "self");
    return comm;
}
