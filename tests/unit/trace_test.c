/* Recordings: what is written comes back, a recorded run ends in its exact text, and of damage the
 * line is named. sample_trace.jsonl: a run of the demo model, recorded with --trace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "client/view/view.h"
#include "proto/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SAMPLE = 1 << 20, LINES = 9 };

static void read_sample(struct caloris_buf *to)
{
    char path[4096];
    struct caloris_err err = {0};
    snprintf(path, sizeof(path), "%s/tests/unit/sample_trace.jsonl", getenv("CALORIS_SOURCE_DIR"));
    *to = CALORIS_BUF(MAX_SAMPLE);
    if (caloris_file_read(path, to, &err) < 0)
        fail_msg("%s", err.text);
}

static FILE *as_file(const struct caloris_buf *text)
{
    return text->size > 0 ? fmemopen(text->data, text->size, "r") : fopen("/dev/null", "r");
}

/* ---- a real run ------------------------------------------------------------------------------ */

/* text as the plain view ends its lines */
static void as_painted(const char *text, struct caloris_buf *to)
{
    for (; *text; text++)
        assert_int_equal(*text == '\n' ? caloris_buf_printf(to, NULL, "\x1b[K\r\n")
                                       : caloris_buf_append(to, text, 1, NULL),
                         0);
}

static void ends_in_its_text(void **state)
{
    (void)state;
    struct caloris_buf sample, frame = CALORIS_BUF(CALORIS_VIEW_MAX_FRAME);
    struct caloris_buf wanted = CALORIS_BUF(MAX_SAMPLE);
    struct caloris_err err = {0};
    struct caloris_trace_entry entry;
    read_sample(&sample);
    FILE *file = as_file(&sample);
    struct caloris_trace *trace = caloris_trace_open(file, "sample", &err);
    struct caloris_view *view = caloris_view_new(CALORIS_VIEW_ANSWER, CALORIS_VIEW_PLAIN, &err);
    static const enum caloris_trace_kind kinds[] = {
        CALORIS_TRACE_BEGIN, CALORIS_TRACE_STEP, CALORIS_TRACE_STEP,
        CALORIS_TRACE_STEP,  CALORIS_TRACE_STEP, CALORIS_TRACE_STEP,
        CALORIS_TRACE_STEP,  CALORIS_TRACE_STEP, CALORIS_TRACE_RESULT};
    const size_t n = sizeof(kinds) / sizeof(kinds[0]);
    uint64_t rows = 0;
    for (size_t i = 0; i < n; i++) {
        if (caloris_trace_next(trace, &entry, &err) != 1)
            fail_msg("%s", err.text);
        assert_int_equal(entry.kind, kinds[i]);
        if (!entry.progress)
            break;
        assert_int_equal(entry.progress->step, i);
        assert_int_equal(entry.progress->phase, i == 1 ? CALORIS__WIRE__STEP_PHASE__REFRESH
                                                       : CALORIS__WIRE__STEP_PHASE__DENOISE);
        rows += entry.progress->rows;
        assert_int_equal(caloris_view_apply(view, entry.progress, &err), 0);
    }
    assert_int_equal(rows, json_integer_value(json_object_get(entry.head, "rows")));
    const char *text = json_string_value(json_object_get(entry.head, "text"));
    assert_int_equal(caloris_view_frame(view, 100, 50, &frame, &err), 0);
    as_painted(text, &wanted);
    if (!strstr(frame.data, wanted.data))
        fail_msg("the last frame does not hold the text:\n%s\n%s", frame.data, text);
    assert_int_equal(caloris_trace_whole_bytes(trace), sample.size);
    assert_int_equal(caloris_trace_next(trace, &entry, &err), 0);
    caloris_trace_close(trace);
    caloris_view_free(view);
    fclose(file);
    caloris_buf_free(&sample);
    caloris_buf_free(&frame);
    caloris_buf_free(&wanted);
}

/* ---- what is written is read ----------------------------------------------------------------- */

