#include "coordinator/text/bpe.h"

#include "base/err.h"
#include "coordinator/text/text.h"
#include "coordinator/text/vocab.h"

#include <stdlib.h>

/* The symbols of a piece are a linked list in an array: symbol i began as byte i, and a merge lets
 * the left one swallow the right one. rank is that of the pair (i, next); the heap holds
 * rank << 32 | i, so its smallest entry is the lowest rank, leftmost. An entry whose rank is no
 * longer its symbol's is stale and skipped. */
struct caloris_bpe_symbol {
    int32_t id; /* -1: swallowed */
    uint32_t prev, next;
    uint32_t rank;
};

static const uint32_t NONE = UINT32_MAX;

struct heap {
    uint64_t *entry;
    size_t count;
};

static void sink(struct heap *heap, size_t at)
{
    uint64_t entry = heap->entry[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && heap->entry[child + 1] < heap->entry[child])
            child++;
        if (heap->entry[child] >= entry)
            break;
        heap->entry[at] = heap->entry[child];
        at = child;
    }
    heap->entry[at] = entry;
}

static void push(struct heap *heap, uint64_t entry)
{
    size_t at = heap->count++;
    while (at > 0 && heap->entry[(at - 1) / 2] > entry) {
        heap->entry[at] = heap->entry[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->entry[at] = entry;
}

static uint64_t pop(struct heap *heap)
{
    uint64_t first = heap->entry[0];
    heap->entry[0] = heap->entry[--heap->count];
    if (heap->count)
        sink(heap, 0);
    return first;
}

/* Looks up the pair that begins at symbol i. */
static void set_rank(struct caloris_bpe_symbol *s, uint32_t i, const struct caloris_merges *merges)
{
    uint32_t next = s[i].next;
    s[i].rank = next == NONE ? CALORIS_NO_RANK : caloris_merges_rank(merges, s[i].id, s[next].id);
}

static uint64_t entry_of(const struct caloris_bpe_symbol *s, uint32_t i)
{
    return (uint64_t)s[i].rank << 32 | i;
}

static int reserve(struct caloris_bpe *bpe, size_t n, struct caloris_err *err)
{
    if (n <= bpe->capacity)
        return 0;
    size_t capacity = bpe->capacity ? bpe->capacity : 256;
    while (capacity < n)
        capacity *= 2;
    caloris_bpe_free(bpe);
    bpe->symbol = malloc(capacity * sizeof(*bpe->symbol));
    bpe->heap = malloc(2 * capacity * sizeof(*bpe->heap));
    if (!bpe->symbol || !bpe->heap)
        return caloris_err_sys(err, "encoding a piece of %zu bytes", n);
    bpe->capacity = capacity;
    return 0;
}

void caloris_bpe_free(struct caloris_bpe *bpe)
{
    free(bpe->symbol);
    free(bpe->heap);
    *bpe = (struct caloris_bpe){0};
}

/* Every merge takes one entry out and puts at most two in, and there are fewer than n merges: 2 n
 * entries are room enough. */
static void merge_all(struct caloris_bpe_symbol *s, struct heap *heap,
                      const struct caloris_merges *merges)
{
    while (heap->count) {
        uint64_t entry = pop(heap);
        uint32_t i = (uint32_t)entry, rank = (uint32_t)(entry >> 32);
        if (s[i].id < 0 || s[i].rank != rank)
            continue;
        uint32_t swallowed = s[i].next, prev = s[i].prev;
        s[i].id = merges->merged[rank];
        s[i].next = s[swallowed].next;
        s[swallowed].id = -1;
        if (s[i].next != NONE)
            s[s[i].next].prev = i;
        set_rank(s, i, merges);
        if (s[i].rank != CALORIS_NO_RANK)
            push(heap, entry_of(s, i));
        if (prev == NONE)
            continue;
        set_rank(s, prev, merges);
        if (s[prev].rank != CALORIS_NO_RANK)
            push(heap, entry_of(s, prev));
    }
}

int caloris_bpe_encode(struct caloris_bpe *bpe, const struct caloris_vocab *vocab,
                       const struct caloris_merges *merges, const char *piece, size_t n,
                       struct caloris_ids *ids, struct caloris_err *err)
{
    if (reserve(bpe, n, err) < 0)
        return -1;
    struct caloris_bpe_symbol *s = bpe->symbol;
    for (uint32_t i = 0; i < n; i++) {
        int32_t id = vocab->byte_id[(unsigned char)piece[i]];
        if (id < 0)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "the model's vocabulary has no token for the byte 0x%02X",
                                   (unsigned char)piece[i]);
        s[i] = (struct caloris_bpe_symbol){id, i ? i - 1 : NONE, i + 1 < n ? i + 1 : NONE, 0};
    }
    struct heap heap = {bpe->heap, 0};
    for (uint32_t i = 0; i < n; i++) {
        set_rank(s, i, merges);
        if (s[i].rank != CALORIS_NO_RANK)
            heap.entry[heap.count++] = entry_of(s, i);
    }
    for (size_t i = heap.count / 2; i-- > 0;)
        sink(&heap, i);
    merge_all(s, &heap, merges);
    for (uint32_t i = n ? 0 : NONE; i != NONE; i = s[i].next)
        if (caloris_ids_append(ids, s[i].id, err) < 0)
            return -1;
    return 0;
}
