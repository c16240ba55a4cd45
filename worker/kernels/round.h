/* worker/kernels/round.h: how numbers are rounded to bf16 and to integers, for weights and rows
 * alike. Plain C that the compiler vectorises; the same bits on every CPU. Inside this folder. */
#ifndef CALORIS_KERNELS_ROUND_H
#define CALORIS_KERNELS_ROUND_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Magnitudes below have no INT8 form: 127 / them would come near the end of float. */
#define CALORIS_INT8_LEAST 0x1p-100f

/* |x| as an integer, which sorts magnitudes: infinity above all numbers, NaN above infinity. */
static inline uint32_t caloris_magnitude(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits & 0x7fffffff;
}

static inline uint32_t caloris_largest(const float *x, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t here = caloris_magnitude(x[i]);
        most = here > most ? here : most;
    }
    return most;
}

/* To the nearest integer, ties to even, |x| < 2^22: adding 1.5 * 2^23 leaves it in the low bits. */
static inline int32_t caloris_round_int(float x)
{
    float shifted = x + 0x1.8p23f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    return bits - 0x4b400000;
}

/* To the nearest bf16, ties to even; beyond the largest to infinity; NaN stays NaN. */
static inline uint16_t caloris_round_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

#endif
