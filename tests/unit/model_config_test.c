/* What config.json may say, and how a model is dealt to ranks. */
#include "model_support.h"

#include "base/err.h"
#include "worker/model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- config.json ---------------------------------------------------------------------------- */

/* The golden config with one key changed (to nothing where value is NULL). */
static const struct {
    const char *key, *value;
    const char *complaint; /* NULL: fine */
} config_cases[] = {
    {"alibi", "true", "alibi is true, only false is supported"},
    {"alibi", NULL, NULL},
    {"alibi", "null", NULL},
    {"include_bias", "true", "include_bias is true, only false is supported"},
    {"include_bias", NULL, "include_bias is missing, which means true; only false is supported"},
    {"include_qkv_bias", "true", "include_qkv_bias is true, only false"},
    {"bias_for_layer_norm", "true", "bias_for_layer_norm is true, only false"},
    {"layer_norm_type", "\"default\"", "layer_norm_type is \"default\", only \"rms\""},
    {"layer_norm_with_affine", "false", "layer_norm_with_affine is false, only true"},
    {"block_type", "\"sequential\"", "block_type is \"sequential\", only \"llama\""},
    {"block_type", NULL, "block_type is missing, which means \"sequential\"; only \"llama\""},
    {"block_group_size", "2", "block_group_size is 2, only 1"},
    {"activation_type", "\"gelu\"", "activation_type is \"gelu\", only \"silu\""},
    {"input_emb_norm", "true", "input_emb_norm is true, only false"},
    {"attention_layer_norm", "true", "attention_layer_norm is true, only false"},
    {"scale_logits", "true", "scale_logits is true, only false"},
    {"rope", "false", "rope is false, only true"},
    {"rope", NULL, "rope is missing, which means false; only true"},
    {"rope_scaling", "{\"type\": \"yarn\"}", "rope_scaling is {\"type\":\"yarn\"}, only null"},
    {"clip_qkv", "8", "clip_qkv is 8, only null"},
    {"quantization_config", "{}", "quantization_config says quantised weights"},
    {"num_experts", "12", "num_experts says a mixture of experts (model_type \"llada\")"},
    {"model_type", "\"gpt2\"",
     "model_type \"gpt2\" with architecture \"LLaDAModelLM\" is not supported"},
    {"model_type", "7", "model_type is missing or no string"},
    {"architectures", "[\"LLaDAMoEModelLM\"]", "architecture \"LLaDAMoEModelLM\" is not supported"},
    {"architectures", "\"x\"", "architectures is no list"},
    {"architectures", NULL, NULL},
    {"weight_tying", NULL, "weight_tying is missing or no boolean"},
    {"d_model", NULL, "d_model is missing"},
    {"d_model", "0", "d_model is 0, not an integer in 1 … 262144"},
    {"d_model", "-48", "d_model is -48, not an integer"},
    {"d_model", "48.0", "d_model is 48.0, not an integer"},
    {"d_model", "\"48\"", "d_model is \"48\", not an integer"},
    {"d_model", "9223372036854775807", "d_model is 9223372036854775807, not an integer"},
    {"d_model", "49", "d_model 49 does not make 6 heads (n_heads) of even size"},
    {"d_model", "54", "d_model 54 does not make 6 heads (n_heads) of even size"},
    {"n_layers", "4097", "n_layers is 4097, not an integer in 1 … 4096"},
    {"n_heads", "5", "n_heads 5 is not a multiple of n_kv_heads 6"},
    {"n_kv_heads", "4", "n_heads 6 is not a multiple of n_kv_heads 4"},
    {"n_kv_heads", "null", NULL},
    {"n_kv_heads", NULL, NULL},
    {"multi_query_attention", "true", "n_kv_heads is 6, but multi_query_attention is true"},
    {"multi_query_attention", "1", "multi_query_attention is no boolean"},
    {"mlp_hidden_size", "262145", "mlp_hidden_size is 262145, not an integer in 1 … 262144"},
    {"mlp_hidden_size", "null", NULL},
    {"vocab_size", "99999999", "vocab_size is 99999999, not an integer"},
    {"vocab_size", "321", "embedding_size 320 is below vocab_size 321"},
    {"vocab_size", "319", NULL},
    {"embedding_size", "null", NULL},
    {"max_sequence_length", NULL, "max_sequence_length is missing"},
    {"rms_norm_eps", "0", "rms_norm_eps is 0, not a number in"},
    {"rms_norm_eps", "-1e-5", "rms_norm_eps is -1"},
    {"rms_norm_eps", "\"1e-5\"", "rms_norm_eps is \"1e-5\", not a number in"},
    {"rope_theta", "0.5", "rope_theta is 0.5, not a number in [1, "},
    {"rope_theta", "10000", NULL},
    {"mask_token_id", "320", "mask_token_id is 320, not one token id below 320"},
    {"mask_token_id", "null", NULL},
    {"mask_token_id", "[312]", "mask_token_id is [312], not one token id below 320"},
    {"eos_token_id", "[301]", NULL},
    {"eos_token_id", "[]", "eos_token_id is [], not a list of token ids below 320"},
    {"eos_token_id", "[301, 320]", "eos_token_id is [301,320], not a list of token ids below 320"},
    {"eos_token_id", "[301, \"x\"]", "eos_token_id is [301,\"x\"], not a list of token ids"},
    {"eos_token_id", "-1", "eos_token_id is -1, not one token id"},
};

