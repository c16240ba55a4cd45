/* proto/trace.h: recordings of requests, step by step, as lines of JSON: docs/TRACE.md.
 *
 * What is recorded are the Progress messages that viewers get; what is read back are such messages
 * again, checked against each other, so that whatever shows a running job shows a recorded one. A
 * file may hold many recordings, one behind the other.
 */
#ifndef CALORIS_TRACE_H
#define CALORIS_TRACE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/caloris.pb-c.h"

struct caloris_buf;
struct caloris_err;

enum {
    CALORIS_TRACE_VERSION = 1,
    CALORIS_TRACE_MAX_CELLS = 1 << 18, /* of a canvas */
    CALORIS_TRACE_MAX_TOKEN = 4096,    /* bytes of one token */
    CALORIS_TRACE_MAX_LINE = 64 << 20, /* bytes */
};

/* ---- writing: each call appends one line, or fails and appends nothing ----------------------- */

struct caloris_trace_about {
    const char *model; /* NULL: not known */
    const char *job;   /* [job_bytes]: its JSON; NULL: not known */
    size_t job_bytes;
    int64_t seed; /* that was drawn for a job that says none; -1: it says one */
};

/* The first line; canvas is a full Progress. BAD_REQUEST: too long a canvas to be recorded. */
int caloris_trace_begin(const struct caloris_trace_about *about,
                        const Caloris__Wire__Progress *canvas, struct caloris_buf *to,
                        struct caloris_err *err);

/* A step, or (full) a canvas that stands for steps that were missed. */
int caloris_trace_add(const Caloris__Wire__Progress *progress, struct caloris_buf *to,
                      struct caloris_err *err);

/* The last line: the result's JSON [n]. */
int caloris_trace_end(const char *result, size_t n, struct caloris_buf *to,
                      struct caloris_err *err);

/* ---- reading --------------------------------------------------------------------------------- */

enum caloris_trace_kind {
    CALORIS_TRACE_BEGIN,  /* head: "model", "job" …; progress: the first canvas */
    CALORIS_TRACE_CANVAS, /* progress: full; steps were missed */
    CALORIS_TRACE_STEP,   /* progress */
    CALORIS_TRACE_RESULT, /* head: the result */
};

/* Valid until the next read. */
struct caloris_trace_entry {
    enum caloris_trace_kind kind;
    const json_t *head;
    const Caloris__Wire__Progress *progress; /* NULL with RESULT */
};

/* Reads from file, which stays the caller's; name in errors. NULL and err. */
struct caloris_trace *caloris_trace_open(FILE *file, const char *name, struct caloris_err *err);
void caloris_trace_close(struct caloris_trace *trace); /* NULL is fine */

/* 1 and *entry; 0: the end, behind a result or in an empty file; -1 and err: BAD_REQUEST names file
 * and line. */
int caloris_trace_next(struct caloris_trace *trace, struct caloris_trace_entry *entry,
                       struct caloris_err *err);

/* Bytes of the file up to the end of the last whole recording that was read. */
uint64_t caloris_trace_whole_bytes(const struct caloris_trace *trace);

/* Of a read that failed: whether nothing is wrong but that the file ends too early, inside of a
 * line or before a result. */
bool caloris_trace_is_cut_off(const struct caloris_trace *trace);

#endif
