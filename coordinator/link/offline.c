/* Jobs from a JSONL file, results to another, with no gateway. A result line is written whole and
 * at once; the file can be cut off anywhere and continued with resume. */
#include "coordinator/link/link.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/time.h"
#include "coordinator/link/files.h"
#include "coordinator/link/job.h"
#include "coordinator/link/recorder.h"
#include "coordinator/link/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    AHEAD = 2, /* prepared requests per slot, so that a step never waits for the tokenizer */
    SYNC_EVERY_MS = 1000, /* at most this much is lost with the host */
    WAIT_MS = 100,
    PROGRESS_EVERY_MS = 200,
};

struct work {
    struct link_job job;
    struct link_recording recording;
};

struct offline {
    const struct caloris_offline_options *options;
    struct caloris_offline_report *report;
    struct link_model model;
    struct caloris_schedule *schedule;
    FILE *in;
    char *line;
    size_t line_size;
    uint64_t line_number, lines; /* lines: in the whole file, 0 when unknown */
    int out;
    int signals;
    struct link_recorder recorder;
    json_t *ids;  /* of jobs seen, as keys; true: has a result from before */
    bool no_more; /* input ended or stopped */
    bool stopped; /* by a signal */
    size_t in_flight;
    bool terminal;
    uint64_t started_ms, synced_ms, shown_ms;
    struct caloris_err err; /* of the coordinator thread */
    bool failed;
};

/* ---- output ---------------------------------------------------------------------------------- */

static int write_line(struct offline *o, struct caloris_buf *json, struct caloris_err *err)
{
    if (caloris_buf_append(json, "\n", 1, err) < 0 ||
        caloris_file_write_all(o->out, o->options->out, json->data, json->size, err) < 0)
        return -1;
    const uint64_t now = caloris_time_wall_ms();
    if (now - o->synced_ms < SYNC_EVERY_MS)
        return 0;
    o->synced_ms = now;
    if (fdatasync(o->out) < 0 && errno != EINVAL && errno != EROFS) /* a pipe or a tty cannot */
        return caloris_err_sys(err, "%s", o->options->out);
    return 0;
}

static int write_failure(struct offline *o, const char *id, const struct caloris_err *why,
                         struct caloris_err *err)
{
    struct caloris_buf json = CALORIS_BUF(CALORIS_JOB_MAX_BYTES);
    o->report->failed++;
    int rc = link_failure(id, why, &json, err) < 0 || write_line(o, &json, err) < 0 ? -1 : 0;
    caloris_buf_free(&json);
    return rc;
}

static void show_progress(struct offline *o, bool last)
{
    const uint64_t now = caloris_time_wall_ms();
    if (!o->terminal || (!last && now - o->shown_ms < PROGRESS_EVERY_MS))
        return;
    o->shown_ms = now;
    const struct caloris_offline_report *r = o->report;
    const uint64_t ended = r->done + r->failed + r->skipped;
    const double seconds = (double)(now - o->started_ms) * 1e-3;
    const double rate = seconds > 0 ? (double)(r->done + r->failed) / seconds : 0;
    fprintf(stderr, "\r\033[K%" PRIu64, ended);
    if (o->lines)
        fprintf(stderr, "/%" PRIu64, o->lines);
    fprintf(stderr, " jobs, %.1f jobs/s", rate);
    if (o->lines > ended && rate > 0)
        fprintf(stderr, ", %.0f s left", (double)(o->lines - ended) / rate);
    if (last)
        fputc('\n', stderr);
    fflush(stderr);
}

/* ---- resuming -------------------------------------------------------------------------------- */

