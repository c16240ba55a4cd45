/* Ranks as processes under MPI: the only place that knows mpi.h. */
#include "worker/comm/comm_impl.h"

#include "base/err.h"
#include "base/scratch.h"
#include "base/size.h"
#include "base/time.h"
#include "worker/comm/shared.h"
#include "worker/comm/two_shot.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TAG_PART = 1, /* a rank's part of the receiver's slice */
    TAG_SUM = 2,  /* the sum of the sender's slice */
    NAP_MS = 10,  /* between looks at MPI while waiting in shared memory */
};

struct world {
    struct caloris_comm comm;
    MPI_Comm mpi;
    struct shared *shared;         /* NULL: not all ranks are on this host */
    struct caloris_scratch memory; /* the directory of the memory that MPI shares */
    MPI_Request *requests;         /* [2 (size - 1)] */
    const float **sources;         /* [size] */
};

static struct world *world_of(struct caloris_comm *comm)
{
    return (struct world *)comm; /* comm is its first member */
}

/* 0, or -1 with what MPI says. With Open MPI 4 a call rarely returns after a peer is gone; when it
 * does, it is this. */
static int check(const struct caloris_comm *comm, int code, const char *doing,
                 struct caloris_err *err)
{
    if (code == MPI_SUCCESS)
        return 0;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    MPI_Error_string(code, text, &length);
    return caloris_err_set(err, CALORIS_PEER_LOST, "rank %d on %s: %s: %.300s", comm->rank,
                           comm->host, doing, text);
}

static size_t at_most_int(size_t n)
{
    return n < INT_MAX ? n : INT_MAX;
}

static int broadcast(struct caloris_comm *comm, void *bytes, size_t n, struct caloris_err *err)
{
    char *next = bytes;
    while (n > 0) {
        size_t part = at_most_int(n);
        int code = MPI_Bcast(next, (int)part, MPI_BYTE, 0, world_of(comm)->mpi);
        if (check(comm, code, "MPI_Bcast", err) < 0)
            return -1;
        next += part;
        n -= part;
    }
    return 0;
}

/* Waits for a request with growing pauses: a blocked MPI call would burn a core. */
static int wait_idle(struct caloris_comm *comm, MPI_Request *request, const char *doing,
                     struct caloris_err *err)
{
    struct caloris_backoff backoff = {0};
    for (;;) {
        int done = 0;
        if (check(comm, MPI_Test(request, &done, MPI_STATUS_IGNORE), doing, err) < 0)
            return -1;
        if (done)
            return 0;
        caloris_backoff_wait(&backoff);
    }
}

static int broadcast_idle(struct caloris_comm *comm, void *bytes, size_t n, struct caloris_err *err)
{
    char *next = bytes;
    while (n > 0) {
        size_t part = at_most_int(n);
        MPI_Request request;
        int code = MPI_Ibcast(next, (int)part, MPI_BYTE, 0, world_of(comm)->mpi, &request);
        if (check(comm, code, "MPI_Ibcast", err) < 0 ||
            wait_idle(comm, &request, "MPI_Ibcast", err) < 0)
            return -1;
        next += part;
        n -= part;
    }
    return 0;
}

static int gather(struct caloris_comm *comm, const void *bytes, size_t n, void *all,
                  struct caloris_err *err)
{
    if (n > INT_MAX)
        return caloris_err_set(err, CALORIS_INTERNAL, "gather of %zu bytes per rank: at most %d", n,
                               INT_MAX);
    int code = MPI_Gather(bytes, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, 0, world_of(comm)->mpi);
    return check(comm, code, "MPI_Gather", err);
}

static int reference(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                     struct caloris_err *err)
{
    (void)scratch;
    while (count > 0) {
        size_t part = at_most_int(count);
        int code =
            MPI_Allreduce(MPI_IN_PLACE, x, (int)part, MPI_FLOAT, MPI_SUM, world_of(comm)->mpi);
        if (check(comm, code, "MPI_Allreduce", err) < 0)
            return -1;
        x += part;
        count -= part;
    }
    return 0;
}

/* The lowest failing rank, then its error. Stages may take a rank minutes (loading), so nobody
 * blocks in MPI here. */
