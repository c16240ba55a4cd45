/* worker/kernels/vector.h: as many floats as one register of the instruction set that this file is
 * compiled for.
 *
 * Compiler vectors (gcc, clang) and, for fused multiply-add, one intrinsic. Included by the vector
 * entries only, each compiled with its own -m flags (CMakeLists.txt); everything is static, so that
 * no instruction leaks to another CPU.
 */
#ifndef CALORIS_KERNELS_VECTOR_H
#define CALORIS_KERNELS_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t vec_bits __attribute__((vector_size(4 * LANES)));
typedef int32_t vec_mask __attribute__((vector_size(4 * LANES)));
typedef uint16_t vec_half __attribute__((vector_size(2 * LANES)));

static inline vec vec_load(const float *from)
{
    vec v;
    memcpy(&v, from, sizeof(v));
    return v;
}

static inline void vec_store(float *to, vec v)
{
    memcpy(to, &v, sizeof(v));
}

static inline vec vec_all(float x)
{
    return x - (vec){0};
}

/* The 32 bits at from in every lane, whatever they mean. */
static inline vec vec_all_bits(const float *from)
{
    uint32_t bits;
    memcpy(&bits, from, sizeof(bits));
    return (vec)(bits - (vec_bits){0});
}

/* mask lane by lane: all ones takes a, zero takes b. */
static inline vec vec_select(vec_mask mask, vec a, vec b)
{
    return (vec)((mask & (vec_mask)a) | (~mask & (vec_mask)b));
}

/* a * b + c, rounded once where the CPU can. */
static inline vec vec_fma(vec a, vec b, vec c)
{
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

/* Each lane of a and b a pair of bf16 numbers: sum + a₁ b₁ + a₀ b₀. */
static inline vec vec_dot_pairs(vec a, vec b, vec sum)
{
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
    const vec_bits high = (vec_bits){0} + 0xffff0000u;
    sum = vec_fma((vec)((vec_bits)a & high), (vec)((vec_bits)b & high), sum);
    return vec_fma((vec)((vec_bits)a << 16), (vec)((vec_bits)b << 16), sum);
#endif
}

/* To the nearest bf16, ties to even, in the low half of each lane; NaN stays NaN. */
static inline vec_bits vec_round_bf16(vec x)
{
    const vec_bits bits = (vec_bits)x;
    const vec_bits rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const vec_bits quiet = bits >> 16 | 0x40;
    return (vec_bits)vec_select(x == x, (vec)rounded, (vec)quiet);
}

/* The same, for numbers from 0 to 1 and NaN: those below 2^-126 may become 0. */
static inline vec_half vec_to_bf16(vec x)
{
#if defined(__AVX512BF16__)
    return (vec_half)_mm512_cvtneps_pbh(x);
#else
    return __builtin_convertvector(vec_round_bf16(x), vec_half);
#endif
}

/* The larger one; b where one is NaN. */
static inline vec vec_max(vec a, vec b)
{
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    return vec_select(a > b, a, b);
#endif
}

/* Lane j of x[i] and of x[i + step] when squares of step x step lanes are swapped between them. */
#define LOW_LANE(j, step)    ((j) & (step) ? LANES + (j) - (step) : (j))
#define HIGH_LANE(j, step)   ((j) & (step) ? LANES + (j) : (j) + (step))
#define LANES_4(of, j, step) of(j, step), of((j) + 1, step), of((j) + 2, step), of((j) + 3, step)
#define LANES_8(of, j, step) LANES_4(of, j, step), LANES_4(of, (j) + 4, step)
#if defined(__AVX512F__)
#define ALL_LANES(of, step) LANES_8(of, 0, step), LANES_8(of, 8, step)
#elif defined(__AVX2__)
#define ALL_LANES(of, step) LANES_8(of, 0, step)
#else
#define ALL_LANES(of, step) LANES_4(of, 0, step)
#endif
#define SWAP_SQUARES(x, step)                                                                      \
    for (size_t i = 0; i < LANES; i++) {                                                           \
        if (i & (step))                                                                            \
            continue;                                                                              \
        const vec a = (x)[i], b = (x)[i + (step)];                                                 \
        (x)[i] = __builtin_shufflevector(a, b, ALL_LANES(LOW_LANE, step));                         \
        (x)[i + (step)] = __builtin_shufflevector(a, b, ALL_LANES(HIGH_LANE, step));               \
    }

/* x[i][j] <-> x[j][i], by squares of ever more lanes. */
static inline void vec_transpose(vec x[LANES])
{
    SWAP_SQUARES(x, 1)
    SWAP_SQUARES(x, 2)
#if defined(__AVX2__)
    SWAP_SQUARES(x, 4)
#endif
#if defined(__AVX512F__)
    SWAP_SQUARES(x, 8)
#endif
}

/* exp(x) within 2 ulp, subnormal results included; NaN gives NaN, and what is beyond the range of
 * float 0 or infinity.
 *
 * x = n ln 2 + r, |r| <= ln 2 / 2: n by adding 1.5 * 2^23, which rounds to an integer in the low
 * bits; ln 2 in two parts, the first short enough for n times it to be exact. exp(r) by its Taylor
 * polynomial of degree 7 (the rest is below 2^-27 of it). 2^n in two factors, because n goes beyond
 * the exponents of float at either end. */
static inline vec vec_exp(vec x)
{
    const float round = 0x1.8p23f, ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0106p-13f;
    x = vec_select(x > 90.0f, vec_all(90.0f), x);
    x = vec_select(x < -110.0f, vec_all(-110.0f), x);
    vec shifted = x * 0x1.715476p0f + round;
    vec n = shifted - round;
    vec r = x - n * ln2_high;
    r = r - n * ln2_low;
    vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    vec_mask power = (vec_mask)((vec_bits)shifted - (vec_bits)vec_all(round));
    vec_mask half = power >> 1;
    vec_bits low = (vec_bits)(half + 127) << 23;
    vec_bits high = (vec_bits)(power - half + 127) << 23;
    return p * (vec)low * (vec)high;
}

/* 2^x for x <= 0 within 3 ulp of it, 0 below 2^-149; NaN gives NaN. For attention: fused where the
 * CPU can, so that bits differ between instruction sets. As above, with ln 2 in the coefficients;
 * the rest of degree 6 is below 2^-22 of it. */
static inline vec vec_exp2(vec x)
{
    const float round = 0x1.8p23f;
    x = vec_select(x < -150.0f, vec_all(-150.0f), x);
    const vec shifted = x + round, n = shifted - round, r = x - n;
    vec p = vec_fma(r, vec_all(1.5403530e-4f), vec_all(1.3333558e-3f));
    p = vec_fma(p, r, vec_all(9.6181291e-3f));
    p = vec_fma(p, r, vec_all(5.5504109e-2f));
    p = vec_fma(p, r, vec_all(2.4022651e-1f));
    p = vec_fma(p, r, vec_all(6.9314718e-1f));
    p = vec_fma(p, r, vec_all(1.0f));
#if defined(__AVX512F__)
    return _mm512_scalef_ps(p, n);
#else
    vec_mask power = (vec_mask)((vec_bits)shifted - (vec_bits)vec_all(round));
    vec_mask half = power >> 1;
    vec_bits low = (vec_bits)(half + 127) << 23;
    vec_bits high = (vec_bits)(power - half + 127) << 23;
    return p * (vec)low * (vec)high;
#endif
}

#endif