static void test_config(void **state)
{
    (void)state;
    char from[MODEL_PATH], dir[MODEL_PATH];
    model_make_dir(dir);
    model_golden("llada", from);
    for (size_t i = 0; i < sizeof(config_cases) / sizeof(config_cases[0]); i++) {
        struct caloris_err err = {0};
        struct caloris_model_config config;
        const char *value = config_cases[i].value;
        json_t *json = model_read_json(from, "config.json");
        json_object_del(json, config_cases[i].key);
        if (value)
            json_object_set_new(json, config_cases[i].key,
                                json_loads(value, JSON_DECODE_ANY, NULL));
        model_write_json(dir, "config.json", json);
        json_decref(json);
        int rc = caloris_model_config_load(dir, &config, &err);
        if (config_cases[i].complaint) {
            expect_complaint(rc, &err, CALORIS_BAD_MODEL, config_cases[i].complaint);
            assert_non_null(strstr(err.text, "/config.json: "));
        } else {
            expect_ok(rc, &err);
        }
    }
    model_remove_dir(dir);
}

static void test_config_values(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    expect_ok(caloris_model_config_load(model_golden("llada-gqa", dir), &config, &err), &err);
    assert_string_equal(config.family, "llada");
    assert_int_equal(config.layers, 2);
    assert_int_equal(config.hidden, 48);
    assert_int_equal(config.heads, 6);
    assert_int_equal(config.kv_heads, 2);
    assert_int_equal(config.head_dim, 8);
    assert_int_equal(config.ffn, 104);
    assert_int_equal(config.vocab, 320);
    assert_int_equal(config.max_sequence, 512);
    assert_int_equal(config.mask_id, 312);
    assert_int_equal(config.eos_id, 301);
    assert_true(config.norm_eps == 1e-5f && config.rope_theta == 10000 && !config.tied);
    assert_int_equal(caloris_model_parameters(&config), 292800 / 4);
}

/* As Hugging Face writes it where more than one token ends a text. */
static void test_config_eos_list(void **state)
{
    (void)state;
    char from[MODEL_PATH], dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    model_make_dir(dir);
    json_t *json = model_read_json(model_golden("llada", from), "config.json");
    json_object_set_new(json, "eos_token_id", json_pack("[ii]", 305, 301));
    model_write_json(dir, "config.json", json);
    json_decref(json);
    expect_ok(caloris_model_config_load(dir, &config, &err), &err);
    assert_int_equal(config.eos_id, 305);
    model_remove_dir(dir);
}

