#include "coordinator/text/tokenizer.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

int caloris_tokenizer_make_special(struct caloris_tokenizer *tok, int32_t id,
                                   struct caloris_err *err)
{
    struct caloris_vocab_token *token = &tok->vocab.token[id];
    /* Text needs the token of every byte: one that no text may hold would break it. */
    if (token->text_bytes == 1)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "id %d is the token of the byte 0x%02X and cannot be special", id,
                               (unsigned char)tok->vocab.arena.data[token->text]);
    token->special = true;
    if (token->added)
        tok->added.token[token->added - 1].special = true;
    return 0;
}

int caloris_tokenizer_add(struct caloris_tokenizer *tok, const struct caloris_added_token *token,
                          struct caloris_err *err)
{
    int32_t id = caloris_vocab_find(&tok->vocab, token->text, token->bytes);
    if (id < 0) {
        id = token->id;
        if (caloris_vocab_add(&tok->vocab, token->text, token->bytes, id, CALORIS_VOCAB_LITERAL,
                              err) < 0)
            return -1;
    }
    if (!tok->vocab.token[id].added) {
        struct caloris_added_token own = *token;
        own.id = id;
        if (caloris_added_append(&tok->added, &own, err) < 0)
            return -1;
        tok->vocab.token[id].added = (uint32_t)tok->added.count;
    }
    return token->special ? caloris_tokenizer_make_special(tok, id, err) : 0;
}

int32_t caloris_tokenizer_literal(const struct caloris_tokenizer *tok, const char *text, size_t n)
{
    return caloris_vocab_find(&tok->vocab, text, n);
}

void caloris_tokenizer_free(struct caloris_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    caloris_added_set_free(&tokenizer->markup);
    caloris_added_set_free(&tokenizer->plain);
    caloris_added_set_free(&tokenizer->normal);
    caloris_added_free(&tokenizer->added);
    caloris_split_free(&tokenizer->split);
    caloris_merges_free(&tokenizer->merges);
    caloris_vocab_free(&tokenizer->vocab);
    free(tokenizer);
}

size_t caloris_tokenizer_size(const struct caloris_tokenizer *tokenizer)
{
    return tokenizer->vocab.count;
}

int32_t caloris_tokenizer_find(const struct caloris_tokenizer *tokenizer, const char *token)
{
    size_t n = strlen(token);
    int32_t id = caloris_vocab_find(&tokenizer->vocab, token, n);
    if (id >= 0 && tokenizer->vocab.token[id].added)
        return id;
    int32_t by_bytes = caloris_vocab_find_bytes(&tokenizer->vocab, token, n);
    return by_bytes >= 0 ? by_bytes : id;
}

int32_t caloris_tokenizer_mask_id(const struct caloris_tokenizer *tokenizer)
{
    return tokenizer->role[CALORIS_ROLE_MASK];
}

int32_t caloris_tokenizer_eos_id(const struct caloris_tokenizer *tokenizer)
{
    return tokenizer->role[CALORIS_ROLE_EOS];
}

int32_t caloris_tokenizer_eot_id(const struct caloris_tokenizer *tokenizer)
{
    return tokenizer->role[CALORIS_ROLE_EOT];
}

int32_t caloris_tokenizer_bos_id(const struct caloris_tokenizer *tokenizer)
{
    return tokenizer->role[CALORIS_ROLE_BOS];
}

bool caloris_tokenizer_is_special(const struct caloris_tokenizer *tokenizer, int32_t id)
{
    const struct caloris_vocab_token *token = caloris_vocab_token(&tokenizer->vocab, id);
    return token && token->special;
}

void caloris_ids_free(struct caloris_ids *ids)
{
    if (!ids)
        return;
    free(ids->id);
    *ids = (struct caloris_ids){0};
}

int caloris_ids_append(struct caloris_ids *ids, int32_t id, struct caloris_err *err)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? 2 * ids->capacity : 64;
        int32_t *grown = realloc(ids->id, capacity * sizeof(*grown));
        if (!grown)
            return caloris_err_sys(err, "%zu ids", capacity);
        ids->id = grown;
        ids->capacity = capacity;
    }
    ids->id[ids->count++] = id;
    return 0;
}
