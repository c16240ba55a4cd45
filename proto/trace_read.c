#include "proto/trace.h"

#include "base/err.h"
#include "base/json.h"
#include "base/lines.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct caloris_trace {
    struct caloris_lines lines;
    json_t *line;   /* what entries point into */
    uint64_t begun; /* line where the present recording began; 0: none is open */
    uint64_t whole; /* bytes up to the end of the last one that ended */
    bool cut_off;   /* the file has ended inside of a line or a recording */
    uint32_t n_cells, prompt_cells, step, masks;
    bool *revealed; /* [n_cells] */
    Caloris__Wire__Progress progress;
    Caloris__Wire__Cell *cells; /* [n_cells] */
    Caloris__Wire__Cell **list; /* [n_cells] */
    uint8_t *pieces;            /* tokens given in hexadecimal */
    size_t pieces_bytes;
};

static int bad(const struct caloris_trace *trace, struct caloris_err *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "FILE: line N: …" */
static int bad(const struct caloris_trace *trace, struct caloris_err *err, const char *format, ...)
{
    char what[CALORIS_ERR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: line %" PRIu64 ": %.*s", trace->lines.name,
                    trace->lines.number, CALORIS_ERR_TEXT - 200, what);
    return -1;
}

struct caloris_trace *caloris_trace_open(FILE *file, const char *name, struct caloris_err *err)
{
    struct caloris_trace *trace = calloc(1, sizeof(*trace));
    if (!trace) {
        caloris_err_sys(err, "%s", name);
        return NULL;
    }
    trace->lines = CALORIS_LINES(file, name, CALORIS_TRACE_MAX_LINE);
    return trace;
}

static void free_canvas(struct caloris_trace *trace)
{
    free(trace->revealed);
    free(trace->cells);
    free(trace->list);
    trace->revealed = NULL;
    trace->cells = NULL;
    trace->list = NULL;
}

void caloris_trace_close(struct caloris_trace *trace)
{
    if (!trace)
        return;
    free_canvas(trace);
    free(trace->pieces);
    json_decref(trace->line);
    caloris_lines_free(&trace->lines);
    free(trace);
}

uint64_t caloris_trace_whole_bytes(const struct caloris_trace *trace)
{
    return trace->whole;
}

bool caloris_trace_is_cut_off(const struct caloris_trace *trace)
{
    return trace->cut_off;
}

/* ---- fields ---------------------------------------------------------------------------------- */

static int get_count(const struct caloris_trace *trace, const json_t *object, const char *name,
                     uint64_t most, uint64_t *to, struct caloris_err *err)
{
    const json_t *value = json_object_get(object, name);
    const json_int_t number = json_integer_value(value);
    *to = 0;
    if (!json_is_integer(value) || number < 0 || (uint64_t)number > most)
        return bad(trace, err, "%s: %s a whole number from 0 to %" PRIu64, name,
                   value ? "not" : "missing; it is", most);
    *to = (uint64_t)number;
    return 0;
}

static int get_real(const struct caloris_trace *trace, const json_t *object, const char *name,
                    double most, double *to, struct caloris_err *err)
{
    const json_t *value = json_object_get(object, name);
    const double number = json_number_value(value);
    *to = 0;
    if (!json_is_number(value) || !(number >= 0 && number <= most))
        return bad(trace, err, "%s: %s a number from 0 to %g", name,
                   value ? "not" : "missing; it is", most);
    *to = number;
    return 0;
}

/* ---- cells ----------------------------------------------------------------------------------- */

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A token's bytes: "text", or "bytes" in hexadecimal, or none. pieces has room. */
static int read_token(struct caloris_trace *trace, const json_t *from, Caloris__Wire__Cell *cell,
                      struct caloris_err *err)
{
    const json_t *text = json_object_get(from, "text"), *hex = json_object_get(from, "bytes");
    const json_t *said = text ? text : hex;
    const size_t n = json_string_length(said), most = CALORIS_TRACE_MAX_TOKEN;
    if (!said)
        return 0;
    if ((text && hex) || !json_is_string(said) || n > (text ? most : 2 * most) || (hex && n % 2))
        return bad(trace, err, "position %u: text or bytes: not a token of at most %zu bytes",
                   cell->position, most);
    cell->has_text = 1;
    if (text) {
        cell->text = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)json_string_value(text)};
        return 0;
    }
    const char *digits = json_string_value(hex);
    cell->text = (ProtobufCBinaryData){n / 2, trace->pieces + trace->pieces_bytes};
    for (size_t i = 0; i < n; i += 2) {
        const int high = nibble(digits[i]), low = nibble(digits[i + 1]);
        if (high < 0 || low < 0)
            return bad(trace, err, "position %u: bytes: not hexadecimal", cell->position);
        trace->pieces[trace->pieces_bytes++] = (uint8_t)(high * 16 + low);
    }
    return 0;
}

