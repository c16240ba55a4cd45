/* client/view/view.h: the diffusion of a canvas, painted in a terminal while it happens.
 *
 * A view keeps the cells of one job from the gateway's progress events and turns them into frames:
 * bytes for a terminal, in the normal screen buffer, each frame over the one before and inside a
 * synchronized update so that it cannot tear. Nothing here writes or asks the terminal for
 * anything: sizes come in, bytes go out, tests compare bytes. Cells and their text are hostile:
 * control characters are made visible, tokens that end inside a UTF-8 character join with their
 * neighbours.
 */
#ifndef CALORIS_VIEW_H
#define CALORIS_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/caloris.pb-c.h"

struct caloris_buf;
struct caloris_err;
struct caloris_view;

enum {
    CALORIS_VIEW_MAX_CELLS = 2 << 20, /* of a canvas */
    CALORIS_VIEW_MAX_TOKEN = 1024,    /* bytes shown of one token */
    CALORIS_VIEW_MAX_FRAME = 4 << 20, /* bytes of one frame */
    CALORIS_VIEW_ROWS = 24,           /* of a terminal that does not say its size */
    CALORIS_VIEW_COLUMNS = 80,
};

enum caloris_view_colours { CALORIS_VIEW_PLAIN, CALORIS_VIEW_256, CALORIS_VIEW_TRUE };

/* CANVAS: prompt and answer, tokens coloured by confidence as they are revealed, a status line.
 * ANSWER: the answer alone as it settles. */
enum caloris_view_part { CALORIS_VIEW_CANVAS, CALORIS_VIEW_ANSWER };

/* What a terminal with these variables shows (each may be NULL): NO_COLOR and TERM=dumb win,
 * then COLORTERM, else 256. */
enum caloris_view_colours caloris_view_choose(const char *no_color, const char *colorterm,
                                              const char *term);

/* NULL and err. Free with caloris_view_free. */
struct caloris_view *caloris_view_new(enum caloris_view_part part,
                                      enum caloris_view_colours colours, struct caloris_err *err);
void caloris_view_free(struct caloris_view *view);

/* Takes in one step or snapshot. Changes that come before the first snapshot are left out: they
 * cannot be placed. */
int caloris_view_apply(struct caloris_view *view, const Caloris__Wire__Progress *progress,
                       struct caloris_err *err);

/* Appends the frame for a terminal of this size; the cursor is hidden and stays behind the
 * frame's last line. A canvas that is longer than the terminal shows the lines around the
 * current reveal. */
int caloris_view_frame(struct caloris_view *view, size_t columns, size_t rows,
                       struct caloris_buf *to, struct caloris_err *err);

/* Appends what removes the last frame and shows the cursor again; nothing when there was none. */
int caloris_view_wipe(struct caloris_view *view, size_t columns, size_t rows,
                      struct caloris_buf *to, struct caloris_err *err);

/* Whoever had the terminal meanwhile left the cursor somewhere: the next frame begins there. */
void caloris_view_begin_anew(struct caloris_view *view);

/* Appends one line without escapes: step, masks left, what this step revealed. For output that
 * is no terminal. */
int caloris_view_line(const struct caloris_view *view, struct caloris_buf *to,
                      struct caloris_err *err);

/* Appends text as a terminal may be given it: control characters made visible (newlines kept),
 * bad UTF-8 replaced. */
int caloris_view_text(const char *text, size_t n, struct caloris_buf *to, struct caloris_err *err);

#endif
