/* coordinator/denoise/sort.h: the wanted rows, surest first, sorted in place. */
#ifndef CALORIS_DENOISE_SORT_H
#define CALORIS_DENOISE_SORT_H

#include <stddef.h>
#include <stdint.h>

struct caloris_ranked {
    double surprise;    /* -log of what the order goes by: 0 is certain */
    double probability; /* what thresholds are held against: exp(-surprise), rounded only once */
    uint32_t row;       /* index into the wanted rows; position order */
};

/* Least surprise first, ties to the lowest row. Allocates nothing (qsort may). */
void caloris_denoise_sort(struct caloris_ranked *ranked, size_t n);

#endif
