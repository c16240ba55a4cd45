/* bf16, int8 and int4 weights: made the same at every rank count, and the logits of the whole
 * engine as far from fp32 as the formats explain: a float64 model that rounds what they round. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/json.h"
#include "tests/tp/logits.h"
#include "tests/unit/model_support.h"
#include "tests/unit/tiny_llada.h"
#include "worker/comm/comm.h"
#include "worker/engine.h"
#include "worker/kernels/kernels.h"
#include "worker/model/model.h"
#include "worker/pool/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int rank_counts[] = {1, 2, 3, 5, 7};
static const char *const models[] = {"llada", "llada-gqa"};
enum { RANK_COUNTS = sizeof(rank_counts) / sizeof(rank_counts[0]), MODELS = 2 };

/* ---- the same weights at every rank count ---------------------------------------------------- */

/* A matrix as the kernels see it, [out, in] in fp32: what one-hot rows of 127 bring out,
 * exactly. */
static float *open_up(const struct caloris_matrix *matrix)
{
    struct caloris_pool *pool = caloris_pool_new(1, NULL);
    const size_t in = matrix->in, out = matrix->out;
    float *x = calloc(in * in + 1, sizeof(*x)), *y = calloc(in * out + 1, sizeof(*y));
    float *w = calloc(in * out + 1, sizeof(*w));
    const size_t bytes = caloris_gemm_scratch_bytes(matrix->format, in + 1, in + 1, 1);
    void *scratch = aligned_alloc(64, (bytes + 64) / 64 * 64);
    assert_true(pool && x && y && w && scratch);
    for (size_t i = 0; i < in; i++)
        x[i * in + i] = 127;
    caloris_gemm(pool, matrix, x, in, in, y, out, 0, scratch);
    for (size_t i = 0; i < in; i++) {
        for (size_t o = 0; o < out; o++)
            w[o * in + i] = y[i * out + o];
    }
    free(x);
    free(y);
    free(scratch);
    caloris_pool_free(pool);
    return w;
}

struct world {
    const char *dir;
    enum caloris_format format;
    struct caloris_model_config config;
    const struct caloris_weights *whole; /* of one rank */
    float *compared;                     /* rank 0's scratch */
};

static int largest(void *arg, float *x, size_t n, struct caloris_err *err)
{
    struct caloris_comm *comm = arg;
    float *all = calloc((size_t)caloris_comm_size(comm) * n, sizeof(*all));
    int rc = caloris_comm_allreduce_max_f32(comm, x, n, all, err);
    free(all);
    return rc;
}

/* Rows and columns of the rank's matrix are those of the whole one, bit for bit. */
static int expect_part(const char *name, const struct caloris_matrix *mine, size_t row, size_t rows,
                       const struct caloris_matrix *whole, size_t whole_row, size_t col,
                       struct caloris_err *err)
{
    float *a = open_up(mine), *b = open_up(whole);
    int rc = 0;
    for (size_t r = 0; rc == 0 && r < rows; r++) {
        if (memcmp(a + (row + r) * mine->in, b + (whole_row + r) * whole->in + col,
                   mine->in * sizeof(float)) != 0)
            rc = caloris_err_set(err, CALORIS_INTERNAL, "%s: row %zu differs", name, whole_row + r);
        if (rc == 0 && mine->scale && mine->scale[row + r] != whole->scale[whole_row + r])
            rc = caloris_err_set(err, CALORIS_INTERNAL, "%s: scale %zu differs", name,
                                 whole_row + r);
    }
    free(a);
    free(b);
    return rc;
}

