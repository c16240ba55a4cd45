/* A job, watched to its end: painted, in lines, or in silence; and recorded, if wished. */
#include "client/cmd/record.h"
#include "client/cmd/screen.h"

#include <inttypes.h>
#include <stdio.h>

enum { WAIT_MS = 1000 };

struct follower {
    const struct invocation *in;
    struct screen screen;
    struct recorder *recorder;
    Caloris__Wire__JobState state;
};

static void show_state(struct follower *f, const Caloris__Wire__JobStatus *status)
{
    if (status->state == f->state)
        return;
    f->state = status->state;
    if (f->screen.how == FOLLOW_STEPS) {
        fprintf(f->screen.lines, "job %" PRIu64 " %s\n", status->job,
                cmd_state_name(status->state));
        fflush(f->screen.lines);
    }
}

static int show_json(const struct follower *f, const Caloris__Wire__Event *event,
                     struct caloris_err *err)
{
    json_t *object = json_object();
    json_object_set_new(object, "job", json_integer((json_int_t)event->job));
    if (event->status)
        json_object_set_new(object, "status", cmd_status_json(event->status));
    if (event->progress)
        json_object_set_new(object, "progress", cmd_progress_json(event->progress));
    if (cmd_print_json(f->in, object) == EXIT_DONE)
        return 0;
    return caloris_err_set(err, CALORIS_IO, "cannot write events");
}

static int show(struct follower *f, struct caloris_client *client,
                const Caloris__Wire__Event *event, struct caloris_err *err)
{
    if (caloris_event_is_loss(event))
        return caloris_err_set(err, CALORIS_NOT_FOUND,
                               "the gateway knows no job %" PRIu64 " any more", event->job);
    if (f->screen.how == FOLLOW_JSON && show_json(f, event, err) < 0)
        return -1;
    if (event->progress && f->recorder)
        recorder_add(f->recorder, client, event->job, event->progress);
    if (event->progress &&
        screen_show(&f->screen, event->progress, (uint64_t)f->in->flags.delay_ms, err) < 0)
        return -1;
    if (event->status)
        show_state(f, event->status);
    return 0;
}

int cmd_follow(const struct invocation *in, struct caloris_client *client, uint64_t job,
               enum follow how, FILE *lines, struct recorder *recorder,
               Caloris__Wire__JobState *state, struct caloris_err *err)
{
    struct follower f = {.in = in, .recorder = recorder};
    const bool canvas = how != FOLLOW_SILENT || recorder;
    int rc = -1;
    if (screen_open(&f.screen, how, lines, err) < 0 ||
        caloris_client_watch(client, job, canvas, err) < 0)
        goto out;
    while (!caloris_state_is_final(f.state)) {
        caloris_answer *event = NULL;
        const bool dirty = f.screen.dirty;
        int n = caloris_client_next(client, dirty ? SCREEN_FRAME_MS : WAIT_MS, &event, err);
        if (n < 0)
            goto out;
        if (((n == 0 && dirty) || screen_lost(&f.screen)) && screen_paint(&f.screen, err) < 0)
            goto out;
        if (n == 0)
            continue;
        n = event->event->job == job ? show(&f, client, event->event, err) : 0;
        caloris_answer_free(event);
        if (n < 0)
            goto out;
    }
    if (f.screen.dirty && screen_paint(&f.screen, err) < 0)
        goto out;
    *state = f.state;
    rc = 0;
out:
    screen_close(&f.screen);
    return rc;
}