static int agree(struct caloris_comm *comm, const struct caloris_err *mine, struct caloris_err *err)
{
    struct world *world = world_of(comm);
    int failing = mine ? comm->rank : comm->size;
    int lowest = comm->size;
    MPI_Request request;
    int code = MPI_Iallreduce(&failing, &lowest, 1, MPI_INT, MPI_MIN, world->mpi, &request);
    if (check(comm, code, "MPI_Iallreduce", err) < 0 ||
        wait_idle(comm, &request, "MPI_Iallreduce", err) < 0)
        return -1;
    if (lowest == comm->size)
        return 0;

    struct caloris_err verdict;
    memset(&verdict, 0, sizeof(verdict));
    if (lowest == comm->rank)
        comm_name_failure(&verdict, comm->rank, comm->host, mine);
    code = MPI_Bcast(&verdict, (int)sizeof(verdict), MPI_BYTE, lowest, world->mpi);
    if (check(comm, code, "MPI_Bcast", err) < 0)
        return -1;
    return caloris_err_set(err, verdict.code, "%s", verdict.text);
}

static void abort_world(struct caloris_comm *comm, int exit_code)
{
    caloris_scratch_remove(&world_of(comm)->memory);
    MPI_Abort(world_of(comm)->mpi, exit_code);
}

/* ---- all-reduce in shared memory
 * ------------------------------------------------------------------------------- */

static size_t no_scratch(const struct caloris_comm *comm, size_t count)
{
    (void)comm, (void)count;
    return 0;
}

static int allreduce_shared(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                            uint64_t *wait_ns, struct caloris_err *err)
{
    (void)scratch;
    if (shared_allreduce(world_of(comm)->shared, x, count, wait_ns) == 0)
        return 0;
    return caloris_err_set(err, CALORIS_PEER_LOST, "rank %d on %s: all-reduce: a rank has gone",
                           comm->rank, comm->host);
}

/* A rank that waits in shared memory still owes MPI a look now and then: messages that it has sent
 * may need it. */
static int look_at_mpi(void *arg)
{
    struct world *world = arg;
    int found;
    return MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, world->mpi, &found, MPI_STATUS_IGNORE) ==
                   MPI_SUCCESS
               ? 0
               : -1;
}

/* ---- all-reduce by messages
 * ------------------------------------------------------------------------------------ */

/* A slot for every other rank's part of my slice. */
static size_t messages_scratch(const struct caloris_comm *comm, size_t count)
{
    size_t slice = caloris_size_round_up(two_shot_longest(count, comm->size), TWO_SHOT_UNIT);
    size_t bytes;
    if (!caloris_size_mul(slice, sizeof(float), &bytes) ||
        !caloris_size_mul(bytes, (size_t)comm->size - 1, &bytes))
        return SIZE_MAX;
    return bytes;
}

/* Posts a send to and a receive from every other rank, nearest first, so that not all begin with
 * rank 0; waits. */
struct exchange {
    float *x;
    float *slots; /* NULL: second shot, straight into x */
    size_t count, longest;
    int tag;
};

static int exchange(struct world *world, const struct exchange *e, struct caloris_err *err)
{
    struct caloris_comm *comm = &world->comm;
    size_t my_first, my_n;
    two_shot_slice(e->count, comm->size, comm->rank, &my_first, &my_n);
    int posted = 0;
    for (int distance = 1; distance < comm->size; distance++) {
        int from = (comm->rank + comm->size - distance) % comm->size;
        size_t first, n;
        two_shot_slice(e->count, comm->size, from, &first, &n);
        float *to = e->x + first;
        if (e->slots) {
            to = e->slots + (size_t)(distance - 1) * e->longest;
            world->sources[from] = to;
            n = my_n;
        }
        if (n == 0)
            continue;
        int code =
            MPI_Irecv(to, (int)n, MPI_FLOAT, from, e->tag, world->mpi, &world->requests[posted++]);
        if (check(comm, code, "all-reduce: MPI_Irecv", err) < 0)
            return -1;
    }
    for (int distance = 1; distance < comm->size; distance++) {
        int peer = (comm->rank + distance) % comm->size;
        size_t first = my_first, n = my_n;
        if (e->slots)
            two_shot_slice(e->count, comm->size, peer, &first, &n);
        if (n == 0)
            continue;
        int code = MPI_Isend(e->x + first, (int)n, MPI_FLOAT, peer, e->tag, world->mpi,
                             &world->requests[posted++]);
        if (check(comm, code, "all-reduce: MPI_Isend", err) < 0)
            return -1;
    }
    int code = MPI_Waitall(posted, world->requests, MPI_STATUSES_IGNORE);
    return check(comm, code, "all-reduce: MPI_Waitall", err);
}

