#include "worker/model/family.h"

#include "base/err.h"

#include <stdio.h>
#include <string.h>

static const struct caloris_family families[] = {
    {
        .name = "llada",
        .model_type = "llada",
        .architecture = "LLaDAModelLM",
        .parse = caloris_llada_parse,
        .layer_prefix = "model.transformer.blocks.",
        .tensor =
            {
                [CALORIS_ROLE_EMBED] = "model.transformer.wte.weight",
                [CALORIS_ROLE_FINAL_NORM] = "model.transformer.ln_f.weight",
                [CALORIS_ROLE_HEAD] = "model.transformer.ff_out.weight",
                [CALORIS_ROLE_ATTN_NORM] = "attn_norm.weight",
                [CALORIS_ROLE_Q] = "q_proj.weight",
                [CALORIS_ROLE_K] = "k_proj.weight",
                [CALORIS_ROLE_V] = "v_proj.weight",
                [CALORIS_ROLE_O] = "attn_out.weight",
                [CALORIS_ROLE_FFN_NORM] = "ff_norm.weight",
                [CALORIS_ROLE_GATE] = "ff_proj.weight",
                [CALORIS_ROLE_UP] = "up_proj.weight",
                [CALORIS_ROLE_DOWN] = "ff_out.weight",
            },
    },
};

enum { FAMILIES = sizeof(families) / sizeof(families[0]) };

/* What is known not to work yet, by a key that gives it away: a better word than "unknown
 * tensor". */
static const struct {
    const char *key;
    const char *what;
} not_yet[] = {
    {"num_experts", "a mixture of experts"},
    {"quantization_config", "quantised weights"},
};

static bool said(const json_t *value)
{
    return value && !json_is_null(value);
}

static bool is_one_of(const json_t *architectures, const char *name)
{
    for (size_t i = 0; i < json_array_size(architectures); i++) {
        const char *one = json_string_value(json_array_get(architectures, i));
        if (one && strcmp(one, name) == 0)
            return true;
    }
    return json_array_size(architectures) == 0;
}

const struct caloris_family *caloris_family_recognise(const json_t *json, const char *path,
                                                      struct caloris_err *err)
{
    const char *type = json_string_value(json_object_get(json, "model_type"));
    if (!type) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s: model_type is missing or no string", path);
        return NULL;
    }
    const json_t *architectures = json_object_get(json, "architectures");
    if (said(architectures) && !json_is_array(architectures)) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s: architectures is no list", path);
        return NULL;
    }
    for (size_t i = 0; i < sizeof(not_yet) / sizeof(not_yet[0]); i++) {
        if (!said(json_object_get(json, not_yet[i].key)))
            continue;
        caloris_err_set(err, CALORIS_BAD_MODEL,
                        "%s: %s says %s (model_type \"%.40s\"): not supported", path,
                        not_yet[i].key, not_yet[i].what, type);
        return NULL;
    }
    for (size_t i = 0; i < FAMILIES; i++) {
        if (strcmp(families[i].model_type, type) != 0)
            continue;
        if (is_one_of(architectures, families[i].architecture))
            return &families[i];
    }
    const char *first = json_string_value(json_array_get(architectures, 0));
    caloris_err_set(err, CALORIS_BAD_MODEL,
                    "%s: model_type \"%.40s\" with architecture \"%.60s\" is not supported", path,
                    type, first ? first : "");
    return NULL;
}

const struct caloris_family *caloris_family_named(const char *name, struct caloris_err *err)
{
    for (size_t i = 0; i < FAMILIES; i++) {
        if (strcmp(families[i].name, name) == 0)
            return &families[i];
    }
    caloris_err_set(err, CALORIS_BAD_MODEL, "no model family is called \"%.32s\"", name);
    return NULL;
}

const char *caloris_family_tensor(const struct caloris_family *family, enum caloris_role role,
                                  size_t layer, char text[CALORIS_TENSOR_NAME])
{
    if (role < CALORIS_ROLE_FIRST_OF_LAYER)
        snprintf(text, CALORIS_TENSOR_NAME, "%s", family->tensor[role]);
    else
        snprintf(text, CALORIS_TENSOR_NAME, "%s%zu.%s", family->layer_prefix, layer,
                 family->tensor[role]);
    return text;
}

enum caloris_product caloris_role_product(enum caloris_role role)
{
    static const enum caloris_product products[CALORIS_ROLES] = {
        [CALORIS_ROLE_EMBED] = CALORIS_NO_PRODUCT,
        [CALORIS_ROLE_FINAL_NORM] = CALORIS_NO_PRODUCT,
        [CALORIS_ROLE_HEAD] = CALORIS_PRODUCT_HEAD,
        [CALORIS_ROLE_ATTN_NORM] = CALORIS_NO_PRODUCT,
        [CALORIS_ROLE_Q] = CALORIS_PRODUCT_QKV,
        [CALORIS_ROLE_K] = CALORIS_PRODUCT_QKV,
        [CALORIS_ROLE_V] = CALORIS_PRODUCT_QKV,
        [CALORIS_ROLE_O] = CALORIS_PRODUCT_O,
        [CALORIS_ROLE_FFN_NORM] = CALORIS_NO_PRODUCT,
        [CALORIS_ROLE_GATE] = CALORIS_PRODUCT_GATE_UP,
        [CALORIS_ROLE_UP] = CALORIS_PRODUCT_GATE_UP,
        [CALORIS_ROLE_DOWN] = CALORIS_PRODUCT_DOWN,
    };
    return products[role];
}