static int read_cell(struct caloris_trace *trace, const json_t *from, Caloris__Wire__Cell *cell,
                     struct caloris_err *err)
{
    uint64_t position, id;
    double confidence;
    caloris__wire__cell__init(cell);
    if (!json_is_object(from))
        return bad(trace, err, "a cell is no object");
    if (get_count(trace, from, "position", trace->n_cells - 1, &position, err) < 0 ||
        get_count(trace, from, "id", INT32_MAX, &id, err) < 0)
        return -1;
    cell->position = (uint32_t)position;
    cell->has_token = 1;
    cell->token = (uint32_t)id;
    cell->kind = CALORIS__WIRE__CELL_KIND__PROMPT;
    if (json_object_get(from, "confidence")) {
        if (get_real(trace, from, "confidence", 1, &confidence, err) < 0)
            return -1;
        cell->kind = CALORIS__WIRE__CELL_KIND__REVEALED;
        cell->has_confidence = 1;
        cell->confidence = (float)confidence;
    }
    return read_token(trace, from, cell, err);
}

/* Room for what all tokens of a line say in hexadecimal. */
static int reserve_pieces(struct caloris_trace *trace, struct caloris_err *err)
{
    free(trace->pieces);
    trace->pieces_bytes = 0;
    trace->pieces = malloc(trace->lines.text.size / 2 + 1);
    return trace->pieces ? 0 : caloris_err_sys(err, "%s", trace->lines.name);
}