static int expect_layer(const struct world *world, const struct caloris_model_split *s,
                        const struct caloris_layer_weights *mine,
                        const struct caloris_layer_weights *whole, struct caloris_err *err)
{
    const struct caloris_model_config *c = &world->config;
    const size_t hd = c->head_dim, q = s->heads * hd, kv = s->kv_heads * hd;
    const size_t all_q = c->heads * hd, all_kv = c->kv_heads * hd;
    const size_t q0 = s->head_first * hd, kv0 = s->kv_head_first * hd;
    const struct {
        const char *name;
        const struct caloris_matrix *mine, *whole;
        size_t row, rows, whole_row, col;
    } parts[] = {
        {"q", &mine->qkv, &whole->qkv, 0, q, q0, 0},
        {"k", &mine->qkv, &whole->qkv, q, kv, all_q + kv0, 0},
        {"v", &mine->qkv, &whole->qkv, q + kv, kv, all_q + all_kv + kv0, 0},
        {"o", &mine->o, &whole->o, 0, c->hidden, 0, q0},
        {"gate", &mine->gate_up, &whole->gate_up, 0, s->ffn, s->ffn_first, 0},
        {"up", &mine->gate_up, &whole->gate_up, s->ffn, s->ffn, c->ffn + s->ffn_first, 0},
        {"down", &mine->down, &whole->down, 0, c->hidden, 0, s->ffn_first},
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (expect_part(parts[i].name, parts[i].mine, parts[i].row, parts[i].rows, parts[i].whole,
                        parts[i].whole_row, parts[i].col, err) < 0)
            return -1;
    }
    return 0;
}

static int compare_rank(struct caloris_comm *comm, void *arg, struct caloris_err *err)
{
    const struct world *world = arg;
    const struct caloris_weights_peers peers = {largest, NULL, comm};
    struct caloris_model_split split;
    struct caloris_weights mine;
    caloris_model_split(&world->config, caloris_comm_size(comm), caloris_comm_rank(comm), &split);
    if (caloris_weights_load(world->dir, &world->config, &split, world->format, NULL, NULL, &peers,
                             &mine, err) < 0)
        return -1;
    int rc = expect_part("head", &mine.head, 0, split.vocab, &world->whole->head, split.vocab_first,
                         0, err);
    for (size_t l = 0; rc == 0 && l < world->config.layers; l++)
        rc = expect_layer(world, &split, &mine.layer[l], &world->whole->layer[l], err);
    caloris_weights_free(&mine);
    return rc;
}

static void weights_do_not_depend_on_the_split(void **state)
{
    (void)state;
    caloris_kernels_init();
    for (int m = 0; m < MODELS; m++) {
        char dir[MODEL_PATH];
        model_golden(models[m], dir);
        for (int f = CALORIS_FORMAT_BF16; f < CALORIS_FORMATS; f++) {
            struct caloris_err err = {0};
            struct caloris_weights whole;
            struct caloris_model_split split;
            struct world world = {.dir = dir, .format = (enum caloris_format)f, .whole = &whole};
            expect_ok(caloris_model_config_load(dir, &world.config, &err), &err);
            caloris_model_split(&world.config, 1, 0, &split);
            expect_ok(caloris_weights_load(dir, &world.config, &split, world.format, NULL, NULL,
                                           NULL, &whole, &err),
                      &err);
            for (int i = 0; i < RANK_COUNTS; i++) {
                if (caloris_comm_run_threads(rank_counts[i], compare_rank, &world, &err) < 0)
                    fail_msg("%s as %s on %d ranks: %s", models[m],
                             caloris_format_name(world.format), rank_counts[i], err.text);
            }
            caloris_weights_free(&whole);
        }
    }
}

/* ---- logits ---------------------------------------------------------------------------------- */

static const enum tiny_llada_format rounded_as[CALORIS_FORMATS] = {
    [CALORIS_FORMAT_BF16] = TINY_LLADA_BF16,
    [CALORIS_FORMAT_INT8] = TINY_LLADA_INT8,
    [CALORIS_FORMAT_INT4] = TINY_LLADA_INT4,
};

struct input {
    int32_t *ids;
    size_t n, vocab;
    float *golden;
};

static void read_input(const char *dir, const json_t *json, struct input *input)
{
    char path[2 * MODEL_PATH];
    const json_t *ids = json_object_get(json, "ids");
    input->n = json_array_size(ids);
    input->vocab = (size_t)json_integer_value(json_array_get(json_object_get(json, "shape"), 1));
    input->ids = calloc(input->n, sizeof(*input->ids));
    input->golden = calloc(input->n * input->vocab, sizeof(*input->golden));
    for (size_t i = 0; i < input->n; i++)
        input->ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    snprintf(path, sizeof(path), "%s/%s", dir, json_string_value(json_object_get(json, "file")));
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(input->golden, sizeof(float), input->n * input->vocab, file),
                     input->n * input->vocab);
    fclose(file);
}

