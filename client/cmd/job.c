/* The job that a command line describes. */
#include "client/cmd/cmd.h"

#include "base/buf.h"
#include "base/json.h"
#include "proto/jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All of a stream. */
static int read_all(FILE *from, const char *what, struct caloris_buf *to, struct caloris_err *err)
{
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), from)) > 0) {
        if (caloris_buf_append(to, chunk, n, err) < 0)
            return caloris_err_prefix(err, "%s", what);
    }
    return ferror(from) ? caloris_err_sys(err, "reading %s", what) : 0;
}

/* --job FILE: one JSON object of JOBS.md, or an empty one. */
static json_t *start(const struct invocation *in, struct caloris_err *err)
{
    const char *path = in->flags.job_file;
    struct caloris_buf text = CALORIS_BUF(CALORIS_JOB_MAX_BYTES);
    json_t *job = NULL;
    if (!path)
        return json_object();
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    if (!file) {
        caloris_err_sys(err, "job: %s", path);
        err->code = CALORIS_USAGE;
        return NULL;
    }
    if (read_all(file, path, &text, err) == 0)
        job = caloris_json_parse(text.data ? text.data : "", text.size, path, err);
    if (job && !json_is_object(job)) {
        caloris_err_set(err, CALORIS_USAGE, "%s: not a JSON object", path);
        json_decref(job);
        job = NULL;
    }
    if (!is_stdin)
        fclose(file);
    caloris_buf_free(&text);
    return job;
}

static int set_ids(json_t *job, const char *text, struct caloris_err *err)
{
    json_t *ids = json_array();
    const char *at = text;
    for (;;) {
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || (*end && *end != ',')) {
            json_decref(ids);
            return caloris_err_set(err, CALORIS_USAGE,
                                   "ids: \"%.40s\" is no token id; they are written 1,2,3", at);
        }
        json_array_append_new(ids, json_integer(id));
        if (!*end)
            break;
        at = end + 1;
    }
    return json_object_set_new(job, "ids", ids);
}

/* The prompt goes as one user message, or as it is with --raw. "-": stdin. */
static int set_prompt(const struct invocation *in, json_t *job, const char *operand,
                      struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(CALORIS_JOB_MAX_BYTES);
    json_t *prompt = NULL;
    int rc = -1;
    if (strcmp(operand, "-") != 0) {
        prompt = json_string(operand);
    } else {
        if (read_all(stdin, "stdin", &text, err) < 0)
            goto out;
        if (text.size > 0 && text.data[text.size - 1] == '\n' && !in->flags.raw)
            text.size--; /* the one that ends the last line; a raw prompt is taken as it is */
        prompt = json_stringn(text.data ? text.data : "", text.size);
    }
    if (!prompt) {
        caloris_err_set(err, CALORIS_USAGE, "prompt: not UTF-8 text");
        goto out;
    }
    if (in->flags.raw)
        rc = json_object_set_new(job, "prompt", prompt);
    else
        rc = json_object_set_new(job, "messages",
                                 json_pack("[{s:s, s:o}]", "role", "user", "content", prompt));
out:
    caloris_buf_free(&text);
    return rc;
}

static int set_fields(const struct invocation *in, json_t *job, struct caloris_err *err)
{
    for (size_t i = 0; i < caloris_job_fields_count && i < MAX_FIELDS; i++) {
        const char *text = in->flags.fields[i];
        if (text && caloris_job_set(job, caloris_job_fields[i].name, text, err) < 0)
            return -1;
    }
    return 0;
}

char *cmd_job_json(const struct invocation *in, struct caloris_err *err)
{
    char *line = NULL;
    struct caloris_job checked = {0};
    int sources = in->n_operands + (in->flags.ids != NULL) + (in->flags.job_file != NULL);
    if (sources != 1) {
        caloris_err_set(err, CALORIS_USAGE,
                        "a job needs one of: a prompt (\"-\" reads stdin), --ids, --job");
        return NULL;
    }
    json_t *job = start(in, err);
    if (!job || (in->flags.ids && set_ids(job, in->flags.ids, err) < 0) ||
        (in->n_operands && set_prompt(in, job, in->operands[0], err) < 0) ||
        set_fields(in, job, err) < 0)
        goto out;
    line = json_dumps(job, JSON_COMPACT);
    if (!line) {
        caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for the job's JSON");
        goto out;
    }
    /* The gateway would say the same; here it costs nobody a trip. */
    if (caloris_job_parse(line, strlen(line), &checked, err) < 0) {
        free(line);
        line = NULL;
    }
    caloris_job_free(&checked);
out:
    json_decref(job);
    return line;
}
