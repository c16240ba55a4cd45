/* coordinator/text/bpe.h: one piece of text to ids by merging neighbours, lowest rank first. */
#ifndef CALORIS_TEXT_BPE_H
#define CALORIS_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

struct caloris_err;
struct caloris_ids;
struct caloris_merges;
struct caloris_vocab;

/* Work space for pieces up to capacity bytes; start from {0}. */
struct caloris_bpe {
    struct caloris_bpe_symbol *symbol; /* [capacity] */
    uint64_t *heap;                    /* [2 capacity] */
    size_t capacity;
};

void caloris_bpe_free(struct caloris_bpe *bpe);

/* Appends the ids of piece [n]. O(n log n) for any piece. n < 2^31. */
int caloris_bpe_encode(struct caloris_bpe *bpe, const struct caloris_vocab *vocab,
                       const struct caloris_merges *merges, const char *piece, size_t n,
                       struct caloris_ids *ids, struct caloris_err *err);

#endif
