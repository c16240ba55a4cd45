#include "base/json.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"

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

static json_t *parse(const char *text, size_t n, size_t flags, const char *what,
                     struct caloris_err *err)
{
    json_error_t error;
    json_t *document = json_loadb(n > 0 ? text : "", n, JSON_REJECT_DUPLICATES | flags, &error);
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
