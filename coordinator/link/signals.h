/* coordinator/link/signals.h (inside link): signals as bytes in a pipe that a poll can wait for. */
#ifndef CALORIS_LINK_SIGNALS_H
#define CALORIS_LINK_SIGNALS_H

struct caloris_err;

/* From now on SIGINT, SIGTERM and SIGUSR1 of this process go into the pipe instead of ending it.
 * Returns the end to read and poll, or -1 and err. */
int link_signals_open(struct caloris_err *err);

/* The next signal that came, or 0. */
int link_signals_next(int fd);

/* Back to how it was. -1 is fine. */
void link_signals_close(int fd);

#endif