static int allreduce_messages(struct caloris_comm *comm, float *x, size_t count, void *scratch,
                              uint64_t *wait_ns, struct caloris_err *err)
{
    struct world *world = world_of(comm);
    size_t longest = caloris_size_round_up(two_shot_longest(count, comm->size), TWO_SHOT_UNIT);
    if (longest > INT_MAX)
        return caloris_err_set(err, CALORIS_INTERNAL, "all-reduce of %zu floats is too long",
                               count);
    uint64_t start = caloris_time_ns();
    struct exchange parts = {x, scratch, count, longest, TAG_PART};
    if (exchange(world, &parts, err) < 0)
        return -1;
    *wait_ns = caloris_time_ns() - start;

    size_t first, n;
    two_shot_slice(count, comm->size, comm->rank, &first, &n);
    world->sources[comm->rank] = x + first;
    two_shot_sum(x + first, world->sources, comm->size, 0, n);
    struct exchange sums = {x, NULL, count, longest, TAG_SUM};
    return exchange(world, &sums, err);
}

/* ---- opening and closing
 * --------------------------------------------------------------------------------------- */

static void free_world(struct world *world)
{
    if (!world)
        return;
    shared_close(world->shared);
    free(world->requests);
    free(world->sources);
    caloris_scratch_remove(&world->memory);
    free(world);
}

static void close_world(struct caloris_comm *comm)
{
    struct world *world = world_of(comm);
    MPI_Comm_free(&world->mpi);
    MPI_Finalize();
    comm_unwatch(comm); /* until here a rank may be lost */
    free_world(world);
}

static const struct comm_ops shared_ops = {
    .broadcast = broadcast,
    .broadcast_idle = broadcast_idle,
    .gather = gather,
    .scratch_bytes = no_scratch,
    .allreduce = allreduce_shared,
    .allreduce_reference = reference,
    .agree = agree,
    .abort = abort_world,
    .close = close_world,
};

static const struct comm_ops message_ops = {
    .broadcast = broadcast,
    .broadcast_idle = broadcast_idle,
    .gather = gather,
    .scratch_bytes = messages_scratch,
    .allreduce = allreduce_messages,
    .allreduce_reference = reference,
    .agree = agree,
    .abort = abort_world,
    .close = close_world,
};

/* srun without a PMIx plugin starts processes that MPI takes for worlds of one, or aborts in
 * MPI_Init with a page of text. A step's tasks know their number; PMIx, PMI and mpirun each leave a
 * mark. (SLURM_NTASKS would not do: it is set in batch scripts too, where a world of one is fine.)
 */
static int check_launcher(struct caloris_err *err)
{
    static const char *const marks[] = {"PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"};
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (!tasks || atoi(tasks) <= 1 || !getenv("SLURM_PROCID"))
        return 0;
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (getenv(marks[i]))
            return 0;
    }
    return caloris_err_set(err, CALORIS_USAGE,
                           "srun started %s tasks that MPI does not know of: use srun --mpi=pmix "
                           "(srun --mpi=list shows what there is), or mpirun inside the allocation",
                           tasks);
}

/* Open MPI maps a file for every rank on a host, and leaves it there when ranks are killed: here in
 * a directory that goes with the rank. Where that cannot be, MPI finds a place by itself. */
static void place_memory(struct caloris_scratch *memory)
{
    /* Open MPI 4, Open MPI 5 */
    static const char *const places[] = {"OMPI_MCA_btl_vader_backing_directory",
                                         "OMPI_MCA_btl_sm_backing_directory"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (getenv(places[i])) /* somebody knows better */
            return;
    }
    if (caloris_scratch_make(memory, "/dev/shm", "caloris-mpi", NULL) < 0)
        return;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        setenv(places[i], memory->path, 1);
}

static void describe_library(char text[COMM_TRANSPORT_TEXT])
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = '\0'; /* "Open MPI v4.1.4, package: …" */
    snprintf(text, COMM_TRANSPORT_TEXT, "mpi (%.60s)", version);
}

