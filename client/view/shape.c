/* Cells -> glyphs: UTF-8 across tokens, widths, and nothing that could command a terminal. */
#include "client/view/cells.h"

#include "base/err.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char REPLACEMENT[] = "\xef\xbf\xbd"; /* U+FFFD */
static const char MASK_GLYPH[] = "\xe2\x96\x91";  /* U+2591, a light shade */
static const char SPECIAL_GLYPH[] = "\xc2\xb7";   /* U+00B7: a control token such as EOS */

static struct glyph *add(struct glyphs *glyphs, struct caloris_err *err)
{
    if (glyphs->count == glyphs->capacity) {
        size_t capacity = glyphs->capacity ? 2 * glyphs->capacity : 256, bytes;
        struct glyph *grown = NULL;
        if (caloris_size_mul(capacity, sizeof(*grown), &bytes))
            grown = realloc(glyphs->glyph, bytes);
        if (!grown) {
            caloris_err_sys(err, "a frame of %zu characters", capacity);
            return NULL;
        }
        glyphs->glyph = grown;
        glyphs->capacity = capacity;
    }
    struct glyph *glyph = &glyphs->glyph[glyphs->count++];
    memset(glyph, 0, sizeof(*glyph));
    return glyph;
}

static int add_literal(struct glyphs *glyphs, const char *text, enum style style, bool fresh,
                       struct caloris_err *err)
{
    struct glyph *glyph = add(glyphs, err);
    if (!glyph)
        return -1;
    glyph->size = (uint8_t)strlen(text);
    memcpy(glyph->bytes, text, glyph->size);
    glyph->width = 1;
    glyph->style = (uint8_t)style;
    glyph->fresh = fresh;
    return 0;
}

/* Characters that change how others are shown, or show nothing: replaced. The joiner of emoji
 * may stay. */
static bool is_hidden(utf8proc_int32_t c)
{
    enum { ZERO_WIDTH_JOINER = 0x200d };
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return true;
    case UTF8PROC_CATEGORY_CF:
        return c != ZERO_WIDTH_JOINER;
    default:
        return false;
    }
}

static int add_character(struct glyphs *glyphs, utf8proc_int32_t c, enum style style, bool fresh,
                         struct caloris_err *err)
{
    enum { TAB_COLUMNS = 4, CONTROL_PICTURES = 0x2400, DELETE = 0x7f, DELETE_PICTURE = 0x2421 };
    if (c == '\t') {
        int rc = 0;
        for (int i = 0; i < TAB_COLUMNS && rc == 0; i++)
            rc = add_literal(glyphs, " ", style, fresh, err);
        return rc;
    }
    bool newline = c == '\n';
    if (c < ' ' && !newline)
        c += CONTROL_PICTURES;
    else if (c == DELETE)
        c = DELETE_PICTURE;
    else if (!newline && is_hidden(c))
        return add_literal(glyphs, REPLACEMENT, style, fresh, err);

    char bytes[4];
    size_t size = (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)bytes);
    int width = newline ? 0 : utf8proc_charwidth(c);
    struct glyph *last = glyphs->count > 0 ? &glyphs->glyph[glyphs->count - 1] : NULL;
    if (width <= 0 && !newline) { /* it combines with what stands before, if that has room */
        if (last && !last->newline && last->size + size <= sizeof(last->bytes)) {
            memcpy(last->bytes + last->size, bytes, size);
            last->size = (uint8_t)(last->size + size);
        }
        return 0;
    }
    struct glyph *glyph = add(glyphs, err);
    if (!glyph)
        return -1;
    memcpy(glyph->bytes, bytes, size);
    glyph->size = (uint8_t)size;
    glyph->width = (uint8_t)width;
    glyph->style = (uint8_t)style;
    glyph->newline = newline;
    glyph->fresh = fresh;
    return 0;
}

/* A character whose bytes may come from several tokens; it looks like the token of its first
 * byte. */
struct pending {
    char bytes[4];
    size_t size, due;
    enum style style;
    bool fresh;
};

/* The text breaks off here: half a character is shown as one replacement. */
static int flush(struct glyphs *glyphs, struct pending *pending, struct caloris_err *err)
{
    size_t size = pending->size;
    pending->size = 0;
    return size ? add_literal(glyphs, REPLACEMENT, pending->style, pending->fresh, err) : 0;
}

