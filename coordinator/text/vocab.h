/* coordinator/text/vocab.h: tokens by id and by text, and the merge table.
 *
 * Files write a token's bytes as printable characters ("Ġdef" for " def"): its key. Every byte has
 * one character (GPT-2's table): 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF their own, the other 68 in
 * ascending order U+0100, U+0101 …
 */
#ifndef CALORIS_TEXT_VOCAB_H
#define CALORIS_TEXT_VOCAB_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

/* What a vocabulary may hold at most. */
enum {
    CALORIS_VOCAB_TOKENS = 1 << 21, /* ids are below this */
    CALORIS_VOCAB_MERGES = 1 << 21,
    CALORIS_VOCAB_ARENA_BYTES = 256 << 20,
};

struct caloris_vocab {
    struct caloris_vocab_token *token; /* [count], by id; ids may have gaps */
    size_t count, capacity;
    struct caloris_buf arena; /* keys and bytes of all tokens */
    uint32_t *slot;           /* [slots] hash of keys: id + 1, 0 = free */
    size_t slots, used;
    int32_t byte_id[256]; /* the token of one byte, or -1 */
    size_t longest_key;   /* bytes */
};

struct caloris_vocab_token {
    uint32_t key, key_bytes;   /* in the arena; key_bytes 0: no token has this id */
    uint32_t text, text_bytes; /* what it decodes to, in the arena */
    uint32_t added;            /* its place in the list of added tokens + 1, or 0 */
    bool special;              /* a control token: never from user text, never shown */
};

void caloris_vocab_init(struct caloris_vocab *vocab);
void caloris_vocab_free(struct caloris_vocab *vocab);

/* Adds the token key [n] under id. LITERAL: the key is the text itself; MAPPED: bytes as characters
 * (a key with a character outside the table stands for itself). An id or key that is there already
 * is an error. */
enum caloris_vocab_form { CALORIS_VOCAB_MAPPED, CALORIS_VOCAB_LITERAL };
int caloris_vocab_add(struct caloris_vocab *vocab, const char *key, size_t n, int64_t id,
                      enum caloris_vocab_form form, struct caloris_err *err);

/* When all are there: fills byte_id. */
void caloris_vocab_index_bytes(struct caloris_vocab *vocab);

/* The id of a key, or -1. */
int32_t caloris_vocab_find(const struct caloris_vocab *vocab, const char *key, size_t n);

/* The id of the token that decodes to these bytes by the table, or -1. */
int32_t caloris_vocab_find_bytes(const struct caloris_vocab *vocab, const char *bytes, size_t n);

/* The token of an id, or NULL. */
const struct caloris_vocab_token *caloris_vocab_token(const struct caloris_vocab *vocab,
                                                      int32_t id);

/* Which two tokens become one, and how soon: the lower the rank the earlier. */
struct caloris_merges {
    uint64_t *pair;  /* [slots] left << 32 | right */
    uint32_t *rank;  /* [slots] CALORIS_NO_RANK = free */
    int32_t *merged; /* [count] by rank */
    size_t slots, count;
};

#define CALORIS_NO_RANK UINT32_MAX

/* Room for count merges. */
int caloris_merges_init(struct caloris_merges *merges, size_t count, struct caloris_err *err);
void caloris_merges_free(struct caloris_merges *merges);

/* The next merge, of rank merges->count: left [nl] and right [nr] are keys, as is their
 * concatenation. A pair seen before takes the later rank. A merge into a special token takes a rank
 * and does nothing. */
int caloris_merges_add(struct caloris_merges *merges, const struct caloris_vocab *vocab,
                       const char *left, size_t nl, const char *right, size_t nr,
                       struct caloris_err *err);

/* The rank of a pair of ids, or CALORIS_NO_RANK. */
uint32_t caloris_merges_rank(const struct caloris_merges *merges, int32_t left, int32_t right);

#endif
