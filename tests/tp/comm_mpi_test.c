/* The cases of tests/tools/comm_cases.h under mpirun, by every path there is. Rank 0 reports. With
 * the argument "abort" the last rank ends the world while the others wait for it: mpirun must
 * return 69. */
#include "base/err.h"
#include "base/time.h"
#include "tests/tools/comm_cases.h"
#include "worker/comm/comm.h"
#include "worker/comm/comm_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ABORT_CODE = 69 };

/* Failures on this rank; every rank goes through all cases. */
static int run_cases(struct caloris_comm *comm, const char *path)
{
    int failures = 0;
    for (size_t c = 0; c < n_comm_cases; c++) {
        struct caloris_err err = {CALORIS_OK, ""};
        if (comm_cases[c].run(comm, &err) == 0)
            continue;
        failures++;
        fprintf(stderr, "FAILED on rank %d, %s: %s: %s\n", caloris_comm_rank(comm), path,
                comm_cases[c].name, err.text);
        if (err.code == CALORIS_PEER_LOST)
            caloris_comm_abort(comm, 1);
    }
    return failures;
}

/* Names the hosts on rank 0; the failures of all ranks, on every rank. */
static int report(struct caloris_comm *comm, int failures)
{
    struct line {
        char host[64];
        int failures;
    };
    struct line mine;
    memset(&mine, 0, sizeof(mine));
    snprintf(mine.host, sizeof(mine.host), "%s", caloris_comm_host(comm));
    mine.failures = failures;
    int size = caloris_comm_size(comm), sum = 0;
    struct line *lines = calloc((size_t)size, sizeof(*lines));
    struct caloris_err err = {CALORIS_OK, ""};
    if (!lines || caloris_comm_gather(comm, &mine, sizeof(mine), lines, &err) < 0)
        caloris_comm_abort(comm, 1);
    if (caloris_comm_rank(comm) == 0) {
        printf("%s, %d ranks:", caloris_comm_transport(comm), size);
        for (int rank = 0; rank < size; rank++) {
            printf(" %s", lines[rank].host);
            sum += lines[rank].failures;
        }
        printf("\n%zu cases, %d failures\n", n_comm_cases, sum);
        fflush(stdout);
    }
    free(lines);
    if (caloris_comm_broadcast(comm, &sum, sizeof(sum), &err) < 0)
        caloris_comm_abort(comm, 1);
    return sum;
}

static void leave_alone(struct caloris_comm *comm)
{
    float x[64] = {0};
    _Alignas(64) char scratch[8192];
    if (caloris_comm_scratch_bytes(comm, 64) > sizeof(scratch))
        caloris_comm_abort(comm, 1);
    if (caloris_comm_rank(comm) == caloris_comm_size(comm) - 1) {
        caloris_time_sleep_ms(50);
        caloris_comm_abort(comm, ABORT_CODE);
    }
    caloris_comm_allreduce_f32(comm, x, 64, scratch, NULL);
}

int main(int argc, char **argv)
{
    struct caloris_err err = {CALORIS_OK, ""};
    struct caloris_comm *comm = caloris_comm_open_mpi(&err);
    if (!comm) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (caloris_comm_open_mpi(&err)) {
        fprintf(stderr, "MPI was opened twice\n");
        return 1;
    }
    if (argc > 1 && strcmp(argv[1], "abort") == 0)
        leave_alone(comm);

    int failures = run_cases(comm, caloris_comm_transport(comm));
    comm_mpi_use_messages(comm);
    failures += run_cases(comm, "messages");
    failures = report(comm, failures);
    caloris_comm_close(comm);
    return failures ? 1 : 0;
}
