/* Ranks as threads, and a world of one. */
#include "base/err.h"
#include "base/time.h"
#include "tests/tools/comm_cases.h"
#include "worker/comm/comm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int sizes[] = {1, 2, 3, 5, 7};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]), MOST = 7 };

static int run_case(struct caloris_comm *comm, void *arg, struct caloris_err *err)
{
    return ((const struct comm_case *)arg)->run(comm, err);
}

static void every_case_holds_for_threads(void **state)
{
    (void)state;
    for (size_t s = 0; s < SIZES; s++) {
        for (size_t c = 0; c < n_comm_cases; c++) {
            struct caloris_err err = {CALORIS_OK, ""};
            void *arg = (void *)(uintptr_t)&comm_cases[c];
            if (caloris_comm_run_threads(sizes[s], run_case, arg, &err) < 0)
                fail_msg("%s, %d ranks: %s", comm_cases[c].name, sizes[s], err.text);
        }
    }
}

static void every_case_holds_for_one(void **state)
{
    (void)state;
    struct caloris_err err = {CALORIS_OK, ""};
    struct caloris_comm *comm = caloris_comm_open_self(&err);
    assert_non_null(comm);
    assert_string_equal(caloris_comm_transport(comm), "self");
    for (size_t c = 0; c < n_comm_cases; c++) {
        if (comm_cases[c].run(comm, &err) < 0)
            fail_msg("%s: %s", comm_cases[c].name, err.text);
    }
    caloris_comm_close(comm);
    caloris_comm_close(NULL);
}

/* The cases would prove nothing if any order of summing gave the same bits. */
static void the_values_tell_orders_apart(void **state)
{
    (void)state;
    int differ = 0;
    for (size_t i = 0; i < 1000; i++) {
        float a = comm_case_value(0, 0, i), b = comm_case_value(1, 0, i),
              c = comm_case_value(2, 0, i);
        differ += (a + b) + c != (c + b) + a;
    }
    assert_in_range(differ, 100, 1000);
}

/* ---- a rank that leaves
 * ---------------------------------------------------------------------------------------- */

static int do_broadcast(struct caloris_comm *comm, struct caloris_err *err)
{
    int word = 0;
    return caloris_comm_broadcast(comm, &word, sizeof(word), err);
}

static int do_broadcast_idle(struct caloris_comm *comm, struct caloris_err *err)
{
    int word = 0;
    return caloris_comm_broadcast_idle(comm, &word, sizeof(word), err);
}

static int do_gather(struct caloris_comm *comm, struct caloris_err *err)
{
    char mine = 0, all[MOST];
    return caloris_comm_gather(comm, &mine, 1, all, err);
}

static int do_allreduce(struct caloris_comm *comm, struct caloris_err *err)
{
    float x[100] = {0};
    return caloris_comm_allreduce_f32(comm, x, 100, NULL, err);
}

static int do_agree(struct caloris_comm *comm, struct caloris_err *err)
{
    return caloris_comm_agree(comm, NULL, err);
}

static int (*const collectives[])(struct caloris_comm *, struct caloris_err *) = {
    do_broadcast, do_broadcast_idle, do_gather, do_allreduce, do_agree};

struct departure {
    int (*collective)(struct caloris_comm *, struct caloris_err *);
    int leaver;
    int (*leave)(struct caloris_comm *, struct caloris_err *);
    uint64_t after_ms;
    enum caloris_code codes[MOST]; /* what the others were told */
};

static int leave_with_an_error(struct caloris_comm *comm, struct caloris_err *err)
{
    return caloris_err_set(err, CALORIS_BAD_MODEL, "w%d is damaged", caloris_comm_rank(comm));
}

static int leave_by_abort(struct caloris_comm *comm, struct caloris_err *err)
{
    caloris_comm_abort(comm, 70);
    caloris_time_sleep_ms(5); /* the others fail first */
    return leave_with_an_error(comm, err);
}

static int leave_in_peace(struct caloris_comm *comm, struct caloris_err *err)
{
    (void)comm, (void)err;
    return 0;
}

static int depart(struct caloris_comm *comm, void *arg, struct caloris_err *err)
{
    struct departure *departure = arg;
    int rank = caloris_comm_rank(comm);
    if (do_agree(comm, err) < 0)
        return -1;
    if (rank == departure->leaver) {
        caloris_time_sleep_ms(departure->after_ms);
        return departure->leave(comm, err);
    }
    int rc = departure->collective(comm, err);
    departure->codes[rank] = rc < 0 ? err->code : CALORIS_OK;
    return rc;
}

