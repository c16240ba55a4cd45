#include "coordinator/text/tokenizer.h"

#include "base/err.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* "pre_tokenizer.pretokenizers[3].behavior" and the like. */
enum { KEY_BYTES = 160 };

/* How deep Sequences may nest. */
enum { DEEPEST = 4 };

static int complain(struct caloris_err *err, const char *path, const char *where, const char *key,
                    const char *what)
{
    return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %s%s%s%s%s", path, where,
                           *where && *key ? "." : "", key, *where || *key ? ": " : "", what);
}

/* The text of a key of an object, or NULL when it is no string. */
static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* A flag that may be missing or null; anything but a boolean is an error. */
static int read_flag(const json_t *object, const char *key, bool otherwise, bool *flag,
                     const char *path, const char *where, struct caloris_err *err)
{
    const json_t *value = json_object_get(object, key);
    *flag = otherwise;
    if (!value || json_is_null(value))
        return 0;
    if (!json_is_boolean(value))
        return complain(err, path, where, key, "not true or false");
    *flag = json_is_true(value);
    return 0;
}

/* ---- vocabulary ---- */

int caloris_tokenizer_read_vocab(struct caloris_tokenizer *tok, const char *path, const char *where,
                                 const json_t *vocab, struct caloris_err *err)
{
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return complain(err, path, where, "", "not an object of tokens and their ids");
    const char *key;
    json_t *id;
    json_object_foreach((json_t *)vocab, key, id)
    {
        int rc = 0;
        if (!json_is_integer(id))
            rc = caloris_err_set(err, CALORIS_BAD_MODEL, "\"%.60s\": its id is not a whole number",
                                 key);
        else
            rc = caloris_vocab_add(&tok->vocab, key, strlen(key), json_integer_value(id),
                                   CALORIS_VOCAB_MAPPED, err);
        if (rc < 0)
            return caloris_err_prefix(err, "%s%s%s", path, *where ? ": " : "", where);
    }
    return 0;
}

/* What our byte-level BPE has not got: each may only be missing, null, false, 0 or "". */
static const char *const unsupported_model_keys[] = {
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
};

static bool is_nothing(const json_t *value)
{
    return !value || json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

static int read_model(struct caloris_tokenizer *tok, const char *path, const json_t *model,
                      struct caloris_err *err)
{
    if (!json_is_object(model))
        return complain(err, path, "model", "", "missing, or not an object");
    const char *type = text_of(model, "type");
    if (json_object_get(model, "type") && (!type || strcmp(type, "BPE") != 0))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: model.type: \"%.40s\" is not supported, only BPE on bytes",
                               path, type ? type : "?");
    for (size_t i = 0; i < sizeof(unsupported_model_keys) / sizeof(unsupported_model_keys[0]); i++)
        if (!is_nothing(json_object_get(model, unsupported_model_keys[i])))
            return complain(err, path, "model", unsupported_model_keys[i], "not supported");
    if (read_flag(model, "ignore_merges", false, &tok->ignore_merges, path, "model", err) < 0)
        return -1;
    return caloris_tokenizer_read_vocab(tok, path, "model.vocab", json_object_get(model, "vocab"),
                                        err);
}

/* ---- added tokens ---- */

int caloris_tokenizer_read_added(struct caloris_tokenizer *tok, const char *path, const char *where,
                                 const json_t *entry, json_int_t id, struct caloris_err *err)
{
    const json_t *content = json_object_get(entry, "content");
    if (!json_is_string(content))
        return complain(err, path, where, "content", "missing, or not a string");
    if (id < 0 || id >= CALORIS_VOCAB_TOKENS)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: %s: id %" JSON_INTEGER_FORMAT " is not in 0 to %d", path, where,
                               id, CALORIS_VOCAB_TOKENS - 1);
    struct caloris_added_token token = {
        .text = json_string_value(content),
        .bytes = json_string_length(content),
        .id = (int32_t)id,
    };
    if (read_flag(entry, "special", false, &token.special, path, where, err) < 0 ||
        read_flag(entry, "normalized", !token.special, &token.normalized, path, where, err) < 0 ||
        read_flag(entry, "single_word", false, &token.single_word, path, where, err) < 0 ||
        read_flag(entry, "lstrip", false, &token.lstrip, path, where, err) < 0 ||
        read_flag(entry, "rstrip", false, &token.rstrip, path, where, err) < 0)
        return -1;
    if (caloris_tokenizer_add(tok, &token, err) < 0)
        return caloris_err_prefix(err, "%s: %s", path, where);
    return 0;
}

