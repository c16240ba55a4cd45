#include "client/cmd/record.h"

#include "base/file.h"
#include "proto/trace.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LINES = 2 * CALORIS_TRACE_MAX_LINE };

int recorder_open(struct recorder *recorder, const struct invocation *in, struct caloris_err *err)
{
    const char *path = in->flags.trace;
    *recorder = (struct recorder){.in = in, .fd = -1, .line = CALORIS_BUF(MAX_LINES)};
    recorder->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (recorder->fd >= 0)
        return 0;
    caloris_err_sys(err, "--trace %s", path);
    err->code = CALORIS_USAGE;
    return -1;
}

static void give_up(struct recorder *recorder, const struct caloris_err *why)
{
    cmd_say(recorder->in, "--trace %s: no more is recorded: %s", recorder->in->flags.trace,
            why->text);
    recorder->failed = true;
    close(recorder->fd);
    recorder->fd = -1;
}

static int write_line(struct recorder *recorder, struct caloris_err *err)
{
    return caloris_file_write_all(recorder->fd, recorder->in->flags.trace, recorder->line.data,
                                  recorder->line.size, err);
}

/* The model of the group that computes the job; NULL when it is not there any more. */
static const char *find_model(const caloris_answer *job, const caloris_answer *cluster)
{
    const char *group = job && job->status->group ? job->status->group : "";
    for (size_t i = 0; cluster && i < cluster->cluster->n_groups; i++) {
        if (strcmp(cluster->cluster->groups[i]->name, group) == 0)
            return cluster->cluster->groups[i]->model;
    }
    return NULL;
}

/* The job as the gateway stored it: with the defaults of what it left open, and the seed that was
 * drawn. */
static int begin(struct recorder *recorder, struct caloris_client *client, uint64_t number,
                 const Caloris__Wire__Progress *canvas, struct caloris_err *err)
{
    caloris_answer *job = caloris_client_show(client, number, err);
    caloris_answer *cluster = job ? caloris_client_cluster(client, err) : NULL;
    int rc = -1;
    if (job && cluster) {
        const struct caloris_trace_about about = {
            .model = find_model(job, cluster),
            .job = job->status->has_job_json ? (const char *)job->status->job_json.data : NULL,
            .job_bytes = job->status->job_json.len,
            .seed = -1,
        };
        rc = caloris_trace_begin(&about, canvas, &recorder->line, err);
    }
    caloris_answer_free(job);
    caloris_answer_free(cluster);
    recorder->begun = rc == 0;
    return rc;
}

void recorder_add(struct recorder *recorder, struct caloris_client *client, uint64_t job,
                  const Caloris__Wire__Progress *progress)
{
    struct caloris_err err = {0};
    if (recorder->fd < 0 || (!recorder->begun && !progress->full))
        return; /* steps before the first canvas cannot be placed */
    caloris_buf_clear(&recorder->line);
    int rc = recorder->begun ? caloris_trace_add(progress, &recorder->line, &err)
                             : begin(recorder, client, job, progress, &err);
    if (rc < 0 || write_line(recorder, &err) < 0)
        give_up(recorder, &err);
}

void recorder_end(struct recorder *recorder, struct caloris_client *client, uint64_t job)
{
    struct caloris_err err = {0};
    if (recorder->fd < 0 || !recorder->begun) /* ended before its first step: nothing to show */
        return;
    caloris_answer *answer = caloris_client_results(client, job, &err);
    caloris_buf_clear(&recorder->line);
    if (!answer ||
        caloris_trace_end((const char *)answer->result->result_json.data,
                          answer->result->result_json.len, &recorder->line, &err) < 0 ||
        write_line(recorder, &err) < 0)
        give_up(recorder, &err);
    caloris_answer_free(answer);
}

int recorder_close(struct recorder *recorder, int rc)
{
    if (recorder->fd >= 0)
        close(recorder->fd);
    if (!recorder->begun && !recorder->failed && !recorder->in->flags.quiet)
        cmd_say(recorder->in, "--trace: no step was seen, %s is empty", recorder->in->flags.trace);
    caloris_buf_free(&recorder->line);
    return rc == EXIT_DONE && recorder->failed ? caloris_exit_client(CALORIS_IO) : rc;
}
