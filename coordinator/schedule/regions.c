#include "coordinator/schedule/regions.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

int caloris_regions_init(struct caloris_regions *regions, size_t most, size_t total,
                         struct caloris_err *err)
{
    *regions = (struct caloris_regions){.most = most, .total = total};
    regions->held = calloc(most > 0 ? most : 1, sizeof(*regions->held));
    if (!regions->held)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for %zu regions of K/V", most);
    return 0;
}

void caloris_regions_free(struct caloris_regions *regions)
{
    free(regions->held);
    *regions = (struct caloris_regions){0};
}

bool caloris_regions_take(struct caloris_regions *regions, size_t count, uint32_t *first)
{
    struct caloris_region *held = regions->held;
    size_t at = 0, start = 0; /* the gap before region at begins at start */
    for (; at < regions->n && held[at].first - start < count; at++)
        start = held[at].first + held[at].count;
    if (regions->n == regions->most || (at == regions->n && regions->total - start < count))
        return false;
    memmove(held + at + 1, held + at, (regions->n - at) * sizeof(*held));
    held[at] = (struct caloris_region){start, count};
    regions->n++;
    *first = (uint32_t)start;
    return true;
}

void caloris_regions_give(struct caloris_regions *regions, uint32_t first)
{
    struct caloris_region *held = regions->held;
    size_t at = 0;
    while (at < regions->n && held[at].first != first)
        at++;
    if (at == regions->n)
        return;
    regions->n--;
    memmove(held + at, held + at + 1, (regions->n - at) * sizeof(*held));
}