static int read_added_tokens(struct caloris_tokenizer *tok, const char *path, const json_t *list,
                             struct caloris_err *err)
{
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list))
        return complain(err, path, "added_tokens", "", "not an array");
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        char where[KEY_BYTES];
        snprintf(where, sizeof(where), "added_tokens[%zu]", i);
        const json_t *id = json_object_get(entry, "id");
        if (!json_is_integer(id))
            return complain(err, path, where, "id", "missing, or not a whole number");
        if (caloris_tokenizer_read_added(tok, path, where, entry, json_integer_value(id), err) < 0)
            return -1;
    }
    return 0;
}

/* ---- normalizer, pre-tokenizer, decoder ---- */

struct reader {
    struct caloris_tokenizer *tok;
    const char *path;
    bool on_bytes; /* a ByteLevel came by: what follows would see mapped characters */
};

struct kind {
    const char *type;
    int (*read)(struct reader *, const json_t *, const char *where, struct caloris_err *err);
};

static int read_kind(struct reader *r, const struct kind *kinds, size_t count, const json_t *value,
                     const char *where, struct caloris_err *err)
{
    const char *type = text_of(value, "type");
    for (size_t i = 0; type && i < count; i++)
        if (strcmp(type, kinds[i].type) == 0)
            return kinds[i].read(r, value, where, err);
    return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %s.type: %s%.60s is not supported", r->path,
                           where, type ? "" : "a value without a type", type ? type : "");
}

/* Every element of a Sequence's list. depth: how many Sequences are around it. */
static int read_sequence(struct reader *r, const struct kind *kinds, size_t count,
                         const json_t *value, const char *list_key, const char *where, int depth,
                         struct caloris_err *err)
{
    const char *type = text_of(value, "type");
    if (!type || strcmp(type, "Sequence") != 0)
        return read_kind(r, kinds, count, value, where, err);
    const json_t *list = json_object_get(value, list_key);
    if (!json_is_array(list) || depth == DEEPEST)
        return complain(err, r->path, where, list_key,
                        depth == DEEPEST ? "nested too deep" : "missing, or not an array");
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        char inner[KEY_BYTES];
        snprintf(inner, sizeof(inner), "%.100s.%.20s[%zu]", where, list_key, i);
        if (read_sequence(r, kinds, count, entry, list_key, inner, depth + 1, err) < 0)
            return -1;
    }
    return 0;
}

static int read_nfc(struct reader *r, const json_t *value, const char *where,
                    struct caloris_err *err)
{
    (void)value;
    (void)where;
    (void)err;
    r->tok->nfc = true;
    return 0;
}

static int add_stage(struct reader *r, const char *pattern, size_t n, enum caloris_split_kind kind,
                     const char *where, struct caloris_err *err)
{
    if (r->on_bytes)
        return complain(err, r->path, where, "", "not supported after ByteLevel");
    if (caloris_split_add(&r->tok->split, pattern, n, kind, err) < 0)
        return caloris_err_prefix(err, "%s: %s", r->path, where);
    return 0;
}

/* Ways to cut that make pieces of both the matches and what lies between them. Inverted, "Removed"
 * drops what lies between: with patterns that match every character that is the same, and with
 * others nothing is lost. */
static const struct {
    const char *behavior;
    bool invert;
} cuts[] = {
    {"Isolated", false},
    {"Isolated", true},
    {"Removed", true},
};

