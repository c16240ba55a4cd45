#include "coordinator/link/recorder.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "coordinator/link/files.h"
#include "coordinator/link/progress.h"
#include "proto/trace.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { MAX_RECORDING = 256 << 20 }; /* bytes of one request's */

static void give_up(struct link_recorder *recorder, const struct caloris_err *why)
{
    caloris_log(CALORIS_LOG_WARN, "%s: no more is recorded: %s", recorder->path, why->text);
    link_recorder_close(recorder);
}

/* Too long a canvas, too many steps, no memory: of one request. */
static void drop(const struct link_recorder *recorder, struct link_recording *recording,
                 const char *job, const struct caloris_err *why)
{
    caloris_log(CALORIS_LOG_WARN, "%s: job %s is not recorded: %s", recorder->path, job, why->text);
    link_recording_free(recording);
    recording->on = false;
}

static int note_id(struct link_recorder *recorder, const struct caloris_trace_entry *entry,
                   struct caloris_err *err)
{
    const json_t *id = json_object_get(entry->head, "id");
    if (entry->kind != CALORIS_TRACE_RESULT || !json_is_string(id))
        return 0;
    if (!recorder->there)
        recorder->there = json_object();
    if (json_object_set_new(recorder->there, json_string_value(id), json_true()) < 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "%s: no memory for what it holds",
                               recorder->path);
    return 0;
}

/* Reads to the end of the last whole recording and cuts off what was begun behind it. Anything else
 * that is no recording is left alone: good ones may follow. */
static int find_end(struct link_recorder *recorder, struct caloris_err *err)
{
    struct caloris_trace_entry entry;
    FILE *old = fdopen(dup(recorder->fd), "r");
    struct caloris_trace *trace = old ? caloris_trace_open(old, recorder->path, err) : NULL;
    int rc = -1;
    if (trace) {
        while ((rc = caloris_trace_next(trace, &entry, err)) == 1 &&
               (rc = note_id(recorder, &entry, err)) == 0)
            ;
        if (rc < 0 && caloris_trace_is_cut_off(trace)) {
            rc = ftruncate(recorder->fd, (off_t)caloris_trace_whole_bytes(trace));
            if (rc < 0)
                caloris_err_sys(err, "%s: dropping a torn recording", recorder->path);
        } else if (rc < 0) {
            caloris_err_prefix(err, "--trace: nothing is changed, and nothing computed");
        }
    } else if (!old) {
        caloris_err_sys(err, "%s", recorder->path);
    }
    caloris_trace_close(trace);
    if (old)
        fclose(old);
    return rc;
}

int link_recorder_open(struct link_recorder *recorder, bool resume, struct caloris_err *err)
{
    recorder->fd = -1;
    if (!recorder->path)
        return 0;
    recorder->fd = open(recorder->path,
                        O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | (resume ? 0 : O_TRUNC), 0666);
    if (recorder->fd < 0)
        return link_no_file("--trace", recorder->path, err);
    return resume ? find_end(recorder, err) : 0;
}

void link_recorder_close(struct link_recorder *recorder)
{
    if (recorder->fd >= 0)
        close(recorder->fd);
    recorder->fd = -1;
    json_decref(recorder->there);
    recorder->there = NULL;
}

void link_recording_begin(struct link_recorder *recorder, struct link_recording *recording,
                          const struct caloris_job *parsed, const char *json, size_t n)
{
    struct caloris_err err;
    const bool there = parsed->id && json_object_get(recorder->there, parsed->id);
    *recording =
        (struct link_recording){recorder->fd >= 0 && !there, CALORIS_BUF(2 * CALORIS_JOB_MAX_BYTES),
                                CALORIS_BUF(MAX_RECORDING)};
    if (recording->on && caloris_job_settle(json, n, parsed, &recording->job, NULL, &err) < 0)
        drop(recorder, recording, parsed->id, &err);
}

void link_recording_add(struct link_recorder *recorder, struct link_recording *recording,
                        const struct link_model *model, const struct link_job *job,
                        const struct caloris_event *event)
{
    const struct caloris_trace_about about = {
        .model = recorder->model,
        .job = recording->job.data,
        .job_bytes = recording->job.size,
        .seed = job->seed,
    };
    struct caloris_err err;
    if (recorder->fd < 0 || !recording->on)
        return;
    struct link_progress *progress = link_progress_new(model, job, event, &err);
    int rc = !progress ? -1
             : recording->text.size > 0
                 ? caloris_trace_add(&progress->message, &recording->text, &err)
                 : caloris_trace_begin(&about, &progress->message, &recording->text, &err);
    link_progress_free(progress);
    if (rc < 0)
        drop(recorder, recording, job->id, &err);
}

void link_recording_end(struct link_recorder *recorder, struct link_recording *recording,
                        const struct link_job *job, const struct caloris_buf *result)
{
    struct caloris_buf *text = &recording->text;
    struct caloris_err err;
    if (recorder->fd < 0 || text->size == 0) /* nothing was masked: there was no step */
        return;
    if (caloris_trace_end(result->data, result->size, text, &err) < 0)
        drop(recorder, recording, job->id, &err);
    else if (caloris_file_write_all(recorder->fd, recorder->path, text->data, text->size, &err) < 0)
        give_up(recorder, &err);
}

void link_recording_free(struct link_recording *recording)
{
    caloris_buf_free(&recording->job);
    caloris_buf_free(&recording->text);
}
