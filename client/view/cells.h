/* client/view/cells.h: the cells of a view, and the glyphs they are shown as. */
#ifndef CALORIS_VIEW_CELLS_H
#define CALORIS_VIEW_CELLS_H

#include "client/view/view.h"

enum style { /* index into the colour table of paint.c */
             STYLE_PROMPT,
             STYLE_MASK,
             STYLE_LOW, /* revealed in this step, by confidence */
             STYLE_MIDDLE,
             STYLE_HIGH,
             STYLE_SETTLED, /* revealed before */
             STYLE_STATUS,
             STYLES
};

struct cell {
    char *text; /* [bytes] of its token; NULL when empty */
    uint32_t bytes;
    float confidence;
    uint8_t kind; /* Caloris__Wire__CellKind */
    bool fresh;   /* revealed in the last step */
};

/* One character with what combines with it, at most two columns wide. */
struct glyph {
    char bytes[15];
    uint8_t size;
    uint8_t width; /* columns */
    uint8_t style;
    bool newline; /* nothing is shown: the line ends */
    bool fresh, mask;
};

struct glyphs {
    struct glyph *glyph;
    size_t count, capacity;
};

struct caloris_view {
    enum caloris_view_part part;
    enum caloris_view_colours colours;
    struct cell *cells; /* [n_cells] */
    size_t n_cells, prompt_cells;
    uint64_t seq;
    uint32_t step, masks_left;
    uint32_t fresh; /* cells revealed in the last step */
    uint32_t revealed;
    /* the frame on the screen */
    struct glyphs glyphs;
    uint16_t *widths; /* [n_widths]: columns used in each of its lines */
    size_t n_widths;
};

/* view->glyphs anew from the cells. */
int caloris_view_shape(struct caloris_view *view, struct caloris_err *err);

/* Appends the glyphs of text [n]; bytes that end inside a character are U+FFFD. */
int caloris_view_shape_text(struct glyphs *glyphs, const char *text, size_t n, enum style style,
                            bool fresh, struct caloris_err *err);

#endif
