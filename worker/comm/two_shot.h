/* worker/comm/two_shot.h: the arithmetic of the all-reduce, the same for every transport.
 *
 * First shot: rank r receives everybody's part of slice r and adds them up in rank order. Second
 * shot: everybody receives every slice. An element is x0 + x1 + … + x(n-1), rounded after each sum,
 * whichever way it travelled and wherever slices begin: hence the same bits on every rank and in
 * every transport. */
#ifndef CALORIS_TWO_SHOT_H
#define CALORIS_TWO_SHOT_H

#include <stddef.h>

/* Slices begin at multiples of this many floats: one cache line, so that no two ranks write to the
 * same one. */
enum { TWO_SHOT_UNIT = 16 };

/* Rank's slice of count floats: [*first, *first + *n). */
void two_shot_slice(size_t count, int size, int rank, size_t *first, size_t *n);

/* The longest slice of count floats. */
size_t two_shot_longest(size_t count, int size);

/* out[i] = sources[0][first + i] + … + sources[size-1][first + i], i < n, added in this order. out
 * may be the same place as one of the sources. */
void two_shot_sum(float *out, const float *const *sources, int size, size_t first, size_t n);

#endif
