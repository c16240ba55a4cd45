#include "coordinator/text/tokenizer.h"

#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Keys of tokenizer_config.json and special_tokens_map.json that name a token. */
static const struct {
    const char *key;
    enum caloris_token_role role; /* CALORIS_ROLES: only that it is special */
} named[] = {
    {"bos_token", CALORIS_ROLE_BOS},   {"eos_token", CALORIS_ROLE_EOS},
    {"mask_token", CALORIS_ROLE_MASK}, {"pad_token", CALORIS_ROLES},
    {"unk_token", CALORIS_ROLES},      {"sep_token", CALORIS_ROLES},
    {"cls_token", CALORIS_ROLES},
};

/* Where no key names them: literals that families use, in this order. */
static const struct {
    enum caloris_token_role role;
    const char *literal;
} usual[] = {
    {CALORIS_ROLE_EOT, "<|eot_id|>"},   {CALORIS_ROLE_EOT, "<|im_end|>"},
    {CALORIS_ROLE_EOT, "<|role_end|>"}, {CALORIS_ROLE_MASK, "<|mdm_mask|>"},
    {CALORIS_ROLE_MASK, "<|mask|>"},    {CALORIS_ROLE_MASK, "<|MASK|>"},
    {CALORIS_ROLE_MASK, "|<MASK>|"},    {CALORIS_ROLE_MASK, "<MASK>"},
    {CALORIS_ROLE_MASK, "[MASK]"},      {CALORIS_ROLE_MASK, "<mask>"},
    {CALORIS_ROLE_MASK, "<M>"},
};

/* {"151666": {"content": "<|mask|>", …}, …} */
static int read_added_decoder(struct caloris_tokenizer *tok, const char *path,
                              const json_t *entries, struct caloris_err *err)
{
    if (!entries || json_is_null(entries))
        return 0;
    if (!json_is_object(entries))
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: added_tokens_decoder: not an object",
                               path);
    const char *key;
    json_t *entry;
    json_object_foreach((json_t *)entries, key, entry)
    {
        char where[80], *end;
        snprintf(where, sizeof(where), "added_tokens_decoder.%.40s", key);
        long id = strtol(key, &end, 10);
        if (*end || key[0] < '0' || key[0] > '9')
            return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %s: not an id", path, where);
        if (caloris_tokenizer_read_added(tok, path, where, entry, id, err) < 0)
            return -1;
    }
    return 0;
}

/* The literal that a value names, "…" or {"content": "…"}, or NULL. */
static const char *literal_of(const json_t *value)
{
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static int take_role(struct caloris_tokenizer *tok, enum caloris_token_role role, int32_t id,
                     struct caloris_err *err)
{
    if (tok->role[role] >= 0)
        return 0;
    tok->role[role] = id;
    return caloris_tokenizer_make_special(tok, id, err);
}

/* Tokens that a key names: a literal that is no token of ours is left alone, whoever needs it
 * complains. */
static int read_named(struct caloris_tokenizer *tok, const char *path, const json_t *config,
                      struct caloris_err *err)
{
    for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++) {
        const char *literal = literal_of(json_object_get(config, named[i].key));
        int32_t id = literal ? caloris_tokenizer_literal(tok, literal, strlen(literal)) : -1;
        int rc = 0;
        if (id >= 0 && named[i].role < CALORIS_ROLES)
            rc = take_role(tok, named[i].role, id, err);
        else if (id >= 0 && tok->vocab.token[id].added)
            rc = caloris_tokenizer_make_special(tok, id, err);
        if (rc < 0)
            return caloris_err_prefix(err, "%s: %s", path, named[i].key);
    }
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(config, "additional_special_tokens"), i, entry)
    {
        const char *literal = literal_of(entry);
        int32_t id = literal ? caloris_tokenizer_literal(tok, literal, strlen(literal)) : -1;
        if (id >= 0 && tok->vocab.token[id].added &&
            caloris_tokenizer_make_special(tok, id, err) < 0)
            return caloris_err_prefix(err, "%s: additional_special_tokens[%zu]", path, i);
    }
    return 0;
}

