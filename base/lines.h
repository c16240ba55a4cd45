/* base/lines.h: a file line by line, each of at most so many bytes: whatever a line holds, memory
 * stays bounded and the next one is found. */
#ifndef CALORIS_LINES_H
#define CALORIS_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"

struct caloris_err;

/* Start with CALORIS_LINES(file, name, max). The line stands in text, without its newline. */
struct caloris_lines {
    FILE *file;
    const char *name; /* in errors */
    struct caloris_buf text;
    uint64_t number; /* of the line, from 1 */
    uint64_t end;    /* bytes of the file up to the end of the line */
    bool torn;       /* the file ended before its newline */
    bool cut;        /* it was longer than max: text holds its beginning */
};

#define CALORIS_LINES(from, what, max)                                                             \
    ((struct caloris_lines){(from), (what), CALORIS_BUF(max), 0, 0, false, false})

/* 1: the next line is there; 0: the end; -1 and err: the system, or no memory. */
int caloris_lines_next(struct caloris_lines *lines, struct caloris_err *err);

/* Frees the text; the file stays the caller's. */
void caloris_lines_free(struct caloris_lines *lines);

#endif
