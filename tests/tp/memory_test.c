/* What a plan says is what a run does: bytes read, by /proc/self/io; memory held at the peak, by
 * VmHWM; and the shares that the engine works with. On a model of 100 MB in bf16 that the test
 * writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "worker/engine.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LAYERS = 3,
    HIDDEN = 1024,
    HEADS = 16,
    KV_HEADS = 8,
    FFN = 2816,
    VOCAB = 8192,
    CANVAS = 256,
    REQUESTS = 4,
    MAX_RANKS = 7,
    MASK = 300,
};

static char dir[] = "/tmp/caloris-memory.XXXXXX";
static char weights[64], config[64];

/* ---- the model */

struct shape {
    const char *name;
    int rows, cols; /* cols 0: a vector */
};

static const struct shape layer_shapes[] = {
    {"attn_norm", HIDDEN, 0},
    {"q_proj", HIDDEN, HIDDEN},
    {"k_proj", HIDDEN / HEADS *KV_HEADS, HIDDEN},
    {"v_proj", HIDDEN / HEADS *KV_HEADS, HIDDEN},
    {"attn_out", HIDDEN, HIDDEN},
    {"ff_norm", HIDDEN, 0},
    {"ff_proj", FFN, HIDDEN},
    {"up_proj", FFN, HIDDEN},
    {"ff_out", HIDDEN, FFN},
};
static const struct shape other_shapes[] = {
    {"wte", VOCAB, HIDDEN},
    {"ln_f", HIDDEN, 0},
    {"ff_out", VOCAB, HIDDEN},
};

static void add_tensor(json_t *header, const char *prefix, const struct shape *shape, uint64_t *end)
{
    char name[128];
    const uint64_t first = *end;
    *end += (uint64_t)shape->rows * (uint64_t)(shape->cols ? shape->cols : 1) * 2;
    snprintf(name, sizeof(name), "model.transformer.%s%s.weight", prefix, shape->name);
    json_t *dims =
        shape->cols ? json_pack("[i,i]", shape->rows, shape->cols) : json_pack("[i]", shape->rows);
    json_object_set_new(header, name,
                        json_pack("{s:s, s:o, s:[I,I]}", "dtype", "BF16", "shape", dims,
                                  "data_offsets", (json_int_t)first, (json_int_t)*end));
}

static int write_model(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(config, sizeof(config), "%s/config.json", dir);
    snprintf(weights, sizeof(weights), "%s/model.safetensors", dir);
    /* A golden model's, with other sizes. */
    char golden[512];
    snprintf(golden, sizeof(golden), "%s/tests/golden/models/llada/config.json",
             getenv("CALORIS_SOURCE_DIR"));
    json_t *json = json_load_file(golden, 0, NULL);
    assert_non_null(json);
    json_t *sizes = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "n_layers", LAYERS, "d_model",
                              HIDDEN, "n_heads", HEADS, "n_kv_heads", KV_HEADS, "mlp_hidden_size",
                              FFN, "vocab_size", VOCAB, "embedding_size", VOCAB);
    json_object_update(json, sizes);
    json_decref(sizes);
    assert_int_equal(json_dump_file(json, config, 0), 0);
    json_decref(json);

    uint64_t data = 0;
    json_t *header = json_object();
    for (int layer = 0; layer < LAYERS; layer++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "blocks.%d.", layer);
        for (size_t i = 0; i < sizeof(layer_shapes) / sizeof(layer_shapes[0]); i++)
            add_tensor(header, prefix, &layer_shapes[i], &data);
    }
    for (size_t i = 0; i < sizeof(other_shapes) / sizeof(other_shapes[0]); i++)
        add_tensor(header, "", &other_shapes[i], &data);
    char *text = json_dumps(header, JSON_COMPACT);
    const uint64_t length = strlen(text);
    FILE *file = fopen(weights, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(&length, sizeof(length), 1, file), 1);
    assert_int_equal(fwrite(text, 1, length, file), length);
    /* Numbers of about 1/64 with both signs: bf16 0x3c80 … 0x3c8f. */
    uint16_t block[4096];
    for (uint64_t done = 0; done < data; done += sizeof(block)) {
        for (uint64_t i = 0; i < 4096; i++) {
            const uint64_t mixed = (done / 2 + i) * UINT64_C(0x9E3779B97F4A7C15);
            block[i] = (uint16_t)(0x3c80 | (mixed >> 60) | (mixed >> 44 & 1) << 15);
        }
        const size_t n = data - done < sizeof(block) ? (size_t)(data - done) : sizeof(block);
        assert_int_equal(fwrite(block, 1, n, file), n);
    }
    assert_int_equal(fclose(file), 0);
    free(text);
    json_decref(header);
    return 0;
}

