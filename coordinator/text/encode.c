#include "coordinator/text/tokenizer.h"

#include "base/err.h"
#include "coordinator/text/bpe.h"
#include "coordinator/text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- the draft ---- */

int caloris_draft_id(struct caloris_draft *draft, int32_t id, struct caloris_err *err)
{
    if (draft->count == draft->capacity) {
        size_t capacity = draft->capacity ? 2 * draft->capacity : 16;
        struct caloris_forced *grown = realloc(draft->forced, capacity * sizeof(*grown));
        if (!grown)
            return caloris_err_sys(err, "encoding text");
        draft->forced = grown;
        draft->capacity = capacity;
    }
    draft->forced[draft->count++] = (struct caloris_forced){draft->text.size, id};
    return 0;
}

static int append_text(struct caloris_draft *draft, const char *text, size_t n,
                       struct caloris_err *err)
{
    return caloris_buf_append(&draft->text, text, n, err) < 0 ? caloris_err_prefix(err, "text") : 0;
}

int caloris_draft_words(struct caloris_draft *draft, const struct caloris_tokenizer *tok,
                        const char *text, size_t n, struct caloris_err *err)
{
    size_t at = 0, begin, end;
    const struct caloris_added_token *token;
    if (n == 0)
        text = "";
    for (; (token = caloris_added_next(&tok->markup, text, n, at, &begin, &end)) != NULL; at = end)
        if (append_text(draft, text + at, begin - at, err) < 0 ||
            caloris_draft_id(draft, token->id, err) < 0)
            return -1;
    return append_text(draft, text + at, n - at, err);
}

int caloris_draft_user(struct caloris_draft *draft, const char *text, size_t n, const char *marker,
                       int32_t mask_id, struct caloris_err *err)
{
    size_t at = 0, width = marker ? strlen(marker) : 0;
    if (n == 0)
        text = ""; /* NULL is fine then */
    if (marker && width == 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "the hole marker is empty");
    for (const char *hole; marker && (hole = memmem(text + at, n - at, marker, width)) != NULL;) {
        size_t begin = (size_t)(hole - text);
        if (mask_id < 0)
            return caloris_err_set(
                err, CALORIS_BAD_REQUEST,
                "the text has a hole \"%.40s\", but the model's mask id is not known", marker);
        if (append_text(draft, text + at, begin - at, err) < 0 ||
            caloris_draft_id(draft, mask_id, err) < 0)
            return -1;
        at = begin + width;
    }
    return append_text(draft, text + at, n - at, err);
}

void caloris_draft_free(struct caloris_draft *draft)
{
    caloris_buf_free(&draft->text);
    free(draft->forced);
}

/* ---- from text to ids: added tokens, whole characters, NFC, added tokens again, patterns, merges
 * ---- */

struct encoder {
    const struct caloris_tokenizer *tok;
    struct caloris_ids *ids;
    struct caloris_splitter splitter;
    struct caloris_bpe bpe;
    struct caloris_buf normal; /* NFC of the part at hand */
};

static int encode_piece(void *arg, const char *piece, size_t n, struct caloris_err *err)
{
    struct encoder *e = arg;
    const struct caloris_vocab *vocab = &e->tok->vocab;
    if (n == 1 && vocab->byte_id[(unsigned char)piece[0]] >= 0)
        return caloris_ids_append(e->ids, vocab->byte_id[(unsigned char)piece[0]], err);
    if (e->tok->ignore_merges) {
        int32_t id = caloris_vocab_find_bytes(vocab, piece, n);
        if (id >= 0 && !vocab->token[id].special)
            return caloris_ids_append(e->ids, id, err);
    }
    return caloris_bpe_encode(&e->bpe, vocab, &e->tok->merges, piece, n, e->ids, err);
}

static int encode_split(struct encoder *e, const char *text, size_t n, struct caloris_err *err)
{
    return caloris_splitter_run(&e->splitter, text, n, encode_piece, e, err);
}

/* Cuts added tokens out of text; what lies between goes to rest. */
static int cut_added(struct encoder *e, const struct caloris_added_set *set, const char *text,
                     size_t n,
                     int (*rest)(struct encoder *, const char *, size_t, struct caloris_err *),
                     struct caloris_err *err)
{
    size_t at = 0, begin, end;
    const struct caloris_added_token *token;
    for (; (token = caloris_added_next(set, text, n, at, &begin, &end)) != NULL; at = end)
        if (rest(e, text + at, begin - at, err) < 0 ||
            caloris_ids_append(e->ids, token->id, err) < 0)
            return -1;
    return rest(e, text + at, n - at, err);
}

