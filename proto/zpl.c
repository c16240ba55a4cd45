#include "proto/zpl.h"

#include "base/err.h"

#include <stdint.h>
#include <string.h>

enum { MAX_DEPTH = 4, MAX_NAME = 64, MAX_PATH = MAX_DEPTH * (MAX_NAME + 1), LEVEL = 4 };

struct reader {
    const struct caloris_zpl_key *keys;
    size_t n_keys;
    void *to;
    uint32_t seen; /* bit i: keys[i] stood in the file */
    char path[MAX_PATH];
    size_t ends[MAX_DEPTH]; /* of the names in path, by level */
    size_t depth;           /* names in path */
};

/* One line, without its end. */
struct line {
    const char *at, *end;
};

static int wrong(struct caloris_err *err, const char *what)
{
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s", what);
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("$-_@.&+/", c));
}

static void skip_spaces(struct line *line)
{
    while (line->at < line->end && *line->at == ' ')
        line->at++;
}

static bool at_end(const struct line *line)
{
    return line->at == line->end || *line->at == '#';
}

/* The name at the line's beginning becomes the last of the path. */
static int read_name(struct reader *r, struct line *line, struct caloris_err *err)
{
    const char *start = line->at;
    skip_spaces(line);
    size_t spaces = (size_t)(line->at - start), level = spaces / LEVEL;
    if (spaces % LEVEL != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%zu spaces before the name; a level is %d",
                               spaces, LEVEL);
    if (level > r->depth || level >= MAX_DEPTH)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "level %zu is too deep here", level);
    start = line->at;
    while (line->at < line->end && is_name(*line->at))
        line->at++;
    size_t n = (size_t)(line->at - start);
    if (n == 0 || n > MAX_NAME)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "a name of 1 to %d characters is due",
                               MAX_NAME);
    size_t end = level > 0 ? r->ends[level - 1] : 0;
    if (end > 0)
        r->path[end++] = '/';
    memcpy(r->path + end, start, n);
    r->ends[level] = end + n;
    r->path[end + n] = '\0';
    r->depth = level + 1;
    return 0;
}

static int read_value(struct line *line, char value[CALORIS_ZPL_MAX_VALUE + 1],
                      struct caloris_err *err)
{
    skip_spaces(line);
    const char *start = line->at;
    char quote = line->at < line->end && (*start == '"' || *start == '\'') ? *start : '\0';
    const char *end;
    if (quote) {
        start++;
        end = memchr(start, quote, (size_t)(line->end - start));
        if (!end)
            return wrong(err, "a quote without an end");
        line->at = end + 1;
        skip_spaces(line);
        if (!at_end(line))
            return wrong(err, "something stands behind the value");
    } else {
        while (!at_end(line))
            line->at++;
        for (end = line->at; end > start && end[-1] == ' ';)
            end--;
        if (end == start)
            return wrong(err, "no value behind =");
    }
    size_t n = (size_t)(end - start);
    if (n > CALORIS_ZPL_MAX_VALUE)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "a value of %zu bytes; the limit is %d", n,
                               CALORIS_ZPL_MAX_VALUE);
    memcpy(value, start, n);
    value[n] = '\0';
    return 0;
}

/* Whether path is the key's, or (section) a name that the key's path goes through. */
static bool fits(const char *key, const char *path, bool section)
{
    size_t n = strlen(path), star = strlen(key) - 1;
    if (key[star] == '*' && strncmp(key, path, star) == 0)
        return true;
    return section ? strncmp(key, path, n) == 0 && key[n] == '/' : strcmp(key, path) == 0;
}

static int take_value(struct reader *r, const char *value, struct caloris_err *err)
{
    for (size_t i = 0; i < r->n_keys; i++) {
        const struct caloris_zpl_key *key = &r->keys[i];
        if (!fits(key->path, r->path, false))
            continue;
        if (!key->take)
            return 0;
        if (r->seen & 1u << i)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s stands here twice", r->path);
        r->seen |= 1u << i;
        return key->take(value, r->to, err) < 0 ? caloris_err_prefix(err, "%s", r->path) : 0;
    }
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "unknown name %s", r->path);
}

static int check_section(const struct reader *r, struct caloris_err *err)
{
    for (size_t i = 0; i < r->n_keys; i++) {
        if (fits(r->keys[i].path, r->path, true))
            return 0;
        if (fits(r->keys[i].path, r->path, false))
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s has no value", r->path);
    }
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "unknown name %s", r->path);
}

static int read_line(struct reader *r, struct line line, struct caloris_err *err)
{
    char value[CALORIS_ZPL_MAX_VALUE + 1];
    struct line rest = line;
    for (const char *c = line.at; c < line.end; c++) {
        if ((unsigned char)*c < ' ' || *c == 127)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "control character %d",
                                   (unsigned char)*c);
    }
    skip_spaces(&rest);
    if (at_end(&rest))
        return 0;
    if (read_name(r, &line, err) < 0)
        return -1;
    skip_spaces(&line);
    if (at_end(&line))
        return check_section(r, err);
    if (*line.at++ != '=')
        return wrong(err, "= or the line's end is due behind the name");
    return read_value(&line, value, err) < 0 ? -1 : take_value(r, value, err);
}

int caloris_zpl_read(const char *file, const char *text, size_t n,
                     const struct caloris_zpl_key *keys, size_t n_keys, void *to,
                     struct caloris_err *err)
{
    struct reader r = {.keys = keys, .n_keys = n_keys, .to = to};
    if (n_keys > CALORIS_ZPL_MAX_KEYS)
        return caloris_err_set(err, CALORIS_INTERNAL, "a table of %zu keys", n_keys);
    if (n > CALORIS_ZPL_MAX_BYTES)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %zu bytes; the limit is %d", file, n,
                               CALORIS_ZPL_MAX_BYTES);
    int number = 0;
    for (const char *at = text, *end = text + n; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        struct line line = {at, newline ? newline : end};
        number++;
        if (read_line(&r, line, err) < 0)
            return caloris_err_prefix(err, "%s:%d", file, number);
        at = newline ? newline + 1 : end;
    }
    for (size_t i = 0; i < n_keys; i++) {
        if (keys[i].required && !(r.seen & 1u << i))
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %s is missing", file,
                                   keys[i].path);
    }
    return 0;
}
