/* client/cmd/record.h: --trace FILE: a recording (proto/trace.h) of a job that is followed. */
#ifndef CALORIS_CMD_RECORD_H
#define CALORIS_CMD_RECORD_H

#include "base/buf.h"
#include "client/cmd/cmd.h"

/* A recording is a help: what goes wrong is said once and ends it, and the job goes on. */
struct recorder {
    const struct invocation *in;
    int fd; /* -1: nothing is recorded any more */
    bool begun, failed;
    struct caloris_buf line;
};

/* The file of --trace, replaced. */
int recorder_open(struct recorder *recorder, const struct invocation *in, struct caloris_err *err);

void recorder_add(struct recorder *recorder, struct caloris_client *client, uint64_t job,
                  const Caloris__Wire__Progress *progress);

/* Its last line: the result, which is fetched. */
void recorder_end(struct recorder *recorder, struct caloris_client *client, uint64_t job);

/* Returns the exit code: rc, unless all went well but the recording. */
int recorder_close(struct recorder *recorder, int rc);

#endif