static void test_config_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"", "/config.json:"},
        {"{\"model_type\": \"llada\",", "/config.json:1:"},
        {"[]", "/config.json does not hold a JSON object"},
        {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
    };
    char dir[MODEL_PATH];
    struct caloris_err err = {0};
    struct caloris_model_config config;
    model_make_dir(dir);
    expect_complaint(caloris_model_config_load(dir, &config, &err), &err, CALORIS_BAD_MODEL,
                     "/config.json: No such file or directory");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        model_write(dir, "config.json", cases[i].text, strlen(cases[i].text));
        expect_complaint(caloris_model_config_load(dir, &config, &err), &err, CALORIS_BAD_MODEL,
                         cases[i].complaint);
    }
    size_t n = (1 << 20) + 1;
    char *blanks = malloc(n);
    assert_non_null(blanks);
    memset(blanks, ' ', n);
    model_write(dir, "config.json", blanks, n);
    free(blanks);
    expect_complaint(caloris_model_config_load(dir, &config, &err), &err, CALORIS_BAD_MODEL,
                     "/config.json has 1048577 bytes, at most 1048576 are read");
    model_remove_dir(dir);
}

/* ---- the split ------------------------------------------------------------------------------ */

/* At any rank count: shares follow one another, cover all, and differ by at most one head or one
 * unit of 16. */
static void test_split(void **state)
{
    (void)state;
    static const struct {
        size_t heads, kv_heads, ffn, vocab;
    } shapes[] = {
        {32, 32, 12288, 126464}, {6, 2, 104, 320}, {6, 6, 88, 320},
        {28, 4, 18944, 152064},  {1, 1, 1, 1},     {14, 2, 4864, 17},
        {5, 5, 33, 31},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct caloris_model_config config = {.heads = shapes[i].heads,
                                              .kv_heads = shapes[i].kv_heads,
                                              .head_dim = 8,
                                              .ffn = shapes[i].ffn,
                                              .vocab = shapes[i].vocab};
        size_t sharing = config.heads / config.kv_heads;
        for (int n = 1; n <= 40; n++) {
            struct caloris_model_split first, split, end = {0};
            caloris_model_split(&config, n, 0, &first);
            for (int k = 0; k < n; k++) {
                caloris_model_split(&config, n, k, &split);
                assert_int_equal(split.head_first, end.head_first);
                assert_int_equal(split.ffn_first, end.ffn_first);
                assert_int_equal(split.vocab_first, end.vocab_first);
                assert_true(split.heads + 1 >= first.heads && split.heads <= first.heads);
                /* 16 for the unit, and up to 15 that the last one is short of. */
                assert_true(split.ffn + 31 >= first.ffn && split.ffn <= first.ffn);
                assert_true(split.vocab + 31 >= first.vocab && split.vocab <= first.vocab);
                assert_true(split.ffn_first % 16 == 0 || split.ffn == 0);
                assert_true(split.vocab_first % 16 == 0 || split.vocab == 0);
                assert_int_equal(split.heads == 0, split.kv_heads == 0);
                for (size_t h = split.head_first; h < split.head_first + split.heads; h++) {
                    assert_true(h / sharing >= split.kv_head_first);
                    assert_true(h / sharing < split.kv_head_first + split.kv_heads);
                }
                if (split.heads > 0) {
                    size_t last = split.head_first + split.heads - 1;
                    assert_int_equal(split.kv_head_first, split.head_first / sharing);
                    assert_int_equal(split.kv_head_first + split.kv_heads - 1, last / sharing);
                }
                end.head_first = split.head_first + split.heads;
                end.ffn_first = split.ffn_first + split.ffn;
                end.vocab_first = split.vocab_first + split.vocab;
            }
            assert_int_equal(end.head_first, config.heads);
            assert_int_equal(end.ffn_first, config.ffn);
            assert_int_equal(end.vocab_first, config.vocab);
        }
    }
}

static void test_synthetic_shapes(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    struct caloris_model_config config;
    /* Published: LLaDA-8B has 8,015,581,184 parameters. */
    expect_ok(caloris_model_config_synthetic("llada-8b", &config, &err), &err);
    assert_int_equal(caloris_model_parameters(&config), 8015581184);
    expect_ok(caloris_model_config_synthetic("llada-1b", &config, &err), &err);
    assert_int_equal(config.hidden, config.heads * config.head_dim);
    assert_int_equal(config.layers, 16);
    expect_complaint(caloris_model_config_synthetic("llada-9b", &config, &err), &err, CALORIS_USAGE,
                     "no made-up model is called \"llada-9b\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_values),   cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_eos_list), cmocka_unit_test(test_config_files),
        cmocka_unit_test(test_split),           cmocka_unit_test(test_synthetic_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