/* Who else is on this host. */
static int find_neighbours(struct world *world, struct caloris_err *err)
{
    struct caloris_comm *comm = &world->comm;
    MPI_Comm host;
    int code =
        MPI_Comm_split_type(world->mpi, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &host);
    if (check(comm, code, "MPI_Comm_split_type", err) < 0)
        return -1;
    MPI_Comm_rank(host, &comm->neighbour_index);
    MPI_Comm_size(host, &comm->neighbour_count);
    return check(comm, MPI_Comm_free(&host), "MPI_Comm_free", err);
}

/* All open one piece of memory, or none does. Only a failure of MPI is an error: why there is no
 * shared memory is said in the transport's name. */
static int share_memory(struct world *world, char name[SHARED_NAME], struct caloris_err *err)
{
    struct caloris_comm *comm = &world->comm;
    struct caloris_err why = {CALORIS_OK, ""};
    if (comm->rank == 0)
        world->shared = shared_open(0, comm->size, name, &why);
    if (broadcast(comm, name, SHARED_NAME, err) < 0)
        return -1;
    if (comm->rank != 0)
        world->shared = shared_open(comm->rank, comm->size, name, &why);
    struct caloris_err verdict = {CALORIS_OK, ""};
    if (agree(comm, world->shared ? NULL : &why, &verdict) < 0) {
        shared_close(world->shared);
        world->shared = NULL;
        size_t used = strlen(comm->transport);
        snprintf(comm->transport + used, sizeof(comm->transport) - used,
                 ", no shared memory: %.150s", verdict.text);
        return 0;
    }
    struct barrier_wait *wait = shared_wait(world->shared);
    wait->nap_ms = NAP_MS;
    wait->pulse = look_at_mpi;
    wait->pulse_arg = world;
    return 0;
}

/* Shared memory where all ranks are on one host, else messages between all. */
static int choose_path(struct world *world, struct caloris_err *err)
{
    struct caloris_comm *comm = &world->comm;
    int together = comm->neighbour_count == comm->size && comm->size > 1;
    int all = 0;
    int code = MPI_Allreduce(&together, &all, 1, MPI_INT, MPI_MIN, world->mpi);
    if (check(comm, code, "MPI_Allreduce", err) < 0)
        return -1;
    if (!all)
        return 0;
    char name[SHARED_NAME] = "";
    int rc = share_memory(world, name, err);
    shared_stop_lending(world->shared);
    comm_mpi_use_best(comm);
    return rc;
}

struct caloris_comm *caloris_comm_open_mpi(struct caloris_err *err)
{
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized) {
        caloris_err_set(err, CALORIS_INTERNAL, "the MPI world of this process was opened before");
        return NULL;
    }
    if (check_launcher(err) < 0)
        return NULL;
    struct world *world = calloc(1, sizeof(*world));
    if (!world) {
        caloris_err_sys(err, "an MPI world");
        return NULL;
    }
    place_memory(&world->memory);
    int provided = MPI_THREAD_SINGLE;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS ||
        provided < MPI_THREAD_FUNNELED) {
        caloris_err_set(err, CALORIS_INTERNAL, "MPI_Init_thread: no MPI_THREAD_FUNNELED (level %d)",
                        provided);
        free_world(world);
        return NULL;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    char transport[COMM_TRANSPORT_TEXT];
    describe_library(transport);
    comm_init(&world->comm, &message_ops, rank, size, transport);
    if (check(&world->comm, MPI_Comm_dup(MPI_COMM_WORLD, &world->mpi), "MPI_Comm_dup", err) < 0)
        goto fail;
    MPI_Comm_set_errhandler(world->mpi, MPI_ERRORS_RETURN);
    world->requests = calloc(2 * (size_t)size, sizeof(MPI_Request));
    world->sources = calloc((size_t)size, sizeof(*world->sources));
    struct caloris_err no_memory = {CALORIS_NO_MEMORY, "an MPI world: out of memory"};
    bool complete = world->requests && world->sources;
    if (agree(&world->comm, complete ? NULL : &no_memory, err) < 0 ||
        find_neighbours(world, err) < 0 || choose_path(world, err) < 0)
        goto fail;
    return &world->comm;
fail:
    MPI_Finalize();
    free_world(world);
    return NULL;
}

void comm_mpi_use_messages(struct caloris_comm *comm)
{
    comm->ops = &message_ops;
}

void comm_mpi_use_best(struct caloris_comm *comm)
{
    comm->ops = world_of(comm)->shared ? &shared_ops : &message_ops;
}
