/* base/json.h: jansson with the project's limits: a maximum size, no duplicate keys, errors with
 * file and line. */
#ifndef CALORIS_JSON_H
#define CALORIS_JSON_H

#include <jansson.h>
#include <stddef.h>

struct caloris_err;

/* A flag for jansson's dump functions: 0.9 is written as 0.9, not as 0.90000000000000002. */
#define CALORIS_JSON_DIGITS JSON_REAL_PRECISION(15)

/* The document in path (at most max bytes), or NULL; no string of it holds a NUL. Free with
 * json_decref. */
json_t *caloris_json_load(const char *path, size_t max, struct caloris_err *err);

/* The same from n bytes at text; what names them in errors. Strings may hold NULs, as a model's
 * answer may: json_string_length has their end. Code of a failure: CALORIS_BAD_REQUEST. */
json_t *caloris_json_parse(const char *text, size_t n, const char *what, struct caloris_err *err);

/* json_loadb without duplicate keys. An integer beyond 64 bits, for which jansson refuses the whole
 * text, is read as a real: a field that nobody heeds may hold one, and where a whole number is due
 * its reader says that this is none. error may be NULL. */
json_t *caloris_json_decode(const char *text, size_t n, size_t flags, json_error_t *error);

/* What a document may hold, beside its bytes. Parsed, an empty object takes some 80 times the two
 * bytes that it takes in the text: bytes alone bound no memory. */
struct caloris_json_limits {
    size_t values;     /* entries of arrays and objects */
    size_t containers; /* arrays and objects */
    size_t depth;      /* containers within each other */
};

/* BAD_REQUEST for a text that holds more, told in one pass and without memory. What is no JSON may
 * pass; the parser tells. */
int caloris_json_check(const char *text, size_t n, const struct caloris_json_limits *limits,
                       const char *what, struct caloris_err *err);

#endif
