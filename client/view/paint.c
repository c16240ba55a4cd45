/* Glyphs -> lines -> the bytes of a frame. */
#include "client/view/cells.h"

#include "base/buf.h"
#include "base/err.h"

#include <stdlib.h>
#include <string.h>

#define BEGIN_UPDATE "\x1b[?2026h"
#define END_UPDATE   "\x1b[?2026l"
#define HIDE_CURSOR  "\x1b[?25l"
#define SHOW_CURSOR  "\x1b[?25h"
#define CLEAR_LINE   "\x1b[K"
#define CLEAR_BELOW  "\x1b[J"
#define PLAIN        "\x1b[0m"

/* LLaDA's demo in 24 bits, and the nearest of the 256. */
static const char *const colours[STYLES][CALORIS_VIEW_TRUE + 1] = {
    /*                plain  256               true colour          */
    [STYLE_PROMPT] = {"", "\x1b[2m", "\x1b[2m"},
    [STYLE_MASK] = {"", "\x1b[38;5;238m", "\x1b[38;2;68;68;68m"},
    [STYLE_LOW] = {"", "\x1b[38;5;203m", "\x1b[38;2;255;102;102m"},
    [STYLE_MIDDLE] = {"", "\x1b[38;5;215m", "\x1b[38;2;255;170;51m"},
    [STYLE_HIGH] = {"", "\x1b[38;5;77m", "\x1b[38;2;102;204;102m"},
    [STYLE_SETTLED] = {"", "\x1b[38;5;68m", "\x1b[38;2;102;153;204m"},
    [STYLE_STATUS] = {"", "\x1b[1m", "\x1b[1m"},
};

enum caloris_view_colours caloris_view_choose(const char *no_color, const char *colorterm,
                                              const char *term)
{
    if ((no_color && *no_color) || (term && strcmp(term, "dumb") == 0))
        return CALORIS_VIEW_PLAIN;
    if (colorterm && (strcmp(colorterm, "truecolor") == 0 || strcmp(colorterm, "24bit") == 0))
        return CALORIS_VIEW_TRUE;
    return CALORIS_VIEW_256;
}

struct line {
    size_t first, end; /* glyphs */
    size_t width;
    bool fresh, mask;
};

struct lines {
    struct line *line;
    size_t count, capacity;
};

static struct line *add_line(struct lines *lines, size_t first, struct caloris_err *err)
{
    if (lines->count == lines->capacity) {
        size_t capacity = lines->capacity ? 2 * lines->capacity : 64;
        struct line *grown = realloc(lines->line, capacity * sizeof(*grown));
        if (!grown) {
            caloris_err_sys(err, "a frame of %zu lines", capacity);
            return NULL;
        }
        lines->line = grown;
        lines->capacity = capacity;
    }
    struct line *line = &lines->line[lines->count++];
    *line = (struct line){.first = first, .end = first};
    return line;
}

static int break_lines(const struct glyphs *glyphs, size_t columns, struct lines *lines,
                       struct caloris_err *err)
{
    struct line *line = add_line(lines, 0, err);
    for (size_t i = 0; line && i < glyphs->count; i++) {
        const struct glyph *glyph = &glyphs->glyph[i];
        if (line->width + glyph->width > columns)
            line = add_line(lines, i, err);
        if (!line)
            break;
        line->end = i + 1;
        line->width += glyph->width;
        line->fresh |= glyph->fresh;
        line->mask |= glyph->mask;
        if (glyph->newline)
            line = add_line(lines, i + 1, err);
    }
    return line ? 0 : -1;
}

/* The line where something happens: the first that changed, else the first that still will, else
 * the last. */
static size_t busiest(const struct lines *lines)
{
    for (size_t i = 0; i < lines->count; i++) {
        if (lines->line[i].fresh)
            return i;
    }
    for (size_t i = 0; i < lines->count; i++) {
        if (lines->line[i].mask)
            return i;
    }
    return lines->count - 1;
}

