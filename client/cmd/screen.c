#include "client/cmd/screen.h"

#include "base/time.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* ---- Ctrl-Z ---------------------------------------------------------------------------------- */

static volatile sig_atomic_t resumed; /* somebody else had the terminal */

/* Leaves the terminal with its cursor, then stops as if nobody had caught the signal. */
static void on_stop(int number)
{
    static const char show_cursor[] = "\x1b[?25h\r\n";
    const int saved = errno;
    sigset_t one, before;
    struct sigaction action = {.sa_handler = SIG_DFL};
    if (write(STDOUT_FILENO, show_cursor, sizeof(show_cursor) - 1) < 0)
        errno = saved; /* nobody sees it */
    sigaction(number, &action, NULL);
    sigemptyset(&one);
    sigaddset(&one, number);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &one, &before); /* here it stands until SIGCONT */
    sigprocmask(SIG_SETMASK, &before, NULL);
    action.sa_handler = on_stop;
    sigaction(number, &action, NULL);
    resumed = 1;
    errno = saved;
}

static void catch_stop(void)
{
    struct sigaction action;
    if (sigaction(SIGTSTP, NULL, &action) < 0 || action.sa_handler != SIG_DFL)
        return; /* ignored: a shell without job control */
    action = (struct sigaction){.sa_handler = on_stop, .sa_flags = SA_RESTART};
    sigaction(SIGTSTP, &action, NULL);
}

static void forget_stop(void)
{
    struct sigaction action;
    if (sigaction(SIGTSTP, NULL, &action) < 0 || action.sa_handler != on_stop)
        return;
    action = (struct sigaction){.sa_handler = SIG_DFL};
    sigaction(SIGTSTP, &action, NULL);
}

/* ---------------------------------------------------------------------------------------------- */

static bool is_painted(const struct screen *screen)
{
    return screen->how == FOLLOW_CANVAS || screen->how == FOLLOW_ANSWER;
}

int screen_open(struct screen *screen, enum follow how, FILE *lines, struct caloris_err *err)
{
    *screen =
        (struct screen){.how = how, .lines = lines, .frame = CALORIS_BUF(CALORIS_VIEW_MAX_FRAME)};
    if (!is_painted(screen) && how != FOLLOW_STEPS)
        return 0;
    screen->view = caloris_view_new(
        how == FOLLOW_ANSWER ? CALORIS_VIEW_ANSWER : CALORIS_VIEW_CANVAS,
        caloris_view_choose(getenv("NO_COLOR"), getenv("COLORTERM"), getenv("TERM")), err);
    if (!screen->view)
        return -1;
    if (is_painted(screen))
        catch_stop();
    return 0;
}

static int flush_frame(struct screen *screen, struct caloris_err *err)
{
    size_t n = screen->frame.size;
    bool good = n == 0 || fwrite(screen->frame.data, 1, n, stdout) == n;
    caloris_buf_clear(&screen->frame);
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

int screen_paint(struct screen *screen, struct caloris_err *err)
{
    size_t columns, rows;
    terminal_size(&columns, &rows);
    if (resumed)
        caloris_view_begin_anew(screen->view);
    resumed = 0;
    if (caloris_view_frame(screen->view, columns, rows, &screen->frame, err) < 0)
        return -1;
    screen->painted_ns = caloris_time_ns();
    screen->dirty = false;
    return flush_frame(screen, err);
}

bool screen_lost(struct screen *screen)
{
    return resumed && screen->view && is_painted(screen);
}

void screen_hold(uint64_t ms)
{
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (!cmd_signal() && nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static int show_line(struct screen *screen, struct caloris_err *err)
{
    int rc = caloris_view_line(screen->view, &screen->frame, err);
    if (rc == 0 &&
        (fprintf(screen->lines, "%s", screen->frame.data) < 0 || fflush(screen->lines) != 0))
        rc = caloris_err_sys(err, "writing steps");
    caloris_buf_clear(&screen->frame);
    return rc;
}

int screen_show(struct screen *screen, const Caloris__Wire__Progress *progress, uint64_t delay_ms,
                struct caloris_err *err)
{
    if (!screen->view)
        return 0;
    if (caloris_view_apply(screen->view, progress, err) < 0)
        return -1;
    screen->dirty = is_painted(screen);
    const bool soon = caloris_time_ns() - screen->painted_ns < SCREEN_FRAME_MS * 1000000ull;
    if (!screen->dirty ? show_line(screen, err) < 0
                       : (delay_ms > 0 || !soon) && screen_paint(screen, err) < 0)
        return -1;
    screen_hold(delay_ms);
    return 0;
}

void screen_close(struct screen *screen)
{
    size_t columns, rows;
    if (screen->view && is_painted(screen)) {
        forget_stop();
        if (resumed)
            caloris_view_begin_anew(screen->view);
        terminal_size(&columns, &rows);
        if (caloris_view_wipe(screen->view, columns, rows, &screen->frame, NULL) == 0)
            flush_frame(screen, NULL);
    }
    caloris_view_free(screen->view);
    caloris_buf_free(&screen->frame);
    screen->view = NULL;
}