static int read_split(struct reader *r, const json_t *value, const char *where,
                      struct caloris_err *err)
{
    bool invert, known = false;
    const char *behavior = text_of(value, "behavior");
    if (read_flag(value, "invert", false, &invert, r->path, where, err) < 0)
        return -1;
    for (size_t i = 0; behavior && i < sizeof(cuts) / sizeof(cuts[0]); i++)
        known |= strcmp(behavior, cuts[i].behavior) == 0 && invert == cuts[i].invert;
    if (!known)
        return caloris_err_set(
            err, CALORIS_BAD_MODEL, "%s: %s.behavior: \"%.40s\" with invert %s is not supported",
            r->path, where, behavior ? behavior : "?", invert ? "true" : "false");
    const json_t *pattern = json_object_get(value, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *string = json_object_get(pattern, "String");
    if (json_is_string(regex))
        return add_stage(r, json_string_value(regex), json_string_length(regex),
                         CALORIS_SPLIT_REGEX, where, err);
    if (json_is_string(string))
        return add_stage(r, json_string_value(string), json_string_length(string),
                         CALORIS_SPLIT_STRING, where, err);
    return complain(err, r->path, where, "pattern", "neither a Regex nor a String");
}

static int read_digits(struct reader *r, const json_t *value, const char *where,
                       struct caloris_err *err)
{
    bool single;
    if (read_flag(value, "individual_digits", false, &single, r->path, where, err) < 0)
        return -1;
    const char *pattern = single ? "\\p{N}" : "\\p{N}+";
    return add_stage(r, pattern, strlen(pattern), CALORIS_SPLIT_REGEX, where, err);
}

static int read_byte_level(struct reader *r, const json_t *value, const char *where,
                           struct caloris_err *err)
{
    bool prefix, regex;
    if (read_flag(value, "add_prefix_space", true, &prefix, r->path, where, err) < 0 ||
        read_flag(value, "use_regex", true, &regex, r->path, where, err) < 0)
        return -1;
    if (prefix)
        return complain(err, r->path, where, "add_prefix_space", "true is not supported");
    if (regex && add_stage(r, caloris_split_gpt2, strlen(caloris_split_gpt2), CALORIS_SPLIT_REGEX,
                           where, err) < 0)
        return -1;
    if (r->on_bytes)
        return complain(err, r->path, where, "", "a second ByteLevel is not supported");
    r->on_bytes = true;
    return 0;
}

static int read_byte_level_decoder(struct reader *r, const json_t *value, const char *where,
                                   struct caloris_err *err)
{
    (void)r;
    (void)value;
    (void)where;
    (void)err;
    return 0;
}

static const struct kind normalizers[] = {{"NFC", read_nfc}};
static const struct kind pre_tokenizers[] = {
    {"Split", read_split},
    {"Digits", read_digits},
    {"ByteLevel", read_byte_level},
};
static const struct kind decoders[] = {{"ByteLevel", read_byte_level_decoder}};

static const struct {
    const char *key, *list_key;
    const struct kind *kinds;
    size_t count;
} stages[] = {
    {"normalizer", "normalizers", normalizers, sizeof(normalizers) / sizeof(normalizers[0])},
    {"pre_tokenizer", "pretokenizers", pre_tokenizers,
     sizeof(pre_tokenizers) / sizeof(pre_tokenizers[0])},
    {"decoder", "decoders", decoders, sizeof(decoders) / sizeof(decoders[0])},
};

int caloris_tokenizer_read_json(struct caloris_tokenizer *tok, const char *path,
                                const json_t *document, struct caloris_err *err)
{
    struct reader r = {.tok = tok, .path = path};
    if (read_model(tok, path, json_object_get(document, "model"), err) < 0 ||
        read_added_tokens(tok, path, json_object_get(document, "added_tokens"), err) < 0)
        return -1;
    for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]); i++) {
        const json_t *value = json_object_get(document, stages[i].key);
        if (value && !json_is_null(value) &&
            read_sequence(&r, stages[i].kinds, stages[i].count, value, stages[i].list_key,
                          stages[i].key, 0, err) < 0)
            return -1;
    }
    if (!r.on_bytes)
        return complain(err, path, "pre_tokenizer", "", "without ByteLevel is not supported");
    return 0;
}