/* Whether the engine computes what the float64 model does, but for fp32's own noise. A number that
 * comes to lie next to a tie of two roundings may go the other way and take its row along: then
 * they are only as close as the format is to fp32. */
static bool check_engine(const char *model, const char *dir, enum caloris_format format, int ranks,
                         const struct input *input)
{
    const struct caloris_engine_options options = {
        .model_dir = dir,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 1,
        .max_requests = 1,
        .max_canvas = 64,
        .weights = caloris_format_name(format),
    };
    const size_t all = input->n * input->vocab;
    struct logits l;
    double *slow = calloc(all, sizeof(*slow));
    bool *computed = malloc(input->n * sizeof(*computed));
    memset(computed, true, input->n * sizeof(*computed));
    struct tiny_llada *tiny = tiny_llada_load(dir);
    assert_non_null(tiny);
    struct tiny_llada_kept *kept = tiny_llada_keep(tiny, input->n);
    tiny_llada_round(tiny, rounded_as[format], (size_t)ranks);
    assert_int_equal(tiny_llada_rows(tiny, kept, input->ids, computed, slow), 0);
    logits_run(&options, input->ids, input->n, &l);

    struct deviation ours = {0}, explained = {0}, unexplained = {0};
    for (size_t i = 0; i < all; i++) {
        deviate(&ours, (double)l.to[i], (double)input->golden[i]);
        deviate(&explained, slow[i], (double)input->golden[i]);
        deviate(&unexplained, (double)l.to[i], slow[i]);
    }
    printf("%s %s %d ranks, %zu rows: off fp32 by %.2g (worst %.2g), of which not explained by the "
           "format %.2g (%.2g)\n",
           model, caloris_format_name(format), ranks, input->n, deviation_rms(&ours), ours.worst,
           deviation_rms(&unexplained), unexplained.worst);
    const bool equal = unexplained.worst < 1e-4;
    if (!(deviation_rms(&ours) < 1.25 * deviation_rms(&explained) &&
          deviation_rms(&unexplained) < 0.5 * deviation_rms(&explained)) ||
        !(deviation_rms(&ours) > 1e-3))
        fail_msg("%s %s on %d ranks: off fp32 by %g, the format explains %g, off that by %g", model,
                 caloris_format_name(format), ranks, deviation_rms(&ours),
                 deviation_rms(&explained), deviation_rms(&unexplained));
    free(l.to);
    free(slow);
    free(computed);
    free(kept);
    tiny_llada_free(tiny);
    return equal;
}

static void formats_explain_what_logits_are_off(void **state)
{
    (void)state;
    int equal = 0, all = 0;
    for (int m = 0; m < MODELS; m++) {
        char dir[MODEL_PATH], path[2 * MODEL_PATH];
        model_golden(models[m], dir);
        snprintf(path, sizeof(path), "%s/cases.json", dir);
        json_t *cases = caloris_json_load(path, 1 << 22, NULL);
        assert_non_null(cases);
        const json_t *inputs = json_object_get(cases, "logits");
        for (size_t i = 0; i < json_array_size(inputs); i++) {
            struct input input;
            read_input(dir, json_array_get(inputs, i), &input);
            for (int r = 0; r < 3 * RANK_COUNTS; r++, all++)
                equal +=
                    check_engine(models[m], dir, (enum caloris_format)(CALORIS_FORMAT_BF16 + r % 3),
                                 rank_counts[r / 3], &input);
            free(input.ids);
            free(input.golden);
        }
        json_decref(cases);
    }
    printf("%d of %d without a tie that went the other way\n", equal, all);
    assert_true(2 * equal > all);
}

/* ---- kept keys and values -------------------------------------------------------------------- */

enum { CANVAS = 40, AGAIN_FIRST = 13, AGAIN = 9 };

