/* Where a loop stands, and how it is taken up again. */
#include "coordinator/denoise/loop.h"

#include "base/err.h"
#include "base/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct caloris_stand *caloris_stand_new(size_t n, size_t length)
{
    size_t cells, bytes, head;
    if (!caloris_size_mul(n, length, &cells) ||
        !caloris_size_mul(cells, sizeof(int32_t) + sizeof(float), &bytes) ||
        !caloris_size_mul(n, sizeof(struct caloris_stand), &head) ||
        !caloris_size_add(head, bytes, &bytes))
        return NULL;
    struct caloris_stand *stands = calloc(1, bytes > 0 ? bytes : 1);
    if (!stands)
        return NULL;
    int32_t *ids = (int32_t *)(stands + n);
    float *log_p = (float *)(ids + cells);
    for (size_t i = 0; i < n; i++) {
        stands[i].canvas = ids + i * length;
        stands[i].log_p = log_p + i * length;
    }
    return stands;
}

void caloris_stand_copy(struct caloris_stand *to, const struct caloris_stand *from, size_t length)
{
    int32_t *canvas = to->canvas;
    float *log_p = to->log_p;
    memcpy(canvas, from->canvas, length * sizeof(*canvas));
    memcpy(log_p, from->log_p, length * sizeof(*log_p));
    *to = *from;
    to->canvas = canvas;
    to->log_p = log_p;
}

bool caloris_denoise_can_stand(const struct caloris_denoise *denoise)
{
    return denoise->done ||
           (denoise->step > 0 && denoise->block_step == 0 && caloris_denoise_is_full(denoise));
}

void caloris_denoise_note(const struct caloris_denoise *denoise, struct caloris_stand *stand)
{
    stand->block = (uint32_t)denoise->block;
    stand->step = denoise->step;
    stand->done = denoise->done;
    memcpy(stand->canvas, denoise->canvas, denoise->length * sizeof(*stand->canvas));
    for (size_t i = 0; i < denoise->length; i++)
        stand->log_p[i] = denoise->marks[i].log_p;
}

/* ---- from outside ---------------------------------------------------------------------------- */

static int check_counts(const struct caloris_denoise *denoise, const struct caloris_stand *stand,
                        struct caloris_err *err)
{
    const struct caloris_job_params *params = &denoise->params;
    const size_t most = params->steps > denoise->length ? params->steps : denoise->length;
    if (stand->block >= denoise->blocks)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "progress: block %u of %zu", stand->block,
                               denoise->blocks);
    if (stand->step > most)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "progress: step %u of at most %zu",
                               stand->step, most);
    if (stand->passes > stand->step)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "progress: %u forward passes in %u steps",
                               stand->passes, stand->step);
    if (!stand->done && params->cache != CALORIS_CACHE_NONE && stand->block % params->refresh != 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "progress: block %u is entered without a refresh (every %u)",
                               stand->block, params->refresh);
    return 0;
}

static int check_position(const struct caloris_denoise *denoise, const struct caloris_stand *stand,
                          size_t first, size_t i, struct caloris_err *err)
{
    const int32_t mask = denoise->params.mask_id, given = denoise->canvas[i];
    const int32_t id = stand->canvas[i];
    if (given != mask && id != given)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "progress: id %d at %zu, where the prompt has %d", id, i, given);
    if (!stand->done && i >= first && id != mask)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "progress: id %d at %zu, which block %u has yet to reveal", id, i,
                               stand->block);
    if (!isnan(stand->log_p[i]) && (given != mask || id == mask || stand->log_p[i] > 0))
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "progress: log p %g at %zu",
                               (double)stand->log_p[i], i);
    return 0;
}

int caloris_denoise_check_stand(const struct caloris_denoise *denoise,
                                const struct caloris_stand *stand, struct caloris_err *err)
{
    if (stand->step == 0)
        return 0;
    if (check_counts(denoise, stand, err) < 0)
        return -1;
    struct caloris_denoise there = *denoise;
    there.block = stand->block;
    const size_t first = caloris_denoise_block_first(&there);
    for (size_t i = 0; i < denoise->length; i++) {
        if (check_position(denoise, stand, first, i, err) < 0)
            return -1;
    }
    return 0;
}

void caloris_denoise_resume(struct caloris_denoise *denoise, const struct caloris_stand *stand)
{
    if (stand->step == 0)
        return;
    /* Which step it was matters inside a block only. */
    for (size_t i = 0; i < denoise->length; i++) {
        const bool revealed = denoise->canvas[i] != stand->canvas[i];
        denoise->marks[i] = (struct caloris_mark){revealed, stand->log_p[i]};
        denoise->canvas[i] = stand->canvas[i];
    }
    denoise->block = stand->block;
    denoise->step = stand->step;
    denoise->done = stand->done;
    caloris_denoise_enter(denoise);
}
