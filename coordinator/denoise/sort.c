#include "coordinator/denoise/sort.h"

#include <stdbool.h>

static bool before(const struct caloris_ranked *a, const struct caloris_ranked *b)
{
    return a->key < b->key || (a->key == b->key && a->row < b->row);
}

/* Heap with the last in order on top. */
static void sink(struct caloris_ranked *heap, size_t at, size_t n)
{
    const struct caloris_ranked moved = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(&heap[child], &heap[child + 1]))
            child++;
        if (!before(&moved, &heap[child]))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

void caloris_denoise_sort(struct caloris_ranked *ranked, size_t n)
{
    for (size_t i = n / 2; i > 0; i--)
        sink(ranked, i - 1, n);
    for (size_t i = n; i > 1; i--) {
        const struct caloris_ranked last = ranked[0];
        ranked[0] = ranked[i - 1];
        ranked[i - 1] = last;
        sink(ranked, 0, i - 1);
    }
}
