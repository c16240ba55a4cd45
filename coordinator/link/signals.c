#include "coordinator/link/signals.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

static const int caught[] = {SIGINT, SIGTERM, SIGUSR1};
enum { CAUGHT = sizeof(caught) / sizeof(caught[0]) };

/* A handler has no argument of its own: the write end and the old actions are the process's. */
static int write_end = -1;
static struct sigaction before[CAUGHT];

/* Those that tell a group, not a terminal's process, to leave. */
static bool is_for_groups(int signal)
{
    return signal != SIGINT;
}

static void into_pipe(int signal)
{
    int saved = errno;
    unsigned char byte = (unsigned char)signal;
    ssize_t ignored = write(write_end, &byte, 1); /* a full pipe has signals enough */
    (void)ignored;
    errno = saved;
}

int link_signals_open(struct caloris_err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return caloris_err_sys(err, "a pipe for signals");
    write_end = ends[1];
    struct sigaction action = {.sa_handler = into_pipe, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < CAUGHT; i++)
        sigaction(caught[i], &action, &before[i]);
    return ends[0];
}

int link_signals_next(int fd)
{
    unsigned char byte;
    return read(fd, &byte, 1) == 1 ? byte : 0;
}

void link_signals_close(int fd)
{
    if (fd < 0)
        return;
    for (size_t i = 0; i < CAUGHT; i++) {
        if (is_for_groups(caught[i]))
            signal(caught[i], SIG_IGN);
        else
            sigaction(caught[i], &before[i], NULL);
    }
    close(write_end);
    close(fd);
    write_end = -1;
}