/* The only added token whose name says mask, or -1. */
static int32_t only_mask(const struct caloris_tokenizer *tok)
{
    int32_t id = -1;
    for (size_t i = 0; i < tok->added.count; i++) {
        const struct caloris_added_token *token = &tok->added.token[i];
        char name[CALORIS_ADDED_BYTES + 1];
        memcpy(name, token->text, token->bytes);
        name[token->bytes] = '\0';
        if (!strcasestr(name, "mask"))
            continue;
        if (id >= 0)
            return -1;
        id = token->id;
    }
    return id;
}

static int take_usual(struct caloris_tokenizer *tok, const char *dir, struct caloris_err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(usual) / sizeof(usual[0]); i++) {
        int32_t id = caloris_tokenizer_literal(tok, usual[i].literal, strlen(usual[i].literal));
        if (id >= 0 && tok->vocab.token[id].added)
            rc = take_role(tok, usual[i].role, id, err);
    }
    int32_t mask = only_mask(tok);
    if (rc == 0 && mask >= 0)
        rc = take_role(tok, CALORIS_ROLE_MASK, mask, err);
    return rc < 0 ? caloris_err_prefix(err, "%s", dir) : 0;
}

/* "chat_template": the text, or [{"name": "default", "template": "…"}, …]. */
static void read_template(struct caloris_tokenizer *tok, const json_t *value)
{
    const char *text = json_string_value(value);
    size_t i;
    json_t *entry;
    json_array_foreach(value, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            text = json_string_value(json_object_get(entry, "template"));
    }
    if (text)
        tok->chat = caloris_template_detect(text);
}

/* chat_template.jinja, where it is there, overrides the one in tokenizer_config.json. */
static int read_template_file(struct caloris_tokenizer *tok, const char *dir,
                              struct caloris_err *err)
{
    char path[PATH_MAX];
    struct stat st;
    if (caloris_file_join(path, sizeof(path), dir, "chat_template.jinja", err) < 0)
        return -1;
    if (stat(path, &st) < 0 && errno == ENOENT)
        return 0;
    struct caloris_buf text = CALORIS_BUF(CALORIS_TOKENIZER_TEMPLATE_BYTES);
    int rc = caloris_file_read(path, &text, err);
    if (rc == 0)
        tok->chat = caloris_template_detect(text.data);
    else if (err && err->code == CALORIS_BAD_REQUEST)
        err->code = CALORIS_BAD_MODEL;
    caloris_buf_free(&text);
    return rc;
}

static int read_tokenizer_config(struct caloris_tokenizer *tok, const char *path,
                                 const json_t *config, struct caloris_err *err)
{
    if (json_is_true(json_object_get(config, "add_prefix_space")))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: add_prefix_space: true is not supported", path);
    if (read_added_decoder(tok, path, json_object_get(config, "added_tokens_decoder"), err) < 0 ||
        read_named(tok, path, config, err) < 0)
        return -1;
    read_template(tok, json_object_get(config, "chat_template"));
    return 0;
}

/* Files that may be missing, in the order of who is believed. */
static const struct {
    const char *name;
    int (*read)(struct caloris_tokenizer *, const char *path, const json_t *, struct caloris_err *);
} files[] = {
    {"tokenizer_config.json", read_tokenizer_config},
    {"special_tokens_map.json", read_named},
};

int caloris_tokenizer_read_config(struct caloris_tokenizer *tok, const char *dir,
                                  struct caloris_err *err)
{
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[PATH_MAX];
        struct caloris_err why = {0};
        json_t *config = caloris_tokenizer_open(dir, files[i].name, CALORIS_TOKENIZER_CONFIG_BYTES,
                                                path, sizeof(path), &why);
        if (!config && why.code == CALORIS_NOT_FOUND)
            continue;
        int rc = config ? files[i].read(tok, path, config, err)
                        : caloris_err_set(err, why.code, "%s", why.text);
        json_decref(config);
        if (rc < 0)
            return -1;
    }
    if (read_template_file(tok, dir, err) < 0)
        return -1;
    return take_usual(tok, dir, err);
}
