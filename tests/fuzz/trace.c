/* A recorded trace, line by line; what is read is shown, and written again. */
#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"
#include "client/view/view.h"
#include "proto/trace.h"
#include "tests/fuzz/fuzz.h"

static void pass_on(struct caloris_view *view, const Caloris__Wire__Progress *progress)
{
    struct caloris_buf out = CALORIS_BUF(CALORIS_VIEW_MAX_FRAME);
    struct caloris_err err;

    if (progress->full ? progress->n_cells < 4096 : true) {
        caloris_trace_add(progress, &out, &err);
        caloris_buf_clear(&out);
        if (caloris_view_apply(view, progress, &err) == 0) {
            caloris_view_frame(view, 40, 10, &out, &err);
            caloris_view_line(view, &out, &err);
        }
    }
    caloris_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FILE *file = fopen(fuzz_file("trace.jsonl", data, size), "r");
    struct caloris_view *view = caloris_view_new(CALORIS_VIEW_CANVAS, CALORIS_VIEW_256, NULL);
    struct caloris_trace *trace = file ? caloris_trace_open(file, "trace.jsonl", NULL) : NULL;
    struct caloris_trace_entry entry;
    struct caloris_err err;

    while (view && trace && caloris_trace_next(trace, &entry, &err) == 1) {
        if (!entry.progress != (entry.kind == CALORIS_TRACE_RESULT))
            __builtin_trap();
        if (entry.progress)
            pass_on(view, entry.progress);
    }
    if (trace && caloris_trace_whole_bytes(trace) > size)
        __builtin_trap();
    caloris_trace_close(trace);
    caloris_view_free(view);
    if (file)
        fclose(file);
    return 0;
}
