#include "coordinator/text/utf8.h"

#include "base/buf.h"
#include "base/err.h"

#include <stdlib.h>
#include <utf8proc.h>

/* Longest run of combining marks that is put in order at once. */
enum { MARKS_AT_ONCE = 512 };

/* No character below this one changes under NFC, alone or beside others like it. */
enum { FIRST_COMBINING = 0x300 };

/* Well-formed sequences: the Unicode standard, table 3-7. Only the second byte's range varies. */
static const struct {
    unsigned char lead_first, lead_last, bytes, second_first, second_last;
} forms[] = {
    {0xC2, 0xDF, 2, 0x80, 0xBF}, {0xE0, 0xE0, 3, 0xA0, 0xBF}, {0xE1, 0xEC, 3, 0x80, 0xBF},
    {0xED, 0xED, 3, 0x80, 0x9F}, {0xEE, 0xEF, 3, 0x80, 0xBF}, {0xF0, 0xF0, 4, 0x90, 0xBF},
    {0xF1, 0xF3, 4, 0x80, 0xBF}, {0xF4, 0xF4, 4, 0x80, 0x8F},
};

int caloris_utf8_look(const char *s, size_t n, int32_t *code)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *code = u[0];
        return 1;
    }
    size_t f = 0, count = sizeof(forms) / sizeof(forms[0]);
    while (f < count && !(u[0] >= forms[f].lead_first && u[0] <= forms[f].lead_last))
        f++;
    if (f == count)
        return -1;
    int bytes = forms[f].bytes;
    int32_t value = u[0] & (0x7F >> bytes);
    for (int i = 1; i < bytes; i++) {
        if ((size_t)i == n)
            return 0;
        unsigned char first = i == 1 ? forms[f].second_first : 0x80;
        unsigned char last = i == 1 ? forms[f].second_last : 0xBF;
        if (u[i] < first || u[i] > last)
            return -i;
        value = value << 6 | (u[i] & 0x3F);
    }
    *code = value;
    return bytes;
}

size_t caloris_utf8_valid(const char *s, size_t n)
{
    size_t at = 0;
    int32_t code;
    while (at < n) {
        int bytes = caloris_utf8_look(s + at, n - at, &code);
        if (bytes <= 0)
            break;
        at += (size_t)bytes;
    }
    return at;
}

bool caloris_utf8_is_space(int32_t code)
{
    if (code < 0x80)
        return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
           code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

/* The character that ends at s + n, its number in *code; 0 when there is none. */
static int look_back(const char *s, size_t n, int32_t *code)
{
    for (size_t bytes = 1; bytes <= 4 && bytes <= n; bytes++)
        if (caloris_utf8_look(s + n - bytes, bytes, code) == (int)bytes)
            return (int)bytes;
    return 0;
}

static bool counts_as_space(int32_t code, enum caloris_utf8_space space)
{
    return caloris_utf8_is_space(code) ||
           (space == CALORIS_UTF8_PYTHON_SPACE && code >= 0x1C && code <= 0x1F);
}

size_t caloris_utf8_space_before(const char *s, size_t n, enum caloris_utf8_space space)
{
    size_t at = n;
    int32_t code;
    for (int bytes; at > 0 && (bytes = look_back(s, at, &code)) > 0; at -= (size_t)bytes)
        if (!counts_as_space(code, space))
            break;
    return n - at;
}

size_t caloris_utf8_space_after(const char *s, size_t n, enum caloris_utf8_space space)
{
    size_t at = 0;
    int32_t code;
    for (int bytes; at < n && (bytes = caloris_utf8_look(s + at, n - at, &code)) > 0;
         at += (size_t)bytes)
        if (!counts_as_space(code, space))
            break;
    return at;
}

static bool is_word(int32_t code)
{
    utf8proc_category_t category = utf8proc_category(code);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC;
}

bool caloris_utf8_word_before(const char *s, size_t n)
{
    int32_t code;
    return n > 0 && look_back(s, n, &code) > 0 && is_word(code);
}

bool caloris_utf8_word_after(const char *s, size_t n)
{
    int32_t code;
    return n > 0 && caloris_utf8_look(s, n, &code) > 0 && is_word(code);
}

static int compose(const char *s, size_t n, struct caloris_buf *to, struct caloris_err *err)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n,
                                           &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    int rc;
    if (length < 0)
        rc = caloris_err_set(err,
                             length == UTF8PROC_ERROR_NOMEM ? CALORIS_NO_MEMORY : CALORIS_INTERNAL,
                             "normalising %zu bytes to NFC: %s", n, utf8proc_errmsg(length));
    else
        rc = caloris_buf_append(to, composed, (size_t)length, err);
    free(composed);
    return rc;
}

int caloris_utf8_nfc(const char *s, size_t n, struct caloris_buf *to, struct caloris_err *err)
{
    size_t begin = 0, marks = 0;
    bool changes = false; /* anything since begin that NFC may touch */
    for (size_t at = 0; at <= n;) {
        int32_t code = 0;
        int bytes = at < n ? caloris_utf8_look(s + at, n - at, &code) : 1;
        if (bytes <= 0)
            return caloris_err_set(err, CALORIS_INTERNAL, "NFC of bytes that are not UTF-8");
        if (at == n || marks == MARKS_AT_ONCE) {
            int rc = changes ? compose(s + begin, at - begin, to, err)
                             : caloris_buf_append(to, s + begin, at - begin, err);
            if (rc < 0)
                return -1;
            begin = at;
            changes = false;
            marks = 0;
        }
        if (code >= FIRST_COMBINING) {
            changes = true;
            marks = utf8proc_get_property(code)->combining_class ? marks + 1 : 0;
        } else {
            marks = 0;
        }
        at += (size_t)bytes;
    }
    return 0;
}
