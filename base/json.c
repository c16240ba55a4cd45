#include "base/json.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Behind the string whose first byte is text[at]. */
static size_t skip_string(const char *text, size_t n, size_t at)
{
    while (at < n && text[at] != '"')
        at += text[at] == '\\' ? 2 : 1;
    return at + 1;
}

int caloris_json_check(const char *text, size_t n, const struct caloris_json_limits *limits,
                       const char *what, struct caloris_err *err)
{
    size_t commas = 0, containers = 0, depth = 0, deepest = 0;
    for (size_t i = 0; i < n;) {
        switch (text[i++]) {
        case '"':
            i = skip_string(text, n, i);
            break;
        case '{':
        case '[':
            containers++;
            if (++depth > deepest)
                deepest = depth;
            break;
        case '}':
        case ']':
            depth -= depth > 0;
            break;
        case ',':
            commas++;
            break;
        default:
            break;
        }
    }
    /* Of n entries, n - 1 commas part those of one container, and each container has a first. */
    if (commas + containers > limits->values)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: more than %zu values", what,
                               limits->values);
    if (containers > limits->containers)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "%s: %zu arrays and objects, more than %zu", what, containers,
                               limits->containers);
    if (deepest > limits->depth)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "%s: arrays and objects within each other, %zu deep; %zu may be",
                               what, deepest, limits->depth);
    return 0;
}

/* ---- integers beyond 64 bits ----------------------------------------------------------------- */

enum { INT64_DIGITS = 19 }; /* of the largest; less than it may have as many */

/* Bytes of the number at text, which ends with a NUL. */
static size_t number_length(const char *text)
{
    return strspn(text, "+-.0123456789Ee");
}

static bool is_too_big(const char *text, size_t n)
{
    const size_t sign = *text == '-';
    char digits[1 + INT64_DIGITS + 1] = "";
    if (n - sign < INT64_DIGITS || strspn(text + sign, "0123456789") < n - sign)
        return false; /* short, or a real */
    if (n - sign > INT64_DIGITS)
        return true;
    memcpy(digits, text, n);
    errno = 0;
    strtoll(digits, NULL, 10);
    return errno == ERANGE;
}

/* A copy of text [n], ".0" behind each integer that is too big; n becomes its length. free(); NULL:
 * no memory. */
static char *write_as_reals(const char *text, size_t *n)
{
    char *from = malloc(*n + 1), *to = malloc(*n + *n / INT64_DIGITS * 2 + 1), *end = to;
    if (!from || !to) {
        free(from);
        free(to);
        return NULL;
    }
    memcpy(from, text, *n);
    from[*n] = '\0';
    for (size_t i = 0, part; i < *n; i += part) {
        const size_t number = number_length(from + i);
        part = number > 0 ? number : 1;
        if (from[i] == '"')
            part = skip_string(from, *n, i + 1) - i;
        if (part > *n - i) /* a string without an end */
            part = *n - i;
        memcpy(end, from + i, part);
        end += part;
        if (number > 0 && is_too_big(from + i, number)) {
            memcpy(end, ".0", 2);
            end += 2;
        }
    }
    *n = (size_t)(end - to);
    free(from);
    return to;
}

json_t *caloris_json_decode(const char *text, size_t n, size_t flags, json_error_t *error)
{
    json_error_t why;
    json_t *document = json_loadb(text, n, JSON_REJECT_DUPLICATES | flags, &why);
    if (!document && json_error_code(&why) == json_error_numeric_overflow) {
        char *reals = write_as_reals(text, &n);
        if (reals)
            document = json_loadb(reals, n, JSON_REJECT_DUPLICATES | flags, &why);
        free(reals);
    }
    if (error)
        *error = why;
    return document;
}

static json_t *parse(const char *text, size_t n, size_t flags, const char *what,
                     struct caloris_err *err)
{
    json_error_t error;
    json_t *document = caloris_json_decode(n > 0 ? text : "", n, flags, &error);
    if (!document)
        caloris_err_set(err, CALORIS_BAD_REQUEST, "%s:%d:%d: %s", what, error.line, error.column,
                        error.text);
    return document;
}

json_t *caloris_json_parse(const char *text, size_t n, const char *what, struct caloris_err *err)
{
    return parse(text, n, JSON_ALLOW_NUL, what, err);
}

json_t *caloris_json_load(const char *path, size_t max, struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(max);
    json_t *document = NULL;
    if (caloris_file_read(path, &text, err) == 0)
        document = parse(text.data, text.size, 0, path, err);
    caloris_buf_free(&text);
    return document;
}
