#include "client/view/cells.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

struct caloris_view *caloris_view_new(enum caloris_view_part part,
                                      enum caloris_view_colours colours, struct caloris_err *err)
{
    struct caloris_view *view = calloc(1, sizeof(*view));
    if (!view) {
        caloris_err_sys(err, "a view");
        return NULL;
    }
    view->part = part;
    view->colours = colours;
    return view;
}

static void free_cells(struct cell *cells, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(cells[i].text);
    free(cells);
}

void caloris_view_free(struct caloris_view *view)
{
    if (!view)
        return;
    free_cells(view->cells, view->n_cells);
    free(view->glyphs.glyph);
    free(view->widths);
    free(view);
}

/* A canvas of n masks. */
static int reset(struct caloris_view *view, size_t n, struct caloris_err *err)
{
    if (n > CALORIS_VIEW_MAX_CELLS)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "progress: a canvas of %zu cells, %d at most", n,
                               CALORIS_VIEW_MAX_CELLS);
    struct cell *cells = calloc(n ? n : 1, sizeof(*cells));
    if (!cells)
        return caloris_err_sys(err, "a view of %zu cells", n);
    for (size_t i = 0; i < n; i++)
        cells[i].kind = CALORIS__WIRE__CELL_KIND__MASK;
    free_cells(view->cells, view->n_cells);
    view->cells = cells;
    view->n_cells = n;
    return 0;
}

static int set_cell(struct caloris_view *view, const Caloris__Wire__Cell *from, bool was_mask,
                    struct caloris_err *err)
{
    struct cell *cell = &view->cells[from->position];
    size_t n = from->has_text ? from->text.len : 0;
    if (n > CALORIS_VIEW_MAX_TOKEN)
        n = CALORIS_VIEW_MAX_TOKEN;
    char *text = NULL;
    if (n > 0) {
        text = malloc(n);
        if (!text)
            return caloris_err_sys(err, "a token's text");
        memcpy(text, from->text.data, n);
    }
    free(cell->text);
    cell->text = text;
    cell->bytes = (uint32_t)n;
    cell->kind = (uint8_t)from->kind;
    cell->confidence = from->has_confidence ? from->confidence : 1.0f;
    cell->fresh = was_mask && from->kind == CALORIS__WIRE__CELL_KIND__REVEALED;
    return 0;
}

/* Which cells were masks before a snapshot: what it shows revealed of them is news. NULL:
 * nothing is known. */
static bool *masks_before(const struct caloris_view *view, size_t n)
{
    bool *masks = view->n_cells == n && n > 0 ? calloc(n, sizeof(*masks)) : NULL;
    for (size_t i = 0; masks && i < n; i++)
        masks[i] = view->cells[i].kind == CALORIS__WIRE__CELL_KIND__MASK || view->cells[i].fresh;
    return masks;
}

static void count(struct caloris_view *view)
{
    view->fresh = view->revealed = 0;
    for (size_t i = 0; i < view->n_cells; i++) {
        view->fresh += view->cells[i].fresh;
        view->revealed += view->cells[i].kind == CALORIS__WIRE__CELL_KIND__REVEALED;
    }
}

int caloris_view_apply(struct caloris_view *view, const Caloris__Wire__Progress *progress,
                       struct caloris_err *err)
{
    size_t n = progress->has_cells_total ? progress->cells_total : view->n_cells;
    bool *masks = NULL;
    int rc = -1;

    if (progress->full) {
        if (n == 0)
            n = progress->n_cells;
        masks = masks_before(view, n);
        if (reset(view, n, err) < 0)
            goto out;
    } else if (view->n_cells == 0 || progress->seq <= view->seq) {
        return 0;
    }
    view->seq = progress->seq;
    if (progress->has_prompt_cells)
        view->prompt_cells = progress->prompt_cells;
    if (progress->step != view->step && !progress->full) {
        for (size_t i = 0; i < view->n_cells; i++)
            view->cells[i].fresh = false;
    }
    for (size_t i = 0; i < progress->n_cells; i++) {
        const Caloris__Wire__Cell *cell = progress->cells[i];
        if (cell->position >= view->n_cells) {
            caloris_err_set(err, CALORIS_BAD_REQUEST, "progress: cell %u of a canvas of %zu",
                            cell->position, view->n_cells);
            goto out;
        }
        bool was_mask = progress->full
                            ? masks && masks[cell->position]
                            : view->cells[cell->position].kind == CALORIS__WIRE__CELL_KIND__MASK ||
                                  view->cells[cell->position].fresh;
        if (set_cell(view, cell, was_mask, err) < 0)
            goto out;
    }
    view->step = progress->step;
    view->masks_left = progress->masks_left;
    count(view);
    rc = 0;
out:
    free(masks);
    return rc;
}
