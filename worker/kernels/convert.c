#include "worker/kernels/kernels.h"

#include <string.h>

/* Both conversions are exact: every bf16 and every f16 number is an fp32 number. */

static void bf16_to_f32(const unsigned char *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof(half));
        uint32_t bits = (uint32_t)half << 16;
        memcpy(to + i, &bits, sizeof(bits));
    }
}

/* The ten bits of mantissa and five of exponent go to fp32's places; that number is too small by
 * 2^112, the difference of the biases, and the product is right for subnormals too. Infinity and
 * NaN keep their mantissa under the largest exponent. */
static void f16_to_f32(const unsigned char *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof(half));
        uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
        float number;
        memcpy(&number, &magnitude, sizeof(number));
        number *= 0x1p112f;
        uint32_t bits;
        memcpy(&bits, &number, sizeof(bits));
        bits = (half & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000 : bits;
        bits |= (uint32_t)(half & 0x8000) << 16;
        memcpy(to + i, &bits, sizeof(bits));
    }
}

size_t caloris_dtype_bytes(enum caloris_dtype dtype)
{
    return dtype == CALORIS_DTYPE_F32 ? 4 : 2;
}

void caloris_convert_to_f32(enum caloris_dtype dtype, const void *from, float *to, size_t n)
{
    if (n == 0)
        return;
    switch (dtype) {
    case CALORIS_DTYPE_F32:
        memcpy(to, from, n * sizeof(*to));
        break;
    case CALORIS_DTYPE_BF16:
        bf16_to_f32(from, to, n);
        break;
    case CALORIS_DTYPE_F16:
        f16_to_f32(from, to, n);
        break;
    }
}
