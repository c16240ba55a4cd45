#include "coordinator/text/vocab.h"

#include "base/err.h"
#include "base/size.h"
#include "coordinator/text/utf8.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* How much of a hostile token an error shows. */
enum { SHOWN_BYTES = 60 };

static int shown(size_t n)
{
    return n < SHOWN_BYTES ? (int)n : SHOWN_BYTES;
}

/* The characters of the 68 bytes that are not printable: 0x00-0x20, 0x7F-0xA0, 0xAD. */
enum { FIRST_MAPPED = 0x100, CONTROLS = 0x21, DELETES = 0x22, LAST_MAPPED = 0x143 };

static int byte_of(int32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xAC) ||
        (code >= 0xAE && code <= 0xFF))
        return code;
    if (code < FIRST_MAPPED || code > LAST_MAPPED)
        return -1;
    int nth = code - FIRST_MAPPED;
    if (nth < CONTROLS)
        return nth;
    return nth < CONTROLS + DELETES ? 0x7F + nth - CONTROLS : 0xAD;
}

/* The character of a byte, in UTF-8 to key [2]; returns its bytes. */
static size_t character_of(unsigned char byte, char *key)
{
    int code = byte;
    if (byte < CONTROLS)
        code = FIRST_MAPPED + byte;
    else if (byte >= 0x7F && byte <= 0xA0)
        code = FIRST_MAPPED + CONTROLS + byte - 0x7F;
    else if (byte == 0xAD)
        code = LAST_MAPPED;
    if (code < 0x80) {
        key[0] = (char)code;
        return 1;
    }
    key[0] = (char)(0xC0 | code >> 6);
    key[1] = (char)(0x80 | (code & 0x3F));
    return 2;
}