static int remove_model(void **state)
{
    (void)state;
    unlink(config);
    unlink(weights);
    rmdir(dir);
    return 0;
}

/* ---- what the kernel counts */

/* The number behind a word at the start of a line. */
static uint64_t count_of(const char *path, const char *word)
{
    char line[256];
    uint64_t value = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, word, strlen(word)) == 0)
            value = strtoull(line + strlen(word), NULL, 10);
    }
    fclose(file);
    return value;
}

static uint64_t kib(const char *word)
{
    return count_of("/proc/self/status", word) * 1024;
}

/* The peak counts from now on; false where the kernel has no such thing. */
static bool reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file)
        return false;
    const bool done = fputs("5", file) >= 0;
    return fclose(file) == 0 && done;
}

/* ---- a run */

struct run {
    struct caloris_rank_share shares[MAX_RANKS]; /* of the plan */
    uint64_t read, held;                         /* of the plan, over all ranks */
};

static void expect_share(const struct caloris_rank_share *planned,
                         const struct caloris_rank_share *found, int rank)
{
    if (planned->head_first != found->head_first || planned->heads != found->heads ||
        planned->kv_head_first != found->kv_head_first || planned->kv_heads != found->kv_heads ||
        planned->ffn_first != found->ffn_first || planned->ffn != found->ffn ||
        planned->vocab_first != found->vocab_first || planned->vocab != found->vocab ||
        planned->weight_bytes != found->weight_bytes || planned->read_bytes != found->read_bytes ||
        planned->kv_bytes != found->kv_bytes || planned->work_bytes != found->work_bytes ||
        planned->load < found->load || planned->load > found->load)
        fail_msg("rank %d works with another share than was planned", rank);
}

/* A step of all the rows there are, every one of them wanted: what can be touched is touched. */
static int full_step(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    static int32_t ids[REQUESTS * CANVAS];
    static struct caloris_want wants[REQUESTS * CANVAS];
    struct caloris_admission admissions[REQUESTS];
    struct caloris_span spans[REQUESTS];
    struct run *run = arg;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    for (int rank = 0; rank < facts->ranks; rank++)
        expect_share(&run->shares[rank], &facts->shares[rank], rank);
    for (uint32_t slot = 0; slot < REQUESTS; slot++) {
        admissions[slot] = (struct caloris_admission){.slot = slot,
                                                      .length = CANVAS,
                                                      .ids_first = slot * CANVAS,
                                                      .cached = true,
                                                      .kv_first = slot * CANVAS};
        spans[slot] = (struct caloris_span){slot, 0, CANVAS};
        for (uint32_t i = 0; i < CANVAS; i++) {
            ids[slot * CANVAS + i] = i % 2 ? MASK : (int32_t)(slot + i);
            wants[slot * CANVAS + i] = (struct caloris_want){slot, i, CALORIS_NO_PARTNER, 0};
        }
    }
    const struct caloris_rule rule = {.best = CALORIS_MAX_BEST};
    const struct caloris_step_plan plan = {
        .admissions = admissions,
        .n_admissions = REQUESTS,
        .ids = ids,
        .n_ids = REQUESTS * CANVAS,
        .spans = spans,
        .n_spans = REQUESTS,
        .wants = wants,
        .n_wants = REQUESTS * CANVAS,
        .rules = &rule,
        .n_rules = 1,
    };
    struct caloris_step_result result;
    if (caloris_engine_step(engine, &plan, &result, err) < 0)
        return -1;
    struct caloris_engine_counters counters;
    caloris_engine_counters(engine, &counters);
    if (counters.bytes_read != facts->shares[0].read_bytes)
        return caloris_err_set(err, CALORIS_INTERNAL,
                               "rank 0 counts %" PRIu64 " bytes read, planned were %" PRIu64,
                               counters.bytes_read, facts->shares[0].read_bytes);
    return 0;
}

