#include "worker/model/family.h"
#include "worker/model/model.h"
#include "worker/model/source.h"

#include "base/err.h"
#include "base/file.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20 };

int caloris_model_config_load(const char *dir, struct caloris_model_config *config,
                              struct caloris_err *err)
{
    char path[PATH_MAX];
    memset(config, 0, sizeof(*config));
    if (caloris_file_join(path, sizeof(path), dir, "config.json", err) < 0)
        return -1;
    json_t *json = caloris_model_json(path, MAX_CONFIG_BYTES, err);
    if (!json)
        return -1;
    const struct caloris_family *family = caloris_family_recognise(json, path, err);
    int rc = family ? family->parse(json, path, config, err) : -1;
    if (rc == 0)
        snprintf(config->family, sizeof(config->family), "%s", family->name);
    json_decref(json);
    return rc;
}

int caloris_model_config_synthetic(const char *name, struct caloris_model_config *config,
                                   struct caloris_err *err)
{
    static const struct {
        const char *name;
        struct caloris_model_config config;
    } made_up[] = {
        /* The size between the tests' models and the real one. */
        {"llada-1b",
         {"llada", .layers = 16, .hidden = 2048, .heads = 16, .kv_heads = 16, .head_dim = 128,
          .ffn = 5632, .vocab = 126464, .max_sequence = 4096, .norm_eps = 1e-5f, .rope_theta = 5e5,
          .tied = false, .mask_id = 126336, .eos_id = 126081}},
        /* LLaDA-8B as released. */
        {"llada-8b",
         {"llada", .layers = 32, .hidden = 4096, .heads = 32, .kv_heads = 32, .head_dim = 128,
          .ffn = 12288, .vocab = 126464, .max_sequence = 4096, .norm_eps = 1e-5f, .rope_theta = 5e5,
          .tied = false, .mask_id = 126336, .eos_id = 126081}},
    };
    for (size_t i = 0; i < sizeof(made_up) / sizeof(made_up[0]); i++) {
        if (strcmp(made_up[i].name, name) == 0) {
            *config = made_up[i].config;
            return 0;
        }
    }
    return caloris_err_set(err, CALORIS_USAGE,
                           "no made-up model is called \"%.60s\" (there are llada-1b and llada-8b)",
                           name);
}

uint64_t caloris_model_parameters(const struct caloris_model_config *config)
{
    uint64_t d = config->hidden;
    uint64_t q = config->heads * config->head_dim;
    uint64_t kv = config->kv_heads * config->head_dim;
    uint64_t layer = 2 * d + d * (q + 2 * kv) + q * d + 3 * d * config->ffn;
    uint64_t tables = (config->tied ? 1 : 2) * config->vocab * d;
    return tables + d + config->layers * layer;
}
