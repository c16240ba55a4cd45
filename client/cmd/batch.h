/* client/cmd/batch.h: the files of "caloris batch": what is there already, what comes to it. */
#ifndef CALORIS_CMD_BATCH_H
#define CALORIS_CMD_BATCH_H

#include "base/lines.h"
#include "client/cmd/cmd.h"
#include "proto/jobs.h"

enum {
    BATCH_KEY = 16,              /* random bytes of a batch; with a line's number the job's key */
    BATCH_LINE_BYTES = 64 << 20, /* of a line of results */
};

/* A file that whole lines are appended to. */
struct batch_output {
    const char *path; /* NULL: not wished */
    int fd;
    bool dirty; /* not on the disk yet */
};

struct batch_files {
    const struct invocation *in;
    FILE *input;
    struct caloris_lines lines; /* of input */
    uint64_t n_lines;           /* of the whole input; 0: not known (a pipe) */
    uint64_t input_hash;
    struct batch_output out, errors; /* errors: where failures go, if not to out */
    char *state;                     /* path: what a resumption has to know */
    uint8_t key[BATCH_KEY];
    uint64_t shard, shards; /* lines with number % shards == shard % shards are ours */
    uint8_t *done;          /* a bit for each line that has its result; [(n_lines + 8) / 8] */
    uint64_t wanted, had;   /* lines of the shard that are not empty, and how many were done */
    uint64_t failed;        /* of them */
    uint64_t synced_ns;
};

/* Opens everything. After it no line of an earlier run is lost or torn. */
int batch_open(struct batch_files *files, const struct invocation *in, struct caloris_err *err);

/* The next line of the input that is ours and not done, in files->lines; 1, 0: the end, -1. */
int batch_next(struct batch_files *files, struct caloris_err *err);

/* Appends a written line [n]. */
int batch_write(struct batch_files *files, bool failure, const char *line, size_t n,
                struct caloris_err *err);

/* Puts on the disk what was written; complete: nothing is left to resume. */
int batch_close(struct batch_files *files, bool complete, struct caloris_err *err);
void batch_free(struct batch_files *files);

#endif