/* FNV-1a; good enough spread for the keys of one vocabulary. */
static uint64_t hash_key(const char *key, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)key[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

/* splitmix64's finaliser. */
static uint64_t hash_pair(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void caloris_vocab_init(struct caloris_vocab *vocab)
{
    memset(vocab, 0, sizeof(*vocab));
    vocab->arena = CALORIS_BUF(CALORIS_VOCAB_ARENA_BYTES);
    for (size_t byte = 0; byte < 256; byte++)
        vocab->byte_id[byte] = -1;
}

void caloris_vocab_free(struct caloris_vocab *vocab)
{
    free(vocab->token);
    free(vocab->slot);
    caloris_buf_free(&vocab->arena);
}

const struct caloris_vocab_token *caloris_vocab_token(const struct caloris_vocab *vocab, int32_t id)
{
    if (id < 0 || (size_t)id >= vocab->count || vocab->token[id].key_bytes == 0)
        return NULL;
    return &vocab->token[id];
}

/* The slot that holds key, or the free one where it would go. slots > used. */
static size_t slot_of(const struct caloris_vocab *vocab, const char *key, size_t n)
{
    size_t mask = vocab->slots - 1, at = hash_key(key, n) & mask;
    for (; vocab->slot[at]; at = (at + 1) & mask) {
        const struct caloris_vocab_token *token = &vocab->token[vocab->slot[at] - 1];
        if (token->key_bytes == n && memcmp(vocab->arena.data + token->key, key, n) == 0)
            break;
    }
    return at;
}

int32_t caloris_vocab_find(const struct caloris_vocab *vocab, const char *key, size_t n)
{
    if (vocab->slots == 0 || n > vocab->longest_key)
        return -1;
    return (int32_t)vocab->slot[slot_of(vocab, key, n)] - 1;
}

int32_t caloris_vocab_find_bytes(const struct caloris_vocab *vocab, const char *bytes, size_t n)
{
    if (n == 0 || n > vocab->longest_key)
        return -1;
    char fixed[256], *key = 2 * n <= sizeof(fixed) ? fixed : malloc(2 * n);
    if (!key)
        return -1;
    size_t length = 0;
    for (size_t i = 0; i < n; i++)
        length += character_of((unsigned char)bytes[i], key + length);
    int32_t id = caloris_vocab_find(vocab, key, length);
    if (key != fixed)
        free(key);
    return id;
}

void caloris_vocab_index_bytes(struct caloris_vocab *vocab)
{
    for (size_t byte = 0; byte < 256; byte++) {
        char key[2];
        size_t n = character_of((unsigned char)byte, key);
        vocab->byte_id[byte] = caloris_vocab_find(vocab, key, n);
    }
}

/* At most half of the slots are used. */
static int grow_slots(struct caloris_vocab *vocab, struct caloris_err *err)
{
    if (2 * (vocab->used + 1) <= vocab->slots)
        return 0;
    size_t old_slots = vocab->slots;
    uint32_t *old = vocab->slot;
    size_t slots = old_slots ? 2 * old_slots : 1024;
    uint32_t *fresh = calloc(slots, sizeof(*fresh));
    if (!fresh)
        return caloris_err_sys(err, "vocabulary of %zu tokens", vocab->used);
    vocab->slot = fresh;
    vocab->slots = slots;
    for (size_t i = 0; i < old_slots; i++) {
        if (!old[i])
            continue;
        const struct caloris_vocab_token *token = &vocab->token[old[i] - 1];
        fresh[slot_of(vocab, vocab->arena.data + token->key, token->key_bytes)] = old[i];
    }
    free(old);
    return 0;
}

static int grow_tokens(struct caloris_vocab *vocab, size_t count, struct caloris_err *err)
{
    if (count > vocab->capacity) {
        size_t capacity = vocab->capacity ? vocab->capacity : 1024;
        while (capacity < count)
            capacity *= 2;
        struct caloris_vocab_token *token = realloc(vocab->token, capacity * sizeof(*token));
        if (!token)
            return caloris_err_sys(err, "vocabulary of %zu tokens", count);
        memset(token + vocab->capacity, 0, (capacity - vocab->capacity) * sizeof(*token));
        vocab->token = token;
        vocab->capacity = capacity;
    }
    if (count > vocab->count)
        vocab->count = count;
    return 0;
}

/* The bytes that a mapped key stands for, appended to the arena; the key itself when it is not
 * mapped throughout. */
static int append_text(struct caloris_vocab *vocab, const char *key, size_t n,
                       struct caloris_err *err)
{
    size_t begin = vocab->arena.size;
    for (size_t at = 0; at < n;) {
        int32_t code;
        int bytes = caloris_utf8_look(key + at, n - at, &code);
        int byte = bytes > 0 ? byte_of(code) : -1;
        if (byte < 0) {
            vocab->arena.size = begin;
            return caloris_buf_append(&vocab->arena, key, n, err);
        }
        char text = (char)byte;
        if (caloris_buf_append(&vocab->arena, &text, 1, err) < 0)
            return -1;
        at += (size_t)bytes;
    }
    return 0;
}

int caloris_vocab_add(struct caloris_vocab *vocab, const char *key, size_t n, int64_t id,
                      enum caloris_vocab_form form, struct caloris_err *err)
{
    if (n == 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "id %" PRId64 " has an empty token", id);
    if (id < 0 || id >= CALORIS_VOCAB_TOKENS)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "\"%.*s\": id %" PRId64 " is not in 0 to %d",
                               shown(n), key, id, CALORIS_VOCAB_TOKENS - 1);
    const struct caloris_vocab_token *there = caloris_vocab_token(vocab, (int32_t)id);
    if (there)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "\"%.*s\": id %" PRId64 " is taken by \"%.*s\"", shown(n), key, id,
                               shown(there->key_bytes), vocab->arena.data + there->key);
    if (caloris_vocab_find(vocab, key, n) >= 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "\"%.*s\" is there twice", shown(n), key);

    if (grow_tokens(vocab, (size_t)id + 1, err) < 0 || grow_slots(vocab, err) < 0)
        return -1;
    size_t key_at = vocab->arena.size;
    if (caloris_buf_append(&vocab->arena, key, n, err) < 0)
        return -1;
    size_t text_at = form == CALORIS_VOCAB_LITERAL ? key_at : vocab->arena.size;
    if (form == CALORIS_VOCAB_MAPPED && append_text(vocab, key, n, err) < 0)
        return -1;
    vocab->slot[slot_of(vocab, key, n)] = (uint32_t)id + 1;
    vocab->used++;
    vocab->token[id] = (struct caloris_vocab_token){
        .key = (uint32_t)key_at,
        .key_bytes = (uint32_t)n,
        .text = (uint32_t)text_at,
        .text_bytes = (uint32_t)(vocab->arena.size - text_at),
    };
    if (n > vocab->longest_key)
        vocab->longest_key = n;
    return 0;
}