static int read_cells(struct caloris_trace *trace, const char *name, struct caloris_err *err)
{
    const json_t *array = json_object_get(trace->line, name);
    const size_t n = json_array_size(array);
    if (!json_is_array(array))
        return bad(trace, err, "%s: no array", name);
    if (n > trace->n_cells)
        return bad(trace, err, "%s: %zu cells of a canvas of %u", name, n, trace->n_cells);
    if (reserve_pieces(trace, err) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        Caloris__Wire__Cell *cell = &trace->cells[i];
        trace->list[i] = cell;
        if (read_cell(trace, json_array_get(array, i), cell, err) < 0)
            return -1;
        if (i > 0 && cell->position <= cell[-1].position)
            return bad(trace, err, "%s: position %u behind position %u", name, cell->position,
                       cell[-1].position);
        if (!trace->progress.full && cell->kind != CALORIS__WIRE__CELL_KIND__REVEALED)
            return bad(trace, err, "position %u: revealed without a confidence", cell->position);
        trace->masks -= !trace->revealed[cell->position];
        trace->revealed[cell->position] = true;
    }
    trace->progress.n_cells = n;
    trace->progress.cells = trace->list;
    return 0;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static int check_masks(const struct caloris_trace *trace, uint64_t said, struct caloris_err *err)
{
    if (said == trace->masks)
        return 0;
    return bad(trace, err,
               "masks_left: %" PRIu64 ", but the lines up to here leave %u: some are missing or "
               "changed",
               said, trace->masks);
}

/* The counts and cells that every line but the last has. */
static int read_progress(struct caloris_trace *trace, bool full, struct caloris_err *err)
{
    Caloris__Wire__Progress *progress = &trace->progress;
    uint64_t step, masks_left;
    const uint64_t seq = progress->seq;
    caloris__wire__progress__init(progress);
    progress->seq = seq + 1;
    progress->full = full;
    progress->has_cells_total = progress->has_prompt_cells = 1;
    progress->cells_total = trace->n_cells;
    progress->prompt_cells = trace->prompt_cells;
    if (full) {
        memset(trace->revealed, 0, trace->n_cells * sizeof(*trace->revealed));
        trace->masks = trace->n_cells;
    }
    if (get_count(trace, trace->line, "step", UINT32_MAX, &step, err) < 0 ||
        get_count(trace, trace->line, "masks_left", UINT32_MAX, &masks_left, err) < 0)
        return -1;
    if (!full && step != (uint64_t)trace->step + 1)
        return bad(trace, err, "step %" PRIu64 " behind step %u", step, trace->step);
    progress->step = trace->step = (uint32_t)step;
    progress->masks_left = (uint32_t)masks_left;
    if (read_cells(trace, full ? "canvas" : "revealed", err) < 0)
        return -1;
    return check_masks(trace, masks_left, err);
}

static int check_version(const struct caloris_trace *trace, struct caloris_err *err)
{
    const json_t *version = json_object_get(trace->line, "caloris_trace");
    if (!json_is_integer(version))
        return bad(trace, err, "no trace of caloris begins here (caloris_trace is missing)");
    if (json_integer_value(version) != CALORIS_TRACE_VERSION)
        return bad(trace, err, "a trace of version %" JSON_INTEGER_FORMAT "; this program reads %d",
                   json_integer_value(version), CALORIS_TRACE_VERSION);
    return 0;
}

static int read_begin(struct caloris_trace *trace, struct caloris_err *err)
{
    uint64_t cells, prompt;
    if (trace->begun)
        return bad(trace, err,
                   "another recording begins, but the one of line %" PRIu64 " has not ended",
                   trace->begun);
    if (check_version(trace, err) < 0 ||
        get_count(trace, trace->line, "cells", CALORIS_TRACE_MAX_CELLS, &cells, err) < 0 ||
        get_count(trace, trace->line, "prompt_cells", cells, &prompt, err) < 0)
        return -1;
    if (cells == 0)
        return bad(trace, err, "cells: 0");
    free_canvas(trace);
    trace->n_cells = (uint32_t)cells;
    trace->prompt_cells = (uint32_t)prompt;
    trace->revealed = calloc(cells, sizeof(*trace->revealed));
    trace->cells = calloc(cells, sizeof(*trace->cells));
    trace->list = calloc(cells, sizeof(Caloris__Wire__Cell *));
    if (!trace->revealed || !trace->cells || !trace->list)
        return caloris_err_sys(err, "%s: a canvas of %" PRIu64 " cells", trace->lines.name, cells);
    trace->begun = trace->lines.number;
    return read_progress(trace, true, err);
}

static int read_step(struct caloris_trace *trace, struct caloris_err *err)
{
    Caloris__Wire__Progress *progress = &trace->progress;
    const double day = 86400;
    const char *phase = json_string_value(json_object_get(trace->line, "phase"));
    uint64_t rows;
    double seconds;
    if (read_progress(trace, false, err) < 0 ||
        get_count(trace, trace->line, "rows", INT64_MAX, &rows, err) < 0 ||
        get_real(trace, trace->line, "seconds", day, &seconds, err) < 0)
        return -1;
    if (!phase || (strcmp(phase, "refresh") != 0 && strcmp(phase, "denoise") != 0))
        return bad(trace, err, "phase: neither \"denoise\" nor \"refresh\"");
    progress->has_rows = progress->has_seconds = progress->has_phase = 1;
    progress->rows = rows;
    progress->seconds = seconds;
    progress->phase =
        phase[0] == 'r' ? CALORIS__WIRE__STEP_PHASE__REFRESH : CALORIS__WIRE__STEP_PHASE__DENOISE;
    return 0;
}

static int read_line(struct caloris_trace *trace, struct caloris_trace_entry *entry,
                     struct caloris_err *err)
{
    const json_t *result = json_object_get(trace->line, "result");
    const bool begins = json_object_get(trace->line, "caloris_trace") || !trace->begun;
    *entry = (struct caloris_trace_entry){.head = trace->line, .progress = &trace->progress};
    if (begins) {
        entry->kind = CALORIS_TRACE_BEGIN;
        return read_begin(trace, err);
    }
    if (json_object_get(trace->line, "canvas")) {
        entry->kind = CALORIS_TRACE_CANVAS;
        return read_progress(trace, true, err);
    }
    if (!result) {
        entry->kind = CALORIS_TRACE_STEP;
        return read_step(trace, err);
    }
    if (!json_is_object(result))
        return bad(trace, err, "result: no object");
    *entry = (struct caloris_trace_entry){.kind = CALORIS_TRACE_RESULT, .head = result};
    trace->begun = 0;
    trace->whole = trace->lines.end;
    return 0;
}

static int at_end(struct caloris_trace *trace, struct caloris_err *err)
{
    trace->cut_off = trace->begun > 0;
    if (trace->begun)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "%s: ends behind line %" PRIu64 " (step %u) without a result: the "
                               "recording was cut off",
                               trace->lines.name, trace->lines.number, trace->step);
    return 0;
}

int caloris_trace_next(struct caloris_trace *trace, struct caloris_trace_entry *entry,
                       struct caloris_err *err)
{
    json_error_t error;
    int n = caloris_lines_next(&trace->lines, err);
    if (n <= 0)
        return n < 0 ? -1 : at_end(trace, err);
    trace->cut_off = trace->lines.torn;
    if (trace->lines.cut)
        return bad(trace, err, "longer than %d bytes", CALORIS_TRACE_MAX_LINE);
    if (trace->lines.torn)
        return bad(trace, err, "ends in the middle: the recording was cut off");
    json_decref(trace->line);
    trace->line =
        caloris_json_decode(trace->lines.text.data, trace->lines.text.size, JSON_ALLOW_NUL, &error);
    if (!trace->line)
        return bad(trace, err, "column %d: %s", error.column, error.text);
    if (!json_is_object(trace->line))
        return bad(trace, err, "no JSON object");
    return read_line(trace, entry, err) < 0 ? -1 : 1;
}