static int encode_normalised(struct encoder *e, const char *text, size_t n, struct caloris_err *err)
{
    if (!e->tok->nfc)
        return cut_added(e, &e->tok->normal, text, n, encode_split, err);
    caloris_buf_clear(&e->normal);
    if (caloris_utf8_nfc(text, n, &e->normal, err) < 0)
        return -1;
    return cut_added(e, &e->tok->normal, e->normal.data, e->normal.size, encode_split, err);
}

/* Bytes that are no characters are pieces of their own, a run of them one piece: patterns know only
 * characters. */
static int encode_bytes(struct encoder *e, const char *text, size_t n, struct caloris_err *err)
{
    for (size_t at = 0; at < n;) {
        size_t valid = caloris_utf8_valid(text + at, n - at);
        if (valid && encode_normalised(e, text + at, valid, err) < 0)
            return -1;
        at += valid;
        size_t wrong = 0;
        int32_t code;
        while (at + wrong < n) {
            int bytes = caloris_utf8_look(text + at + wrong, n - at - wrong, &code);
            if (bytes > 0)
                break;
            wrong += bytes < 0 ? (size_t)-bytes : n - at - wrong;
        }
        if (wrong && encode_piece(e, text + at, wrong, err) < 0)
            return -1;
        at += wrong;
    }
    return 0;
}

/* The added token of an id, or NULL. */
static const struct caloris_added_token *added_of(const struct caloris_tokenizer *tok, int32_t id)
{
    const struct caloris_vocab_token *token = caloris_vocab_token(&tok->vocab, id);
    return token && token->added ? &tok->added.token[token->added - 1] : NULL;
}

static int encode_gaps(struct encoder *e, const struct caloris_draft *draft,
                       struct caloris_err *err)
{
    const struct caloris_added_token *left = NULL;
    size_t at = 0;
    for (size_t i = 0; i <= draft->count; i++) {
        const struct caloris_forced *forced = i < draft->count ? &draft->forced[i] : NULL;
        const struct caloris_added_token *right = forced ? added_of(e->tok, forced->id) : NULL;
        const char *text = draft->text.data + at;
        size_t end = forced ? forced->at : draft->text.size, n = end - at;
        at = end;
        if (left && left->rstrip) {
            size_t space = caloris_utf8_space_after(text, n, CALORIS_UTF8_WHITE_SPACE);
            text += space;
            n -= space;
        }
        if (right && right->lstrip)
            n -= caloris_utf8_space_before(text, n, CALORIS_UTF8_WHITE_SPACE);
        if (cut_added(e, &e->tok->plain, text, n, encode_bytes, err) < 0)
            return -1;
        if (forced && caloris_ids_append(e->ids, forced->id, err) < 0)
            return -1;
        left = right;
    }
    return 0;
}

int caloris_draft_encode(const struct caloris_draft *draft, const struct caloris_tokenizer *tok,
                         struct caloris_ids *ids, struct caloris_err *err)
{
    struct encoder e = {.tok = tok, .ids = ids};
    /* A character that NFC takes apart grows to three times its bytes at most. */
    e.normal = CALORIS_BUF((size_t)3 * CALORIS_TEXT_BYTES);
    size_t before = ids->count;
    int rc = -1;
    if (caloris_splitter_init(&e.splitter, &tok->split, err) < 0 || encode_gaps(&e, draft, err) < 0)
        goto out;
    rc = 0;
out:
    if (rc < 0)
        ids->count = before;
    caloris_splitter_free(&e.splitter);
    caloris_bpe_free(&e.bpe);
    caloris_buf_free(&e.normal);
    return rc;
}

int caloris_tokenizer_encode(const struct caloris_tokenizer *tokenizer, const char *text, size_t n,
                             enum caloris_text_mode mode, struct caloris_ids *ids,
                             struct caloris_err *err)
{
    struct caloris_draft draft = CALORIS_DRAFT;
    int rc = mode == CALORIS_TEXT_MARKUP ? caloris_draft_words(&draft, tokenizer, text, n, err)
                                         : caloris_draft_user(&draft, text, n, NULL, -1, err);
    if (rc == 0)
        rc = caloris_draft_encode(&draft, tokenizer, ids, err);
    caloris_draft_free(&draft);
    return rc;
}

int caloris_tokenizer_encode_holes(const struct caloris_tokenizer *tokenizer, const char *text,
                                   size_t n, const char *marker, int32_t mask_id,
                                   struct caloris_ids *ids, struct caloris_err *err)
{
    struct caloris_draft draft = CALORIS_DRAFT;
    int rc = caloris_draft_user(&draft, text, n, marker, mask_id, err);
    if (rc == 0)
        rc = caloris_draft_encode(&draft, tokenizer, ids, err);
    caloris_draft_free(&draft);
    return rc;
}
