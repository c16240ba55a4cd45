/* base/size.h: sizes and counts that may come from files, wires and users: checked before use. */
#ifndef CALORIS_SIZE_H
#define CALORIS_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

/* *out = a * b (a + b); false and *out untouched when it does not fit. */
bool caloris_size_mul(size_t a, size_t b, size_t *out);
bool caloris_size_add(size_t a, size_t b, size_t *out);

/* n rounded up to a multiple of unit (unit > 0); SIZE_MAX when that does not fit. */
size_t caloris_size_round_up(size_t n, size_t unit);

/* How many parts of b hold a. */
static inline size_t caloris_size_ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

/* "4096", "64KiB", "8GiB", "1.5GB" -> bytes. */
int caloris_size_parse(const char *text, uint64_t *bytes, struct caloris_err *err);

enum { CALORIS_SIZE_TEXT = 24 };

/* 10760680 -> "10.3 MiB". Returns text. */
const char *caloris_size_text(uint64_t bytes, char text[CALORIS_SIZE_TEXT]);

/* Splits total into parts as even as they get, the larger ones first:
 * part index gets [*first, *first + *count). */
void caloris_size_deal(size_t total, size_t parts, size_t index, size_t *first, size_t *count);

#endif
