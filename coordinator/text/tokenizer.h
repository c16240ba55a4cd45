/* coordinator/text/tokenizer.h: what a tokenizer is made of, and the loaders that fill it, each
 * from one file. */
#ifndef CALORIS_TEXT_TOKENIZER_H
#define CALORIS_TEXT_TOKENIZER_H

#include "coordinator/text/added.h"
#include "coordinator/text/split.h"
#include "coordinator/text/text.h"
#include "coordinator/text/vocab.h"

#include <jansson.h>

/* What each file may hold at most. */
enum {
    CALORIS_TOKENIZER_JSON_BYTES = 64 << 20,
    CALORIS_TOKENIZER_VOCAB_BYTES = 64 << 20,
    CALORIS_TOKENIZER_MERGES_BYTES = 64 << 20,
    CALORIS_TOKENIZER_CONFIG_BYTES = 16 << 20,
    CALORIS_TOKENIZER_TEMPLATE_BYTES = 1 << 20,
};

/* What one call may encode at most. */
enum { CALORIS_TEXT_BYTES = 8 << 20 };

/* Roles that ids of the folder play. */
enum caloris_token_role {
    CALORIS_ROLE_BOS,
    CALORIS_ROLE_EOS,
    CALORIS_ROLE_EOT,
    CALORIS_ROLE_MASK,
    CALORIS_ROLES,
};

struct caloris_template;

struct caloris_tokenizer {
    struct caloris_vocab vocab;
    struct caloris_merges merges;
    struct caloris_split split;
    struct caloris_added added;
    struct caloris_added_set markup; /* all added tokens: in templates' words */
    struct caloris_added_set plain;  /* in user text as it is: neither special nor normalized */
    struct caloris_added_set normal; /* in user text in NFC: normalized, not special */
    bool nfc;
    bool ignore_merges; /* a piece that is a token is that token */
    int32_t role[CALORIS_ROLES];
    const struct caloris_template *chat; /* NULL: none that we know */
};

/* Adds an added token. A literal that is in the vocabulary keeps the id that it has there (so does
 * Hugging Face); one that was added before only becomes special if token says so. */
int caloris_tokenizer_add(struct caloris_tokenizer *tok, const struct caloris_added_token *token,
                          struct caloris_err *err);

/* From now on id is a control token. */
int caloris_tokenizer_make_special(struct caloris_tokenizer *tok, int32_t id,
                                   struct caloris_err *err);

/* The id of a literal among added tokens and keys of the vocabulary, or -1. */
int32_t caloris_tokenizer_literal(const struct caloris_tokenizer *tok, const char *text, size_t n);

/* load_json.c: everything but the merges from the document of a tokenizer.json, then the merges
 * (once it is known which tokens are special). path is for errors. */
int caloris_tokenizer_read_json(struct caloris_tokenizer *tok, const char *path,
                                const json_t *document, struct caloris_err *err);
int caloris_tokenizer_read_json_merges(struct caloris_tokenizer *tok, const char *path,
                                       const json_t *document, struct caloris_err *err);

/* load_json.c: {"token": id, …}. where: the key that leads there, "" for the document itself. */
int caloris_tokenizer_read_vocab(struct caloris_tokenizer *tok, const char *path, const char *where,
                                 const json_t *vocab, struct caloris_err *err);

/* load_json.c: the flags of an added token, {"content": …, "special": …, …}. */
int caloris_tokenizer_read_added(struct caloris_tokenizer *tok, const char *path, const char *where,
                                 const json_t *entry, json_int_t id, struct caloris_err *err);

/* load_merges.c: the lines of a merges.txt. */
int caloris_tokenizer_read_merges(struct caloris_tokenizer *tok, const char *path,
                                  struct caloris_err *err);

/* load_config.c: added tokens, roles and chat template from tokenizer_config.json,
 * special_tokens_map.json and chat_template.jinja, as far as they are there. */
int caloris_tokenizer_read_config(struct caloris_tokenizer *tok, const char *dir,
                                  struct caloris_err *err);

/* load.c: the document dir/name; NULL and err->code CALORIS_NOT_FOUND when there is no such file.
 * path [size] gets its name. */
json_t *caloris_tokenizer_open(const char *dir, const char *name, size_t max_bytes, char *path,
                               size_t size, struct caloris_err *err);

/* template.c: the template whose telltale signs are in a chat_template, or NULL. */
const struct caloris_template *caloris_template_detect(const char *chat_template);

/* encode.c: text in the making, with ids at places where they are not up to the text. Start from
 * CALORIS_DRAFT. */
struct caloris_draft {
    struct caloris_buf text;
    struct caloris_forced {
        size_t at; /* before this byte of text */
        int32_t id;
    } * forced; /* [count], ascending */
    size_t count, capacity;
};
#define CALORIS_DRAFT                                                                              \
    {                                                                                              \
        .text = CALORIS_BUF(CALORIS_TEXT_BYTES)                                                    \
    }

/* An id at the end of the draft. */
int caloris_draft_id(struct caloris_draft *draft, int32_t id, struct caloris_err *err);
/* Words of ours: literals of added tokens become ids. */
int caloris_draft_words(struct caloris_draft *draft, const struct caloris_tokenizer *tok,
                        const char *text, size_t n, struct caloris_err *err);
/* Words of a user: text, but for the hole marker (NULL: none). */
int caloris_draft_user(struct caloris_draft *draft, const char *text, size_t n, const char *marker,
                       int32_t mask_id, struct caloris_err *err);
/* Appends the draft's ids. Text between two forced ids is encoded as one, whoever wrote it: as when
 * a rendered template is tokenized whole. */
int caloris_draft_encode(const struct caloris_draft *draft, const struct caloris_tokenizer *tok,
                         struct caloris_ids *ids, struct caloris_err *err);
void caloris_draft_free(struct caloris_draft *draft);

#endif
