#include "coordinator/link/link.h"

#include "base/err.h"
#include "base/file.h"
#include "coordinator/link/files.h"
#include "proto/jobs.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sink {
    int fd;
    const char *path;
    size_t vocab;
    uint64_t *rows;
};

static int write_rows(void *arg, const float *logits, size_t rows, struct caloris_err *err)
{
    const struct sink *sink = arg;
    *sink->rows += rows;
    return caloris_file_write_all(sink->fd, sink->path, logits, rows * sink->vocab * sizeof(float),
                                  err);
}

static int take_line(struct caloris_engine *engine, const char *line, size_t n, struct sink *sink,
                     struct caloris_err *err)
{
    struct caloris_job job = {0};
    int rc = caloris_job_parse(line, n, &job, err);
    if (rc == 0 && job.source != CALORIS_JOB_IDS)
        rc = caloris_err_set(err, CALORIS_BAD_REQUEST, "ids: needed here, not prompt or messages");
    if (rc == 0)
        rc = caloris_engine_logits(engine, job.ids, job.n_ids, write_rows, sink, err);
    caloris_job_free(&job);
    return rc;
}

int caloris_logits_check(const struct caloris_logits *logits, struct caloris_err *err)
{
    return link_files_check(&(struct link_files){"--logits", logits->in, logits->out, NULL}, err);
}

int caloris_logits_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct caloris_logits *logits = arg;
    struct sink sink = {-1, logits->out, caloris_engine_facts(engine)->model.vocab, &logits->rows};
    char *line = NULL;
    size_t size = 0;
    uint64_t number = 0;
    int rc = -1;
    FILE *in = strcmp(logits->in, "-") == 0 ? stdin : fopen(logits->in, "re");
    if (!in) {
        link_no_file("--logits", logits->in, err);
        goto out;
    }
    sink.fd = open(logits->out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (sink.fd < 0) {
        link_no_file("--out", logits->out, err);
        goto out;
    }
    for (ssize_t n; (n = getline(&line, &size, in)) > 0;) {
        number++;
        if (strspn(line, " \t\r\n") == (size_t)n)
            continue;
        if (take_line(engine, line, (size_t)n, &sink, err) < 0) {
            caloris_err_prefix(err, "%s: line %" PRIu64, logits->in, number);
            goto out;
        }
        logits->inputs++;
    }
    if (ferror(in)) {
        caloris_err_sys(err, "%s", logits->in);
        goto out;
    }
    rc = 0;
out:
    free(line);
    if (in && in != stdin)
        fclose(in);
    if (sink.fd >= 0 && close(sink.fd) < 0 && rc == 0)
        rc = caloris_err_sys(err, "%s", logits->out);
    return rc;
}
