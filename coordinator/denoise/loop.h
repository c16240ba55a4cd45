/* coordinator/denoise/loop.h: where a loop stands; inside denoise only. */
#ifndef CALORIS_DENOISE_LOOP_H
#define CALORIS_DENOISE_LOOP_H

#include "coordinator/denoise/denoise.h"

/* How many this step reveals under commit quota: m/S, and one more in the first m mod S steps. */
size_t caloris_denoise_quota(const struct caloris_denoise *denoise);

/* The current block: [first, end). Without a generated part the whole prompt is the one block. */
size_t caloris_denoise_block_first(const struct caloris_denoise *denoise);
size_t caloris_denoise_block_end(const struct caloris_denoise *denoise);

/* Begins the current block, or the next one that is not over; all of them over: done. */
void caloris_denoise_enter(struct caloris_denoise *denoise);

/* How many best candidates of each row the decision looks at. */
uint32_t caloris_denoise_best(const struct caloris_denoise *denoise);

/* What this step's noise of a stream is keyed by. */
struct caloris_noise_key caloris_denoise_key(const struct caloris_denoise *denoise,
                                             enum caloris_noise_stream stream);

#endif
