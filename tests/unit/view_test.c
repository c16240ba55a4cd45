/* Frames of the viewer from hand-made events: what a terminal would get, byte for byte where it
 * matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "client/view/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    P = CALORIS__WIRE__CELL_KIND__PROMPT,
    M = CALORIS__WIRE__CELL_KIND__MASK,
    R = CALORIS__WIRE__CELL_KIND__REVEALED,
    MOST = 64
};

struct cell_case {
    uint32_t position;
    int kind;
    const char *text;
    float confidence;
};

/* Applies one event; n cells; total 0: a change. */
static int apply(struct caloris_view *view, uint64_t seq, uint32_t step, uint32_t masks,
                 uint32_t total, uint32_t prompt, const struct cell_case *cells, size_t n,
                 struct caloris_err *err)
{
    Caloris__Wire__Progress progress = CALORIS__WIRE__PROGRESS__INIT;
    Caloris__Wire__Cell store[MOST], *list[MOST];
    assert_true(n <= MOST);
    for (size_t i = 0; i < n; i++) {
        caloris__wire__cell__init(&store[i]);
        store[i].position = cells[i].position;
        store[i].kind = (Caloris__Wire__CellKind)cells[i].kind;
        store[i].has_text = cells[i].text != NULL;
        store[i].text.data = (uint8_t *)(uintptr_t)cells[i].text;
        store[i].text.len = cells[i].text ? strlen(cells[i].text) : 0;
        store[i].has_confidence = 1;
        store[i].confidence = cells[i].confidence;
        list[i] = &store[i];
    }
    progress.seq = seq;
    progress.step = step;
    progress.masks_left = masks;
    progress.full = total > 0;
    progress.has_cells_total = total > 0;
    progress.cells_total = total;
    progress.has_prompt_cells = total > 0;
    progress.prompt_cells = prompt;
    progress.n_cells = n;
    progress.cells = list;
    return caloris_view_apply(view, &progress, err);
}

static struct caloris_view *view_of(enum caloris_view_part part, enum caloris_view_colours colours)
{
    struct caloris_err err;
    struct caloris_view *view = caloris_view_new(part, colours, &err);
    assert_non_null(view);
    return view;
}

static const struct cell_case snapshot[] = {
    {0, P, "say: ", 0}, {1, M, NULL, 0}, {2, M, NULL, 0}, {3, M, NULL, 0}, {4, M, NULL, 0}};
#define SNAPSHOT snapshot, sizeof(snapshot) / sizeof(snapshot[0])

static char *frame(struct caloris_view *view, size_t columns, size_t rows)
{
    struct caloris_buf buf = CALORIS_BUF(CALORIS_VIEW_MAX_FRAME);
    struct caloris_err err;
    if (caloris_view_frame(view, columns, rows, &buf, &err) < 0)
        fail_msg("%s", err.text);
    return buf.data;
}

static void want(const char *frame_bytes, const char *part)
{
    if (!strstr(frame_bytes, part))
        fail_msg("not in the frame: %s\n--- the frame\n%s", part, frame_bytes);
}

static void want_not(const char *frame_bytes, const char *part)
{
    if (strstr(frame_bytes, part))
        fail_msg("in the frame: %s\n--- the frame\n%s", part, frame_bytes);
}

static void first_frame_is_exact_without_colours(void **state)
{
    (void)state;
    struct caloris_view *view = view_of(CALORIS_VIEW_CANVAS, CALORIS_VIEW_PLAIN);
    assert_int_equal(apply(view, 1, 0, 4, 5, 1, SNAPSHOT, NULL), 0);
    char *bytes = frame(view, 80, 24);
    assert_string_equal(bytes, "\x1b[?2026h\x1b[?25l\r"
                               "say: ░░░░\x1b[K\r\n"
                               "step 0  masks left 4  revealed 0  0.00 tokens per step\x1b[K\x1b[J"
                               "\x1b[?2026l");
    free(bytes);
    /* The second one goes back over the first and does not hide the cursor again. */
    const struct cell_case one[] = {{1, R, "hi", 0.9f}};
    assert_int_equal(apply(view, 2, 1, 3, 0, 0, one, 1, NULL), 0);
    bytes = frame(view, 80, 24);
    assert_string_equal(bytes, "\x1b[?2026h\r\x1b[1A"
                               "say: hi░░░\x1b[K\r\n"
                               "step 1  masks left 3  revealed 1  1.00 tokens per step\x1b[K\x1b[J"
                               "\x1b[?2026l");
    free(bytes);
    caloris_view_free(view);
}

