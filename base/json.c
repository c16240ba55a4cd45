#include "base/json.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"

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
