/* config.json of LLaDA: the keys of OLMo. An absent key means what upstream's configuration
 * class takes it for. */
#include "worker/model/family.h"
#include "worker/model/keys.h"
#include "worker/model/limits.h"

#include "base/err.h"

static const struct caloris_key_fixed supported[] = {
    /* key                     supported   absent means */
    {"block_type", "\"llama\"", "\"sequential\""},
    {"activation_type", "\"silu\"", "\"swiglu\""},
    {"layer_norm_type", "\"rms\"", "\"default\""},
    {"rope", "true", "false"},
    {"include_bias", "false", "true"},
    {"alibi", "false", "false"},
    {"include_qkv_bias", "false", "false"},
    {"bias_for_layer_norm", "false", "false"}, /* null: as include_bias */
    {"layer_norm_with_affine", "true", "true"},
    {"attention_layer_norm", "false", "false"},
    {"input_emb_norm", "false", "false"},
    {"scale_logits", "false", "false"},
    {"block_group_size", "1", "1"},
    {"clip_qkv", "null", "null"},
    {"rope_scaling", "null", "null"},
};

static int parse_heads(const json_t *json, const char *path, struct caloris_model_config *config,
                       struct caloris_err *err)
{
    const json_t *one = json_object_get(json, "multi_query_attention");
    if (one && !json_is_null(one) && !json_is_boolean(one))
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: multi_query_attention is no boolean",
                               path);
    size_t unsaid = json_is_true(one) ? 1 : config->heads;
    if (caloris_key_size(json, path, "n_kv_heads", CALORIS_MAX_HEADS, unsaid, &config->kv_heads,
                         err) < 0)
        return -1;
    if (one && json_is_boolean(one) && json_is_true(one) != (config->kv_heads == 1))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: n_kv_heads is %zu, but multi_query_attention is %s", path,
                               config->kv_heads, json_is_true(one) ? "true" : "false");
    if (config->heads % config->kv_heads != 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: n_heads %zu is not a multiple of n_kv_heads %zu", path,
                               config->heads, config->kv_heads);
    if (config->hidden % config->heads != 0 || config->hidden / config->heads % 2 != 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: d_model %zu does not make %zu heads (n_heads) of even size",
                               path, config->hidden, config->heads);
    config->head_dim = config->hidden / config->heads;
    return 0;
}

static int parse_ffn(const json_t *json, const char *path, struct caloris_model_config *config,
                     struct caloris_err *err)
{
    size_t ratio;
    if (caloris_key_size(json, path, "mlp_ratio", CALORIS_MAX_WIDTH, 4, &ratio, err) < 0)
        return -1;
    /* At most MAX_WIDTH squared: no overflow. */
    size_t unsaid = ratio * config->hidden;
    if (caloris_key_size(json, path, "mlp_hidden_size", CALORIS_MAX_WIDTH, unsaid, &config->ffn,
                         err) < 0)
        return -1;
    if (config->ffn > CALORIS_MAX_WIDTH)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: mlp_ratio %zu times d_model %zu is above %d", path, ratio,
                               config->hidden, (int)CALORIS_MAX_WIDTH);
    return 0;
}

/* embedding_size is what the tables are padded to; the padding rows are ids like others. */
static int parse_vocab(const json_t *json, const char *path, struct caloris_model_config *config,
                       struct caloris_err *err)
{
    size_t named;
    if (caloris_key_size(json, path, "vocab_size", CALORIS_MAX_VOCAB, CALORIS_KEY_NEEDED, &named,
                         err) < 0 ||
        caloris_key_size(json, path, "embedding_size", CALORIS_MAX_VOCAB, named, &config->vocab,
                         err) < 0)
        return -1;
    if (config->vocab < named)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: embedding_size %zu is below vocab_size %zu", path,
                               config->vocab, named);
    return 0;
}

int caloris_llada_parse(const json_t *json, const char *path, struct caloris_model_config *config,
                        struct caloris_err *err)
{
    if (caloris_keys_fixed(json, path, supported, sizeof(supported) / sizeof(supported[0]), err) <
        0)
        return -1;
    const json_t *tied = json_object_get(json, "weight_tying");
    if (!json_is_boolean(tied))
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: weight_tying is missing or no boolean",
                               path);
    config->tied = json_is_true(tied);

    double eps;
    size_t needed = CALORIS_KEY_NEEDED;
    if (caloris_key_size(json, path, "n_layers", CALORIS_MAX_LAYERS, needed, &config->layers, err) <
            0 ||
        caloris_key_size(json, path, "d_model", CALORIS_MAX_WIDTH, needed, &config->hidden, err) <
            0 ||
        caloris_key_size(json, path, "n_heads", CALORIS_MAX_HEADS, needed, &config->heads, err) <
            0 ||
        parse_heads(json, path, config, err) < 0 || parse_ffn(json, path, config, err) < 0 ||
        parse_vocab(json, path, config, err) < 0 ||
        caloris_key_size(json, path, "max_sequence_length", CALORIS_MAX_SEQUENCE, needed,
                         &config->max_sequence, err) < 0 ||
        caloris_key_real(json, path, "rms_norm_eps", 1e-30, 1, 1e-5, &eps, err) < 0 ||
        caloris_key_real(json, path, "rope_theta", 1, 1e30, 10000, &config->rope_theta, err) < 0 ||
        caloris_key_id(json, path, "mask_token_id", config->vocab, &config->mask_id, err) < 0 ||
        caloris_key_first_id(json, path, "eos_token_id", config->vocab, &config->eos_id, err) < 0)
        return -1;
    config->norm_eps = (float)eps;
    return 0;
}
