#include "proto/trace.h"

#include "base/buf.h"
#include "base/err.h"

#include <math.h>
#include <stdlib.h>

enum { DIGITS = 9 }; /* of a real: a float comes back the same */

static int put(json_t *object, const char *name, json_t *value)
{
    return value ? json_object_set_new(object, name, value) : -1;
}

static json_t *integer(uint64_t number)
{
    return json_integer((json_int_t)number);
}

/* JSON has no word for what is no number. */
static json_t *real(double number)
{
    return json_real(isfinite(number) ? number : 0);
}

/* Bytes that are no UTF-8 by themselves, because a character's other bytes stand in the next token,
 * are written in hexadecimal. */
static int put_token(json_t *cell, const ProtobufCBinaryData *text)
{
    static const char digits[] = "0123456789abcdef";
    json_t *plain = json_stringn((const char *)text->data, text->len);
    if (plain)
        return put(cell, "text", plain);
    char *hex = malloc(2 * text->len + 1);
    if (!hex)
        return -1;
    for (size_t i = 0; i < text->len; i++) {
        hex[2 * i] = digits[text->data[i] >> 4];
        hex[2 * i + 1] = digits[text->data[i] & 15];
    }
    int rc = put(cell, "bytes", json_stringn(hex, 2 * text->len));
    free(hex);
    return rc;
}

static int put_cell(json_t *cells, const Caloris__Wire__Cell *from)
{
    json_t *cell = json_object();
    int rc = cell ? json_array_append_new(cells, cell) : -1;
    if (rc == 0)
        rc = put(cell, "position", integer(from->position));
    if (rc == 0)
        rc = put(cell, "id", integer(from->token));
    if (rc == 0 && from->has_text && from->text.len > 0)
        rc = put_token(cell, &from->text);
    if (rc == 0 && from->kind == CALORIS__WIRE__CELL_KIND__REVEALED)
        rc = put(cell, "confidence", real(fmin((double)from->confidence, 1)));
    return rc;
}

/* Masks are what is left out. */
static int put_cells(json_t *line, const char *name, const Caloris__Wire__Progress *progress)
{
    json_t *cells = json_array();
    int rc = put(line, name, cells);
    for (size_t i = 0; i < progress->n_cells && rc == 0; i++) {
        if (progress->cells[i]->kind != CALORIS__WIRE__CELL_KIND__MASK)
            rc = put_cell(cells, progress->cells[i]);
    }
    return rc;
}

static int append(const char *bytes, size_t n, void *arg)
{
    return caloris_buf_append(arg, bytes, n, NULL);
}

/* Takes line over. */
static int write_line(json_t *line, int rc, struct caloris_buf *to, struct caloris_err *err)
{
    const size_t before = to->size;
    if (rc == 0)
        rc = json_dump_callback(line, append, to, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS));
    if (rc == 0)
        rc = caloris_buf_append(to, "\n", 1, NULL);
    json_decref(line);
    if (rc == 0 && to->size - before <= CALORIS_TRACE_MAX_LINE)
        return 0;
    to->size = before;
    return caloris_err_set(err, CALORIS_NO_MEMORY, "trace: no room for a line");
}

static int put_counts(json_t *line, const Caloris__Wire__Progress *progress)
{
    return put(line, "step", integer(progress->step)) < 0 ||
                   put(line, "masks_left", integer(progress->masks_left)) < 0
               ? -1
               : 0;
}

static json_t *job_json(const struct caloris_trace_about *about)
{
    json_t *job =
        about->job ? json_loadb(about->job, about->job_bytes, JSON_ALLOW_NUL, NULL) : NULL;
    if (!json_is_object(job)) {
        json_decref(job);
        return json_null();
    }
    if (about->seed >= 0 && !json_object_get(job, "seed"))
        put(job, "seed", json_integer(about->seed));
    return job;
}

int caloris_trace_begin(const struct caloris_trace_about *about,
                        const Caloris__Wire__Progress *canvas, struct caloris_buf *to,
                        struct caloris_err *err)
{
    if (canvas->cells_total > CALORIS_TRACE_MAX_CELLS)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "trace: a canvas of %u tokens; %d at most are recorded",
                               canvas->cells_total, CALORIS_TRACE_MAX_CELLS);
    json_t *line = json_object();
    int rc = put(line, "caloris_trace", json_integer(CALORIS_TRACE_VERSION));
    rc |= put(line, "by", json_string("caloris " CALORIS_VERSION));
    rc |= put(line, "model", about->model ? json_string(about->model) : json_null());
    rc |= put(line, "job", job_json(about));
    rc |= put(line, "cells", integer(canvas->cells_total));
    rc |= put(line, "prompt_cells", integer(canvas->prompt_cells));
    rc |= put_counts(line, canvas);
    rc |= put_cells(line, "canvas", canvas);
    return write_line(line, rc, to, err);
}

int caloris_trace_add(const Caloris__Wire__Progress *progress, struct caloris_buf *to,
                      struct caloris_err *err)
{
    json_t *line = json_object();
    int rc = put_counts(line, progress);
    if (progress->full)
        return write_line(line, rc | put_cells(line, "canvas", progress), to, err);
    const char *phase =
        progress->phase == CALORIS__WIRE__STEP_PHASE__REFRESH ? "refresh" : "denoise";
    rc |= put(line, "phase", json_string(phase));
    rc |= put(line, "rows", integer(progress->rows));
    rc |= put(line, "seconds", real(progress->seconds));
    return write_line(line, rc | put_cells(line, "revealed", progress), to, err);
}

int caloris_trace_end(const char *result, size_t n, struct caloris_buf *to, struct caloris_err *err)
{
    json_t *line = json_object();
    json_t *object = json_loadb(result, n, JSON_ALLOW_NUL, NULL);
    return write_line(line, put(line, "result", object), to, err);
}
