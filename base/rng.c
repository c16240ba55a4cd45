#include "base/rng.h"

#include "base/time.h"

#include <math.h>
#include <sys/random.h>

enum { ROUNDS = 10 };

static void multiply(uint32_t a, uint32_t b, uint32_t *high, uint32_t *low)
{
    uint64_t product = (uint64_t)a * b;
    *high = (uint32_t)(product >> 32);
    *low = (uint32_t)product;
}

void caloris_rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t high0, low0, high1, low1;
        multiply(0xD2511F53u, x0, &high0, &low0);
        multiply(0xCD9E8D57u, x2, &high1, &low1);
        x0 = high1 ^ x1 ^ k0;
        x1 = low1;
        x2 = high0 ^ x3 ^ k1;
        x3 = low0;
        k0 += 0x9E3779B9u; /* the golden ratio and sqrt(3) - 1, as in the paper */
        k1 += 0xBB67AE85u;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

double caloris_noise_uniform(const struct caloris_noise_key *key, uint32_t position,
                             uint32_t token_id)
{
    /* The seed is the key; candidate and stream share a word: 2^24 candidates, 2^8 streams. */
    const uint32_t philox_key[2] = {(uint32_t)key->seed, (uint32_t)(key->seed >> 32)};
    const uint32_t counter[4] = {token_id, position, key->step, key->candidate << 8 | key->stream};
    uint32_t bits[4];
    caloris_rng_philox(counter, philox_key, bits);
    uint64_t mantissa = ((uint64_t)bits[0] << 32 | bits[1]) >> 12; /* 52 bits */
    return ((double)mantissa + 0.5) * 0x1p-52;
}

double caloris_noise_gumbel(const struct caloris_noise_key *key, uint32_t position,
                            uint32_t token_id)
{
    return -log(-log(caloris_noise_uniform(key, position, token_id)));
}

uint64_t caloris_rng_fresh_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        seed = caloris_time_ns() * 0x9E3779B97F4A7C15u;
    return seed >> 11;
}
