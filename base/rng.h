/* base/rng.h: counter-based random numbers, Philox4x32-10.
 *
 * Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC11. A number depends
 * on (key, counter) alone, never on what was drawn before, so sampling noise is the same for any
 * rank count, batch or resume.
 */
#ifndef CALORIS_RNG_H
#define CALORIS_RNG_H

#include <stdint.h>

/* out = Philox4x32-10 of counter under key. */
void caloris_rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* What sampling noise is keyed by. */
struct caloris_noise_key {
    uint64_t seed;
    uint32_t candidate; /* which of several answers to one prompt */
    uint32_t stream;    /* what the numbers are for: enum caloris_noise_stream */
    uint32_t step;      /* denoising step of the request, from 0 */
};

enum caloris_noise_stream { CALORIS_NOISE_TOKEN = 1, CALORIS_NOISE_ORDER = 2 };

/* Uniform in (0, 1), never 0 or 1, for one canvas position and one token id (id 0 where there is
 * none). */
double caloris_noise_uniform(const struct caloris_noise_key *key, uint32_t position,
                             uint32_t token_id);

/* Standard Gumbel noise, -ln(-ln u). */
double caloris_noise_gumbel(const struct caloris_noise_key *key, uint32_t position,
                            uint32_t token_id);

/* 64 random bits from the operating system, below 2^53 so that they survive JSON. */
uint64_t caloris_rng_fresh_seed(void);

#endif
