/* Nothing is allocated between a step's plan and its result, by any rank; and a rank 0 that gets no
 * memory for raw logits fails alone and goes on with the others.
 *
 * The linker sends what our libraries call of the allocator here first (-Wl,--wrap). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "worker/engine.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { STEPS = 20, CANVAS = 24, MASK = 310, SLOTS = 4 };

static atomic_uint calls;
static _Thread_local bool short_of_memory;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t size)
{
    atomic_fetch_add(&calls, 1);
    if (short_of_memory)
        errno = ENOMEM;
    return short_of_memory ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __real_aligned_alloc(alignment, size);
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    atomic_fetch_add(&calls, 1);
    return __real_mmap(at, size, protection, flags, fd, offset);
}

static struct caloris_engine_options options_for(int ranks)
{
    static char dir[512];
    snprintf(dir, sizeof(dir), "%s/tests/golden/models/llada", getenv("CALORIS_SOURCE_DIR"));
    return (struct caloris_engine_options){
        .model_dir = dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 2,
        .max_requests = SLOTS,
        .max_canvas = CANVAS,
        .max_step_rows = SLOTS * CANVAS,
    };
}

/* Every kind of entry that a plan has: two canvases come and go in turns, one is guided by the
 * other, with noise, probes and special ids. */
static int steps_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const unsigned while_loading = atomic_load(&calls);
    int32_t ids[2 * CANVAS];
    struct caloris_want wants[CANVAS];
    (void)arg;
    for (int i = 0; i < 2 * CANVAS; i++)
        ids[i] = i % 3 ? MASK : i;
    for (uint32_t i = 0; i < CANVAS; i++)
        wants[i] = (struct caloris_want){.span = 0, .position = i, .partner = 1, .rule = 0};
    const struct caloris_rule rule = {
        .special = {{305, CALORIS_NO_CHOICE | CALORIS_NO_SUM}, {306, CALORIS_NO_CHOICE}},
        .specials = 2,
        .probe = {7, 305},
        .probes = 2,
        .best = CALORIS_MAX_BEST,
        .temperature = 0.5f,
        .guidance = 1.5f,
    };
    for (uint32_t step = 0; step < STEPS; step++) {
        const uint32_t here = step % 2 * 2; /* slots 0 and 1, or 2 and 3 */
        const uint32_t releases[] = {2 - here, 3 - here};
        const struct caloris_admission admissions[] = {
            {.slot = here, .length = CANVAS},
            {.slot = here + 1, .length = CANVAS, .ids_first = CANVAS}};
        const struct caloris_write writes[] = {{here, 3, 17}};
        const struct caloris_span spans[] = {{here, 0, CANVAS}, {here + 1, 0, CANVAS}};
        const struct caloris_step_plan plan = {
            .releases = releases,
            .n_releases = step ? 2 : 0,
            .admissions = admissions,
            .n_admissions = 2,
            .ids = ids,
            .n_ids = 2 * CANVAS,
            .writes = writes,
            .n_writes = 1,
            .spans = spans,
            .n_spans = 2,
            .wants = wants,
            .n_wants = CANVAS,
            .rules = &rule,
            .n_rules = 1,
        };
        struct caloris_step_result result;
        if (caloris_engine_step(engine, &plan, &result, err) < 0)
            return -1;
    }
    const unsigned while_stepping = atomic_load(&calls) - while_loading;
    if (while_loading == 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "loading allocates: the count does not work");
    if (while_stepping > 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "%u allocations in %d steps", while_stepping,
                               STEPS);
    return 0;
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 3; ranks++) {
        struct caloris_engine_options options = options_for(ranks);
        struct caloris_err err = {0};
        atomic_store(&calls, 0);
        if (caloris_engine_run(&options, steps_body, NULL, NULL, &err) < 0)
            fail_msg("%d ranks: %s", ranks, err.text);
    }
}

static int count_rows(void *arg, const float *logits, size_t rows, struct caloris_err *err)
{
    (void)logits, (void)err;
    *(size_t *)arg += rows;
    return 0;
}

/* The ranks stay in step with each other: the same call succeeds behind the one that failed. */
static int logits_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const int32_t ids[] = {1, 2, MASK};
    struct caloris_err why = {0};
    size_t *rows = arg;
    short_of_memory = true;
    const int rc = caloris_engine_logits(engine, ids, 3, count_rows, rows, &why);
    short_of_memory = false;
    if (rc == 0 || why.code != CALORIS_NO_MEMORY || *rows != 0)
        return caloris_err_set(err, CALORIS_INTERNAL, "without memory: %d, \"%.200s\", %zu rows",
                               rc, why.text, *rows);
    return caloris_engine_logits(engine, ids, 3, count_rows, rows, err);
}

static void logits_without_memory_fail_alone(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 3; ranks++) {
        struct caloris_engine_options options = options_for(ranks);
        struct caloris_err err = {0};
        size_t rows = 0;
        if (caloris_engine_run(&options, logits_body, &rows, NULL, &err) < 0 || rows != 3)
            fail_msg("%d ranks: %s, %zu rows", ranks, err.text, rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(logits_without_memory_fail_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
