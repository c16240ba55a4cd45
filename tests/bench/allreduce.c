/* tests/bench/allreduce.c: our all-reduce against MPI_Allreduce, as CSV on stdout.
 *
 *   mpirun -n 4 bench_allreduce [floats …]
 *
 * Each repetition starts together (a broadcast) and lasts until the slowest rank is done; medians
 * over repetitions, the three ways taken in turn so that noise of the machine hits all alike. ratio
 * = MPI_Allreduce / ours: above 1, ours is faster. Without arguments: hidden states of 1 … 1024
 * rows of 4096. */
#include "base/err.h"
#include "base/size.h"
#include "base/time.h"
#include "worker/comm/comm.h"
#include "worker/comm/comm_impl.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

enum { REPEATS = 31, MOST_SIZES = 64 };

typedef int (*reduce_fn)(struct caloris_comm *, float *, size_t, void *, struct caloris_err *);

struct bench {
    struct caloris_comm *comm;
    float *x;
    void *scratch;
    uint64_t *all_ns; /* [size] on rank 0 */
    int hosts;
    char machine[128];
};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Microseconds until the slowest rank is done; meaningful on rank 0. */
static int once(struct bench *bench, reduce_fn reduce, size_t count, double *us,
                struct caloris_err *err)
{
    for (size_t i = 0; i < count; i++)
        bench->x[i] = 1.0f;
    char go = 0;
    if (caloris_comm_agree(bench->comm, NULL, err) < 0 ||
        caloris_comm_broadcast(bench->comm, &go, 1, err) < 0)
        return -1;
    uint64_t start = caloris_time_ns();
    if (reduce(bench->comm, bench->x, count, bench->scratch, err) < 0)
        return -1;
    uint64_t ns = caloris_time_ns() - start;
    if (caloris_comm_gather(bench->comm, &ns, sizeof(ns), bench->all_ns, err) < 0)
        return -1;
    for (int rank = 0; caloris_comm_rank(bench->comm) == 0 && rank < caloris_comm_size(bench->comm);
         rank++)
        ns = bench->all_ns[rank] > ns ? bench->all_ns[rank] : ns;
    *us = (double)ns * 1e-3;
    return 0;
}

static const struct {
    void (*prepare)(struct caloris_comm *);
    reduce_fn reduce;
} ways[] = {
    {comm_mpi_use_best, caloris_comm_allreduce_f32},
    {comm_mpi_use_messages, caloris_comm_allreduce_f32},
    {comm_mpi_use_best, caloris_comm_allreduce_reference_f32},
};
enum { WAYS = sizeof(ways) / sizeof(ways[0]) };

static int one_size(struct bench *bench, size_t count, struct caloris_err *err)
{
    static double us[WAYS][REPEATS];
    for (int repeat = -3; repeat < REPEATS; repeat++) { /* the first ones warm up */
        for (size_t way = 0; way < WAYS; way++) {
            ways[way].prepare(bench->comm);
            double now;
            if (once(bench, ways[way].reduce, count, &now, err) < 0)
                return -1;
            if (repeat >= 0)
                us[way][repeat] = now;
        }
    }
    for (size_t way = 0; way < WAYS; way++)
        qsort(us[way], REPEATS, sizeof(us[way][0]), by_size);
    double mine = us[0][REPEATS / 2], by_messages = us[1][REPEATS / 2], theirs = us[2][REPEATS / 2];
    if (caloris_comm_rank(bench->comm) == 0)
        printf("%d,%d,%zu,%.1f,%.1f,%.1f,%.2f,\"%s\",\"%s\"\n", caloris_comm_size(bench->comm),
               bench->hosts, count, mine, by_messages, theirs, theirs / mine,
               caloris_comm_transport(bench->comm), bench->machine);
    return 0;
}

/* How many different hosts the ranks are on; on rank 0. */
static int count_hosts(struct bench *bench, struct caloris_err *err)
{
    int index, neighbours;
    caloris_comm_neighbours(bench->comm, &index, &neighbours);
    int size = caloris_comm_size(bench->comm);
    int *indices = calloc((size_t)size, sizeof(int));
    if (!indices)
        return caloris_err_sys(err, "%d ranks", size);
    int rc = caloris_comm_gather(bench->comm, &index, sizeof(index), indices, err);
    for (int rank = 0; rank < size; rank++)
        bench->hosts += indices[rank] == 0;
    free(indices);
    return rc;
}

/* "Intel(R) Xeon(R) …, 2 CPUs" */
static void describe_machine(char *text, size_t size)
{
    struct utsname name;
    char line[256];
    snprintf(text, size, "%s", uname(&name) == 0 ? name.machine : "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof(line), file)) {
        char *value = strstr(line, ": ");
        if (strncmp(line, "model name", 10) == 0 && value) {
            value[strcspn(value, "\n")] = '\0';
            snprintf(text, size, "%s, %d CPUs", value + 2, comm_cores());
            break;
        }
    }
    if (file)
        fclose(file);
}

static int run(struct bench *bench, const size_t *sizes, size_t n, struct caloris_err *err)
{
    size_t longest = 0;
    for (size_t i = 0; i < n; i++)
        longest = sizes[i] > longest ? sizes[i] : longest;
    comm_mpi_use_messages(bench->comm); /* the way that needs most scratch */
    size_t scratch = caloris_comm_scratch_bytes(bench->comm, longest);
    bench->x = aligned_alloc(64, caloris_size_round_up(longest * sizeof(float) + 64, 64));
    bench->scratch = aligned_alloc(64, caloris_size_round_up(scratch + 64, 64));
    bench->all_ns = calloc((size_t)caloris_comm_size(bench->comm), sizeof(uint64_t));
    if (!bench->x || !bench->scratch || !bench->all_ns)
        return caloris_err_sys(err, "%zu floats", longest);
    if (count_hosts(bench, err) < 0)
        return -1;
    describe_machine(bench->machine, sizeof(bench->machine));
    if (caloris_comm_rank(bench->comm) == 0)
        printf("ranks,hosts,floats,ours_us,messages_us,mpi_allreduce_us,ratio,transport,machine\n");
    for (size_t i = 0; i < n; i++) {
        if (one_size(bench, sizes[i], err) < 0)
            return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    size_t sizes[MOST_SIZES] = {4096, 16384, 65536, 131072, 524288, 1048576, 4194304};
    size_t n = 7;
    for (int i = 1; i < argc && i <= MOST_SIZES; i++) {
        sizes[i - 1] = strtoul(argv[i], NULL, 10);
        n = (size_t)i;
    }
    struct caloris_err err = {CALORIS_OK, ""};
    struct bench bench = {.comm = caloris_comm_open_mpi(&err)};
    if (!bench.comm) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int rc = run(&bench, sizes, n, &err);
    if (rc < 0) {
        fprintf(stderr, "%s\n", err.text);
        caloris_comm_abort(bench.comm, 1);
    }
    free(bench.x);
    free(bench.scratch);
    free(bench.all_ns);
    caloris_comm_close(bench.comm);
    return 0;
}
