/* watch: what happens to a job. wait: until jobs have ended. */
#include "client/cmd/record.h"
#include "client/cmd/screen.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Why a job failed, from its status; false when there is nothing to tell. */
static bool say_failure(const struct invocation *in, const Caloris__Wire__JobStatus *status)
{
    if (status->state != CALORIS__WIRE__JOB_STATE__FAILED || !status->failure)
        return false;
    cmd_say(in, "job %" PRIu64 " failed: %s", status->job, status->failure->text);
    return true;
}

int cmd_finish(const struct invocation *in, struct caloris_client *client, uint64_t job,
               Caloris__Wire__JobState state, bool figures)
{
    if (state != CALORIS__WIRE__JOB_STATE__CANCELLED)
        return cmd_print_result(in, client, job, figures);
    cmd_say(in, "job %" PRIu64 " was cancelled", job);
    return EXIT_JOB_FAILED;
}

static int exit_of(Caloris__Wire__JobState state)
{
    return state == CALORIS__WIRE__JOB_STATE__DONE ? EXIT_DONE : EXIT_JOB_FAILED;
}

int verb_watch(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_client *client = NULL;
    struct recorder recorder, *records = in->flags.trace ? &recorder : NULL;
    Caloris__Wire__JobState state;
    uint64_t job;
    bool terminal = isatty(STDOUT_FILENO);
    enum follow how = in->flags.json        ? FOLLOW_JSON
                      : !screen_can_paint() ? FOLLOW_STEPS
                      : in->flags.view      ? FOLLOW_CANVAS
                                            : FOLLOW_ANSWER;
    int rc;
    if (cmd_job_number(in->operands[0], &job, &err) < 0 ||
        (records && recorder_open(records, in, &err) < 0))
        return cmd_fail(in, &err);
    if (!(client = cmd_connect(in, &err)) ||
        cmd_follow(in, client, job, how, stdout, records, &state, &err) < 0) {
        rc = cmd_fail(in, &err);
    } else {
        rc = in->flags.json ? exit_of(state)
                            : cmd_finish(in, client, job, state, terminal && !in->flags.quiet);
        if (records)
            recorder_end(records, client, job);
    }
    if (records)
        rc = recorder_close(records, rc);
    caloris_client_close(client);
    return rc;
}

/* ---- wait ------------------------------------------------------------------------------------ */

/* The jobs waited for, and how each ended. */
struct waiting {
    uint64_t *jobs;         /* [n] */
    caloris_answer **ended; /* [n]: event with the final status; NULL: not yet */
    size_t n, left;
};

/* Takes event over. */
static void note(struct waiting *w, caloris_answer *event)
{
    const Caloris__Wire__Event *e = event->event;
    for (size_t i = 0; i < w->n; i++) {
        if (w->jobs[i] == e->job && e->status && caloris_state_is_final(e->status->state) &&
            !w->ended[i]) {
            w->ended[i] = event;
            w->left--;
            return;
        }
    }
    caloris_answer_free(event);
}

static int wait_for_all(struct waiting *w, struct caloris_client *client, struct caloris_err *err)
{
    const uint64_t wait_ms = 60000;
    for (size_t i = 0; i < w->n; i++) {
        if (caloris_client_watch(client, w->jobs[i], false, err) < 0)
            return caloris_err_prefix(err, "job %" PRIu64, w->jobs[i]);
    }
    while (w->left > 0) {
        caloris_answer *event = NULL;
        int n = caloris_client_next(client, wait_ms, &event, err);
        if (n > 0 && caloris_event_is_loss(event->event)) {
            n = caloris_err_set(err, CALORIS_NOT_FOUND,
                                "the gateway knows no job %" PRIu64 " any more", event->event->job);
            caloris_answer_free(event);
        }
        if (n < 0)
            return -1;
        if (n > 0)
            note(w, event);
    }
    return 0;
}

/* The operands' numbers, each once. */
static int read_jobs(const struct invocation *in, struct waiting *w, struct caloris_err *err)
{
    for (int i = 0; i < in->n_operands; i++) {
        uint64_t job;
        bool known = false;
        if (cmd_job_number(in->operands[i], &job, err) < 0)
            return -1;
        for (size_t k = 0; k < w->n; k++)
            known |= w->jobs[k] == job;
        if (!known)
            w->jobs[w->n++] = job;
    }
    w->left = w->n;
    return 0;
}

static int report(const struct invocation *in, const struct waiting *w)
{
    json_t *array = json_array();
    int rc = EXIT_DONE;
    for (size_t i = 0; i < w->n; i++) {
        const Caloris__Wire__JobStatus *status = w->ended[i]->event->status;
        if (exit_of(status->state) > rc)
            rc = exit_of(status->state);
        if (!say_failure(in, status) && status->state != CALORIS__WIRE__JOB_STATE__DONE)
            cmd_say(in, "job %" PRIu64 " %s", status->job, cmd_state_name(status->state));
        json_array_append_new(array, cmd_status_json(status));
    }
    if (in->flags.json) {
        json_t *object =
            w->n == 1 ? json_incref(json_array_get(array, 0)) : json_pack("{s:O}", "jobs", array);
        int printed = cmd_print_json(in, object);
        rc = printed ? printed : rc;
    }
    json_decref(array);
    return rc;
}

int verb_wait(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_client *client = NULL;
    size_t most = (size_t)in->n_operands;
    struct waiting w = {.jobs = calloc(most, sizeof(*w.jobs)),
                        .ended = (caloris_answer **)calloc(most, sizeof(*w.ended))};
    int rc;
    if (!w.jobs || !w.ended)
        caloris_err_sys(&err, "the jobs to wait for");
    if (err.code || read_jobs(in, &w, &err) < 0 || !(client = cmd_connect(in, &err)) ||
        wait_for_all(&w, client, &err) < 0)
        rc = cmd_fail(in, &err);
    else
        rc = report(in, &w);
    for (size_t i = 0; w.ended && i < w.n; i++)
        caloris_answer_free(w.ended[i]);
    free(w.ended);
    free(w.jobs);
    caloris_client_close(client);
    return rc;
}
