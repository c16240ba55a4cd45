#include "coordinator/text/tokenizer.h"

#include "base/err.h"
#include "base/file.h"

#include <string.h>

/* One merge as text: "left right", one space between them. */
static int add_line(struct caloris_tokenizer *tok, const char *line, size_t n,
                    struct caloris_err *err)
{
    const char *space = memchr(line, ' ', n);
    size_t left = space ? (size_t)(space - line) : 0, right = space ? n - left - 1 : 0;
    if (left == 0 || right == 0 || memchr(space + 1, ' ', right))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "\"%.*s\" is not two tokens with one space between them",
                               n < 60 ? (int)n : 60, line);
    return caloris_merges_add(&tok->merges, &tok->vocab, line, left, space + 1, right, err);
}

static int add_entry(struct caloris_tokenizer *tok, const json_t *entry, struct caloris_err *err)
{
    if (json_is_string(entry))
        return add_line(tok, json_string_value(entry), json_string_length(entry), err);
    const json_t *left = json_array_get(entry, 0), *right = json_array_get(entry, 1);
    if (json_array_size(entry) != 2 || !json_is_string(left) || !json_is_string(right))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "neither \"left right\" nor [\"left\", \"right\"]");
    return caloris_merges_add(&tok->merges, &tok->vocab, json_string_value(left),
                              json_string_length(left), json_string_value(right),
                              json_string_length(right), err);
}

int caloris_tokenizer_read_json_merges(struct caloris_tokenizer *tok, const char *path,
                                       const json_t *document, struct caloris_err *err)
{
    const json_t *list = json_object_get(json_object_get(document, "model"), "merges");
    if (!json_is_array(list))
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: model.merges: missing, or not an array",
                               path);
    if (caloris_merges_init(&tok->merges, json_array_size(list), err) < 0)
        return caloris_err_prefix(err, "%s: model.merges", path);
    size_t i;
    json_t *entry;
    json_array_foreach(
        list, i, entry) if (add_entry(tok, entry, err) <
                            0) return caloris_err_prefix(err, "%s: model.merges[%zu]", path, i);
    return 0;
}

/* The line at *at, without its end; moves *at behind it. False at the end of the text. */
static bool next_line(const struct caloris_buf *text, size_t *at, const char **line, size_t *n)
{
    if (*at >= text->size)
        return false;
    *line = text->data + *at;
    const char *end = memchr(*line, '\n', text->size - *at);
    *n = end ? (size_t)(end - *line) : text->size - *at;
    *at += *n + 1;
    if (*n && (*line)[*n - 1] == '\r')
        (*n)--;
    return true;
}

static int read_lines(struct caloris_tokenizer *tok, const struct caloris_buf *text,
                      struct caloris_err *err)
{
    static const char version[] = "#version";
    const char *line;
    size_t n, lines = 0;
    for (size_t at = 0; next_line(text, &at, &line, &n);)
        lines++;
    if (caloris_merges_init(&tok->merges, lines, err) < 0)
        return -1;
    lines = 0;
    for (size_t at = 0; next_line(text, &at, &line, &n);) {
        lines++;
        bool skip =
            n == 0 || (n >= sizeof(version) - 1 && memcmp(line, version, sizeof(version) - 1) == 0);
        if (!skip && add_line(tok, line, n, err) < 0)
            return caloris_err_prefix(err, "line %zu", lines);
    }
    return 0;
}

int caloris_tokenizer_read_merges(struct caloris_tokenizer *tok, const char *path,
                                  struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(CALORIS_TOKENIZER_MERGES_BYTES);
    int rc = caloris_file_read(path, &text, err);
    if (rc < 0 && err && err->code != CALORIS_NO_MEMORY)
        err->code = CALORIS_BAD_MODEL;
    if (rc == 0 && read_lines(tok, &text, err) < 0)
        rc = caloris_err_prefix(err, "%s", path);
    caloris_buf_free(&text);
    return rc;
}
