/* worker/model/keys.h: typed, bounded reading of config.json. Inside worker/model only.
 *
 * A key that is absent or null takes the fallback; any other value must have the type and lie in
 * the bounds. Errors name file, key and value.
 */
#ifndef CALORIS_MODEL_KEYS_H
#define CALORIS_MODEL_KEYS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

/* No fallback: the key must be there. */
#define CALORIS_KEY_NEEDED SIZE_MAX

/* An integer in 1 … max. */
int caloris_key_size(const json_t *json, const char *path, const char *key, size_t max,
                     size_t fallback, size_t *out, struct caloris_err *err);

/* A number in [min, max]. */
int caloris_key_real(const json_t *json, const char *path, const char *key, double min, double max,
                     double fallback, double *out, struct caloris_err *err);

/* A token id below vocab; -1 when nothing is said. */
int caloris_key_id(const json_t *json, const char *path, const char *key, size_t vocab,
                   int32_t *out, struct caloris_err *err);
/* The same, or the first of a list of them. */
int caloris_key_first_id(const json_t *json, const char *path, const char *key, size_t vocab,
                         int32_t *out, struct caloris_err *err);

/* A key that must have one value, because no other is built. `value` is JSON text. */
struct caloris_key_fixed {
    const char *key;
    const char *value;  /* what is supported */
    const char *absent; /* what an absent or null key means */
};

int caloris_keys_fixed(const json_t *json, const char *path, const struct caloris_key_fixed *fixed,
                       size_t n, struct caloris_err *err);

#endif
