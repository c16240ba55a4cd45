/* coordinator/schedule/regions.h: who keeps K/V where: stretches of the group's kv_tokens, first
 * fit. Inside schedule only. */
#ifndef CALORIS_SCHEDULE_REGIONS_H
#define CALORIS_SCHEDULE_REGIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

struct caloris_region {
    size_t first, count;
};

struct caloris_regions {
    struct caloris_region *held; /* [most]: ascending and apart */
    size_t n, most, total;
};

/* At most so many regions at a time, of total positions. */
int caloris_regions_init(struct caloris_regions *regions, size_t most, size_t total,
                         struct caloris_err *err);
void caloris_regions_free(struct caloris_regions *regions);

/* The lowest gap of count > 0 positions; false when there is none. */
bool caloris_regions_take(struct caloris_regions *regions, size_t count, uint32_t *first);

/* Gives back the region that starts there. */
void caloris_regions_give(struct caloris_regions *regions, uint32_t first);

#endif
