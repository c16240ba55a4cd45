/* coordinator/link/signals.h (inside link): signals as bytes in a pipe that a poll can wait for. */
#ifndef CALORIS_LINK_SIGNALS_H
#define CALORIS_LINK_SIGNALS_H

struct caloris_err;

/* From now on SIGINT, SIGTERM and SIGUSR1 of this process go into the pipe instead of ending it.
 * Returns the end to read and poll, or -1 and err. */
int link_signals_open(struct caloris_err *err);

/* The next signal that came, or 0. */
int link_signals_next(int fd);

/* The process is about to leave: SIGINT is back to how it was, the other two are ignored. srun -K1
 * sends SIGTERM to those that are still here when the first rank has left, and the exit code is to
 * say why all leave. -1 is fine. */
void link_signals_close(int fd);

#endif
