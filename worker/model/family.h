/* worker/model/family.h: what tells one model family from another. Inside worker/model only.
 *
 * A family is a line of the table in family.c: how its config.json is recognised and read, and
 * what its tensors are called. What the tensors mean and how they are dealt to ranks is the same
 * for all: weights.c.
 */
#ifndef CALORIS_MODEL_FAMILY_H
#define CALORIS_MODEL_FAMILY_H

#include "worker/model/model.h"

#include <jansson.h>

/* Tensors of the whole model come first, those of each layer after. */
enum caloris_role {
    CALORIS_ROLE_EMBED,
    CALORIS_ROLE_FINAL_NORM,
    CALORIS_ROLE_HEAD,
    CALORIS_ROLE_FIRST_OF_LAYER,
    CALORIS_ROLE_ATTN_NORM = CALORIS_ROLE_FIRST_OF_LAYER,
    CALORIS_ROLE_Q,
    CALORIS_ROLE_K,
    CALORIS_ROLE_V,
    CALORIS_ROLE_O,
    CALORIS_ROLE_FFN_NORM,
    CALORIS_ROLE_GATE,
    CALORIS_ROLE_UP,
    CALORIS_ROLE_DOWN,
    CALORIS_ROLES
};

struct caloris_family {
    const char *name;         /* of our own: caloris_model_config.family */
    const char *model_type;   /* of config.json */
    const char *architecture; /* among `architectures` of config.json, when it names any */

    /* Fills config from the keys of config.json; path names the file in errors. */
    int (*parse)(const json_t *json, const char *path, struct caloris_model_config *config,
                 struct caloris_err *err);

    /* A tensor of the model is tensor[role]; of layer i: layer_prefix, i, ".", tensor[role]. */
    const char *layer_prefix;
    const char *tensor[CALORIS_ROLES];
};

/* The family of this config.json, or NULL and err. */
const struct caloris_family *caloris_family_recognise(const json_t *json, const char *path,
                                                      struct caloris_err *err);

/* The family with this name of ours, or NULL and err. */
const struct caloris_family *caloris_family_named(const char *name, struct caloris_err *err);

/* The product whose matrix the tensor is a part of. */
enum caloris_product caloris_role_product(enum caloris_role role);

enum { CALORIS_TENSOR_NAME = 128 };

/* The tensor's name in files. layer counts only for roles of a layer. Returns text. */
const char *caloris_family_tensor(const struct caloris_family *family, enum caloris_role role,
                                  size_t layer, char text[CALORIS_TENSOR_NAME]);

/* Parsers, one file each. */
int caloris_llada_parse(const json_t *json, const char *path, struct caloris_model_config *config,
                        struct caloris_err *err);

#endif
