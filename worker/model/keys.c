#include "worker/model/keys.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

/* The value of a key as JSON text, for messages. */
static void show(const json_t *value, char *text, size_t size)
{
    size_t length = value ? json_dumpb(value, text, size - 1, JSON_ENCODE_ANY | JSON_COMPACT) : 0;
    if (length > size - 1)
        length = size - 1;
    text[length] = '\0';
}

static int refuse(const json_t *value, const char *path, const char *key, const char *wanted,
                  struct caloris_err *err)
{
    char text[64];
    show(value, text, sizeof(text));
    return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %s is %s, %s", path, key, text, wanted);
}

static const json_t *value_of(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    return json_is_null(value) ? NULL : value;
}

int caloris_key_size(const json_t *json, const char *path, const char *key, size_t max,
                     size_t fallback, size_t *out, struct caloris_err *err)
{
    const json_t *value = value_of(json, key);
    if (!value) {
        if (fallback == CALORIS_KEY_NEEDED)
            return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %s is missing", path, key);
        *out = fallback;
        return 0;
    }
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 1 || (unsigned long long)number > max) {
        char wanted[64];
        snprintf(wanted, sizeof(wanted), "not an integer in 1 … %zu", max);
        return refuse(value, path, key, wanted, err);
    }
    *out = (size_t)number;
    return 0;
}

int caloris_key_real(const json_t *json, const char *path, const char *key, double min, double max,
                     double fallback, double *out, struct caloris_err *err)
{
    const json_t *value = value_of(json, key);
    double number = value ? json_number_value(value) : fallback;
    if ((value && !json_is_number(value)) || !(number >= min && number <= max)) {
        char wanted[64];
        snprintf(wanted, sizeof(wanted), "not a number in [%g, %g]", min, max);
        return refuse(value, path, key, wanted, err);
    }
    *out = number;
    return 0;
}

static bool is_id(const json_t *value, size_t vocab)
{
    const json_int_t number = json_integer_value(value);
    return json_is_integer(value) && number >= 0 && (unsigned long long)number < vocab;
}

int caloris_key_id(const json_t *json, const char *path, const char *key, size_t vocab,
                   int32_t *out, struct caloris_err *err)
{
    const json_t *value = value_of(json, key);
    *out = -1;
    if (!value)
        return 0;
    if (!is_id(value, vocab)) {
        char wanted[64];
        snprintf(wanted, sizeof(wanted), "not one token id below %zu", vocab);
        return refuse(value, path, key, wanted, err);
    }
    *out = (int32_t)json_integer_value(value);
    return 0;
}

int caloris_key_first_id(const json_t *json, const char *path, const char *key, size_t vocab,
                         int32_t *out, struct caloris_err *err)
{
    const json_t *value = value_of(json, key);
    const size_t n = json_array_size(value);
    bool good = n > 0;
    if (!json_is_array(value))
        return caloris_key_id(json, path, key, vocab, out, err);
    for (size_t i = 0; i < n; i++)
        good = good && is_id(json_array_get(value, i), vocab);
    if (!good) {
        char wanted[64];
        snprintf(wanted, sizeof(wanted), "not a list of token ids below %zu", vocab);
        return refuse(value, path, key, wanted, err);
    }
    *out = (int32_t)json_integer_value(json_array_get(value, 0));
    return 0;
}

int caloris_keys_fixed(const json_t *json, const char *path, const struct caloris_key_fixed *fixed,
                       size_t n, struct caloris_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *value = value_of(json, fixed[i].key);
        if (!value) {
            if (strcmp(fixed[i].absent, fixed[i].value) == 0)
                continue;
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: %s is missing, which means %s; only %s is supported", path,
                                   fixed[i].key, fixed[i].absent, fixed[i].value);
        }
        json_t *wanted = json_loads(fixed[i].value, JSON_DECODE_ANY, NULL);
        bool equal = json_equal(value, wanted) == 1;
        json_decref(wanted);
        if (equal)
            continue;
        char only[64];
        snprintf(only, sizeof(only), "only %s is supported", fixed[i].value);
        return refuse(value, path, fixed[i].key, only, err);
    }
    return 0;
}