int caloris_merges_init(struct caloris_merges *merges, size_t count, struct caloris_err *err)
{
    memset(merges, 0, sizeof(*merges));
    if (count > CALORIS_VOCAB_MERGES)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%zu merges; at most %d", count,
                               CALORIS_VOCAB_MERGES);
    merges->slots = 16;
    while (merges->slots < 2 * count)
        merges->slots *= 2;
    merges->pair = malloc(merges->slots * sizeof(*merges->pair));
    merges->rank = malloc(merges->slots * sizeof(*merges->rank));
    merges->merged = malloc((count + 1) * sizeof(*merges->merged));
    if (!merges->pair || !merges->rank || !merges->merged)
        return caloris_err_sys(err, "%zu merges", count);
    for (size_t i = 0; i < merges->slots; i++)
        merges->rank[i] = CALORIS_NO_RANK;
    return 0;
}

void caloris_merges_free(struct caloris_merges *merges)
{
    free(merges->pair);
    free(merges->rank);
    free(merges->merged);
}

static size_t slot_of_pair(const struct caloris_merges *merges, uint64_t pair)
{
    size_t mask = merges->slots - 1, at = hash_pair(pair) & mask;
    while (merges->rank[at] != CALORIS_NO_RANK && merges->pair[at] != pair)
        at = (at + 1) & mask;
    return at;
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

uint32_t caloris_merges_rank(const struct caloris_merges *merges, int32_t left, int32_t right)
{
    return merges->rank[slot_of_pair(merges, pair_of(left, right))];
}

/* The id of a key that a merge names; an error when there is none. */
static int32_t find_named(const struct caloris_vocab *vocab, const char *key, size_t n,
                          struct caloris_err *err)
{
    int32_t id = caloris_vocab_find(vocab, key, n);
    if (id < 0)
        caloris_err_set(err, CALORIS_BAD_MODEL, "\"%.*s\" is not in the vocabulary", shown(n), key);
    return id;
}

int caloris_merges_add(struct caloris_merges *merges, const struct caloris_vocab *vocab,
                       const char *left, size_t nl, const char *right, size_t nr,
                       struct caloris_err *err)
{
    int32_t left_id = find_named(vocab, left, nl, err);
    if (left_id < 0)
        return -1;
    int32_t right_id = find_named(vocab, right, nr, err);
    if (right_id < 0)
        return -1;
    char fixed[256], *both = nl + nr <= sizeof(fixed) ? fixed : malloc(nl + nr);
    if (!both)
        return caloris_err_sys(err, "a merge of %zu bytes", nl + nr);
    memcpy(both, left, nl);
    memcpy(both + nl, right, nr);
    int32_t merged = find_named(vocab, both, nl + nr, err);
    if (both != fixed)
        free(both);
    if (merged < 0)
        return -1;
    uint32_t rank = (uint32_t)merges->count;
    merges->merged[merges->count++] = merged;
    if (vocab->token[merged].special)
        return 0;
    size_t at = slot_of_pair(merges, pair_of(left_id, right_id));
    merges->pair[at] = pair_of(left_id, right_id);
    merges->rank[at] = rank;
    return 0;
}
