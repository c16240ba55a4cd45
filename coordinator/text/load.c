#include "coordinator/text/tokenizer.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

json_t *caloris_tokenizer_open(const char *dir, const char *name, size_t max_bytes, char *path,
                               size_t size, struct caloris_err *err)
{
    struct stat st;
    if (caloris_file_join(path, size, dir, name, err) < 0)
        return NULL;
    if (stat(path, &st) < 0 && errno == ENOENT) {
        caloris_err_set(err, CALORIS_NOT_FOUND, "%s is missing", path);
        return NULL;
    }
    json_t *document = caloris_json_load(path, max_bytes, err);
    if (!document && err && err->code == CALORIS_BAD_REQUEST)
        err->code = CALORIS_BAD_MODEL;
    if (document && !json_is_object(document)) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s: not an object", path);
        json_decref(document);
        return NULL;
    }
    return document;
}

static bool in_markup(const struct caloris_added_token *token)
{
    (void)token;
    return true;
}

static bool in_plain(const struct caloris_added_token *token)
{
    return !token->special && !token->normalized;
}

static bool in_normal(const struct caloris_added_token *token)
{
    return !token->special && token->normalized;
}

static int read_tokenizer_json(struct caloris_tokenizer *tok, const char *dir, const char *path,
                               const json_t *document, struct caloris_err *err)
{
    /* Merges come last: one that makes a special token is left out. */
    if (caloris_tokenizer_read_json(tok, path, document, err) < 0 ||
        caloris_tokenizer_read_config(tok, dir, err) < 0)
        return -1;
    return caloris_tokenizer_read_json_merges(tok, path, document, err);
}

/* A folder without tokenizer.json: Qwen2's slow tokenizer, which Dream and its kin ship. */
static int read_vocab_and_merges(struct caloris_tokenizer *tok, const char *dir, const char *path,
                                 const json_t *vocab, struct caloris_err *err)
{
    char merges[PATH_MAX];
    tok->nfc = true;
    if (caloris_split_add(&tok->split, caloris_split_qwen2, strlen(caloris_split_qwen2),
                          CALORIS_SPLIT_REGEX, err) < 0)
        return -1;
    if (caloris_file_join(merges, sizeof(merges), dir, "merges.txt", err) < 0 ||
        caloris_tokenizer_read_vocab(tok, path, "", vocab, err) < 0 ||
        caloris_tokenizer_read_config(tok, dir, err) < 0)
        return -1;
    return caloris_tokenizer_read_merges(tok, merges, err);
}

static int load(struct caloris_tokenizer *tok, const char *dir, bool *found,
                struct caloris_err *err)
{
    char path[PATH_MAX];
    struct caloris_err why = {0};
    int rc = -1;
    json_t *document = caloris_tokenizer_open(dir, "tokenizer.json", CALORIS_TOKENIZER_JSON_BYTES,
                                              path, sizeof(path), &why);
    if (document) {
        rc = read_tokenizer_json(tok, dir, path, document, err);
        goto out;
    }
    if (why.code == CALORIS_NOT_FOUND)
        document = caloris_tokenizer_open(dir, "vocab.json", CALORIS_TOKENIZER_VOCAB_BYTES, path,
                                          sizeof(path), &why);
    if (document) {
        rc = read_vocab_and_merges(tok, dir, path, document, err);
    } else if (why.code == CALORIS_NOT_FOUND) {
        *found = false;
        caloris_err_set(err, CALORIS_BAD_MODEL,
                        "%s: no tokenizer (no tokenizer.json, no vocab.json)", dir);
    } else {
        caloris_err_set(err, why.code, "%s", why.text);
    }
out:
    json_decref(document);
    return rc;
}

struct caloris_tokenizer *caloris_tokenizer_load(const char *model_dir, bool *found,
                                                 struct caloris_err *err)
{
    bool ignored;
    if (!found)
        found = &ignored;
    *found = true;
    struct caloris_tokenizer *tok = calloc(1, sizeof(*tok));
    if (!tok) {
        caloris_err_sys(err, "%s: tokenizer", model_dir);
        return NULL;
    }
    caloris_vocab_init(&tok->vocab);
    for (size_t i = 0; i < CALORIS_ROLES; i++)
        tok->role[i] = -1;
    if (load(tok, model_dir, found, err) < 0)
        goto fail;
    caloris_vocab_index_bytes(&tok->vocab);
    if (caloris_added_select(&tok->markup, &tok->added, in_markup, err) < 0 ||
        caloris_added_select(&tok->plain, &tok->added, in_plain, err) < 0 ||
        caloris_added_select(&tok->normal, &tok->added, in_normal, err) < 0)
        goto fail;
    return tok;
fail:
    caloris_tokenizer_free(tok);
    return NULL;
}
