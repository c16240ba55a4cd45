#include "coordinator/text/added.h"

#include "base/err.h"
#include "coordinator/text/utf8.h"

#include <stdlib.h>
#include <string.h>

int caloris_added_append(struct caloris_added *added, const struct caloris_added_token *token,
                         struct caloris_err *err)
{
    if (added->count == CALORIS_ADDED_TOKENS)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "more than %d added tokens",
                               CALORIS_ADDED_TOKENS);
    if (token->bytes == 0 || token->bytes > CALORIS_ADDED_BYTES)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "an added token of %zu bytes; 1 to %d are allowed", token->bytes,
                               CALORIS_ADDED_BYTES);
    if (added->count == added->capacity) {
        size_t capacity = added->capacity ? 2 * added->capacity : 64;
        struct caloris_added_token *grown = realloc(added->token, capacity * sizeof(*grown));
        if (!grown)
            return caloris_err_sys(err, "%zu added tokens", capacity);
        added->token = grown;
        added->capacity = capacity;
    }
    char *text = malloc(token->bytes);
    if (!text)
        return caloris_err_sys(err, "an added token");
    memcpy(text, token->text, token->bytes);
    added->token[added->count] = *token;
    added->token[added->count++].text = text;
    return 0;
}

void caloris_added_free(struct caloris_added *added)
{
    for (size_t i = 0; i < added->count; i++)
        free((char *)added->token[i].text);
    free(added->token);
}

static int by_literal(const void *a, const void *b)
{
    const struct caloris_added_token *x = *(const struct caloris_added_token *const *)a;
    const struct caloris_added_token *y = *(const struct caloris_added_token *const *)b;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

int caloris_added_select(struct caloris_added_set *set, const struct caloris_added *added,
                         bool (*wanted)(const struct caloris_added_token *),
                         struct caloris_err *err)
{
    set->token = malloc((added->count + 1) * sizeof(*set->token));
    if (!set->token)
        return caloris_err_sys(err, "%zu added tokens", added->count);
    for (size_t i = 0; i < added->count; i++) {
        if (!wanted(&added->token[i]))
            continue;
        set->token[set->count++] = &added->token[i];
        set->first[(unsigned char)added->token[i].text[0]] = true;
    }
    qsort(set->token, set->count, sizeof(*set->token), by_literal);
    return 0;
}

void caloris_added_set_free(struct caloris_added_set *set)
{
    free(set->token);
}

/* The first token in [low, high) whose byte at depth is at least least. All of them agree on the
 * bytes before depth; those that end there sort first. */
static size_t boundary(const struct caloris_added_set *set, size_t low, size_t high, size_t depth,
                       int least)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct caloris_added_token *token = set->token[middle];
        int byte = token->bytes > depth ? (unsigned char)token->text[depth] : -1;
        if (byte < least)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that text [n] begins with, or NULL: the range of candidates shrinks byte by
 * byte. */
static const struct caloris_added_token *longest_at(const struct caloris_added_set *set,
                                                    const char *text, size_t n)
{
    const struct caloris_added_token *longest = NULL;
    size_t low = 0, high = set->count;
    for (size_t depth = 0; depth < n && low < high; depth++) {
        int byte = (unsigned char)text[depth];
        low = boundary(set, low, high, depth, byte);
        high = boundary(set, low, high, depth, byte + 1);
        if (low < high && set->token[low]->bytes == depth + 1)
            longest = set->token[low];
    }
    return longest;
}

const struct caloris_added_token *caloris_added_next(const struct caloris_added_set *set,
                                                     const char *text, size_t n, size_t from,
                                                     size_t *begin, size_t *end)
{
    for (size_t at = set->count ? from : n; at < n; at++) {
        if (!set->first[(unsigned char)text[at]])
            continue;
        const struct caloris_added_token *token = longest_at(set, text + at, n - at);
        if (!token)
            continue;
        *begin = at;
        *end = at + token->bytes;
        if (token->single_word && (caloris_utf8_word_before(text, *begin) ||
                                   caloris_utf8_word_after(text + *end, n - *end))) {
            at = *end - 1;
            continue;
        }
        if (token->lstrip)
            *begin -=
                caloris_utf8_space_before(text + from, *begin - from, CALORIS_UTF8_WHITE_SPACE);
        if (token->rstrip)
            *end += caloris_utf8_space_after(text + *end, n - *end, CALORIS_UTF8_WHITE_SPACE);
        return token;
    }
    return NULL;
}
