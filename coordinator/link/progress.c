#include "coordinator/link/progress.h"

#include "base/err.h"

#include <stdlib.h>

enum { MAX_PIECES = 64 << 20 };

/* One cell; its token's bytes go to the end of pieces, where place_texts finds them when all are
 * there. */
static int fill_cell(Caloris__Wire__Cell *cell, const struct link_model *model,
                     const struct link_job *job, const struct caloris_reveal *reveal,
                     struct caloris_buf *pieces, struct caloris_err *err)
{
    caloris__wire__cell__init(cell);
    cell->position = reveal->position;
    if (reveal->id == job->mask_id) {
        cell->kind = CALORIS__WIRE__CELL_KIND__MASK;
        return 0;
    }
    const bool prompt =
        reveal->position < job->prompt && !(job->hole && job->hole[reveal->position]);
    cell->kind = prompt ? CALORIS__WIRE__CELL_KIND__PROMPT : CALORIS__WIRE__CELL_KIND__REVEALED;
    cell->has_token = 1;
    cell->token = (uint32_t)reveal->id;
    cell->has_confidence = !prompt;
    cell->confidence = reveal->confidence;
    if (!model->tokenizer)
        return 0;
    const size_t before = pieces->size;
    if (caloris_tokenizer_decode(model->tokenizer, &reveal->id, 1, false, pieces, err) < 0)
        return -1;
    cell->has_text = 1;
    cell->text.len = pieces->size - before;
    return 0;
}

static void place_texts(struct link_progress *progress, size_t n)
{
    uint8_t *at = (uint8_t *)progress->pieces.data;
    for (size_t i = 0; i < n; i++) {
        if (!progress->cells[i].has_text)
            continue;
        progress->cells[i].text.data = at;
        at += progress->cells[i].text.len;
    }
}

static void fill_counts(Caloris__Wire__Progress *message, const struct link_job *job,
                        const struct caloris_event *event)
{
    message->step = event->step;
    message->masks_left = event->masks_left;
    message->full = event->kind == CALORIS_EVENT_SNAPSHOT;
    message->has_cells_total = message->has_prompt_cells = 1;
    message->cells_total = (uint32_t)job->length;
    message->prompt_cells = (uint32_t)job->prompt;
    if (message->full)
        return;
    message->has_rows = message->has_seconds = message->has_phase = 1;
    message->rows = event->rows;
    message->seconds = event->step_s;
    message->phase =
        event->refresh ? CALORIS__WIRE__STEP_PHASE__REFRESH : CALORIS__WIRE__STEP_PHASE__DENOISE;
}

struct link_progress *link_progress_new(const struct link_model *model, const struct link_job *job,
                                        const struct caloris_event *event, struct caloris_err *err)
{
    const size_t n = event->n_reveals;
    struct link_progress *progress = calloc(1, sizeof(*progress));
    if (!progress) {
        caloris_err_sys(err, "progress of %zu cells", n);
        return NULL;
    }
    progress->pieces = CALORIS_BUF(MAX_PIECES);
    progress->cells = calloc(n ? n : 1, sizeof(*progress->cells));
    progress->list = calloc(n ? n : 1, sizeof(Caloris__Wire__Cell *));
    if (!progress->cells || !progress->list) {
        caloris_err_sys(err, "progress of %zu cells", n);
        goto fail;
    }
    for (size_t i = 0; i < n; i++) {
        progress->list[i] = &progress->cells[i];
        if (fill_cell(&progress->cells[i], model, job, &event->reveals[i], &progress->pieces, err) <
            0)
            goto fail;
    }
    place_texts(progress, n);
    caloris__wire__progress__init(&progress->message);
    fill_counts(&progress->message, job, event);
    progress->message.cells = progress->list;
    progress->message.n_cells = n;
    return progress;
fail:
    link_progress_free(progress);
    return NULL;
}

void link_progress_free(struct link_progress *progress)
{
    if (!progress)
        return;
    caloris_buf_free(&progress->pieces);
    free(progress->cells);
    free(progress->list);
    free(progress);
}