static size_t sequence_bytes(unsigned char lead)
{
    if (lead < 0x80)
        return 1;
    return lead >= 0xf0 && lead < 0xf5 ? 4
           : lead >= 0xe0              ? (lead < 0xf0 ? 3 : 0)
           : lead >= 0xc2              ? 2
                                       : 0;
}

static int push(struct glyphs *glyphs, struct pending *pending, char byte, enum style style,
                bool fresh, struct caloris_err *err)
{
    bool continues = ((unsigned char)byte & 0xc0) == 0x80;
    if (pending->size > 0 && !continues && flush(glyphs, pending, err) < 0)
        return -1;
    if (pending->size == 0) {
        pending->due = sequence_bytes((unsigned char)byte);
        pending->style = style;
        pending->fresh = fresh;
        if (pending->due == 0)
            return add_literal(glyphs, REPLACEMENT, style, fresh, err);
    }
    pending->fresh |= fresh;
    pending->bytes[pending->size++] = byte;
    if (pending->size < pending->due)
        return 0;
    utf8proc_int32_t c;
    if (utf8proc_iterate((utf8proc_uint8_t *)pending->bytes, (utf8proc_ssize_t)pending->size, &c) <
        0)
        return flush(glyphs, pending, err);
    pending->size = 0;
    return add_character(glyphs, c, pending->style, pending->fresh, err);
}

static int push_text(struct glyphs *glyphs, struct pending *pending, const char *text, size_t n,
                     enum style style, bool fresh, struct caloris_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (push(glyphs, pending, text[i], style, fresh, err) < 0)
            return -1;
    }
    return 0;
}

int caloris_view_shape_text(struct glyphs *glyphs, const char *text, size_t n, enum style style,
                            bool fresh, struct caloris_err *err)
{
    struct pending pending = {.size = 0};
    if (push_text(glyphs, &pending, text, n, style, fresh, err) < 0)
        return -1;
    return flush(glyphs, &pending, err);
}

/* ---- cells ----------------------------------------------------------------------------------- */

static enum style style_of(const struct cell *cell)
{
    const float low = 0.3f, high = 0.7f; /* the limits of LLaDA's demo */
    if (cell->kind == CALORIS__WIRE__CELL_KIND__PROMPT)
        return STYLE_PROMPT;
    if (cell->kind == CALORIS__WIRE__CELL_KIND__MASK)
        return STYLE_MASK;
    if (!cell->fresh)
        return STYLE_SETTLED;
    return cell->confidence < low ? STYLE_LOW : cell->confidence < high ? STYLE_MIDDLE : STYLE_HIGH;
}

/* "<|endoftext|>" as one token: no user text makes such a token. */
static bool is_special(const struct cell *cell)
{
    return cell->bytes > 4 && memcmp(cell->text, "<|", 2) == 0 &&
           memcmp(cell->text + cell->bytes - 2, "|>", 2) == 0;
}

static int shape_mask(struct glyphs *glyphs, struct caloris_err *err)
{
    if (add_literal(glyphs, MASK_GLYPH, STYLE_MASK, false, err) < 0)
        return -1;
    glyphs->glyph[glyphs->count - 1].mask = true;
    return 0;
}

int caloris_view_shape(struct caloris_view *view, struct caloris_err *err)
{
    struct glyphs *glyphs = &view->glyphs;
    struct pending pending = {.size = 0};
    bool answer = view->part == CALORIS_VIEW_ANSWER;
    /* An answer without a generated part is a prompt with holes: show all of it. */
    size_t first = answer && view->prompt_cells < view->n_cells ? view->prompt_cells : 0;
    glyphs->count = 0;
    for (size_t i = first; i < view->n_cells; i++) {
        const struct cell *cell = &view->cells[i];
        enum style style = style_of(cell);
        bool special = cell->kind == CALORIS__WIRE__CELL_KIND__REVEALED &&
                       (cell->bytes == 0 || is_special(cell));
        int rc = 0;
        if (style == STYLE_MASK || special)
            rc = flush(glyphs, &pending, err);
        if (rc == 0 && style == STYLE_MASK)
            rc = shape_mask(glyphs, err);
        else if (rc == 0 && special)
            rc = answer ? 0 : add_literal(glyphs, SPECIAL_GLYPH, style, cell->fresh, err);
        else if (rc == 0)
            rc = push_text(glyphs, &pending, cell->text, cell->bytes, style, cell->fresh, err);
        if (rc < 0)
            return -1;
    }
    return flush(glyphs, &pending, err);
}
