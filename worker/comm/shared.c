#include "worker/comm/shared.h"

#include "base/err.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/time.h"
#include "worker/comm/comm_impl.h"
#include "worker/comm/two_shot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    CHUNK_FLOATS = 64 * 1024, /* 256 KiB: small enough for the second-level cache */
    BUFFERS = 3,       /* filling the next, summing this, reading the last: see shared_allreduce */
    HEAD_BYTES = 4096, /* the barrier has a page of its own */
    LABEL = 32,
};

/* Memory: barrier | rank 0: BUFFERS x [CHUNK_FLOATS] | rank 1: … */
struct shared {
    int rank, size;
    size_t bytes;
    char *memory;
    struct barrier *barrier;
    struct barrier_wait wait;
    int lent;              /* rank 0: the descriptor that the others open, or -1 */
    unsigned next;         /* buffer that the next chunk goes through */
    const float **sources; /* [size] */
};

static size_t rank_bytes(void)
{
    return (size_t)BUFFERS * CHUNK_FLOATS * sizeof(float);
}

static float *buffer_of(const struct shared *shared, int rank, unsigned buffer)
{
    return (float *)(void *)(shared->memory + HEAD_BYTES + (size_t)rank * rank_bytes()) +
           (size_t)buffer * CHUNK_FLOATS;
}

/* Names are "PID/FD/LABEL": whoever opens the descriptor of what is another process in its own view
 * of /proc finds another label. */
static int create(char name[SHARED_NAME], size_t bytes, struct caloris_err *err)
{
    char label[LABEL];
    snprintf(label, sizeof(label), "caloris-%" PRIx64, caloris_rng_fresh_seed());
    int fd = memfd_create(label, MFD_CLOEXEC);
    if (fd < 0)
        return caloris_err_sys(err, "creating shared memory");
    snprintf(name, SHARED_NAME, "%ld/%d/%s", (long)getpid(), fd, label);
    if (ftruncate(fd, (off_t)bytes) < 0) {
        caloris_err_sys(err, "shared memory: %zu bytes", bytes);
        close(fd);
        return -1;
    }
    return fd;
}

