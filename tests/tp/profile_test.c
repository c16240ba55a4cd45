/* What --profile counts: the operations of every product, shared among the ranks, and no more
 * seconds than went by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/time.h"
#include "worker/engine.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_RANKS = 9, ROWS = 20, PASSES = 3 };

struct measured {
    struct caloris_rank_profile ranks[MOST_RANKS];
    struct caloris_model_facts model;
    double seconds;
};

static int forget(void *arg, const float *logits, size_t rows, struct caloris_err *err)
{
    (void)arg;
    (void)logits;
    (void)rows;
    (void)err;
    return 0;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct measured *measured = arg;
    int32_t ids[ROWS] = {0};
    const uint64_t start = caloris_time_ns();
    for (int pass = 0; pass < PASSES; pass++) {
        if (caloris_engine_logits(engine, ids, ROWS, forget, NULL, err) < 0)
            return -1;
    }
    if (caloris_engine_profile(engine, measured->ranks, err) < 0)
        return -1;
    measured->seconds = (double)(caloris_time_ns() - start) * 1e-9;
    measured->model = caloris_engine_facts(engine)->model;
    return 0;
}

static void measure(int ranks, bool profile, const char *weights, struct measured *measured)
{
    char dir[512];
    struct caloris_err err = {0};
    snprintf(dir, sizeof(dir), "%s/tests/golden/models/llada", getenv("CALORIS_SOURCE_DIR"));
    const struct caloris_engine_options options = {
        .model_dir = dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 1,
        .max_requests = 1,
        .max_canvas = 64,
        .weights = weights,
        .profile = profile,
    };
    *measured = (struct measured){0};
    if (caloris_engine_run(&options, body, measured, NULL, &err) < 0)
        fail_msg("%d ranks: %s", ranks, err.text);
}

static void operations_are_those_of_the_model(void **state)
{
    (void)state;
    static const int rank_counts[] = {1, 2, 5, 9}; /* the model has six heads */
    static const char *const formats[] = {"fp32", "bf16", "int8", "int4"};
    for (int i = 0; i < 16; i++) {
        struct measured measured;
        const int ranks = rank_counts[i / 4];
        measure(ranks, true, formats[i % 4], &measured);
        const struct caloris_model_facts *m = &measured.model;
        const double rows = ROWS, layers = (double)m->layers * PASSES, d = (double)m->hidden;
        const double each = 2 * rows * layers * d;
        const double q = (double)(m->heads * m->head_dim), f = (double)m->ffn;
        const struct {
            enum caloris_phase phase;
            double operations;
        } expected[] = {
            {CALORIS_PHASE_QKV, each * 3 * q}, /* as many KV heads as heads: none is copied */
            {CALORIS_PHASE_ATTENTION, 4 * rows * rows * q * layers},
            {CALORIS_PHASE_O, each * q},
            {CALORIS_PHASE_GATE_UP, each * 2 * f},
            {CALORIS_PHASE_DOWN, each * f},
            {CALORIS_PHASE_HEAD, 2 * rows * PASSES * d * (double)m->vocab},
            {CALORIS_PHASE_ALLREDUCE, 0},
            {CALORIS_PHASE_WAIT, 0},
        };
        for (size_t e = 0; e < sizeof(expected) / sizeof(expected[0]); e++) {
            double sum = 0;
            for (int rank = 0; rank < ranks; rank++)
                sum += measured.ranks[rank].phase[expected[e].phase].operations;
            if (sum != expected[e].operations)
                fail_msg("%s on %d ranks: %g operations, expected %g",
                         caloris_phase_name(expected[e].phase), ranks, sum, expected[e].operations);
        }
        for (int rank = 0; rank < ranks; rank++) {
            double seconds = 0, sent = measured.ranks[rank].phase[CALORIS_PHASE_ALLREDUCE].bytes;
            for (int phase = 0; phase < CALORIS_PHASES; phase++)
                seconds += measured.ranks[rank].phase[phase].seconds;
            assert_true(seconds > 0 && seconds <= measured.seconds);
            assert_true((sent > 0) == (ranks > 1));
        }
    }
}

static void nothing_is_measured_unasked(void **state)
{
    (void)state;
    struct measured measured;
    measure(2, false, NULL, &measured);
    for (int rank = 0; rank < 2; rank++) {
        for (int phase = 0; phase < CALORIS_PHASES; phase++) {
            const struct caloris_phase_cost *cost = &measured.ranks[rank].phase[phase];
            assert_true(cost->seconds == 0 && cost->operations == 0 && cost->bytes == 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_are_those_of_the_model),
        cmocka_unit_test(nothing_is_measured_unasked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
