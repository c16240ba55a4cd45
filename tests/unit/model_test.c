/* The weights of a model folder: the shares of any number of ranks are the model, byte for byte. */
#include "model_support.h"

#include "base/err.h"
#include "worker/model/model.h"
#include "worker/pool/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- every mapping of the library goes through here (-Wl,--wrap=mmap) ----------------------- */

static size_t mapped_bytes;
static bool refuse_memory;

void *__real_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);

void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    if (refuse_memory) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    mapped_bytes += n;
    return __real_mmap(at, n, protection, flags, fd, offset);
}

/* ---- helpers ------------------------------------------------------------------------------- */

#define BLOCK "model.transformer.blocks.%zu."

static const char *const golden[] = {"llada", "llada/bf16", "llada-gqa", "llada-gqa/bf16"};
static const int rank_counts[] = {1, 2, 3, 5, 7, 9};
enum { MAX_RANKS = 9, GOLDEN = 4, RANK_COUNTS = 6 };

struct rank {
    struct caloris_model_split split;
    struct caloris_weights weights;
    uint64_t memory_bytes, read_bytes;
};

static void load(const char *dir, const struct caloris_model_config *config, int ranks, int rank,
                 struct caloris_pool *pool, struct rank *out)
{
    struct caloris_err err = {0};
    caloris_model_split(config, ranks, rank, &out->split);
    expect_ok(caloris_weights_plan(dir, config, &out->split, CALORIS_FORMAT_FP32, NULL,
                                   &out->memory_bytes, &out->read_bytes, &err),
              &err);
    expect_ok(caloris_weights_load(dir, config, &out->split, CALORIS_FORMAT_FP32, NULL, pool, NULL,
                                   &out->weights, &err),
              &err);
}

/* ---- the shares put back together are the model --------------------------------------------- */

/* Where a rank's part of a tensor lies in memory, and where it belongs: rows [r0, + rows) and
 * columns [c0, + cols) of the tensor. */
struct part {
    const float *from;
    size_t r0, rows, c0, cols;
};

struct tensor_case {
    const char *name;
    size_t rows, cols; /* of the whole */
    struct part (*part)(const struct rank *rank, size_t hd, size_t hidden, size_t layer);
};

static const float *row(const struct caloris_matrix *matrix, size_t r)
{
    assert_int_equal((uintptr_t)matrix->data % 64, 0);
    assert_true(r <= matrix->out);
    return (const float *)matrix->data + r * matrix->in;
}

#define PART(name)                                                                                 \
    static struct part name(const struct rank *rank, size_t hd, size_t hidden, size_t layer)

PART(embed_part)
{
    (void)hd, (void)layer;
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.embed, 0), s->vocab_first, s->vocab, 0, hidden};
}

PART(head_part)
{
    (void)hd, (void)layer;
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.head, 0), s->vocab_first, s->vocab, 0, hidden};
}

PART(final_norm_part)
{
    (void)hd, (void)layer;
    return (struct part){rank->weights.final_norm, 0, hidden, 0, 1};
}

PART(attn_norm_part)
{
    (void)hd;
    return (struct part){rank->weights.layer[layer].attn_norm, 0, hidden, 0, 1};
}

PART(ffn_norm_part)
{
    (void)hd;
    return (struct part){rank->weights.layer[layer].ffn_norm, 0, hidden, 0, 1};
}

PART(q_part)
{
    const struct caloris_model_split *s = &rank->split;
    assert_int_equal(rank->weights.layer[layer].qkv.out, (s->heads + 2 * s->kv_heads) * hd);
    return (struct part){row(&rank->weights.layer[layer].qkv, 0), s->head_first * hd, s->heads * hd,
                         0, hidden};
}

PART(k_part)
{
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.layer[layer].qkv, s->heads * hd), s->kv_head_first * hd,
                         s->kv_heads * hd, 0, hidden};
}

PART(v_part)
{
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.layer[layer].qkv, (s->heads + s->kv_heads) * hd),
                         s->kv_head_first * hd, s->kv_heads * hd, 0, hidden};
}

