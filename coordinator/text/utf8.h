/* coordinator/text/utf8.h: characters in bytes that need not be UTF-8. */
#ifndef CALORIS_TEXT_UTF8_H
#define CALORIS_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_buf;
struct caloris_err;

/* Looks at the bytes at s [n > 0] and returns
 *   k > 0   a character of k bytes is there, its number in *code (left alone otherwise);
 *   0       all n bytes begin a character that goes on beyond them;
 *   -k      k bytes are there that can be no part of a character: the Unicode standard's "maximal
 *           subpart", for which one U+FFFD stands. */
int caloris_utf8_look(const char *s, size_t n, int32_t *code);

/* How many bytes at s are whole characters; 0 when n is 0. */
size_t caloris_utf8_valid(const char *s, size_t n);

/* The Unicode property White_Space: \s of the split patterns. */
bool caloris_utf8_is_space(int32_t code);

/* How many bytes of white space stand before the end of s [n], and after its beginning.
 * PYTHON_SPACE: U+001C to U+001F count as well, as in strip(), which chat templates call "trim". */
enum caloris_utf8_space { CALORIS_UTF8_WHITE_SPACE, CALORIS_UTF8_PYTHON_SPACE };
size_t caloris_utf8_space_before(const char *s, size_t n, enum caloris_utf8_space space);
size_t caloris_utf8_space_after(const char *s, size_t n, enum caloris_utf8_space space);

/* Whether s [n] ends, or begins, with a letter, mark, number or connecting underscore. */
bool caloris_utf8_word_before(const char *s, size_t n);
bool caloris_utf8_word_after(const char *s, size_t n);

/* Appends the NFC form of s [n], which must be valid. Runs of more than 512 combining marks are put
 * in order 512 at a time: sorting them is quadratic, and no language has such runs. */
int caloris_utf8_nfc(const char *s, size_t n, struct caloris_buf *to, struct caloris_err *err);

#endif
