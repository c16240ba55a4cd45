#include "coordinator/text/tokenizer.h"

#include "base/err.h"
#include "coordinator/text/utf8.h"

#include <stdlib.h>

int caloris_tokenizer_decode(const struct caloris_tokenizer *tokenizer, const int32_t *ids,
                             size_t n, bool with_special, struct caloris_buf *text,
                             struct caloris_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct caloris_vocab_token *token = caloris_vocab_token(&tokenizer->vocab, ids[i]);
        if (!token || (token->special && !with_special))
            continue;
        if (caloris_buf_append(text, tokenizer->vocab.arena.data + token->text, token->text_bytes,
                               err) < 0)
            return -1;
    }
    return 0;
}

/* U+FFFD in UTF-8. */
static const char replacement[] = "\xEF\xBF\xBD";

enum { LONGEST_BEGINNING = 3 }; /* bytes of a character that is not whole */

struct caloris_detokenizer {
    const struct caloris_tokenizer *tokenizer;
    char kept[LONGEST_BEGINNING];
    size_t count;            /* of kept */
    struct caloris_buf work; /* kept and the new token's bytes */
};

struct caloris_detokenizer *caloris_detokenizer_new(const struct caloris_tokenizer *tokenizer,
                                                    struct caloris_err *err)
{
    struct caloris_detokenizer *detokenizer = calloc(1, sizeof(*detokenizer));
    if (!detokenizer) {
        caloris_err_sys(err, "detokenizer");
        return NULL;
    }
    detokenizer->tokenizer = tokenizer;
    detokenizer->work = CALORIS_BUF(CALORIS_VOCAB_ARENA_BYTES);
    return detokenizer;
}

void caloris_detokenizer_free(struct caloris_detokenizer *detokenizer)
{
    if (!detokenizer)
        return;
    caloris_buf_free(&detokenizer->work);
    free(detokenizer);
}

int caloris_detokenizer_push(struct caloris_detokenizer *detokenizer, int32_t id,
                             struct caloris_buf *text, struct caloris_err *err)
{
    struct caloris_buf *work = &detokenizer->work;
    caloris_buf_clear(work);
    if (caloris_buf_append(work, detokenizer->kept, detokenizer->count, err) < 0 ||
        caloris_tokenizer_decode(detokenizer->tokenizer, &id, 1, false, work, err) < 0)
        return -1;
    size_t at = 0;
    while (at < work->size) {
        size_t valid = caloris_utf8_valid(work->data + at, work->size - at);
        if (caloris_buf_append(text, work->data + at, valid, err) < 0)
            return -1;
        at += valid;
        if (at == work->size)
            break;
        int32_t code;
        int bytes = caloris_utf8_look(work->data + at, work->size - at, &code);
        if (bytes == 0)
            break;
        if (caloris_buf_append(text, replacement, sizeof(replacement) - 1, err) < 0)
            return -1;
        at += (size_t)-bytes;
    }
    detokenizer->count = work->size - at;
    for (size_t i = 0; i < detokenizer->count; i++)
        detokenizer->kept[i] = work->data[at + i];
    return 0;
}

int caloris_detokenizer_finish(struct caloris_detokenizer *detokenizer, struct caloris_buf *text,
                               struct caloris_err *err)
{
    if (detokenizer->count == 0)
        return 0;
    detokenizer->count = 0;
    return caloris_buf_append(text, replacement, sizeof(replacement) - 1, err);
}
