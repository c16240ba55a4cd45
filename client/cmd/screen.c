#include "client/cmd/screen.h"

#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* ---- the terminal, and Ctrl-Z ---------------------------------------------------------------- */

/* What was made of it: whoever gets it meanwhile gets it as it was. */
static struct {
    volatile sig_atomic_t painted; /* without a cursor */
    volatile sig_atomic_t keys;    /* where keys come from, one at a time, unseen; -1: nowhere */
    struct termios lines, raw;     /* as it was, and with keys */
} terminal = {.keys = -1};

static volatile sig_atomic_t resumed; /* somebody else had the terminal */

/* Leaves the terminal as it was, then stops as if nobody had caught the signal. */
static void on_stop(int number)
{
    static const char show_cursor[] = "\x1b[?25h\r\n";
    const int saved = errno;
    sigset_t one, before;
    struct sigaction action = {.sa_handler = SIG_DFL};
    if (terminal.painted && write(STDOUT_FILENO, show_cursor, sizeof(show_cursor) - 1) < 0)
        errno = saved; /* nobody sees it */
    if (terminal.keys >= 0)
        tcsetattr(terminal.keys, TCSADRAIN, &terminal.lines);
    sigaction(number, &action, NULL);
    sigemptyset(&one);
    sigaddset(&one, number);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &one, &before); /* here it stands until SIGCONT */
    sigprocmask(SIG_SETMASK, &before, NULL);
    action.sa_handler = on_stop;
    sigaction(number, &action, NULL);
    if (terminal.keys >= 0) /* in the background it stands here until it is brought to the front */
        tcsetattr(terminal.keys, TCSADRAIN, &terminal.raw);
    resumed = 1;
    errno = saved;
}

/* Catches Ctrl-Z while there is something to give back; not where it is ignored: a shell without
 * job control. */
static void mind_stop(void)
{
    struct sigaction action;
    const bool ours = terminal.painted || terminal.keys >= 0;
    if (sigaction(SIGTSTP, NULL, &action) < 0 || action.sa_handler != (ours ? SIG_DFL : on_stop))
        return;
    action = (struct sigaction){.sa_handler = ours ? on_stop : SIG_DFL, .sa_flags = SA_RESTART};
    sigaction(SIGTSTP, &action, NULL);
}

int screen_keys_open(struct caloris_err *err)
{
    const int keys = open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (keys < 0 || !isatty(STDOUT_FILENO) || tcgetattr(keys, &terminal.lines) < 0) {
        if (keys >= 0)
            close(keys);
        return caloris_err_set(err, CALORIS_USAGE, "--step needs a terminal");
    }
    terminal.raw = terminal.lines; /* Ctrl-C stays a signal */
    terminal.raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
    terminal.raw.c_cc[VMIN] = 1;
    terminal.raw.c_cc[VTIME] = 0;
    if (tcsetattr(keys, TCSADRAIN, &terminal.raw) < 0) {
        caloris_err_sys(err, "--step: the terminal");
        close(keys);
        return -1;
    }
    terminal.keys = keys;
    mind_stop();
    return 0;
}

void screen_keys_close(void)
{
    const int keys = terminal.keys;
    if (keys < 0)
        return;
    terminal.keys = -1;
    mind_stop();
    tcsetattr(keys, TCSADRAIN, &terminal.lines);
    close(keys);
}

int screen_key(struct screen *screen, char *key, struct caloris_err *err)
{
    /* A signal between the look at it and the poll is seen this much later. */
    enum { LOOK_EVERY_MS = 200 };
    struct pollfd keys = {.fd = terminal.keys, .events = POLLIN};
    while (!cmd_signal()) {
        const int n = poll(&keys, 1, LOOK_EVERY_MS);
        if (screen_lost(screen) && screen_paint(screen, err) < 0)
            return -1;
        if (n > 0)
            return read(terminal.keys, key, 1) == 1;
        if (n < 0 && errno != EINTR)
            return caloris_err_sys(err, "--step: the terminal");
    }
    return 0;
}

/* ---------------------------------------------------------------------------------------------- */

bool screen_can_paint(void)
{
    const char *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(term && strcmp(term, "dumb") == 0);
}

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
    terminal.painted = is_painted(screen);
    mind_stop();
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
        terminal.painted = false;
        mind_stop();
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