static const struct {
    const char *text;
    size_t n;
    float confidence;
} tokens[] = {
    {"a \"quoted\"\n", 11, 0.25f},
    {"\xe2\x82", 2, 1.0f},
    {"\xac", 1, 1e-6f},
    {"\0nul", 4, 0.0f},
    {"", 0, 0.999999940f},
    {"\xff\xfe", 2, 0.333333343f},
};
enum { TOKENS = 6, PROMPT = 1, LENGTH = TOKENS + PROMPT };

static void fill(Caloris__Wire__Progress *progress, Caloris__Wire__Cell *cells,
                 Caloris__Wire__Cell **list)
{
    caloris__wire__progress__init(progress);
    progress->has_cells_total = progress->has_prompt_cells = 1;
    progress->cells_total = LENGTH;
    progress->prompt_cells = PROMPT;
    progress->masks_left = TOKENS;
    progress->full = 1;
    for (uint32_t i = 0; i < LENGTH; i++) {
        caloris__wire__cell__init(&cells[i]);
        cells[i].position = i;
        cells[i].kind =
            i < PROMPT ? CALORIS__WIRE__CELL_KIND__PROMPT : CALORIS__WIRE__CELL_KIND__MASK;
        cells[i].has_token = 1;
        cells[i].token = 100 + i;
        list[i] = &cells[i];
    }
    progress->cells = list;
    progress->n_cells = LENGTH;
}

static void reveal(Caloris__Wire__Progress *progress, Caloris__Wire__Cell *cells)
{
    for (uint32_t i = 0; i < TOKENS; i++) {
        Caloris__Wire__Cell *cell = &cells[PROMPT + i];
        cell->kind = CALORIS__WIRE__CELL_KIND__REVEALED;
        cell->has_text = cell->has_confidence = 1;
        cell->text = (ProtobufCBinaryData){tokens[i].n, (uint8_t *)(uintptr_t)tokens[i].text};
        cell->confidence = tokens[i].confidence;
    }
    progress->cells += PROMPT;
    progress->n_cells = TOKENS;
    progress->full = 0;
    progress->step = 1;
    progress->masks_left = 0;
    progress->rows = LENGTH;
    progress->seconds = 0.0125;
    progress->phase = CALORIS__WIRE__STEP_PHASE__REFRESH;
}

static void comes_back(void **state)
{
    (void)state;
    static const char job[] = "{\"ids\": [7], \"gen_length\": 6}", result[] = "{\"id\": null}";
    const struct caloris_trace_about about = {"a model", job, sizeof(job) - 1, 42};
    struct caloris_buf text = CALORIS_BUF(1 << 20);
    struct caloris_err err = {0};
    Caloris__Wire__Progress progress;
    Caloris__Wire__Cell cells[LENGTH], *list[LENGTH];
    fill(&progress, cells, list);
    assert_int_equal(caloris_trace_begin(&about, &progress, &text, &err), 0);
    reveal(&progress, cells);
    assert_int_equal(caloris_trace_add(&progress, &text, &err), 0);
    progress.full = 1; /* somebody missed steps: the same canvas once more, of the answer alone */
    progress.masks_left = 1;
    assert_int_equal(caloris_trace_add(&progress, &text, &err), 0);
    assert_int_equal(caloris_trace_end(result, sizeof(result) - 1, &text, &err), 0);

    struct caloris_trace_entry entry;
    FILE *file = as_file(&text);
    struct caloris_trace *trace = caloris_trace_open(file, "mine", &err);
    assert_int_equal(caloris_trace_next(trace, &entry, &err), 1);
    assert_int_equal(entry.kind, CALORIS_TRACE_BEGIN);
    assert_string_equal(json_string_value(json_object_get(entry.head, "model")), "a model");
    const json_t *seed = json_object_get(json_object_get(entry.head, "job"), "seed");
    assert_int_equal(json_integer_value(seed), 42);
    assert_int_equal(entry.progress->n_cells, PROMPT);
    assert_int_equal(entry.progress->cells[0]->kind, CALORIS__WIRE__CELL_KIND__PROMPT);
    for (int again = 0; again < 2; again++) {
        if (caloris_trace_next(trace, &entry, &err) != 1)
            fail_msg("%s", err.text);
        assert_int_equal(entry.kind, again ? CALORIS_TRACE_CANVAS : CALORIS_TRACE_STEP);
        assert_int_equal(entry.progress->n_cells, TOKENS);
        for (size_t i = 0; i < TOKENS; i++) {
            const Caloris__Wire__Cell *cell = entry.progress->cells[i];
            assert_int_equal(cell->position, PROMPT + i);
            assert_int_equal(cell->token, 100 + PROMPT + i);
            assert_int_equal(cell->text.len, tokens[i].n);
            assert_memory_equal(cell->text.data ? (char *)cell->text.data : "", tokens[i].text,
                                tokens[i].n);
            assert_true(cell->confidence == tokens[i].confidence);
        }
    }
    assert_int_equal(caloris_trace_next(trace, &entry, &err), 1);
    assert_int_equal(entry.kind, CALORIS_TRACE_RESULT);
    caloris_trace_close(trace);
    fclose(file);
    caloris_buf_free(&text);
}

