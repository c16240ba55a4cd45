#include "base/err.h"
#include "base/time.h"
#include "worker/pool/pool.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { MOST_TASKS = 5000, MOST_THREADS = 9 };

struct tally {
    int times[MOST_TASKS]; /* plain numbers: TSan sees a task that runs twice at once */
    int thread_of[MOST_TASKS];
    size_t last[MOST_THREADS]; /* last index + 1 that a thread got */
    int out_of_order[MOST_THREADS];
};

static void count_task(void *arg, size_t index, int thread)
{
    struct tally *tally = arg;
    tally->times[index]++;
    tally->thread_of[index] = thread;
    if (index + 1 <= tally->last[thread])
        tally->out_of_order[thread]++;
    tally->last[thread] = index + 1;
}

static void check_run(struct caloris_pool *pool, size_t count)
{
    static _Thread_local struct tally tally;
    memset(&tally, 0, sizeof(tally));
    caloris_pool_run(pool, count, count_task, &tally);
    for (size_t i = 0; i < MOST_TASKS; i++) {
        assert_int_equal(tally.times[i], i < count);
        assert_in_range(tally.thread_of[i], 0, caloris_pool_threads(pool) - 1);
    }
    for (int t = 0; t < MOST_THREADS; t++)
        assert_int_equal(tally.out_of_order[t], 0);
}

static void each_index_runs_once(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, MOST_THREADS};
    static const size_t counts[] = {0, 1, 2, 3, 8, 9, 10, 1000, MOST_TASKS};
    for (size_t t = 0; t < sizeof(threads) / sizeof(threads[0]); t++) {
        struct caloris_pool *pool = caloris_pool_new(threads[t], NULL);
        assert_non_null(pool);
        assert_int_equal(caloris_pool_threads(pool), threads[t]);
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
            check_run(pool, counts[c]);
        caloris_pool_free(pool);
    }
}

static void add_index(void *arg, size_t index, int thread)
{
    uint64_t *sum = arg; /* [threads] */
    sum[thread] += index + 1;
}

/* Runs follow each other faster than sleepers wake: one that comes late must find nothing of a run
 * that is over. */
static void short_runs_in_a_row(void **state)
{
    (void)state;
    struct caloris_pool *pool = caloris_pool_new(4, NULL);
    assert_non_null(pool);
    for (size_t run = 0; run < 3000; run++) {
        uint64_t sum[4] = {0};
        size_t count = 2 + run % 5;
        caloris_pool_run(pool, count, add_index, sum);
        assert_int_equal(sum[0] + sum[1] + sum[2] + sum[3], count * (count + 1) / 2);
        if (run % 500 == 0)
            caloris_time_sleep_ms(2);
    }
    caloris_pool_free(pool);
}

/* How many threads of this process are not asleep (state in /proc: "… (name) S …"). */
static int threads_awake(void)
{
    int awake = 0;
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[300], line[256] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%.20s/stat", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!file)
            continue;
        const char *name_end = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL;
        awake += name_end && name_end[2] != 'S';
        fclose(file);
    }
    closedir(dir);
    return awake;
}

/* Whoever looks is awake, and nobody else. */
static void idle_threads_sleep(void **state)
{
    (void)state;
    struct caloris_pool *pool = caloris_pool_new(2, NULL);
    assert_non_null(pool);
    check_run(pool, 100);
    int tries = 0;
    while (threads_awake() > 1 && ++tries < 500)
        caloris_time_sleep_ms(10);
    assert_in_range(tries, 0, 499);
    check_run(pool, 100);
    caloris_pool_free(pool);
}

static void *rank(void *arg)
{
    int *right = arg; /* runs that summed to 1 + … + 10 */
    struct caloris_pool *pool = caloris_pool_new(3, NULL);
    for (int run = 0; pool && run < 100; run++) {
        uint64_t sum[3] = {0};
        caloris_pool_run(pool, 10, add_index, sum);
        *right += sum[0] + sum[1] + sum[2] == 55;
    }
    caloris_pool_free(pool);
    return NULL;
}

static void pools_side_by_side(void **state)
{
    (void)state;
    pthread_t ranks[4];
    int right[4] = {0};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&ranks[i], NULL, rank, &right[i]), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(ranks[i], NULL), 0);
        assert_int_equal(right[i], 100);
    }
}

static void no_pool_without_threads(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    assert_null(caloris_pool_new(0, &err));
    assert_int_equal(err.code, CALORIS_INTERNAL);
    caloris_pool_free(NULL);
}

static void cores_of_a_made_up_machine(void **state)
{
    (void)state;
    static const struct {
        const char *machine;
        int neighbours, cores;
    } cases[] = {
        {"pack:2 core:4 pu:2", 1, 8}, {"pack:2 core:4 pu:2", 0, 8}, {"pack:2 core:4 pu:2", 3, 2},
        {"pack:2 core:4 pu:2", 9, 1}, {"pack:1 core:1 pu:4", 1, 1}, {"pack:1 pu:6", 1, 6},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        setenv("HWLOC_SYNTHETIC", cases[i].machine, 1);
        assert_int_equal(caloris_pool_cores(cases[i].neighbours), cases[i].cores);
    }
    unsetenv("HWLOC_SYNTHETIC");
}

static void a_bound_process_owns_what_it_is_bound_to(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    int all = caloris_pool_cores(1);
    assert_in_range(all, 1, CPU_COUNT(&before));
    size_t cpu = 0;
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(caloris_pool_cores(1), 1);
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    assert_int_equal(caloris_pool_cores(1), all);
}

struct places {
    cpu_set_t of[MOST_THREADS];
    int seen[MOST_THREADS];
};

static void note_place(void *arg, size_t index, int thread)
{
    struct places *places = arg;
    (void)index;
    sched_getaffinity(0, sizeof(places->of[thread]), &places->of[thread]);
    places->seen[thread] = 1;
    caloris_time_sleep_ms(1); /* so that others get some too */
}

/* A core for each: nobody is on another's, and the caller may go where it could before. One thread
 * more: nobody is bound. */
static void threads_get_cores_of_their_own_if_there_are_enough(void **state)
{
    (void)state;
    cpu_set_t before, both;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    int cores = caloris_pool_cores(1);
    if (cores < 2 || cores >= MOST_THREADS)
        skip();
    for (int more = 0; more < 2; more++) {
        struct places places = {0};
        struct caloris_pool *pool = caloris_pool_new(cores + more, NULL);
        assert_non_null(pool);
        caloris_pool_run(pool, 200, note_place, &places);
        assert_true(CPU_EQUAL(&places.of[0], &before));
        for (int a = 1; a < cores; a++) {
            for (int b = 1; b < a && places.seen[a] && places.seen[b]; b++) {
                CPU_AND(&both, &places.of[a], &places.of[b]);
                assert_int_equal(CPU_COUNT(&both) == 0, !more);
            }
            if (places.seen[a])
                assert_int_equal(CPU_EQUAL(&places.of[a], &before) != 0, more);
        }
        caloris_pool_free(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_index_runs_once),
        cmocka_unit_test(short_runs_in_a_row),
        cmocka_unit_test(idle_threads_sleep),
        cmocka_unit_test(pools_side_by_side),
        cmocka_unit_test(no_pool_without_threads),
        cmocka_unit_test(cores_of_a_made_up_machine),
        cmocka_unit_test(a_bound_process_owns_what_it_is_bound_to),
        cmocka_unit_test(threads_get_cores_of_their_own_if_there_are_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
