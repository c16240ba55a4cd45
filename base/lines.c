#include "base/lines.h"

#include "base/err.h"

enum { CHUNK = 8192 };

/* What of chunk [n] still has room. */
static int keep(struct caloris_lines *lines, const char *chunk, size_t n, struct caloris_err *err)
{
    const size_t room = lines->text.max - lines->text.size;
    if (n > room) {
        lines->cut = true;
        n = room;
    }
    return caloris_buf_append(&lines->text, chunk, n, err);
}

int caloris_lines_next(struct caloris_lines *lines, struct caloris_err *err)
{
    char chunk[CHUNK];
    size_t n = 0;
    uint64_t bytes = 0;
    int c;
    caloris_buf_clear(&lines->text);
    lines->cut = lines->torn = false;
    flockfile(lines->file);
    while ((c = getc_unlocked(lines->file)) != EOF && c != '\n') {
        chunk[n++] = (char)c;
        bytes++;
        if (n == CHUNK && keep(lines, chunk, n, err) < 0)
            break;
        n = n == CHUNK ? 0 : n;
    }
    funlockfile(lines->file);
    if (c != EOF && c != '\n')
        return -1;
    if (c == EOF && ferror(lines->file))
        return caloris_err_sys(err, "%s", lines->name);
    if (c == EOF && bytes == 0)
        return 0;
    lines->number++;
    lines->end += bytes + (c == '\n');
    lines->torn = c == EOF;
    return keep(lines, chunk, n, err) < 0 ? -1 : 1; /* also of an empty line: text is a string */
}

void caloris_lines_free(struct caloris_lines *lines)
{
    caloris_buf_free(&lines->text);
}
