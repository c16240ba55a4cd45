/* client/cmd/screen.h: the steps of one canvas before the eyes: painted in the terminal, or a line
 * for each. */
#ifndef CALORIS_CMD_SCREEN_H
#define CALORIS_CMD_SCREEN_H

#include "base/buf.h"
#include "client/cmd/cmd.h"
#include "client/view/view.h"

enum { SCREEN_FRAME_MS = 30 }; /* a terminal shows no more than one in so many milliseconds */

struct screen {
    enum follow how;
    FILE *lines;               /* of FOLLOW_STEPS */
    struct caloris_view *view; /* NULL: nothing is shown of steps */
    struct caloris_buf frame;
    uint64_t painted_ns;
    bool dirty; /* the view knows more than the screen shows */
};

/* stdout is a terminal, and none of TERM=dumb, which cannot move its cursor. */
bool screen_can_paint(void);

int screen_open(struct screen *screen, enum follow how, FILE *lines, struct caloris_err *err);

/* Takes in a step and shows it, then holds it for delay_ms. Without a delay the terminal gets the
 * frames it can show, not every one: what is dirty is painted with screen_paint. */
int screen_show(struct screen *screen, const Caloris__Wire__Progress *progress, uint64_t delay_ms,
                struct caloris_err *err);
int screen_paint(struct screen *screen, struct caloris_err *err);

/* True once after another program had the terminal (Ctrl-Z, fg): paint again. */
bool screen_lost(struct screen *screen);

/* Waits; a signal ends it early. */
void screen_hold(uint64_t ms);

/* From now on the terminal's keys come one at a time, unseen, until they are closed; who has it
 * behind a Ctrl-Z has it as it was. USAGE where there is no terminal. */
int screen_keys_open(struct caloris_err *err);
void screen_keys_close(void);
/* Waits for a key: 1; 0: a signal came, or no more keys; -1. */
int screen_key(struct screen *screen, char *key, struct caloris_err *err);

/* Removes what was painted; the screen can be closed twice. */
void screen_close(struct screen *screen);

#endif