/* Summaries of a canvas, without K/V and with them; and of some of its rows computed once more. */
static int compare_kept(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const char *format = arg;
    int32_t ids[CANVAS];
    struct caloris_want wants[CANVAS];
    struct caloris_summary found[3][CANVAS];
    for (uint32_t i = 0; i < CANVAS; i++) {
        ids[i] = (int32_t)(i * 37 % 300);
        wants[i] = (struct caloris_want){0, i, CALORIS_NO_PARTNER, 0};
    }
    const struct caloris_rule rule = {.best = 1};
    const uint32_t release = 0;
    for (int cached = 0; cached < 2; cached++) {
        const struct caloris_admission admission = {.length = CANVAS, .cached = cached};
        const struct caloris_span whole = {0, 0, CANVAS}, part = {0, AGAIN_FIRST, AGAIN};
        struct caloris_step_plan plan = {
            .admissions = &admission,
            .n_admissions = 1,
            .ids = ids,
            .n_ids = CANVAS,
            .spans = &whole,
            .n_spans = 1,
            .wants = wants,
            .n_wants = CANVAS,
            .rules = &rule,
            .n_rules = 1,
        };
        struct caloris_step_result result;
        if (caloris_engine_step(engine, &plan, &result, err) < 0)
            return -1;
        memcpy(found[cached], result.summaries, sizeof(found[cached]));
        plan.n_admissions = plan.n_ids = 0;
        plan.spans = &part;
        plan.wants = wants + AGAIN_FIRST;
        plan.n_wants = AGAIN;
        if (cached && caloris_engine_step(engine, &plan, &result, err) < 0)
            return -1;
        memcpy(found[2] + AGAIN_FIRST, result.summaries + (cached ? 0 : AGAIN_FIRST),
               AGAIN * sizeof(*found[2]));
        plan = (struct caloris_step_plan){.releases = &release, .n_releases = 1};
        if (caloris_engine_step(engine, &plan, &result, err) < 0)
            return -1;
    }
    for (size_t i = 0; i < CANVAS; i++) {
        const bool again = i >= AGAIN_FIRST && i < AGAIN_FIRST + AGAIN;
        if (memcmp(&found[0][i], &found[1][i], sizeof(found[0][i])) != 0 ||
            (again && memcmp(&found[0][i], &found[2][i], sizeof(found[0][i])) != 0))
            return caloris_err_set(err, CALORIS_INTERNAL, "%s: position %zu differs", format, i);
    }
    return 0;
}

/* To the bit: attention reads the same numbers wherever they stand, and a row does not depend on
 * the rows beside it. */
static void a_cache_changes_no_bit_of_a_refresh(void **state)
{
    (void)state;
    static char formats[][8] = {"fp32", "bf16", "int8"};
    for (int i = 0; i < 2 * 3; i++) {
        char dir[MODEL_PATH], *format = formats[i % 3];
        const struct caloris_engine_options options = {
            .model_dir = model_golden(models[1], dir),
            .transport = CALORIS_TRANSPORT_THREADS,
            .ranks = i < 3 ? 1 : 3,
            .threads = 2,
            .max_requests = 1,
            .max_canvas = CANVAS,
            .weights = format,
        };
        struct caloris_err err = {0};
        expect_ok(caloris_engine_run(&options, compare_kept, format, NULL, &err), &err);
    }
}

static void kept_rows_take_half_the_bytes_of_fp32(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        uint64_t bytes; /* of a number */
    } cases[] = {{"fp32", 4}, {"bf16", 2}, {"int8", 2}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char dir[MODEL_PATH];
        struct caloris_engine_options options = {
            .model_dir = model_golden(models[1], dir),
            .ranks = 1,
            .threads = 1,
            .max_requests = 1,
            .max_canvas = 64,
            .kv_tokens = 64,
            .weights = cases[i].format,
        };
        struct caloris_err err = {0};
        struct caloris_model_facts facts;
        struct caloris_rank_share share;
        expect_ok(caloris_engine_plan(&options, &facts, &share, &err), &err);
        assert_int_equal(share.kv_bytes,
                         64 * facts.layers * 2 * facts.kv_heads * facts.head_dim * cases[i].bytes);
    }
}

