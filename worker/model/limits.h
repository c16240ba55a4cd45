/* worker/model/limits.h: the largest sizes that a config.json may name, and the smallest that are
 * dealt. Inside worker/model only.
 *
 * Far above any model of today, and so small that no product of them overflows 64 bits: the
 * largest one, all bytes of all layers, is below 2^12 layers * 7 matrices * 2^36 * 4 bytes <
 * 2^53.
 */
#ifndef CALORIS_MODEL_LIMITS_H
#define CALORIS_MODEL_LIMITS_H

enum {
    CALORIS_MAX_LAYERS = 1 << 12,
    CALORIS_MAX_HEADS = 1 << 12,
    CALORIS_MAX_WIDTH = 1 << 18, /* hidden and FFN columns; a row in fp32 is 1 MiB */
    CALORIS_MAX_VOCAB = 1 << 24,
    CALORIS_MAX_SEQUENCE = 1 << 24,
};

/* FFN columns and vocabulary rows are dealt in pieces of this many: a cache line of fp32. */
enum { CALORIS_SPLIT_UNIT = 16 };

#endif
