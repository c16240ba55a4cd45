/* coordinator/link/recorder.h (inside link): recordings of requests (proto/trace.h) in a file: each
 * is kept in memory until its request has finished, and then written whole. */
#ifndef CALORIS_LINK_RECORDER_H
#define CALORIS_LINK_RECORDER_H

#include "base/buf.h"
#include "coordinator/link/job.h"

/* A file of recordings. A recording is a help: no job fails of what goes wrong with it. What cannot
 * be recorded of a request is logged, and only that recording is missing; a file that cannot be
 * written is logged, and ends all recording. */
struct link_recorder {
    const char *path;  /* NULL: nothing is recorded */
    const char *model; /* its name */
    int fd;            /* -1: not open */
    json_t *there;     /* ids of the whole recordings that it began with; NULL: none */
};

/* Of one request. */
struct link_recording {
    bool on;                 /* it is recorded */
    struct caloris_buf job;  /* its JSON */
    struct caloris_buf text; /* lines so far */
};

/* resume: goes on behind the last whole recording of a file that is there. One that holds anything
 * but recordings is an error, and stays as it is. */
int link_recorder_open(struct link_recorder *recorder, bool resume, struct caloris_err *err);
void link_recorder_close(struct link_recorder *recorder);

/* The job in json [n] is to be recorded, unless its recording is there already: it was written, and
 * then the run ended before the result was. */
void link_recording_begin(struct link_recorder *recorder, struct link_recording *recording,
                          const struct caloris_job *parsed, const char *json, size_t n);
/* A STEP or SNAPSHOT event of it. */
void link_recording_add(struct link_recorder *recorder, struct link_recording *recording,
                        const struct link_model *model, const struct link_job *job,
                        const struct caloris_event *event);
/* Its result; writes it all. */
void link_recording_end(struct link_recorder *recorder, struct link_recording *recording,
                        const struct link_job *job, const struct caloris_buf *result);
void link_recording_free(struct link_recording *recording); /* the contents */

#endif
