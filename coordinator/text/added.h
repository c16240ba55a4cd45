/* coordinator/text/added.h: added tokens, which are looked for in the text before it is split. */
#ifndef CALORIS_TEXT_ADDED_H
#define CALORIS_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

enum { CALORIS_ADDED_TOKENS = 1 << 16, CALORIS_ADDED_BYTES = 1024 };

struct caloris_added_token {
    const char *text; /* its literal, owned */
    size_t bytes;
    int32_t id;
    bool special;
    bool normalized;     /* looked for in normalised text */
    bool single_word;    /* not inside a word */
    bool lstrip, rstrip; /* swallows white space on that side */
};

/* All added tokens; start from {0}. */
struct caloris_added {
    struct caloris_added_token *token; /* [count] */
    size_t count, capacity;
};

/* Appends a copy. */
int caloris_added_append(struct caloris_added *added, const struct caloris_added_token *token,
                         struct caloris_err *err);
void caloris_added_free(struct caloris_added *added);

/* Some of them, to look for; start from {0}. Points into the list it was made of. */
struct caloris_added_set {
    const struct caloris_added_token **token; /* [count] by literal */
    size_t count;
    bool first[256]; /* a literal begins with this byte */
};

int caloris_added_select(struct caloris_added_set *set, const struct caloris_added *added,
                         bool (*wanted)(const struct caloris_added_token *),
                         struct caloris_err *err);
void caloris_added_set_free(struct caloris_added_set *set);

/* The first token of the set in text [n] at or after from, the longest that begins there: it and
 * *begin, *end with the white space that it swallows, not before from; or NULL. */
const struct caloris_added_token *caloris_added_next(const struct caloris_added_set *set,
                                                     const char *text, size_t n, size_t from,
                                                     size_t *begin, size_t *end);

#endif
