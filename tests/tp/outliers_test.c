/* Outliers: the same function with four inputs of down 200 times as large. Weights quantised with a
 * calibration are as good as before, at load and from a shard file; without one they are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "tests/tp/logits.h"
#include "tests/unit/model_support.h"
#include "worker/engine.h"
#include "worker/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS = 40, LAYERS = 3, HIDDEN = 48, FFN = 88, VOCAB = 320, TIMES = 200 };

static const int rank_counts[] = {1, 2, 3};
enum { RANK_COUNTS = sizeof(rank_counts) / sizeof(rank_counts[0]) };

static const int32_t *some_ids(void)
{
    static int32_t ids[IDS];
    for (int i = 0; i < IDS; i++)
        ids[i] = (i * 37 + 5) % 300;
    return ids;
}

/* golden/llada with n rows of up, spread over the FFN, times TIMES and their columns of down by as
 * much less, in every layer. */
static void make_model(size_t n, char dir[MODEL_PATH])
{
    char from[MODEL_PATH], name[80];
    model_make_dir(dir);
    model_copy(model_golden("llada", from), dir);
    for (int layer = 0; layer < LAYERS; layer++) {
        snprintf(name, sizeof(name), "model.transformer.blocks.%d.up_proj.weight", layer);
        float *up = model_tensor(dir, name, FFN * HIDDEN);
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < HIDDEN; j++)
                up[(7 + i * FFN / n) * HIDDEN + j] *= TIMES;
        }
        model_change_tensor(dir, name, up, FFN * HIDDEN);
        snprintf(name, sizeof(name), "model.transformer.blocks.%d.ff_out.weight", layer);
        float *down = model_tensor(dir, name, HIDDEN * FFN);
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < HIDDEN; j++)
                down[j * FFN + 7 + i * FFN / n] /= TIMES;
        }
        model_change_tensor(dir, name, down, HIDDEN * FFN);
        free(up);
        free(down);
    }
}

static double off(const struct logits *a, const struct logits *b)
{
    struct deviation d = {0};
    for (size_t i = 0; i < a->n * a->vocab; i++)
        deviate(&d, (double)a->to[i], (double)b->to[i]);
    return deviation_rms(&d);
}

static void run(const char *dir, const char *weights, const char *calibrate, int ranks,
                struct logits *l)
{
    struct caloris_engine_options options = logits_options(dir, weights, ranks);
    options.calibrate = calibrate;
    logits_run(&options, some_ids(), IDS, l);
}

/* n inputs of every down; they are multiplied apart, or the matrix is bf16. blind_times: how many
 * times as far off it is at least without a calibration. */
static void check_model(size_t n, bool apart, const char *weights, double blind_times)
{
    char golden[MODEL_PATH], dir[MODEL_PATH], packed[MODEL_PATH];
    struct logits exact, undisturbed, same;
    model_golden("llada", golden);
    make_model(n, dir);
    shard_model(dir, weights, packed);
    run(golden, "fp32", NULL, 1, &exact);
    run(dir, "fp32", NULL, 1, &same);
    assert_true(off(&same, &exact) < 1e-4);
    for (int i = 0; i < RANK_COUNTS; i++) {
        struct logits loaded, stored, blind;
        run(golden, weights, NULL, rank_counts[i], &undisturbed);
        run(dir, weights, NULL, rank_counts[i], &loaded);
        run(packed, NULL, NULL, rank_counts[i], &stored);
        run(dir, weights, "none", rank_counts[i], &blind);
        const double before = off(&undisturbed, &exact), now = off(&loaded, &exact);
        printf("%s, %zu outliers, %d ranks: off fp32 by %.3g before, %.3g with them, %.3g "
               "without a calibration\n",
               weights, n, rank_counts[i], before, now, off(&blind, &exact));
        assert_int_equal(undisturbed.outlier_columns + undisturbed.outlier_matrices, 0);
        assert_int_equal(loaded.outlier_columns, apart ? n * LAYERS : 0);
        assert_int_equal(loaded.outlier_matrices, apart ? 0 : LAYERS);
        assert_true(now <= 2 * before);
        assert_true(off(&blind, &exact) > blind_times * before);
        assert_memory_equal(stored.to, loaded.to, loaded.n * loaded.vocab * sizeof(float));
        free(undisturbed.to);
        free(loaded.to);
        free(stored.to);
        free(blind.to);
    }
    free(exact.to);
    free(same.to);
    model_remove_dir(packed);
    model_remove_dir(dir);
}

static void a_few_columns_are_multiplied_apart(void **state)
{
    (void)state;
    check_model(4, true, "int8", 5);
}

static void int4_too(void **state)
{
    (void)state;
    check_model(4, true, "int4", 1.3); /* next to noise even before */
}