/* Ids that stand in the output; a torn last line (the host died in it) is cut off. */
static int read_results(struct offline *o, struct caloris_err *err)
{
    const char *path = o->options->out;
    FILE *old = fdopen(dup(o->out), "r");
    if (!old)
        return caloris_err_sys(err, "%s", path);
    int rc = -1;
    char *line = NULL;
    size_t size = 0;
    uint64_t number = 0;
    off_t whole = 0;
    ssize_t n;
    while ((n = getline(&line, &size, old)) > 0) {
        number++;
        if (line[n - 1] != '\n')
            break;
        char what[CALORIS_ERR_TEXT];
        snprintf(what, sizeof(what), "%s: line %" PRIu64, path, number);
        json_t *result = caloris_json_parse(line, (size_t)n, what, err);
        if (!result)
            goto out;
        const char *id = json_string_value(json_object_get(result, "id"));
        if (id && json_object_set_new(o->ids, id, json_true()) == 0)
            ;
        else if (id) {
            json_decref(result);
            caloris_err_sys(err, "%s", path);
            goto out;
        }
        json_decref(result);
        whole += n;
    }
    if (ferror(old)) {
        caloris_err_sys(err, "%s", path);
        goto out;
    }
    if (ftruncate(o->out, whole) < 0) {
        caloris_err_sys(err, "%s: dropping a torn last line", path);
        goto out;
    }
    rc = 0;
out:
    free(line);
    fclose(old);
    return rc;
}

int caloris_offline_check(const struct caloris_offline_options *options, struct caloris_err *err)
{
    const struct link_files files = {"--jobs", options->jobs, options->out, options->trace};
    if (link_files_check(&files, err) < 0)
        return -1;
    return options->resume ? 0 : link_files_check_empty(options->out, err);
}

/* Once more than before the model was loaded: that may have been long ago, and now a file has each
 * name. */
static int open_output(struct offline *o, struct caloris_err *err)
{
    const char *path = o->options->out;
    struct stat st;
    o->out = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (o->out < 0)
        return link_no_file("--out", path, err);
    if (caloris_offline_check(o->options, err) < 0)
        return -1;
    if (fstat(o->out, &st) < 0)
        return caloris_err_sys(err, "%s", path);
    return o->options->resume && S_ISREG(st.st_mode) ? read_results(o, err) : 0;
}

static int open_input(struct offline *o, struct caloris_err *err)
{
    const char *path = o->options->jobs;
    if (strcmp(path, "-") == 0) {
        o->in = stdin;
        return 0;
    }
    o->in = fopen(path, "re");
    if (!o->in)
        return link_no_file("--jobs", path, err);
    struct stat st;
    if (!o->terminal || fstat(fileno(o->in), &st) < 0 || !S_ISREG(st.st_mode))
        return 0;
    for (int c, before = '\n'; (c = getc(o->in)) != EOF;
         before = c) { /* for the time that is left */
        if (before == '\n' && c != '\n')
            o->lines++;
    }
    rewind(o->in);
    return 0;
}

/* ---- jobs in --------------------------------------------------------------------------------- */

/* The id that the result will carry: the job's, or its line's, so that a resume knows it again. */
static int name_job(struct offline *o, struct caloris_job *job, struct caloris_err *err)
{
    if (!job->id && asprintf(&job->id, "line-%" PRIu64, o->line_number) < 0) {
        job->id = NULL;
        return caloris_err_sys(err, "line %" PRIu64, o->line_number);
    }
    return 0;
}

static void free_work(struct work *work)
{
    link_job_free(&work->job);
    link_recording_free(&work->recording);
    free(work);
}

/* One line. *bad: a complaint about the job itself, which fails alone; -1: we cannot go on. */
static int take_line(struct offline *o, size_t n, bool *bad, struct caloris_job *job,
                     struct caloris_err *err)
{
    *bad = caloris_job_parse(o->line, n, job, err) < 0;
    struct caloris_err parse = *bad ? *err : (struct caloris_err){0};
    if (name_job(o, job, err) < 0)
        return -1;
    json_t *seen = json_object_get(o->ids, job->id);
    if (json_is_true(seen)) {
        o->report->skipped++;
        *bad = false;
        return 0;
    }
    if (*bad) {
        *err = parse;
        return 0;
    }
    if (seen) {
        *bad = true;
        caloris_err_set(err, CALORIS_BAD_REQUEST, "id: an earlier line has the same");
        return 0;
    }
    if (json_object_set_new(o->ids, job->id, json_false()) < 0)
        return caloris_err_sys(err, "remembering ids");

