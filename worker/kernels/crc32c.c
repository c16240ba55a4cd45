/* CRC-32C (Castagnoli; RFC 3720, appendix B.4), as fast as memory is read where the CPU has an
 * instruction for it. */
#include "worker/kernels/kernels.h"

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The polynomial, its bits reversed: bit 31 is the coefficient of x⁰. */
#define POLYNOMIAL 0x82f63b78u

/* The instruction takes a cycle and its sum three: three runs of this many bytes side by side. */
enum { RUN_BYTES = 1024 };

/* Registers are linear in what went through them: by[b][v] is what byte b of a register, being v,
 * becomes when zeros follow. */
struct shift {
    uint32_t by[4][256];
};

static struct shift word_shift; /* by 4 zero bytes: for the plain version */
static struct shift run_shift;  /* by RUN_BYTES zero bytes */
static uint32_t (*fastest)(uint32_t crc, const unsigned char *from, size_t n);

static uint32_t shift(const struct shift *table, uint32_t crc)
{
    return table->by[0][crc & 0xff] ^ table->by[1][crc >> 8 & 0xff] ^
           table->by[2][crc >> 16 & 0xff] ^ table->by[3][crc >> 24];
}

static uint32_t after_zero_bits(uint32_t crc, size_t bits)
{
    for (size_t i = 0; i < bits; i++)
        crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    return crc;
}

static void fill_shift(struct shift *table, size_t zero_bytes)
{
    uint32_t of_bit[32];
    for (int bit = 0; bit < 32; bit++)
        of_bit[bit] = after_zero_bits(1u << bit, 8 * zero_bytes);
    for (int b = 0; b < 4; b++) {
        for (uint32_t v = 0; v < 256; v++) {
            uint32_t sum = 0;
            for (int bit = 0; bit < 8; bit++)
                sum ^= v >> bit & 1 ? of_bit[8 * b + bit] : 0;
            table->by[b][v] = sum;
        }
    }
}

static uint32_t plain(uint32_t crc, const unsigned char *from, size_t n)
{
    for (; n >= 4; n -= 4, from += 4) {
        uint32_t word;
        memcpy(&word, from, 4);
        crc = shift(&word_shift, crc ^ word);
    }
    for (; n > 0; n--, from++)
        crc = after_zero_bits(crc ^ *from, 8);
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t
by_instruction(uint32_t crc, const unsigned char *from, size_t n)
{
    for (; n >= 3 * RUN_BYTES; n -= 3 * RUN_BYTES, from += 3 * RUN_BYTES) {
        uint64_t a = crc, b = 0, c = 0;
        for (size_t i = 0; i < RUN_BYTES; i += 8) {
            uint64_t word[3];
            memcpy(&word[0], from + i, 8);
            memcpy(&word[1], from + RUN_BYTES + i, 8);
            memcpy(&word[2], from + 2 * RUN_BYTES + i, 8);
            a = _mm_crc32_u64(a, word[0]);
            b = _mm_crc32_u64(b, word[1]);
            c = _mm_crc32_u64(c, word[2]);
        }
        crc = shift(&run_shift, (uint32_t)a) ^ (uint32_t)b;
        crc = shift(&run_shift, crc) ^ (uint32_t)c;
    }
    uint64_t wide = crc;
    for (; n >= 8; n -= 8, from += 8) {
        uint64_t word;
        memcpy(&word, from, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; n > 0; n--, from++)
        crc = _mm_crc32_u8(crc, *from);
    return crc;
}
#endif

static void choose(void)
{
    fill_shift(&word_shift, 4);
    fill_shift(&run_shift, RUN_BYTES);
    fastest = plain;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2"))
        fastest = by_instruction;
#endif
}

uint32_t caloris_crc32c(uint32_t crc, const void *bytes, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return ~fastest(~crc, bytes, n);
}

uint32_t caloris_crc32c_plain(uint32_t crc, const void *bytes, size_t n)
{
    caloris_crc32c(0, "", 0);
    return ~plain(~crc, bytes, n);
}