static void confidence_colours_last_one_step(void **state)
{
    (void)state;
    static const struct {
        enum caloris_view_colours colours;
        const char *prompt, *mask, *low, *middle, *high, *settled;
    } cases[] = {
        {CALORIS_VIEW_TRUE, "\x1b[2msay: ", "\x1b[38;2;68;68;68m░", "\x1b[38;2;255;102;102ma",
         "\x1b[38;2;255;170;51mb", "\x1b[38;2;102;204;102mc", "\x1b[38;2;102;153;204mabc"},
        {CALORIS_VIEW_256, "\x1b[2msay: ", "\x1b[38;5;238m░", "\x1b[38;5;203ma", "\x1b[38;5;215mb",
         "\x1b[38;5;77mc", "\x1b[38;5;68mabc"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_view *view = view_of(CALORIS_VIEW_CANVAS, cases[i].colours);
        const struct cell_case now[] = {{1, R, "a", 0.29f}, {2, R, "b", 0.69f}, {3, R, "c", 0.7f}};
        const struct cell_case then[] = {{4, R, "d", 1.0f}};
        apply(view, 1, 0, 4, 5, 1, SNAPSHOT, NULL);
        apply(view, 2, 1, 1, 0, 0, now, 3, NULL);
        char *bytes = frame(view, 80, 24);
        want(bytes, cases[i].prompt);
        want(bytes, cases[i].mask);
        want(bytes, cases[i].low);
        want(bytes, cases[i].middle);
        want(bytes, cases[i].high);
        want_not(bytes, cases[i].settled);
        free(bytes);
        apply(view, 3, 2, 0, 0, 0, then, 1, NULL);
        bytes = frame(view, 80, 24);
        want(bytes, cases[i].settled);
        want_not(bytes, cases[i].low);
        free(bytes);
        caloris_view_free(view);
    }
}

static void tokens_are_bytes_and_terminals_want_characters(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        struct cell_case cells[4];
        size_t n;
        const char *shown;
    } cases[] = {
        {"one character of two tokens",
         {{1, R, "\xc3", 1}, {2, R, "\xa9", 1}},
         2,
         "say: é░░\x1b[K"},
        {"three of an emoji's four bytes, then a mask",
         {{1, R, "\xf0\x9f\x98", 1}},
         1,
         "say: \xef\xbf\xbd░░░\x1b[K"},
        {"the emoji over three tokens",
         {{1, R, "\xf0", 1}, {2, R, "\x9f\x98", 1}, {3, R, "\x80!", 1}},
         3,
         "say: 😀!░\x1b[K"},
        {"a lonely continuation byte", {{1, R, "\x80", 1}}, 1, "say: \xef\xbf\xbd░░░\x1b[K"},
        {"overlong slash", {{1, R, "\xc0\xaf", 1}}, 1, "say: \xef\xbf\xbd\xef\xbf\xbd░░░\x1b[K"},
        {"escape sequence", {{1, R, "\x1b[2J", 1}}, 1, "say: ␛[2J░░░\x1b[K"},
        {"bell, delete, C1", {{1, R, "\a\x7f\xc2\x9b", 1}}, 1, "say: ␇␡\xef\xbf\xbd░░░\x1b[K"},
        {"right-to-left override", {{1, R, "\xe2\x80\xae", 1}}, 1, "say: \xef\xbf\xbd░░░\x1b[K"},
        {"a tab is spaces", {{1, R, "\tx", 1}}, 1, "say:     x░░░\x1b[K"},
        {"a combining accent",
         {{1, R, "e", 1}, {2, R, "\xcc\x81", 1}},
         2,
         "say: e\xcc\x81░░\x1b[K"},
        {"a new line", {{1, R, "a\n", 1}, {2, R, "b", 1}}, 2, "say: a\x1b[K\r\nb░░\x1b[K"},
        {"end of text", {{1, R, "<|endoftext|>", 1}, {2, R, NULL, 1}}, 2, "say: ··░░\x1b[K"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_view *view = view_of(CALORIS_VIEW_CANVAS, CALORIS_VIEW_PLAIN);
        print_message("%s\n", cases[i].what);
        apply(view, 1, 0, 4, 5, 1, SNAPSHOT, NULL);
        apply(view, 2, 1, 3, 0, 0, cases[i].cells, cases[i].n, NULL);
        char *bytes = frame(view, 80, 24);
        want(bytes, cases[i].shown);
        free(bytes);
        caloris_view_free(view);
    }
}

static void lines_break_at_the_width_of_characters(void **state)
{
    (void)state;
    struct caloris_view *view = view_of(CALORIS_VIEW_ANSWER, CALORIS_VIEW_PLAIN);
    /* 漢 takes two columns: 9 columns hold four of them, not four and a half. The last line leaves
     * room for ^C. */
    const struct cell_case wide[] = {{1, R, "漢漢漢漢漢", 1}, {2, R, "x", 1}};
    apply(view, 1, 0, 4, 5, 1, SNAPSHOT, NULL);
    apply(view, 2, 1, 2, 0, 0, wide, 2, NULL);
    char *bytes = frame(view, 10, 24);
    want(bytes, "\r漢漢漢漢\x1b[K\r\n漢x░░\x1b[K\r\nstep 1 \x1b[K");
    want_not(bytes, "say");
    free(bytes);
    caloris_view_free(view);
}

static size_t count_lines(const char *bytes)
{
    size_t n = 1;
    for (const char *at = bytes; (at = strstr(at, "\r\n")); at += 2)
        n++;
    return n;
}

static void long_canvases_show_where_it_happens(void **state)
{
    (void)state;
    struct caloris_view *view = view_of(CALORIS_VIEW_CANVAS, CALORIS_VIEW_PLAIN);
    struct cell_case rows[60];
    char names[60][16];
    for (uint32_t i = 0; i < 60; i++) {
        snprintf(names[i], sizeof(names[i]), "line%u\n", i);
        rows[i] = (struct cell_case){i, i == 40 ? M : P, i == 40 ? NULL : names[i], 0};
    }
    apply(view, 1, 0, 1, 60, 60, rows, 60, NULL);
    char *bytes = frame(view, 80, 10);
    assert_int_equal(count_lines(bytes), 10);
    want(bytes, "line39\x1b[K");
    want(bytes, "░line41");
    want_not(bytes, "line20");
    want_not(bytes, "line55");
    want(bytes, "lines 37-45 of 60");
    free(bytes);
    const struct cell_case now[] = {{40, R, "HERE\n", 1}};
    apply(view, 2, 1, 0, 0, 0, now, 1, NULL);
    bytes = frame(view, 80, 10);
    want(bytes, "\r\x1b[9A");
    want(bytes, "HERE");
    free(bytes);
    /* A narrower window has wrapped what is on the screen; going back may not pass its top. */
    bytes = frame(view, 8, 5);
    want(bytes, "\r\x1b[4A");
    assert_int_equal(count_lines(bytes), 5);
    free(bytes);
    /* Nobody knows the size: 24 x 80. */
    bytes = frame(view, 0, 0);
    assert_int_equal(count_lines(bytes), 24);
    free(bytes);
    caloris_view_free(view);
}

static void wiping_gives_the_cursor_back(void **state)
{
    (void)state;
    struct caloris_view *view = view_of(CALORIS_VIEW_CANVAS, CALORIS_VIEW_TRUE);
    struct caloris_buf buf = CALORIS_BUF(4096);
    assert_int_equal(caloris_view_wipe(view, 80, 24, &buf, NULL), 0);
    assert_int_equal(buf.size, 0); /* nothing was painted */
    apply(view, 1, 0, 4, 5, 1, SNAPSHOT, NULL);
    free(frame(view, 80, 24));
    assert_int_equal(caloris_view_wipe(view, 80, 24, &buf, NULL), 0);
    assert_string_equal(buf.data, "\r\x1b[1A\x1b[J\x1b[?25h");
    caloris_buf_free(&buf);
    caloris_view_free(view);
}

static void events_are_hostile(void **state)
{
    (void)state;
    struct caloris_view *view = view_of(CALORIS_VIEW_CANVAS, CALORIS_VIEW_PLAIN);
    struct caloris_err err = {0};
    const struct cell_case one[] = {{1, R, "hi", 0.9f}}, outside[] = {{5, R, "x", 1}};
    /* Changes before any snapshot cannot be placed. */
    assert_int_equal(apply(view, 1, 1, 3, 0, 0, one, 1, &err), 0);
    assert_int_equal(apply(view, 2, 0, 4, 5, 1, SNAPSHOT, &err), 0);
    assert_int_equal(apply(view, 3, 1, 3, 0, 0, outside, 1, &err), -1);
    assert_string_equal(err.text, "progress: cell 5 of a canvas of 5");
    assert_int_equal(apply(view, 4, 1, 3, CALORIS_VIEW_MAX_CELLS + 1, 1, one, 1, &err), -1);
    assert_non_null(strstr(err.text, "2097153 cells"));
    /* An old change does not undo a newer one; a snapshot stands for all. */
    assert_int_equal(apply(view, 5, 1, 3, 0, 0, one, 1, &err), 0);
    const struct cell_case back[] = {{1, M, NULL, 0}};
    assert_int_equal(apply(view, 4, 1, 3, 0, 0, back, 1, &err), 0);
    char *bytes = frame(view, 80, 24);
    want(bytes, "say: hi░░░");
    free(bytes);
    assert_int_equal(apply(view, 1, 0, 4, 5, 1, SNAPSHOT, &err), 0);
    bytes = frame(view, 80, 24);
    want(bytes, "say: ░░░░");
    free(bytes);
    caloris_view_free(view);
}

static void plain_lines_tell_each_step(void **state)
{
    (void)state;
    struct caloris_view *view = view_of(CALORIS_VIEW_CANVAS, CALORIS_VIEW_TRUE);
    struct caloris_buf buf = CALORIS_BUF(4096);
    const struct cell_case now[] = {{1, R, "a\n", 0.2f}, {3, R, "\x1b", 0.9f}};
    apply(view, 1, 0, 4, 5, 1, SNAPSHOT, NULL);
    apply(view, 2, 1, 2, 0, 0, now, 2, NULL);
    assert_int_equal(caloris_view_line(view, &buf, NULL), 0);
    assert_string_equal(buf.data,
                        "step 1  masks left 2  revealed 2  2.00 tokens per step  1:a⏎  3:␛\n");
    caloris_buf_free(&buf);
    caloris_view_free(view);
}

static void colours_are_chosen_from_the_environment(void **state)
{
    (void)state;
    static const struct {
        const char *no_color, *colorterm, *term;
        enum caloris_view_colours colours;
    } cases[] = {
        {NULL, "truecolor", "xterm", CALORIS_VIEW_TRUE}, {NULL, "24bit", NULL, CALORIS_VIEW_TRUE},
        {NULL, NULL, "xterm", CALORIS_VIEW_256},         {NULL, "yes", "xterm", CALORIS_VIEW_256},
        {"1", "truecolor", "xterm", CALORIS_VIEW_PLAIN}, {"", "truecolor", NULL, CALORIS_VIEW_TRUE},
        {NULL, "truecolor", "dumb", CALORIS_VIEW_PLAIN},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(caloris_view_choose(cases[i].no_color, cases[i].colorterm, cases[i].term),
                         cases[i].colours);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_frame_is_exact_without_colours),
        cmocka_unit_test(confidence_colours_last_one_step),
        cmocka_unit_test(tokens_are_bytes_and_terminals_want_characters),
        cmocka_unit_test(lines_break_at_the_width_of_characters),
        cmocka_unit_test(long_canvases_show_where_it_happens),
        cmocka_unit_test(wiping_gives_the_cursor_back),
        cmocka_unit_test(events_are_hostile),
        cmocka_unit_test(plain_lines_tell_each_step),
        cmocka_unit_test(colours_are_chosen_from_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