    struct work *mine = calloc(1, sizeof(*mine));
    struct caloris_request *request = NULL;
    if (!mine)
        return caloris_err_sys(err, "job");
    if (link_prepare(&o->model, job, &mine->job, &request, err) < 0) {
        free_work(mine);
        *bad = true;
        return 0;
    }
    request->owner = mine;
    link_recording_begin(&o->recorder, &mine->recording, job, o->line, n);
    request->follow = mine->recording.on;
    if (caloris_schedule_submit(o->schedule, request, err) < 0) {
        caloris_request_free(request);
        free_work(mine);
        *bad = true;
        return 0;
    }
    o->in_flight++;
    return 0;
}

static int read_job(struct offline *o, struct caloris_err *err)
{
    ssize_t n = getline(&o->line, &o->line_size, o->in);
    if (n < 0) {
        o->no_more = true;
        return ferror(o->in) ? caloris_err_sys(err, "%s", o->options->jobs) : 0;
    }
    o->line_number++;
    while (n > 0 && strchr(" \t\r\n", o->line[n - 1]))
        n--;
    if (n == 0)
        return 0;
    struct caloris_job job = {0};
    struct caloris_err why = {0};
    bool bad;
    o->report->jobs++;
    int rc = take_line(o, (size_t)n, &bad, &job, &why);
    if (rc < 0)
        *err = why;
    else if (bad)
        rc = write_failure(o, job.id, &why, err);
    caloris_job_free(&job);
    return rc;
}

/* ---- results out ----------------------------------------------------------------------------- */

static int take_event(struct offline *o, struct caloris_event *event, struct caloris_err *err)
{
    struct work *work = event->owner;
    struct caloris_buf json = CALORIS_BUF(CALORIS_JOB_MAX_BYTES * 4u);
    struct caloris_err why;
    uint64_t tokens = 0;
    int rc = 0;
    switch (event->kind) {
    case CALORIS_EVENT_FINISHED:
        o->in_flight--;
        if (link_result(&o->model, &work->job, event, &json, &tokens, &why) < 0) {
            rc = write_failure(o, work->job.id, &why, err);
            break;
        }
        o->report->done++;
        link_recording_end(&o->recorder, &work->recording, &work->job, &json);
        rc = write_line(o, &json, err);
        o->report->tokens += tokens;
        o->report->forward_passes += event->step;
        break;
    case CALORIS_EVENT_CANCELLED:
        o->in_flight--;
        break;
    case CALORIS_EVENT_SNAPSHOT:
    case CALORIS_EVENT_STEP:
        link_recording_add(&o->recorder, &work->recording, &o->model, &work->job, event);
        return 0;
    default:
        return 0;
    }
    caloris_request_free(event->request);
    event->request = NULL;
    free_work(work);
    caloris_buf_free(&json);
    return rc;
}

static void take_signals(struct offline *o)
{
    int signal;
    while ((signal = link_signals_next(o->signals)) != 0) {
        const bool abandon = o->stopped || signal == SIGUSR1 || signal == SIGTERM;
        caloris_log(CALORIS_LOG_WARN, "%s: %s", strsignal(signal),
                    abandon ? "stopping behind this step"
                            : "finishing what runs; once more to stop at once");
        o->stopped = true;
        o->no_more = true;
        caloris_schedule_close(o->schedule, abandon);
    }
}