PART(o_part)
{
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.layer[layer].o, 0), 0, hidden, s->head_first * hd,
                         s->heads * hd};
}

PART(gate_part)
{
    (void)hd;
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.layer[layer].gate_up, 0), s->ffn_first, s->ffn, 0,
                         hidden};
}

PART(up_part)
{
    (void)hd;
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.layer[layer].gate_up, s->ffn), s->ffn_first, s->ffn, 0,
                         hidden};
}

PART(down_part)
{
    (void)hd;
    const struct caloris_model_split *s = &rank->split;
    return (struct part){row(&rank->weights.layer[layer].down, 0), 0, hidden, s->ffn_first, s->ffn};
}

/* Pastes the parts of all ranks and compares: nothing missing, replicas equal. */
static void check_tensor(const struct tensor_case *tensor, const struct rank *ranks, int n,
                         const struct caloris_model_config *config, size_t layer,
                         const float *wanted)
{
    size_t count = tensor->rows * tensor->cols;
    float *pasted = malloc(count * sizeof(*pasted));
    assert_non_null(pasted);
    for (size_t i = 0; i < count; i++)
        pasted[i] = NAN;
    for (int k = 0; k < n; k++) {
        struct part part = tensor->part(&ranks[k], config->head_dim, config->hidden, layer);
        for (size_t r = 0; r < part.rows; r++) {
            for (size_t c = 0; c < part.cols; c++) {
                float *to = &pasted[(part.r0 + r) * tensor->cols + part.c0 + c];
                float value = part.from[r * part.cols + c];
                if (!isnan(*to) && memcmp(to, &value, sizeof(value)) != 0)
                    fail_msg("%s: ranks disagree", tensor->name);
                *to = value;
            }
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&pasted[i], &wanted[i], sizeof(float)) != 0)
            fail_msg("%s layer %zu, %d ranks: number %zu is %g, wanted %g", tensor->name, layer, n,
                     i, (double)pasted[i], (double)wanted[i]);
    }
    free(pasted);
}

enum { WHOLE_TENSORS = 3, TENSORS = 12 };

static void tensor_cases(const struct caloris_model_config *config,
                         struct tensor_case cases[TENSORS])
{
    size_t d = config->hidden, f = config->ffn, v = config->vocab;
    size_t q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
    struct tensor_case all[TENSORS] = {
        {"model.transformer.wte.weight", v, d, embed_part},
        {"model.transformer.ff_out.weight", v, d, head_part},
        {"model.transformer.ln_f.weight", d, 1, final_norm_part},
        {"attn_norm.weight", d, 1, attn_norm_part},
        {"q_proj.weight", q, d, q_part},
        {"k_proj.weight", kv, d, k_part},
        {"v_proj.weight", kv, d, v_part},
        {"attn_out.weight", d, q, o_part},
        {"ff_norm.weight", d, 1, ffn_norm_part},
        {"ff_proj.weight", f, d, gate_part},
        {"up_proj.weight", f, d, up_part},
        {"ff_out.weight", d, f, down_part},
    };
    memcpy(cases, all, sizeof(all));
}

static void check_model(const char *dir, int n, struct caloris_pool *pool)
{
    struct caloris_err err = {0};
    struct caloris_model_config config;
    struct tensor_case cases[TENSORS];
    struct rank ranks[MAX_RANKS];
    expect_ok(caloris_model_config_load(dir, &config, &err), &err);
    tensor_cases(&config, cases);
    for (int k = 0; k < n; k++) {
        load(dir, &config, n, k, pool, &ranks[k]);
        assert_int_equal(ranks[k].weights.bytes_read, ranks[k].read_bytes);
    }
    for (size_t layer = 0; layer < config.layers; layer++) {
        for (size_t t = layer == 0 ? 0 : WHOLE_TENSORS; t < TENSORS; t++) {
            char name[128];
            int used = t < WHOLE_TENSORS ? 0 : snprintf(name, sizeof(name), BLOCK, layer);
            snprintf(name + used, sizeof(name) - (size_t)used, "%s", cases[t].name);
            if (t == 1 && config.tied)
                snprintf(name, sizeof(name), "%s", cases[0].name);
            float *wanted = model_tensor(dir, name, cases[t].rows * cases[t].cols);
            check_tensor(&cases[t], ranks, n, &config, layer, wanted);
            free(wanted);
        }
    }
    for (int k = 0; k < n; k++)
        caloris_weights_free(&ranks[k].weights);
}