static int paint_line(const struct caloris_view *view, const struct line *line,
                      struct caloris_buf *to, struct caloris_err *err)
{
    int style = -1, rc = 0;
    for (size_t i = line->first; i < line->end && rc == 0; i++) {
        const struct glyph *glyph = &view->glyphs.glyph[i];
        if (glyph->newline)
            break;
        const char *colour = view->part == CALORIS_VIEW_ANSWER && glyph->style != STYLE_MASK
                                 ? ""
                                 : colours[glyph->style][view->colours];
        if (glyph->style != style && view->colours != CALORIS_VIEW_PLAIN)
            rc = caloris_buf_printf(to, err, "%s%s", style >= 0 ? PLAIN : "", colour);
        style = glyph->style;
        if (rc == 0)
            rc = caloris_buf_append(to, glyph->bytes, glyph->size, err);
    }
    if (rc == 0 && style >= 0 && view->colours != CALORIS_VIEW_PLAIN)
        rc = caloris_buf_printf(to, err, "%s", PLAIN);
    return rc;
}

static int status_text(const struct caloris_view *view, struct caloris_buf *to,
                       struct caloris_err *err)
{
    double per_step = view->step ? (double)view->revealed / view->step : 0;
    return caloris_buf_printf(to, err, "step %u  masks left %u  revealed %u  %.2f tokens per step",
                              view->step, view->masks_left, view->fresh, per_step);
}

/* The cursor to the first column of the frame that is on the screen, whose lines may have been
 * wrapped again since by a narrower window. */
static int go_back(const struct caloris_view *view, size_t columns, size_t rows,
                   struct caloris_buf *to, struct caloris_err *err)
{
    size_t up = 0;
    for (size_t i = 0; i < view->n_widths; i++)
        up += view->widths[i] > columns ? (view->widths[i] + columns - 1) / columns : 1;
    up = up > 0 ? up - 1 : 0;
    if (up > rows - 1)
        up = rows - 1;
    if (caloris_buf_printf(to, err, "\r") < 0)
        return -1;
    return up ? caloris_buf_printf(to, err, "\x1b[%zuA", up) : 0;
}

static void clamp_size(size_t *columns, size_t *rows)
{
    enum { LEAST_COLUMNS = 8, LEAST_ROWS = 2, MOST = 4096 };
    if (*columns == 0 || *rows == 0) {
        *columns = CALORIS_VIEW_COLUMNS;
        *rows = CALORIS_VIEW_ROWS;
    }
    *columns = *columns < LEAST_COLUMNS ? LEAST_COLUMNS : *columns > MOST ? MOST : *columns;
    *rows = *rows < LEAST_ROWS ? LEAST_ROWS : *rows > MOST ? MOST : *rows;
}

/* The status line, cut to the width less that of the "^C" that a terminal writes behind it; what is
 * above and below the window, if anything is. */
static int paint_status(struct caloris_view *view, const struct lines *lines, size_t top,
                        size_t shown, size_t columns, struct caloris_buf *to,
                        struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(256);
    int rc = status_text(view, &text, err);
    if (rc == 0 && shown < lines->count)
        rc = caloris_buf_printf(&text, err, "  lines %zu-%zu of %zu", top + 1, top + shown,
                                lines->count);
    if (rc == 0) {
        const size_t most = columns - strlen("^C");
        const size_t n = text.size < most ? text.size : most;
        const char *colour = colours[STYLE_STATUS][view->colours];
        rc = caloris_buf_printf(to, err, "%s%.*s%s", colour, (int)n, text.data,
                                *colour ? PLAIN : "");
        view->widths[view->n_widths++] = (uint16_t)n;
    }
    caloris_buf_free(&text);
    return rc;
}

int caloris_view_frame(struct caloris_view *view, size_t columns, size_t rows,
                       struct caloris_buf *to, struct caloris_err *err)
{
    struct lines lines = {NULL, 0, 0};
    int rc = -1;
    clamp_size(&columns, &rows);
    size_t usable = columns - 1; /* a character in the last column leaves the cursor in doubt */
    if (caloris_view_shape(view, err) < 0 || break_lines(&view->glyphs, usable, &lines, err) < 0)
        goto out;