static void expect_departure(struct departure departure, int n, enum caloris_code code,
                             const char *text)
{
    struct caloris_err err = {CALORIS_OK, ""};
    assert_int_equal(caloris_comm_run_threads(n, depart, &departure, &err), -1);
    assert_string_equal(caloris_code_name(err.code), caloris_code_name(code));
    assert_non_null(strstr(err.text, text));
    for (int rank = 0; rank < n; rank++) {
        if (rank != departure.leaver)
            assert_int_equal(departure.codes[rank], CALORIS_PEER_LOST);
    }
}

static void nobody_waits_for_a_rank_that_left(void **state)
{
    (void)state;
    for (size_t s = 1; s < SIZES; s++) {
        for (size_t c = 0; c < sizeof(collectives) / sizeof(collectives[0]); c++) {
            int leaver = (int)(c % (size_t)sizes[s]);
            char own[32], gone[64];
            snprintf(own, sizeof(own), "w%d is damaged", leaver);
            snprintf(gone, sizeof(gone), "rank %d has left", leaver);
            struct departure departure = {.collective = collectives[c], .leaver = leaver};
            for (departure.after_ms = 0; departure.after_ms <= 3; departure.after_ms += 3) {
                departure.leave = leave_with_an_error;
                expect_departure(departure, sizes[s], CALORIS_BAD_MODEL, own);
                departure.leave = leave_by_abort;
                expect_departure(departure, sizes[s], CALORIS_BAD_MODEL, own);
                departure.leave = leave_in_peace;
                expect_departure(departure, sizes[s], CALORIS_PEER_LOST, gone);
            }
        }
    }
}

static int fail_together(struct caloris_comm *comm, void *arg, struct caloris_err *err)
{
    (void)arg;
    struct caloris_err mine;
    caloris_err_set(&mine, CALORIS_IO, "no disk");
    return caloris_comm_agree(comm, caloris_comm_rank(comm) >= 1 ? &mine : NULL, err);
}

static void an_agreed_failure_is_what_is_reported(void **state)
{
    (void)state;
    for (int repeat = 0; repeat < 100; repeat++) {
        struct caloris_err err = {CALORIS_OK, ""};
        assert_int_equal(caloris_comm_run_threads(3, fail_together, NULL, &err), -1);
        assert_int_equal(err.code, CALORIS_IO);
        assert_memory_equal(err.text, "rank 1 on ", 10);
    }
}

static void a_world_has_at_least_one_rank(void **state)
{
    (void)state;
    struct caloris_err err = {CALORIS_OK, ""};
    assert_int_equal(caloris_comm_run_threads(0, fail_together, NULL, &err), -1);
    assert_int_equal(err.code, CALORIS_USAGE);
    assert_int_equal(caloris_comm_run_threads(0, fail_together, NULL, NULL), -1);
}

/* Tasks that srun started without PMIx: what to do stands in the error, and MPI_Init is not
 * reached. */
static void srun_without_pmix_is_explained(void **state)
{
    (void)state;
    static const char *const marks[] = {"PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"};
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
        unsetenv(marks[i]);
    setenv("SLURM_STEP_NUM_TASKS", "3", 1);
    setenv("SLURM_PROCID", "1", 1);
    struct caloris_err err = {CALORIS_OK, ""};
    assert_null(caloris_comm_open_mpi(&err));
    assert_int_equal(err.code, CALORIS_USAGE);
    assert_non_null(strstr(err.text, "srun --mpi=pmix"));
    assert_non_null(strstr(err.text, "3 tasks"));
    unsetenv("SLURM_STEP_NUM_TASKS");
    unsetenv("SLURM_PROCID");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_values_tell_orders_apart),
        cmocka_unit_test(every_case_holds_for_threads),
        cmocka_unit_test(every_case_holds_for_one),
        cmocka_unit_test(nobody_waits_for_a_rank_that_left),
        cmocka_unit_test(an_agreed_failure_is_what_is_reported),
        cmocka_unit_test(a_world_has_at_least_one_rank),
        cmocka_unit_test(srun_without_pmix_is_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
