/* The text of a configuration file, with its includes put in place.
 *
 * libconfig 1.5 could include by itself, but leaves the process by exit() when an include is a
 * directory and takes either absolute or relative paths, not both; and it cuts numbers to their
 * lowest 32 bits without a word. So the text is walked here first, which also refuses the numbers.
 */
#include "base/conf_impl.h"

#include "base/file.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_BYTES = 1 << 20, TEXT_BYTES = 1 << 22, INCLUDE_DEPTH = 10, NUMBER_BYTES = 64 };

/* A file being walked. */
struct walk {
    struct conf_source *source;
    size_t file;
    unsigned line;
    const char *at, *end;
    int depth;
};

/* from: the place that includes the file, or NULL. */
static int load(struct conf_source *source, const char *path, const struct walk *from,
                struct caloris_err *err);

static int complain(const struct walk *walk, struct caloris_err *err, const char *what)
{
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s:%u: %s", walk->source->files[walk->file],
                           walk->line, what);
}

/* The line of the text that begins now comes from file:number. */
static int begin_line(struct conf_source *source, size_t file, unsigned number,
                      struct caloris_err *err)
{
    if (source->n_lines == source->lines_capacity) {
        size_t capacity = source->lines_capacity ? 2 * source->lines_capacity : 256;
        struct conf_line *lines = realloc(source->lines, capacity * sizeof(*lines));
        if (!lines)
            return caloris_err_sys(err, "%s", source->files[file]);
        source->lines = lines;
        source->lines_capacity = capacity;
    }
    source->lines[source->n_lines++] = (struct conf_line){file, number};
    return 0;
}

/* Copies the next n bytes. */
static int take(struct walk *walk, size_t n, struct caloris_err *err)
{
    for (const char *stop = walk->at + n; walk->at < stop;) {
        const char *newline = memchr(walk->at, '\n', (size_t)(stop - walk->at));
        size_t part = newline ? (size_t)(newline + 1 - walk->at) : (size_t)(stop - walk->at);
        if (caloris_buf_append(&walk->source->text, walk->at, part, err) < 0)
            return caloris_err_prefix(err, "%s with its includes", walk->source->files[walk->file]);
        walk->at += part;
        if (newline && begin_line(walk->source, walk->file, ++walk->line, err) < 0)
            return -1;
    }
    return 0;
}

static bool ahead(const struct walk *walk, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(walk->end - walk->at) >= n && memcmp(walk->at, word, n) == 0;
}

/* Bytes from here to behind the next word. The end of the file where there is none. */
static size_t until(const struct walk *walk, size_t skip, const char *word)
{
    size_t left = (size_t)(walk->end - walk->at);
    const char *hit = memmem(walk->at + skip, left - skip, word, strlen(word));
    return hit ? (size_t)(hit - walk->at) + strlen(word) : left;
}

static int take_string(struct walk *walk, struct caloris_err *err)
{
    const char *c = walk->at + 1;
    while (c < walk->end && *c != '"')
        c += *c == '\\' && c + 1 < walk->end ? 2 : 1;
    if (c >= walk->end)
        return complain(walk, err, "this text has no closing quote");
    return take(walk, (size_t)(c + 1 - walk->at), err);
}

/* Numbers as libconfig knows them: 12, -12, 12L, 0x1F, 0x1FL, and reals. */
static int take_number(struct walk *walk, struct caloris_err *err)
{
    char number[NUMBER_BYTES];
    size_t n = 0;
    bool hex = ahead(walk, "0x") || ahead(walk, "0X");
    for (const char *c = walk->at; c < walk->end; c++, n++) {
        bool is_exponent_sign =
            !hex && n > 0 && (*c == '-' || *c == '+') && (c[-1] == 'e' || c[-1] == 'E');
        if (!isalnum((unsigned char)*c) && *c != '.' && !is_exponent_sign &&
            !(n == 0 && (*c == '-' || *c == '+')))
            break;
        if (n + 1 >= sizeof(number))
            return complain(walk, err, "this number is too long");
        number[n] = *c;
    }
    number[n] = '\0';
    bool is_real = !hex && strpbrk(number, ".eE");
    if (!is_real) {
        char text[2 * NUMBER_BYTES + 40];
        char *end;
        errno = 0;
        long long value = strtoll(number, &end, hex ? 16 : 10);
        if (errno == ERANGE) {
            snprintf(text, sizeof(text), "%s does not fit 64 bits", number);
            return complain(walk, err, text);
        }
        if (*end != 'L' && (value > INT_MAX || value < INT_MIN)) {
            snprintf(text, sizeof(text), "%s does not fit 32 bits; write %sL", number, number);
            return complain(walk, err, text);
        }
    }
    return take(walk, n, err);
}