static void test_shares_make_the_model(void **state)
{
    (void)state;
    for (size_t m = 0; m < GOLDEN; m++) {
        char dir[MODEL_PATH];
        for (size_t i = 0; i < RANK_COUNTS; i++)
            check_model(model_golden(golden[m], dir), rank_counts[i], NULL);
    }
}

static void test_pool_reads_the_same(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_pool *pool = caloris_pool_new(3, &err);
    assert_non_null(pool);
    check_model(model_golden("llada", dir), 3, pool);
    check_model(model_golden("llada-gqa/bf16", dir), 2, pool);
    caloris_pool_free(pool);
}

/* Tensors larger than a staging buffer, and column slices that fill several. */
static void test_long_tensors(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct model_spec spec;
    model_make_dir(dir);
    model_spec_little(&spec);
    spec.vocab = 70001;
    spec.ffn = 180005;
    model_spec_find(&spec, "model.transformer.wte.weight")->shape[0] = spec.vocab;
    model_spec_find(&spec, "model.transformer.ff_out.weight")->shape[0] = spec.vocab;
    model_spec_find(&spec, "model.transformer.blocks.0.ff_proj.weight")->shape[0] = spec.ffn;
    model_spec_find(&spec, "model.transformer.blocks.0.up_proj.weight")->shape[0] = spec.ffn;
    model_spec_find(&spec, "model.transformer.blocks.0.ff_out.weight")->shape[1] = spec.ffn;
    model_spec_write(&spec, dir);
    check_model(dir, 1, NULL);
    check_model(dir, 2, NULL);
    model_remove_dir(dir);
}

/* F16, tied and in two files: what no golden model is. */
static void test_little_model(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct model_spec spec;
    model_make_dir(dir);
    model_spec_little(&spec);
    strcpy(spec.tensor[3].dtype, "F32");
    strcpy(spec.tensor[7].dtype, "BF16");
    strcpy(spec.tensor[2].file, "b.safetensors");
    for (size_t i = 0; i < spec.n; i++) {
        if (i != 2)
            strcpy(spec.tensor[i].file, "a.safetensors");
    }
    model_spec_write(&spec, dir);
    check_model(dir, 1, NULL);
    check_model(dir, 3, NULL);

    json_t *config = model_read_json(dir, "config.json");
    json_object_set_new(config, "weight_tying", json_true());
    model_write_json(dir, "config.json", config);
    json_decref(config);
    struct caloris_model_config untied;
    struct caloris_err err = {0};
    expect_ok(caloris_model_config_load(dir, &untied, &err), &err);
    struct caloris_model_split split;
    uint64_t memory, read;
    caloris_model_split(&untied, 1, 0, &split);
    expect_complaint(
        caloris_weights_plan(dir, &untied, &split, CALORIS_FORMAT_FP32, NULL, &memory, &read, &err),
        &err, CALORIS_BAD_MODEL, "a.safetensors: unknown tensor model.transformer.ff_out.weight");
    spec.n--; /* the head is the last one */
    model_spec_write(&spec, dir);
    config = model_read_json(dir, "config.json");
    json_object_set_new(config, "weight_tying", json_true());
    model_write_json(dir, "config.json", config);
    json_decref(config);
    check_model(dir, 1, NULL);
    check_model(dir, 2, NULL);
    struct rank rank;
    load(dir, &untied, 2, 1, NULL, &rank);
    assert_ptr_equal(rank.weights.head.data, rank.weights.embed.data);
    caloris_weights_free(&rank.weights);
    model_remove_dir(dir);
}