static int coordinate(struct offline *o, struct caloris_err *err)
{
    const size_t ahead = AHEAD * o->model.facts->max_requests;
    for (;;) {
        take_signals(o);
        while (!o->no_more && o->in_flight < ahead) {
            if (read_job(o, err) < 0)
                return -1;
        }
        if (o->no_more && o->in_flight == 0)
            return 0;
        struct caloris_event *event = caloris_schedule_next_event(o->schedule, WAIT_MS);
        if (!event)
            continue;
        const bool ended = event->kind == CALORIS_EVENT_ENDED;
        int rc = take_event(o, event, err);
        caloris_event_free(event);
        if (rc < 0)
            return -1;
        if (ended)
            return 0; /* a step failed: the main thread has the reason */
        show_progress(o, false);
    }
}

static void *coordinator_thread(void *arg)
{
    struct offline *o = arg;
    if (coordinate(o, &o->err) < 0)
        o->failed = true;
    caloris_schedule_close(o->schedule, o->failed);
    return NULL;
}

/* ---- the body -------------------------------------------------------------------------------- */

/* Events nobody took: the loop ended with requests on their way. */
static void drop_events(struct offline *o)
{
    struct caloris_event *event;
    while ((event = caloris_schedule_next_event(o->schedule, 0)) != NULL) {
        if (event->kind == CALORIS_EVENT_FINISHED || event->kind == CALORIS_EVENT_CANCELLED) {
            caloris_request_free(event->request);
            event->request = NULL;
            free_work(event->owner);
        }
        caloris_event_free(event);
    }
}

int caloris_offline_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct caloris_offline *offline = arg;
    struct offline o = {
        .options = &offline->options,
        .report = &offline->report,
        .out = -1,
        .signals = -1,
        .recorder = {.path = offline->options.trace,
                     .model = link_model_name(offline->options.model_dir),
                     .fd = -1},
    };
    int rc = -1;
    o.terminal = isatty(STDERR_FILENO);
    o.started_ms = o.synced_ms = caloris_time_wall_ms();
    o.ids = json_object();
    if (!o.ids) {
        caloris_err_sys(err, "remembering ids");
        goto out;
    }
    if (open_input(&o, err) < 0 || open_output(&o, err) < 0 ||
        link_recorder_open(&o.recorder, o.options->resume, err) < 0 ||
        link_model_load(&o.model, o.options->model_dir, caloris_engine_facts(engine), err) < 0)
        goto out;
    o.schedule = caloris_schedule_new(caloris_engine_facts(engine), err);
    if (!o.schedule)
        goto out;
    caloris_schedule_aim(o.schedule, o.options->row_budget);
    o.signals = link_signals_open(err);
    if (o.signals < 0)
        goto out;
    pthread_t thread;
    errno = pthread_create(&thread, NULL, coordinator_thread, &o);
    if (errno) {
        caloris_err_sys(err, "coordinator thread");
        goto out;
    }
    rc = caloris_schedule_loop(o.schedule, engine, err);
    pthread_join(thread, NULL);
    if (o.options->figures)
        caloris_schedule_figures(o.schedule, o.options->figures);
    drop_events(&o);
    show_progress(&o, true);
    if (rc == 0 && o.failed) {
        *err = o.err;
        rc = -1;
    }
    if (rc == 0 && fdatasync(o.out) < 0 && errno != EINVAL && errno != EROFS)
        rc = caloris_err_sys(err, "%s", o.options->out);
    if (rc == 0 && o.stopped)
        rc = caloris_err_set(err, CALORIS_AGAIN,
                             "stopped by a signal; %s holds what is finished, --resume goes on",
                             o.options->out);
    offline->report.seconds = (double)(caloris_time_wall_ms() - o.started_ms) * 1e-3;
out:
    link_signals_close(o.signals);
    caloris_schedule_free(o.schedule);
    link_model_free(&o.model);
    link_recorder_close(&o.recorder);
    free(o.line);
    if (o.in && o.in != stdin)
        fclose(o.in);
    if (o.out >= 0)
        close(o.out);
    json_decref(o.ids);
    return rc;
}