/* ---- what cannot be quantised ---------------------------------------------------------------- */

static int no_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    (void)engine;
    (void)arg;
    (void)err;
    return 0;
}

static void damage(const char *dir, const char *name, size_t count, size_t at)
{
    float *numbers = model_tensor(dir, name, count);
    numbers[at] = NAN;
    model_change_tensor(dir, name, numbers, count);
    free(numbers);
}

/* Only the last of three ranks sees the number, some of the others wait for it: all leave. */
static void a_number_that_is_none_ends_the_load_on_all_ranks(void **state)
{
    static const struct {
        const char *name;
        size_t row, rows, row_length;
    } cases[] = {
        {"model.transformer.blocks.1.attn_out.weight", 17, 48, 48},
        {"model.transformer.blocks.2.ff_out.weight", 5, 48, 88},
        {"model.transformer.ff_out.weight", 319, 320, 48},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char from[MODEL_PATH], dir[MODEL_PATH], row[64];
        struct caloris_err err = {0};
        model_make_dir(dir);
        model_copy(model_golden("llada", from), dir);
        damage(dir, cases[i].name, cases[i].rows * cases[i].row_length,
               (cases[i].row + 1) * cases[i].row_length - 1);
        const struct caloris_engine_options options = {
            .model_dir = dir,
            .transport = CALORIS_TRANSPORT_THREADS,
            .ranks = 3,
            .threads = 1,
            .max_requests = 1,
            .max_canvas = 64,
            .weights = "int8",
        };
        int rc = caloris_engine_run(&options, no_body, NULL, NULL, &err);
        snprintf(row, sizeof(row), "row %zu holds what is not a finite number", cases[i].row);
        expect_complaint(rc, &err, CALORIS_BAD_MODEL, row);
        expect_complaint(rc, &err, CALORIS_BAD_MODEL, cases[i].name);
        expect_complaint(rc, &err, CALORIS_BAD_MODEL, "rank 2 on");
        model_remove_dir(dir);
    }
}

/* The down matrix has more columns than INT8 sums hold: on one rank, not on two. */
static void a_row_too_long_for_int8(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct model_spec spec;
    struct caloris_err err = {0};
    struct caloris_model_config config;
    struct caloris_model_split split;
    uint64_t memory, read;
    model_make_dir(dir);
    model_spec_little(&spec);
    spec.ffn = 180000;
    model_spec_find(&spec, "model.transformer.blocks.0.ff_proj.weight")->shape[0] = spec.ffn;
    model_spec_find(&spec, "model.transformer.blocks.0.up_proj.weight")->shape[0] = spec.ffn;
    model_spec_find(&spec, "model.transformer.blocks.0.ff_out.weight")->shape[1] = spec.ffn;
    model_spec_write(&spec, dir);
    expect_ok(caloris_model_config_load(dir, &config, &err), &err);
    for (int ranks = 1; ranks <= 2; ranks++) {
        struct caloris_weights weights;
        caloris_model_split(&config, ranks, 0, &split);
        int planned = caloris_weights_plan(dir, &config, &split, CALORIS_FORMAT_INT8, NULL, &memory,
                                           &read, &err);
        if (ranks == 2) {
            expect_ok(planned, &err);
            continue;
        }
        expect_complaint(planned, &err, CALORIS_BAD_MODEL, "at most 131072 columns on a rank");
        int loaded = caloris_weights_load(dir, &config, &split, CALORIS_FORMAT_INT8, NULL, NULL,
                                          NULL, &weights, &err);
        expect_complaint(loaded, &err, CALORIS_BAD_MODEL, "at most 131072 columns on a rank");
    }
    model_remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_do_not_depend_on_the_split),
        cmocka_unit_test(formats_explain_what_logits_are_off),
        cmocka_unit_test(a_cache_changes_no_bit_of_a_refresh),
        cmocka_unit_test(kept_rows_take_half_the_bytes_of_fp32),
        cmocka_unit_test(a_number_that_is_none_ends_the_load_on_all_ranks),
        cmocka_unit_test(a_row_too_long_for_int8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