/* n_kv_heads null means as many as heads: right for a model that is so, and told by a shape for one
 * that is not. */
static void test_kv_heads_unsaid(void **state)
{
    (void)state;
    static const char *const names[] = {"llada", "llada-gqa"};
    for (size_t i = 0; i < 2; i++) {
        char from[MODEL_PATH], dir[MODEL_PATH];
        struct caloris_err err = {0};
        struct caloris_model_config config;
        struct caloris_model_split split;
        uint64_t memory, read;
        model_make_dir(dir);
        model_copy(model_golden(names[i], from), dir);
        json_t *json = model_read_json(dir, "config.json");
        json_object_set_new(json, "n_kv_heads", json_null());
        model_write_json(dir, "config.json", json);
        json_decref(json);
        expect_ok(caloris_model_config_load(dir, &config, &err), &err);
        assert_int_equal(config.kv_heads, 6);
        if (i == 0) {
            check_model(dir, 1, NULL);
            check_model(dir, 5, NULL);
        } else {
            caloris_model_split(&config, 1, 0, &split);
            expect_complaint(caloris_weights_plan(dir, &config, &split, CALORIS_FORMAT_FP32, NULL,
                                                  &memory, &read, &err),
                             &err, CALORIS_BAD_MODEL,
                             "blocks.0.k_proj.weight: shape is 16 x 48, config.json wants 48 x 48");
        }
        model_remove_dir(dir);
    }
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* Bytes this process has read so far, and in how many calls; *self is what asking itself adds to
 * the bytes afterwards (to the calls: one). */
static uint64_t bytes_read_so_far(uint64_t *self, uint64_t *calls)
{
    char text[512];
    int fd = open("/proc/self/io", O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    assert_true(n > 0);
    close(fd);
    text[n] = '\0';
    unsigned long long rchar, syscr;
    assert_int_equal(sscanf(text, "rchar: %llu wchar: %*u syscr: %llu", &rchar, &syscr), 2);
    *calls = syscr;
    *self = (uint64_t)n;
    return rchar;
}

/* What the kernel saw is what was planned, to the byte; so is the memory. */
static void check_bytes(const char *dir, const struct caloris_model_config *config, int ranks,
                        int rank, enum caloris_format format)
{
    struct caloris_err err = {0};
    struct caloris_model_split split;
    struct caloris_weights weights;
    uint64_t memory, planned, self, ignored;
    const uint64_t headers = model_header_bytes(dir);
    caloris_model_split(config, ranks, rank, &split);
    expect_ok(caloris_weights_plan(dir, config, &split, format, NULL, &memory, &planned, &err),
              &err);
    mapped_bytes = 0;
    uint64_t before = bytes_read_so_far(&self, &ignored);
    expect_ok(caloris_weights_load(dir, config, &split, format, NULL, NULL, NULL, &weights, &err),
              &err);
    uint64_t after = bytes_read_so_far(&ignored, &ignored);
    assert_int_equal(after - before - self, planned + headers);
    assert_int_equal(weights.bytes_read, planned);
    assert_int_equal(mapped_bytes, memory);
    caloris_weights_free(&weights);
}

static void test_bytes_are_those_planned(void **state)
{
    (void)state;
    for (size_t m = 0; m < GOLDEN; m++) {
        char dir[MODEL_PATH];
        struct caloris_err err = {0};
        struct caloris_model_config config;
        expect_ok(caloris_model_config_load(model_golden(golden[m], dir), &config, &err), &err);
        for (int n = 1; n <= 7; n += 3) {
            for (int k = 0; k < n; k++) {
                for (int format = 0; format < CALORIS_FORMATS; format++)
                    check_bytes(dir, &config, n, k, (enum caloris_format)format);
            }
        }
    }
}

/* What lies together is read together: one rank takes each tensor of this size in one call. */
static void test_whole_tensors_take_one_read(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    struct caloris_model_split split;
    struct caloris_weights weights;
    uint64_t before, after, ignored;
    expect_ok(caloris_model_config_load(model_golden("llada-gqa", dir), &config, &err), &err);
    caloris_model_split(&config, 1, 0, &split);
    bytes_read_so_far(&ignored, &before);
    expect_ok(caloris_weights_load(dir, &config, &split, CALORIS_FORMAT_FP32, NULL, NULL, NULL,
                                   &weights, &err),
              &err);
    bytes_read_so_far(&ignored, &after);
    uint64_t tensors = WHOLE_TENSORS + (TENSORS - WHOLE_TENSORS) * config.layers;
    uint64_t header = 2; /* its length, then itself */
    assert_int_equal(after - before - 1, tensors + header);
    caloris_weights_free(&weights);
}

/* Over all ranks everything is read once, but the norms by each and a KV head by each that needs
 * it. */
static void test_ranks_read_each_byte_once(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    model_golden("llada", dir);
    expect_ok(caloris_model_config_load(dir, &config, &err), &err);
    json_t *index = model_read_json(dir, "model.safetensors.index.json");
    json_t *metadata = json_object_get(index, "metadata");
    uint64_t total = (uint64_t)json_integer_value(json_object_get(metadata, "total_size"));
    json_decref(index);
    uint64_t norms = (2 * config.layers + 1) * config.hidden * 4;
    for (size_t i = 0; i < RANK_COUNTS; i++) {
        uint64_t sum = 0;
        for (int k = 0; k < rank_counts[i]; k++) {
            struct caloris_model_split split;
            uint64_t memory, read;
            caloris_model_split(&config, rank_counts[i], k, &split);
            expect_ok(caloris_weights_plan(dir, &config, &split, CALORIS_FORMAT_FP32, NULL, &memory,
                                           &read, &err),
                      &err);
            sum += read;
        }
        assert_int_equal(sum, total + norms * (uint64_t)(rank_counts[i] - 1));
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    struct caloris_model_split split;
    struct caloris_weights weights;
    uint64_t bytes;
    expect_ok(caloris_model_config_load(model_golden("llada", dir), &config, &err), &err);
    caloris_model_split(&config, 1, 0, &split);
    refuse_memory = true;
    int rc = caloris_weights_load(dir, &config, &split, CALORIS_FORMAT_FP32, NULL, NULL, NULL,
                                  &weights, &err);
    expect_complaint(rc, &err, CALORIS_NO_MEMORY, "weights: 380.0 KiB of memory");
    rc = caloris_weights_invent(&config, &split, CALORIS_FORMAT_FP32, NULL, 1 << 30, &weights,
                                &bytes, &err);
    expect_complaint(rc, &err, CALORIS_NO_MEMORY, "weights: ");
    refuse_memory = false;
    caloris_weights_free(&weights);
    caloris_weights_free(NULL);
}

/* ---- invented weights ----------------------------------------------------------------------- */

static void test_invented(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    struct rank one, three[3];
    uint64_t bytes;
    expect_ok(caloris_model_config_load(model_golden("llada-gqa", dir), &config, &err), &err);
    config.layers = 5;
    caloris_model_split(&config, 1, 0, &one.split);
    mapped_bytes = 0;
    expect_ok(caloris_weights_invent(&config, &one.split, CALORIS_FORMAT_FP32, NULL, 1 << 30,
                                     &one.weights, &bytes, &err),
              &err);
    assert_int_equal(mapped_bytes, bytes);
    for (int k = 0; k < 3; k++) {
        caloris_model_split(&config, 3, k, &three[k].split);
        expect_ok(caloris_weights_invent(&config, &three[k].split, CALORIS_FORMAT_FP32, NULL,
                                         1 << 30, &three[k].weights, &bytes, &err),
                  &err);
    }
    /* The same model at any rank count, and no two layers alike. */
    struct tensor_case cases[TENSORS];
    tensor_cases(&config, cases);
    for (size_t layer = 0; layer < config.layers; layer++) {
        for (size_t t = 0; t < TENSORS; t++) {
            struct part part = cases[t].part(&one, config.head_dim, config.hidden, layer);
            check_tensor(&cases[t], three, 3, &config, layer, part.from);
        }
        const struct caloris_matrix *a = &one.weights.layer[layer].qkv;
        const struct caloris_matrix *b = &one.weights.layer[(layer + 1) % 5].qkv;
        assert_memory_not_equal(a->data, b->data, a->out * a->in * sizeof(float));
    }
    /* Variance 1/columns, to a few per cent. */
    const float *x = one.weights.embed.data;
    double sum = 0, squares = 0;
    size_t count = config.vocab * config.hidden;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    assert_true(fabs(sum / (double)count) < 0.01);
    assert_true(fabs(squares / (double)count * (double)config.hidden - 1) < 0.05);
    caloris_weights_free(&one.weights);
    for (int k = 0; k < 3; k++)
        caloris_weights_free(&three[k].weights);
}

static void test_invented_layers_share_memory(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    struct caloris_model_split split;
    struct caloris_weights weights;
    uint64_t whole, bytes, limit;
    expect_ok(caloris_model_config_load(model_golden("llada-gqa", dir), &config, &err), &err);
    config.layers = 6;
    caloris_model_split(&config, 1, 0, &split);
    expect_ok(caloris_weights_invent(&config, &split, CALORIS_FORMAT_FP32, NULL, UINT64_MAX,
                                     &weights, &whole, &err),
              &err);
    assert_ptr_not_equal(weights.layer[0].qkv.data, weights.layer[4].qkv.data);
    caloris_weights_free(&weights);

    limit = whole - 1; /* one layer fewer */
    expect_ok(caloris_weights_invent(&config, &split, CALORIS_FORMAT_FP32, NULL, limit, &weights,
                                     &bytes, &err),
              &err);
    assert_true(bytes <= limit);
    assert_ptr_equal(weights.layer[0].qkv.data, weights.layer[5].qkv.data);
    assert_ptr_not_equal(weights.layer[0].qkv.data, weights.layer[4].qkv.data);
    caloris_weights_free(&weights);

    /* Memory for three and a table of six. */
    struct caloris_model_config half = config;
    half.layers = 3;
    expect_ok(caloris_weights_invent(&half, &split, CALORIS_FORMAT_FP32, NULL, UINT64_MAX, &weights,
                                     &bytes, &err),
              &err);
    caloris_weights_free(&weights);
    limit = bytes + 4096;
    expect_ok(caloris_weights_invent(&config, &split, CALORIS_FORMAT_FP32, NULL, limit, &weights,
                                     &bytes, &err),
              &err);
    assert_ptr_not_equal(weights.layer[0].qkv.data, weights.layer[1].qkv.data);
    for (size_t i = 3; i < config.layers; i++)
        assert_ptr_equal(weights.layer[i].o.data, weights.layer[i - 3].o.data);
    caloris_weights_free(&weights);

    expect_ok(caloris_weights_invent(&config, &split, CALORIS_FORMAT_FP32, NULL, 0, &weights,
                                     &bytes, &err),
              &err);
    for (size_t i = 1; i < config.layers; i++)
        assert_ptr_equal(weights.layer[i].down.data, weights.layer[0].down.data);
    caloris_weights_free(&weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_heads_unsaid),
        cmocka_unit_test(test_shares_make_the_model),
        cmocka_unit_test(test_pool_reads_the_same),
        cmocka_unit_test(test_long_tensors),
        cmocka_unit_test(test_little_model),
        cmocka_unit_test(test_whole_tensors_take_one_read),
        cmocka_unit_test(test_bytes_are_those_planned),
        cmocka_unit_test(test_ranks_read_each_byte_once),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_invented),
        cmocka_unit_test(test_invented_layers_share_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
