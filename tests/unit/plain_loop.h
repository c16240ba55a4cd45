/* tests/unit/plain_loop.h: docs/DECODING.md once more, row by row in float64. Inside plain_decodes
 * only. */
#ifndef PLAIN_LOOP_H
#define PLAIN_LOOP_H

#include "tests/unit/golden_decodes.h"
#include "tests/unit/tiny_llada.h"

#include <stdint.h>

/* The decode of canvas, in place; its trace, the caller's, and, where score is not NULL, its score.
 * disturb: 0, or the seed of noise on all logits. */
json_t *plain_loop_decode(const struct tiny_llada *model, const struct golden_decode *decode,
                          int32_t *canvas, uint64_t disturb, double *score);

#endif
