/* trace_check FILE [LEAST]: the recordings of FILE, put together step by step, end in exactly the
 * ids, the canvas and the text of their results, and their rows and steps add up; what the prompt
 * gave is marked as such, its holes are not. Prints how many there are; 1 when something is wrong,
 * or there are fewer than LEAST. */
#include "base/buf.h"
#include "base/err.h"
#include "proto/trace.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 1 << 24 };

struct canvas {
    uint32_t cells, prompt;
    int64_t *ids;             /* [cells]; -1: masked */
    struct caloris_buf *text; /* [cells] */
    bool *given;              /* [cells]: stood there before the first step */
    uint64_t rows;
    uint32_t steps;
    bool late;   /* begun behind its first step */
    bool missed; /* steps */
};

static void drop(struct canvas *canvas)
{
    for (uint32_t i = 0; i < canvas->cells; i++)
        caloris_buf_free(&canvas->text[i]);
    free(canvas->text);
    free(canvas->ids);
    free(canvas->given);
    *canvas = (struct canvas){0};
}

static int make(struct canvas *canvas, const Caloris__Wire__Progress *progress)
{
    drop(canvas);
    canvas->ids = malloc(progress->cells_total * sizeof(*canvas->ids));
    canvas->text = calloc(progress->cells_total, sizeof(*canvas->text));
    canvas->given = calloc(progress->cells_total, sizeof(*canvas->given));
    if (!canvas->ids || !canvas->text || !canvas->given)
        return -1;
    canvas->cells = progress->cells_total;
    canvas->prompt = progress->prompt_cells;
    canvas->late = canvas->missed = progress->step > 0;
    for (size_t i = 0; !canvas->late && i < progress->n_cells; i++)
        canvas->given[progress->cells[i]->position] = true;
    return 0;
}

static int apply(struct canvas *canvas, const Caloris__Wire__Progress *progress)
{
    for (uint32_t i = 0; progress->full && i < canvas->cells; i++)
        canvas->ids[i] = -1;
    for (size_t i = 0; i < progress->n_cells; i++) {
        const Caloris__Wire__Cell *cell = progress->cells[i];
        canvas->ids[cell->position] = cell->token;
        caloris_buf_free(&canvas->text[cell->position]);
        canvas->text[cell->position] = CALORIS_BUF(CALORIS_TRACE_MAX_TOKEN);
        if (caloris_buf_append(&canvas->text[cell->position], cell->text.data, cell->text.len,
                               NULL) < 0)
            return -1;
    }
    canvas->rows += progress->rows;
    canvas->steps = progress->step;
    return 0;
}

static const char *compare_ids(const json_t *ids, const int64_t *found, size_t n)
{
    if (json_array_size(ids) != n)
        return "another number of ids";
    for (size_t i = 0; i < n; i++) {
        if (json_integer_value(json_array_get(ids, i)) != found[i] && found[i] >= 0)
            return "other ids";
    }
    return NULL;
}

static const char *compare_kinds(const struct canvas *canvas,
                                 const Caloris__Wire__Progress *progress)
{
    for (size_t i = 0; !canvas->late && i < progress->n_cells; i++) {
        const Caloris__Wire__Cell *cell = progress->cells[i];
        if (canvas->given[cell->position] != (cell->kind == CALORIS__WIRE__CELL_KIND__PROMPT))
            return "a cell of the prompt that was revealed, or a revealed one that was given";
    }
    return NULL;
}

/* Text that is no UTF-8 stands in the result with U+FFFD: not compared. */
static const char *compare_text(const struct canvas *canvas, const json_t *result)
{
    const char *text = json_string_value(json_object_get(result, "text"));
    const json_t *usage = json_object_get(result, "usage");
    const json_int_t n = json_integer_value(json_object_get(usage, "completion_tokens"));
    struct caloris_buf whole = CALORIS_BUF(MAX_TEXT);
    if (!text || strstr(text, "\xef\xbf\xbd"))
        return NULL;
    caloris_buf_append(&whole, "", 0, NULL);
    for (json_int_t i = 0; i < n; i++) {
        const struct caloris_buf *token = &canvas->text[canvas->prompt + (uint32_t)i];
        caloris_buf_append(&whole, token->data, token->size, NULL);
    }
    const bool same = strcmp(whole.data, text) == 0;
    caloris_buf_free(&whole);
    return same ? NULL : "another text";
}

/* What is wrong with it; NULL: nothing. */
static const char *compare(const struct canvas *canvas, const json_t *result)
{
    const json_t *whole = json_object_get(result, "canvas");
    const char *wrong = compare_ids(json_object_get(result, "ids"), canvas->ids + canvas->prompt,
                                    canvas->cells - canvas->prompt);
    if (!wrong && whole)
        wrong = compare_ids(whole, canvas->ids, canvas->cells);
    if (!wrong && json_integer_value(json_object_get(result, "steps")) != canvas->steps)
        wrong = "another number of steps";
    if (!wrong && !canvas->missed && !json_object_get(result, "candidates") &&
        (uint64_t)json_integer_value(json_object_get(result, "rows")) != canvas->rows)
        wrong = "another number of rows";
    return wrong ? wrong : compare_text(canvas, result);
}

static int check(struct caloris_trace *trace, long *count)
{
    struct canvas canvas = {0};
    struct caloris_trace_entry entry;
    struct caloris_err err = {0};
    const char *wrong = NULL;
    int n;
    while (!wrong && (n = caloris_trace_next(trace, &entry, &err)) == 1) {
        canvas.missed |= entry.kind == CALORIS_TRACE_CANVAS;
        if (entry.kind == CALORIS_TRACE_BEGIN && make(&canvas, entry.progress) < 0)
            wrong = "no memory";
        else if (entry.progress && apply(&canvas, entry.progress) < 0)
            wrong = "no memory";
        else if (entry.progress)
            wrong = compare_kinds(&canvas, entry.progress);
        else if (entry.kind == CALORIS_TRACE_RESULT && ++*count)
            wrong = json_object_get(entry.head, "error") ? NULL : compare(&canvas, entry.head);
    }
    drop(&canvas);
    if (wrong)
        fprintf(stderr, "recording %ld: %s\n", *count, wrong);
    else if (n < 0)
        fprintf(stderr, "%s\n", err.text);
    return wrong || n < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    const long least = argc > 2 ? atol(argv[2]) : 1;
    struct caloris_trace *trace = file ? caloris_trace_open(file, argv[1], NULL) : NULL;
    long count = 0;
    if (!trace) {
        fprintf(stderr, "usage: trace_check FILE [LEAST]\n");
        return 2;
    }
    int rc = check(trace, &count);
    caloris_trace_close(trace);
    fclose(file);
    printf("%ld recordings\n", count);
    return rc < 0 || count < least;
}