static void run_planned(int ranks, const char *model, struct run *run)
{
    struct caloris_engine_options options = {
        .model_dir = model,
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = ranks,
        .threads = 1,
        .max_requests = REQUESTS,
        .max_canvas = CANVAS,
        .max_step_rows = REQUESTS * CANVAS,
    };
    struct caloris_model_facts facts;
    struct caloris_err err = {0};
    *run = (struct run){0};
    if (caloris_engine_plan(&options, &facts, run->shares, &err) < 0 ||
        caloris_engine_run(&options, full_step, run, NULL, &err) < 0)
        fail_msg("%d ranks: %s", ranks, err.text);
    for (int rank = 0; rank < ranks; rank++) {
        const struct caloris_rank_share *share = &run->shares[rank];
        run->read += share->read_bytes;
        run->held += share->weight_bytes + share->kv_bytes + share->work_bytes;
    }
}

static void warm_up(void)
{
    char tiny[512];
    struct run run;
    snprintf(tiny, sizeof(tiny), "%s/deploy/models/tinycoder", getenv("CALORIS_SOURCE_DIR"));
    run_planned(MAX_RANKS, tiny, &run);
}

static const int rank_counts[] = {1, 3, MAX_RANKS};
enum { RANK_COUNTS = sizeof(rank_counts) / sizeof(rank_counts[0]) };

/* Besides tensors: config.json, headers (each rank's own, and rank 0's for the plan of all), /proc
 * and /sys. */
static void bytes_read_are_those_planned(void **state)
{
    enum { AROUND = 1 << 20 };
    (void)state;
    for (int i = 0; i < RANK_COUNTS; i++) {
        struct run run;
        const uint64_t before = count_of("/proc/self/io", "rchar: ");
        run_planned(rank_counts[i], dir, &run);
        const uint64_t read = count_of("/proc/self/io", "rchar: ") - before;
        print_message("%d ranks: %" PRIu64 " bytes read, %" PRIu64 " planned\n", rank_counts[i],
                      read, run.read);
        assert_in_range(read, run.read, run.read + AROUND);
    }
}

static void memory_is_what_was_planned(void **state)
{
    enum { STAGING = 1 << 20, PERCENT_MORE = 2, PERCENT_LESS = 6 };
    (void)state;
    warm_up();
    if (!reset_peak()) {
        print_message("this kernel does not let a process reset its peak\n");
        skip();
    }
    for (int i = 0; i < RANK_COUNTS; i++) {
        struct run run;
        assert_true(reset_peak());
        const uint64_t before = kib("VmRSS:");
        run_planned(rank_counts[i], dir, &run);
        const uint64_t peak = kib("VmHWM:") - before;
        print_message("%d ranks: %" PRIu64 " bytes at the peak, %" PRIu64 " planned\n",
                      rank_counts[i], peak, run.held);
        assert_in_range(peak, run.held - run.held / 100 * PERCENT_LESS,
                        run.held + run.held / 100 * PERCENT_MORE +
                            (uint64_t)rank_counts[i] * STAGING);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_read_are_those_planned),
        cmocka_unit_test(memory_is_what_was_planned),
    };
    return cmocka_run_group_tests(tests, write_model, remove_model);
}