    size_t room = rows - 1; /* the last row is the status line's */
    size_t shown = lines.count < room ? lines.count : room, top = 0;
    if (shown < lines.count) {
        size_t anchor = busiest(&lines);
        top = anchor > room / 2 ? anchor - room / 2 : 0;
        if (top + shown > lines.count)
            top = lines.count - shown;
    }
    if (caloris_buf_printf(to, err, BEGIN_UPDATE "%s", view->n_widths ? "" : HIDE_CURSOR) < 0 ||
        go_back(view, columns, rows, to, err) < 0)
        goto out;
    uint16_t *widths = realloc(view->widths, (shown + 1) * sizeof(*widths));
    if (!widths) {
        caloris_err_sys(err, "a frame of %zu lines", shown);
        goto out;
    }
    view->widths = widths;
    view->n_widths = 0;
    for (size_t i = 0; i < shown; i++) {
        const struct line *line = &lines.line[top + i];
        if (paint_line(view, line, to, err) < 0 ||
            caloris_buf_printf(to, err, CLEAR_LINE "\r\n") < 0)
            goto out;
        view->widths[view->n_widths++] = (uint16_t)line->width;
    }
    if (paint_status(view, &lines, top, shown, usable, to, err) < 0)
        goto out;
    rc = caloris_buf_printf(to, err, CLEAR_LINE CLEAR_BELOW END_UPDATE);
out:
    free(lines.line);
    return rc;
}

int caloris_view_wipe(struct caloris_view *view, size_t columns, size_t rows,
                      struct caloris_buf *to, struct caloris_err *err)
{
    if (view->n_widths == 0)
        return 0;
    clamp_size(&columns, &rows);
    int rc = go_back(view, columns, rows, to, err);
    view->n_widths = 0;
    return rc < 0 ? -1 : caloris_buf_printf(to, err, CLEAR_BELOW SHOW_CURSOR);
}

void caloris_view_begin_anew(struct caloris_view *view)
{
    view->n_widths = 0;
}

/* ---- without a terminal ---------------------------------------------------------------------- */

int caloris_view_line(const struct caloris_view *view, struct caloris_buf *to,
                      struct caloris_err *err)
{
    struct glyphs glyphs = {NULL, 0, 0};
    int rc = status_text(view, to, err);
    for (size_t i = 0; i < view->n_cells && rc == 0; i++) {
        const struct cell *cell = &view->cells[i];
        if (!cell->fresh)
            continue;
        glyphs.count = 0;
        rc = caloris_view_shape_text(&glyphs, cell->text, cell->bytes, STYLE_HIGH, true, err);
        if (rc == 0)
            rc = caloris_buf_printf(to, err, "  %zu:", i);
        for (size_t k = 0; k < glyphs.count && rc == 0; k++) {
            const struct glyph *glyph = &glyphs.glyph[k];
            /* U+23CE, a return symbol: the line must stay one line. */
            rc = glyph->newline ? caloris_buf_printf(to, err, "\xe2\x8f\x8e")
                                : caloris_buf_append(to, glyph->bytes, glyph->size, err);
        }
    }
    free(glyphs.glyph);
    return rc < 0 ? -1 : caloris_buf_printf(to, err, "\n");
}

int caloris_view_text(const char *text, size_t n, struct caloris_buf *to, struct caloris_err *err)
{
    struct glyphs glyphs = {NULL, 0, 0};
    int rc = caloris_view_shape_text(&glyphs, text, n, STYLE_SETTLED, false, err);
    for (size_t i = 0; i < glyphs.count && rc == 0; i++)
        rc = caloris_buf_append(to, glyphs.glyph[i].bytes, glyphs.glyph[i].size, err);
    free(glyphs.glyph);
    return rc;
}
