/* A job, watched to its end: painted, in lines, or in silence. */
#include "client/cmd/cmd.h"

#include "base/buf.h"
#include "base/time.h"
#include "client/view/view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MS = 30, WAIT_MS = 1000 };

struct follower {
    const struct invocation *in;
    enum follow how;
    FILE *lines;
    struct caloris_view *view;
    struct caloris_buf frame;
    uint64_t painted_ns;
    bool dirty; /* the view knows more than the screen shows */
    Caloris__Wire__JobState state;
};

static bool is_painted(const struct follower *f)
{
    return f->how == FOLLOW_CANVAS || f->how == FOLLOW_ANSWER;
}

static int flush_frame(struct follower *f, struct caloris_err *err)
{
    size_t n = f->frame.size;
    bool good = n == 0 || fwrite(f->frame.data, 1, n, stdout) == n;
    caloris_buf_clear(&f->frame);
    if (!good || fflush(stdout) != 0)
        return caloris_err_sys(err, "writing to the terminal");
    return 0;
}

static void terminal_size(size_t *columns, size_t *rows)
{
    struct winsize size;
    *columns = *rows = 0;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) {
        *columns = size.ws_col;
        *rows = size.ws_row;
    }
}

static int paint(struct follower *f, struct caloris_err *err)
{
    size_t columns, rows;
    terminal_size(&columns, &rows);
    if (caloris_view_frame(f->view, columns, rows, &f->frame, err) < 0)
        return -1;
    f->painted_ns = caloris_time_ns();
    f->dirty = false;
    return flush_frame(f, err);
}

static void wipe(struct follower *f)
{
    size_t columns, rows;
    if (!f->view || !is_painted(f))
        return;
    terminal_size(&columns, &rows);
    if (caloris_view_wipe(f->view, columns, rows, &f->frame, NULL) == 0)
        flush_frame(f, NULL);
}

/* Holds a step before the eyes; a signal ends it early. */
static void hold(uint64_t ms)
{
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (!cmd_signal() && nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static int show_progress(struct follower *f, const Caloris__Wire__Progress *progress,
                         struct caloris_err *err)
{
    if (!f->view)
        return 0;
    if (caloris_view_apply(f->view, progress, err) < 0)
        return -1;
    uint64_t delay_ms = (uint64_t)f->in->flags.delay_ms;
    if (f->how == FOLLOW_STEPS) {
        if (caloris_view_line(f->view, &f->frame, err) < 0)
            return -1;
        fprintf(f->lines, "%s", f->frame.data);
        fflush(f->lines);
        caloris_buf_clear(&f->frame);
    } else {
        /* Without a delay the terminal gets the frames it can show, not every one. */
        f->dirty = true;
        if (delay_ms == 0 && caloris_time_ns() - f->painted_ns < FRAME_MS * 1000000ull)
            return 0;
        if (paint(f, err) < 0)
            return -1;
    }
    hold(delay_ms);
    return 0;
}

static void show_state(struct follower *f, const Caloris__Wire__JobStatus *status)
{
    if (status->state == f->state)
        return;
    f->state = status->state;
    if (f->how == FOLLOW_STEPS) {
        fprintf(f->lines, "job %" PRIu64 " %s\n", status->job, cmd_state_name(status->state));
        fflush(f->lines);
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

static bool is_final(Caloris__Wire__JobState state)
{
    return state >= CALORIS__WIRE__JOB_STATE__DONE; /* the first of those that end a job */
}

static int show(struct follower *f, const Caloris__Wire__Event *event, struct caloris_err *err)
{
    if (f->how == FOLLOW_JSON && show_json(f, event, err) < 0)
        return -1;
    if (event->progress && show_progress(f, event->progress, err) < 0)
        return -1;
    if (event->status)
        show_state(f, event->status);
    return 0;
}

int cmd_follow(const struct invocation *in, struct caloris_client *client, uint64_t job,
               enum follow how, FILE *lines, Caloris__Wire__JobState *state,
               struct caloris_err *err)
{
    struct follower f = {
        .in = in, .how = how, .lines = lines, .frame = CALORIS_BUF(CALORIS_VIEW_MAX_FRAME)};
    bool canvas = how != FOLLOW_SILENT;
    int rc = -1;
    if (is_painted(&f) || how == FOLLOW_STEPS) {
        f.view = caloris_view_new(
            how == FOLLOW_ANSWER ? CALORIS_VIEW_ANSWER : CALORIS_VIEW_CANVAS,
            caloris_view_choose(getenv("NO_COLOR"), getenv("COLORTERM"), getenv("TERM")), err);
        if (!f.view)
            return -1;
    }
    if (caloris_client_watch(client, job, canvas, err) < 0)
        goto out;
    while (!is_final(f.state)) {
        caloris_answer *event = NULL;
        int n = caloris_client_next(client, f.dirty ? FRAME_MS : WAIT_MS, &event, err);
        if (n < 0)
            goto out;
        if (n == 0 && f.dirty && paint(&f, err) < 0)
            goto out;
        if (n == 0)
            continue;
        n = event->event->job == job ? show(&f, event->event, err) : 0;
        caloris_answer_free(event);
        if (n < 0)
            goto out;
    }
    if (f.dirty && paint(&f, err) < 0)
        goto out;
    *state = f.state;
    rc = 0;
out:
    wipe(&f);
    caloris_view_free(f.view);
    caloris_buf_free(&f.frame);
    return rc;
}