static void too_long_a_canvas(void **state)
{
    (void)state;
    const struct caloris_trace_about about = {.seed = -1};
    struct caloris_buf text = CALORIS_BUF(1 << 20);
    struct caloris_err err = {0};
    Caloris__Wire__Progress progress = CALORIS__WIRE__PROGRESS__INIT;
    progress.cells_total = CALORIS_TRACE_MAX_CELLS + 1;
    assert_int_equal(caloris_trace_begin(&about, &progress, &text, &err), -1);
    assert_non_null(strstr(err.text, "262145"));
    assert_int_equal(text.size, 0);
    caloris_buf_free(&text);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* In the sample, line `line` (from 1) is changed: the first `find` becomes `put`; find NULL: the
 * whole line goes; put NULL: the file ends behind find. */
static const struct {
    int line;
    const char *find, *put, *complaint;
} damages[] = {
    {1, "{\"caloris_trace\":1", "{\"caloris_trace\":2",
     "line 1: a trace of version 2; this program reads 1"},
    {1, "\"caloris_trace\":1,", "", "line 1: no trace of caloris begins here"},
    {1, "{", "[", "line 1: column"},
    {1, NULL, NULL, "line 1: no trace of caloris begins here"},
    {1, "\"cells\":119", "\"cells\":1000000000", "line 1: cells: not a whole number from 0 to"},
    {1, "\"cells\":119", "\"cells\":-1", "line 1: cells: not a whole number"},
    {1, "\"cells\":119", "\"cells\":0", "line 1: prompt_cells: not a whole number from 0 to 0"},
    {1, "\"cells\":119,", "", "line 1: cells: missing"},
    {1, "\"cells\":119", "\"cells\":118", "line 1: masks_left: 96, but"},
    {1, "\"canvas\":[", "\"canvas\":7,\"x\":[", "line 1: canvas: no array"},
    {2, NULL, NULL, "line 2: step 2 behind step 0"},
    {2, "\"step\":1", "\"step\":3", "line 2: step 3 behind step 0"},
    {2, "\"masks_left\":28", "\"masks_left\":27",
     "line 2: masks_left: 27, but the lines up to here leave 28: some are missing or changed"},
    {2, "\"phase\":\"refresh\"", "\"phase\":\"rest\"", "line 2: phase: neither"},
    {2, "\"rows\":119", "\"rows\":\"119\"", "line 2: rows: not a whole number"},
    {2, "\"seconds\":0", "\"seconds\":-0", "line 2: seconds: not a number"},
    {2, "\"seconds\":", "\"second\":", "line 2: seconds: missing"},
    {2, "\"position\":23", "\"position\":119",
     "line 2: position: not a whole number from 0 to 118"},
    {2, "\"position\":23", "\"position\":4294967319", "line 2: position: not a whole number"},
    {2, "\"position\":25", "\"position\":23", "line 2: revealed: position 23 behind position 23"},
    {2, "\"id\":287", "\"id\":2147483648", "line 2: id: not a whole number from 0 to 2147483647"},
    {2, "\"text\":\"def\"", "\"text\":3", "line 2: position 23: text or bytes"},
    {2, "\"text\":\"def\"", "\"bytes\":\"e2z2\"", "line 2: position 23: bytes: not hexadecimal"},
    {2, "\"text\":\"def\"", "\"bytes\":\"e28\"", "line 2: position 23: text or bytes"},
    {2, "\"text\":\"def\",\"confidence\"", "\"text\":\"def\",\"sure\"",
     "line 2: position 23: revealed without a confidence"},
    {2, "\"confidence\":0.99", "\"confidence\":1.99",
     "line 2: confidence: not a number from 0 to 1"},
    {3, NULL, NULL, "line 3: step 3 behind step 1"},
    {4, "{\"step\"", "{\"caloris_trace\":1,\"step\"",
     "line 4: another recording begins, but the one of line 1 has not ended"},
    {4, "\"masks_left\"", NULL, "line 4: ends in the middle"},
    {4, "}]}", "}]}}", "line 4: column"},
    {9, NULL, NULL, "ends behind line 8 (step 7) without a result"},
    {9, "{\"result\":{", "{\"result\":[{", "line 9: column"},
    {9, "{\"result\":{\"id\":null", "{\"result\":7,\"y\":{\"id\":null",
     "line 9: result: no object"},
};

static void damage(const struct caloris_buf *sample, size_t i, struct caloris_buf *to)
{
    const char *line = sample->data, *find = damages[i].find;
    for (int k = 1; k < damages[i].line; k++)
        line = strchr(line, '\n') + 1;
    const char *at = find ? strstr(line, find) : line;
    const char *end = strchr(line, '\n') + 1;
    if (!at || at >= end)
        fail_msg("damage %zu: line %d does not say %s", i, damages[i].line, find);
    const char *rest = find ? at + strlen(find) : end;
    assert_int_equal(caloris_buf_append(to, sample->data, (size_t)(at - sample->data), NULL), 0);
    if (find && !damages[i].put)
        return;
    const char *put = damages[i].put ? damages[i].put : "";
    assert_int_equal(caloris_buf_printf(to, NULL, "%s", put), 0);
    assert_int_equal(
        caloris_buf_append(to, rest, (size_t)(sample->data + sample->size - rest), NULL), 0);
}

static void names_the_damage(void **state)
{
    (void)state;
    struct caloris_buf sample;
    read_sample(&sample);
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct caloris_buf text = CALORIS_BUF(MAX_SAMPLE);
        struct caloris_err err = {0};
        struct caloris_trace_entry entry;
        damage(&sample, i, &text);
        FILE *file = as_file(&text);
        struct caloris_trace *trace = caloris_trace_open(file, "sample", &err);
        int n;
        while ((n = caloris_trace_next(trace, &entry, &err)) == 1)
            ;
        if (n != -1 || err.code != CALORIS_BAD_REQUEST || !strstr(err.text, damages[i].complaint) ||
            strncmp(err.text, "sample: ", 8) != 0)
            fail_msg("damage %zu: %d \"%s\" does not say: %s", i, n, err.text,
                     damages[i].complaint);
        const bool cut_off = !damages[i].put && (damages[i].find || damages[i].line == LINES);
        if (caloris_trace_is_cut_off(trace) != cut_off)
            fail_msg("damage %zu: %s: only cut off: %d expected", i, err.text, cut_off);
        caloris_trace_close(trace);
        fclose(file);
        caloris_buf_free(&text);
    }
    caloris_buf_free(&sample);
}

/* A line without an end: no more than the limit is ever kept of it. */
static void endless_line(void **state)
{
    (void)state;
    FILE *some = tmpfile();
    struct caloris_err err = {0};
    struct caloris_trace_entry entry;
    assert_non_null(some);
    static char chunk[1 << 16];
    for (size_t n = 0; n <= CALORIS_TRACE_MAX_LINE; n += sizeof(chunk))
        assert_int_equal(fwrite(chunk, 1, sizeof(chunk), some), sizeof(chunk));
    rewind(some);
    struct caloris_trace *trace = caloris_trace_open(some, "endless", &err);
    assert_int_equal(caloris_trace_next(trace, &entry, &err), -1);
    assert_string_equal(err.text, "endless: line 1: longer than 67108864 bytes");
    caloris_trace_close(trace);
    fclose(some);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_in_its_text),  cmocka_unit_test(comes_back),
        cmocka_unit_test(too_long_a_canvas), cmocka_unit_test(names_the_damage),
        cmocka_unit_test(endless_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