static int open_lent(const char *name, struct caloris_err *err)
{
    long pid;
    int lent;
    char label[LABEL], path[64], wanted[2 * SHARED_NAME], found[2 * SHARED_NAME] = "";
    if (sscanf(name, "%ld/%d/%31s", &pid, &lent, label) != 3)
        return caloris_err_set(err, CALORIS_PEER_LOST, "rank 0 lends no shared memory");
    snprintf(path, sizeof(path), "/proc/%ld/fd/%d", pid, lent);
    snprintf(wanted, sizeof(wanted), "/memfd:%s (deleted)", label);
    if (readlink(path, found, sizeof(found) - 1) < 0)
        return caloris_err_sys(err, "shared memory of process %ld", pid);
    if (strcmp(found, wanted) != 0)
        return caloris_err_set(err, CALORIS_IO, "%s is not rank 0's shared memory", path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    return fd < 0 ? caloris_err_sys(err, "opening %s", path) : fd;
}

static int reserve(int fd, size_t first, size_t bytes, struct caloris_err *err)
{
    do {
        errno = posix_fallocate(fd, (off_t)first, (off_t)bytes);
    } while (errno == EINTR);
    return errno == 0 ? 0 : caloris_err_sys(err, "shared memory: reserving %zu bytes", bytes);
}

struct shared *shared_open(int rank, int size, char name[SHARED_NAME], struct caloris_err *err)
{
    int fd = -1;
    struct shared *shared = calloc(1, sizeof(*shared));
    if (!shared) {
        caloris_err_sys(err, "shared memory of %d ranks", size);
        return NULL;
    }
    shared->rank = rank;
    shared->size = size;
    shared->lent = -1;
    shared->sources = calloc((size_t)size, sizeof(*shared->sources));
    if (!shared->sources) {
        caloris_err_sys(err, "shared memory of %d ranks", size);
        goto fail;
    }
    if (!caloris_size_mul(rank_bytes(), (size_t)size, &shared->bytes) ||
        !caloris_size_add(shared->bytes, HEAD_BYTES, &shared->bytes)) {
        caloris_err_set(err, CALORIS_NO_MEMORY, "shared memory of %d ranks is too large", size);
        goto fail;
    }
    fd = rank == 0 ? create(name, shared->bytes, err) : open_lent(name, err);
    if (fd < 0)
        goto fail;
    size_t mine = HEAD_BYTES + (size_t)rank * rank_bytes();
    if ((rank == 0 && reserve(fd, 0, HEAD_BYTES, err) < 0) ||
        reserve(fd, mine, rank_bytes(), err) < 0)
        goto fail;
    void *memory = mmap(NULL, shared->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        caloris_err_sys(err, "mapping shared memory");
        goto fail;
    }
    if (rank == 0)
        shared->lent = fd;
    else
        close(fd);
    shared->memory = memory;
    shared->barrier = memory;
    shared->wait.ranks = (uint32_t)size;
    barrier_set_pace(&shared->wait, comm_cores());
    return shared;
fail:
    if (fd >= 0)
        close(fd);
    shared_close(shared);
    return NULL;
}

void shared_stop_lending(struct shared *shared)
{
    if (!shared || shared->lent < 0)
        return;
    close(shared->lent);
    shared->lent = -1;
}

struct barrier_wait *shared_wait(struct shared *shared)
{
    return &shared->wait;
}

static size_t chunk_at(size_t start, size_t count)
{
    return count - start < CHUNK_FLOATS ? count - start : CHUNK_FLOATS;
}

/* x [n] into my buffer, without my own slice: nobody else reads it. */
static void put(struct shared *shared, const float *x, size_t n)
{
    float *buffer = buffer_of(shared, shared->rank, shared->next);
    size_t first, mine;
    two_shot_slice(n, shared->size, shared->rank, &first, &mine);
    memcpy(buffer, x, first * sizeof(float));
    memcpy(buffer + first + mine, x + first + mine, (n - first - mine) * sizeof(float));
}

/* My slice of x [n], summed over the ranks, into x and into my buffer for the others. */
static void sum_slice(struct shared *shared, float *x, size_t n, unsigned buffer)
{
    size_t first, mine;
    two_shot_slice(n, shared->size, shared->rank, &first, &mine);
    if (mine == 0)
        return;
    for (int rank = 0; rank < shared->size; rank++)
        shared->sources[rank] = rank == shared->rank ? x : buffer_of(shared, rank, buffer);
    two_shot_sum(x + first, shared->sources, shared->size, first, mine);
    memcpy(buffer_of(shared, shared->rank, buffer) + first, x + first, mine * sizeof(float));
}

/* The other ranks' slices of x [n]. */
static void fetch_slices(struct shared *shared, float *x, size_t n, unsigned buffer)
{
    for (int rank = 0; rank < shared->size; rank++) {
        size_t first, theirs;
        two_shot_slice(n, shared->size, rank, &first, &theirs);
        if (rank != shared->rank && theirs > 0)
            memcpy(x + first, buffer_of(shared, rank, buffer) + first, theirs * sizeof(float));
    }
}

/* put 0 | sum 0, put 1 | fetch 0, sum 1, put 2 | fetch 1, sum 2, put 3 | …      (| is a meeting)
 *
 * Between two meetings a slow rank may fetch chunk k-1 while a fast one sums k and puts k+1: three
 * buffers in turn keep them apart. The turn goes on from call to call, so that no meeting is needed
 * at the end. */
int shared_allreduce(struct shared *shared, float *x, size_t count, uint64_t *wait_ns)
{
    put(shared, x, chunk_at(0, count));
    uint64_t start_ns = caloris_time_ns();
    if (barrier_meet(shared->barrier, &shared->wait) < 0)
        return -1;
    *wait_ns = caloris_time_ns() - start_ns;

    for (size_t start = 0; start < count; start += CHUNK_FLOATS) {
        size_t n = chunk_at(start, count);
        unsigned buffer = shared->next;
        shared->next = (buffer + 1) % BUFFERS;
        sum_slice(shared, x + start, n, buffer);
        if (start + n < count)
            put(shared, x + start + n, chunk_at(start + n, count));
        if (barrier_meet(shared->barrier, &shared->wait) < 0)
            return -1;
        fetch_slices(shared, x + start, n, buffer);
    }
    return 0;
}

void shared_close(struct shared *shared)
{
    if (!shared)
        return;
    shared_stop_lending(shared);
    if (shared->memory)
        munmap(shared->memory, shared->bytes);
    free(shared->sources);
    free(shared);
}
