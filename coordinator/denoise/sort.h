/* coordinator/denoise/sort.h: the wanted rows, surest first, sorted in place. */
#ifndef CALORIS_DENOISE_SORT_H
#define CALORIS_DENOISE_SORT_H

#include <stddef.h>
#include <stdint.h>

struct caloris_ranked {
    double key;         /* what the order goes by: least first */
    double probability; /* what threshold and factor are held against */
    double entropy;     /* of the row's distribution, in nats; infinite where the choice has none */
    uint32_t row;       /* index into the wanted rows; position order */
};

/* Least key first, ties to the lowest row. Allocates nothing (qsort may). */
void caloris_denoise_sort(struct caloris_ranked *ranked, size_t n);

#endif