/* @include "path", alone in its line. */
static int take_include(struct walk *walk, struct caloris_err *err)
{
    const char *from = walk->at + strlen("@include");
    while (from < walk->end && (*from == ' ' || *from == '\t'))
        from++;
    const char *to = from < walk->end && *from == '"' ? from + 1 : from;
    while (to > from && to < walk->end && *to != '"' && *to != '\n')
        to++;
    if (to == from || to == walk->end || *to != '"')
        return complain(walk, err, "@include wants a path in quotes");
    const char *rest = to + 1;
    while (rest < walk->end && (*rest == ' ' || *rest == '\t' || *rest == '\r'))
        rest++;
    if (rest < walk->end && *rest != '\n')
        return complain(walk, err, "@include must stand alone in its line");

    /* Relative to the file that includes. */
    const char *here = walk->source->files[walk->file];
    const char *slash = from[1] == '/' ? NULL : strrchr(here, '/');
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%.*s%.*s", slash ? (int)(slash + 1 - here) : 0, here,
                     (int)(to - from - 1), from + 1);
    if (n < 0 || (size_t)n >= sizeof(path))
        return complain(walk, err, "the path of this @include is too long");
    if (walk->depth == INCLUDE_DEPTH)
        return complain(walk, err, "includes are nested too deeply; do they go in circles?");
    walk->source->n_lines--; /* the included file begins in place of this line */
    if (load(walk->source, path, walk, err) < 0)
        return -1;
    walk->at = rest < walk->end ? rest + 1 : rest;
    return begin_line(walk->source, walk->file, ++walk->line, err);
}

static int take_next(struct walk *walk, bool *at_line_start, struct caloris_err *err)
{
    char c = *walk->at;
    char next = walk->at + 1 < walk->end ? walk->at[1] : '\0';
    bool was_line_start = *at_line_start;
    *at_line_start = c == '\n' || (was_line_start && (c == ' ' || c == '\t'));
    if (was_line_start && ahead(walk, "@include")) {
        *at_line_start = true;
        return take_include(walk, err);
    }
    if (c == '\0')
        return complain(walk, err, "a NUL byte: this is not a text file");
    if (c == '#' || (c == '/' && next == '/')) {
        size_t n = until(walk, 0, "\n");
        *at_line_start = true;
        return take(walk, n, err);
    }
    if (c == '/' && next == '*') {
        size_t n = until(walk, 2, "*/");
        if (memcmp(walk->at + n - 2, "*/", 2) != 0 || n < 4)
            return complain(walk, err, "this comment has no end");
        return take(walk, n, err);
    }
    if (c == '"')
        return take_string(walk, err);
    if (isdigit((unsigned char)c) || ((c == '-' || c == '+') && isdigit((unsigned char)next)))
        return take_number(walk, err);
    if (isalpha((unsigned char)c) || c == '*') {
        const char *end = walk->at;
        while (end < walk->end && (isalnum((unsigned char)*end) || strchr("-_*", *end)))
            end++;
        return take(walk, (size_t)(end - walk->at), err);
    }
    return take(walk, 1, err);
}

static int add_file(struct conf_source *source, const char *path, struct caloris_err *err)
{
    char **files = realloc(source->files, (source->n_files + 1) * sizeof(*files));
    if (!files)
        return caloris_err_sys(err, "%s", path);
    source->files = files;
    files[source->n_files] = strdup(path);
    if (!files[source->n_files])
        return caloris_err_sys(err, "%s", path);
    source->n_files++;
    return 0;
}

static int read_file(const char *path, struct caloris_buf *bytes, struct caloris_err *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is not a file", path);
    return caloris_file_read(path, bytes, err);
}

static int load(struct conf_source *source, const char *path, const struct walk *from,
                struct caloris_err *err)
{
    struct caloris_buf bytes = CALORIS_BUF(FILE_BYTES);
    struct walk walk = {.source = source, .line = 1, .depth = from ? from->depth + 1 : 0};
    bool at_line_start = true;
    int rc = -1;
    if (read_file(path, &bytes, err) < 0) {
        if (from)
            caloris_err_prefix(err, "%s:%u", source->files[from->file], from->line);
        goto out;
    }
    walk.file = source->n_files;
    if (add_file(source, path, err) < 0 || begin_line(source, walk.file, 1, err) < 0)
        goto out;
    walk.at = bytes.data;
    walk.end = bytes.data + bytes.size;
    while (walk.at < walk.end) {
        if (take_next(&walk, &at_line_start, err) < 0)
            goto out;
    }
    /* What includes this goes on in a new line. */
    if (caloris_buf_append(&source->text, "\n", 1, err) < 0)
        goto out;
    rc = 0;
out:
    caloris_buf_free(&bytes);
    return rc;
}

int conf_source_load(struct conf_source *source, const char *path, struct caloris_err *err)
{
    *source = (struct conf_source){.text = CALORIS_BUF(TEXT_BYTES)};
    if (load(source, path, NULL, err) == 0)
        return 0;
    if (err && err->code != CALORIS_NO_MEMORY)
        err->code = CALORIS_BAD_CONFIG;
    conf_source_free(source);
    return -1;
}

void conf_source_free(struct conf_source *source)
{
    for (size_t i = 0; i < source->n_files; i++)
        free(source->files[i]);
    free(source->files);
    free(source->lines);
    caloris_buf_free(&source->text);
    *source = (struct conf_source){0};
}

const char *conf_source_where(const struct conf_source *source, unsigned line, unsigned *number)
{
    /* libconfig may count one line too many at the end of the text. */
    size_t i = line < 1 ? 0 : line > source->n_lines ? source->n_lines - 1 : line - 1;
    *number = source->lines[i].number;
    return source->files[source->lines[i].file];
}