static void many_make_the_matrix_bf16(void **state)
{
    (void)state;
    check_model(8, false, "int8", 5);
}

/* Exact but for weights that are still to be calibrated: those take no more than bf16 would. */
static void the_plan_says_the_most(void **state)
{
    static const struct {
        const char *weights, *calibrate;
        bool stored;
        enum caloris_format as;
    } cases[] = {
        {"fp32", NULL, false, CALORIS_FORMAT_FP32},   {"bf16", NULL, false, CALORIS_FORMAT_BF16},
        {"int8", "none", false, CALORIS_FORMAT_INT8}, {"int8", NULL, false, CALORIS_FORMAT_BF16},
        {"int4", "none", false, CALORIS_FORMAT_INT4}, {"int4", NULL, false, CALORIS_FORMAT_BF16},
    };
    char golden[MODEL_PATH], dir[MODEL_PATH], packed[MODEL_PATH];
    struct caloris_model_config config;
    struct caloris_model_split split;
    struct caloris_model_facts facts;
    struct caloris_rank_share share;
    struct caloris_err err = {0};
    uint64_t memory, read;
    (void)state;
    model_golden("llada", golden);
    expect_ok(caloris_model_config_load(golden, &config, &err), &err);
    caloris_model_split(&config, 1, 0, &split);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_engine_options options = logits_options(golden, cases[i].weights, 1);
        options.calibrate = cases[i].calibrate;
        expect_ok(caloris_engine_plan(&options, &facts, &share, &err), &err);
        expect_ok(
            caloris_weights_plan(golden, &config, &split, cases[i].as, NULL, &memory, &read, &err),
            &err);
        assert_int_equal(share.weight_bytes, memory);
    }

    /* A shard file says it exactly: 4 columns of 3 downs more than none. */
    make_model(4, dir);
    shard_model(dir, "int8", packed);
    struct caloris_engine_options options = logits_options(packed, NULL, 1);
    expect_ok(caloris_engine_plan(&options, &facts, &share, &err), &err);
    expect_ok(caloris_weights_plan(golden, &config, &split, CALORIS_FORMAT_INT8, NULL, &memory,
                                   &read, &err),
              &err);
    const uint64_t apart =
        LAYERS * (64 + caloris_matrix_bytes(CALORIS_FORMAT_BF16, HIDDEN, 4)); /* and their places */
    assert_in_range(share.weight_bytes, memory + apart - 4096, memory + apart + 4096);
    model_remove_dir(packed);
    model_remove_dir(dir);
}

static int no_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    (void)engine;
    (void)arg;
    (void)err;
    return 0;
}

static void ids_of_a_file(void **state)
{
    static const struct {
        const char *text, *complaint;
    } bad[] = {
        {"", "no line with ids"},
        {"{\"ids\": [1]}\n{\"ids\": []}\n", "line 2: \"ids\" are 1 to "},
        {"{\"ids\": [1, 320]}\n", "line 1: ids[1] is no id below 320"},
        {"{\"ids\": [1, \"a\"]}\n", "line 1: ids[1] is no id below 320"},
        {"{\"ids\": [1}\n", "line 1"},
        {"[1]\n", "line 1: \"ids\""},
    };
    char dir[MODEL_PATH], path[2 * MODEL_PATH];
    struct logits l;
    struct caloris_err err = {0};
    (void)state;
    make_model(4, dir);
    snprintf(path, sizeof(path), "%s/sample.jsonl", dir);
    static const char good[] = "{\"ids\": [1, 2, 3, 300, 5]}\n\n{\"ids\": [7, 9, 11]}\n";
    model_write(dir, "sample.jsonl", good, sizeof(good) - 1);
    run(dir, "int8", path, 3, &l);
    assert_int_equal(l.outlier_columns, 4 * LAYERS);
    free(l.to);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct caloris_engine_options options = logits_options(dir, "int8", 2);
        options.calibrate = path;
        model_write(dir, "sample.jsonl", bad[i].text, strlen(bad[i].text));
        int rc = caloris_engine_run(&options, no_body, NULL, NULL, &err);
        expect_complaint(rc, &err, CALORIS_BAD_CONFIG, bad[i].complaint);
        expect_complaint(rc, &err, CALORIS_BAD_CONFIG, "sample.jsonl");
    }
    model_remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_few_columns_are_multiplied_apart),
        cmocka_unit_test(int4_too),
        cmocka_unit_test(many_make_the_matrix_bf16),
        cmocka_unit_test(the_plan_says_the_most),
        cmocka_unit_test(ids_of_a_file),
    };
    return cmocka_run_group_tests_name("outliers", tests, NULL, NULL);
}
