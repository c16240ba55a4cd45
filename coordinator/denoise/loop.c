#include "coordinator/denoise/loop.h"

#include "base/err.h"

#include <math.h>

/* ---- the blocks of the generated part -------------------------------------------------------- */

size_t caloris_denoise_block_first(const struct caloris_denoise *denoise)
{
    return denoise->params.gen_length == 0
               ? 0
               : denoise->prompt + denoise->block * denoise->params.block_length;
}

size_t caloris_denoise_block_end(const struct caloris_denoise *denoise)
{
    const size_t left = denoise->length - denoise->prompt;
    const size_t end = (denoise->block + 1) * (size_t)denoise->params.block_length;
    return denoise->prompt + (end < left ? end : left);
}

static size_t count_masks(const struct caloris_denoise *denoise, size_t first, size_t end)
{
    size_t masks = 0;
    for (size_t i = first; i < end; i++)
        masks += denoise->canvas[i] == denoise->params.mask_id;
    return masks;
}

static void enter_block(struct caloris_denoise *denoise)
{
    const struct caloris_job_params *params = &denoise->params;
    const size_t first =
        params->quota == CALORIS_QUOTA_BLOCK ? caloris_denoise_block_first(denoise) : 0;
    denoise->block_step = 0;
    denoise->entered = denoise->step;
    denoise->block_masks = count_masks(denoise, first, caloris_denoise_block_end(denoise));
    denoise->block_steps =
        params->steps > 0 ? params->steps / denoise->blocks : denoise->block_masks;
}

static bool block_is_over(const struct caloris_denoise *denoise)
{
    const struct caloris_job_params *params = &denoise->params;
    if (params->commit == CALORIS_COMMIT_QUOTA && denoise->block_step >= denoise->block_steps)
        return true;
    if (params->commit == CALORIS_COMMIT_QUOTA && params->early_commit <= 0)
        return false;
    return count_masks(denoise, 0, caloris_denoise_block_end(denoise)) == 0;
}

static void skip_finished_blocks(struct caloris_denoise *denoise)
{
    while (!denoise->done && block_is_over(denoise)) {
        if (denoise->block + 1 == denoise->blocks) {
            denoise->done = true;
        } else {
            denoise->block++;
            enter_block(denoise);
        }
    }
}

void caloris_denoise_enter(struct caloris_denoise *denoise)
{
    denoise->masks = count_masks(denoise, 0, denoise->length);
    denoise->done = denoise->done || denoise->masks == 0;
    enter_block(denoise);
    skip_finished_blocks(denoise);
}

/* ---- the start ------------------------------------------------------------------------------- */

static int check_ids(const struct caloris_job_params *params, struct caloris_err *err)
{
    const struct {
        const char *field, *why;
        int32_t id;
        bool needed;
    } ids[] = {
        {"mask_id", "needed to generate", params->mask_id, true},
        {"eos_id", "needed by logits_eos_inf", params->eos_id, params->logits_eos_inf},
        {"eos_id", "needed by confidence_eos_eot_inf", params->eos_id,
         params->confidence_eos_eot_inf},
        {"eot_id", "needed by confidence_eos_eot_inf", params->eot_id,
         params->confidence_eos_eot_inf},
    };
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        if (ids[i].needed && ids[i].id < 0)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "%s: %s, and neither the job nor the model says it",
                                   ids[i].field, ids[i].why);
    }
    if (params->early_stop && params->eos_id == params->mask_id)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "eos_id: %d is the mask id, too",
                               params->eos_id);
    return 0;
}

static int check_lengths(const struct caloris_denoise *denoise, struct caloris_err *err)
{
    const struct caloris_job_params *params = &denoise->params;
    if (denoise->length == 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "gen_length: 0, and the prompt is empty: there is no canvas");
    if (denoise->prompt > denoise->length ||
        denoise->length - denoise->prompt != params->gen_length)
        return caloris_err_set(err, CALORIS_INTERNAL,
                               "gen_length: %u behind a prompt of %zu, but the canvas has %zu",
                               params->gen_length, denoise->prompt, denoise->length);
    if (params->block_length == 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "block_length: 0");
    if (params->refresh == 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "refresh: 0");
    if (params->commit == CALORIS_COMMIT_QUOTA && params->steps > 0 &&
        params->steps % denoise->blocks != 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "steps: %u cannot be dealt evenly to %zu blocks", params->steps,
                               denoise->blocks);
    for (size_t i = denoise->prompt; i < denoise->length; i++) {
        if (denoise->canvas[i] != params->mask_id)
            return caloris_err_set(err, CALORIS_INTERNAL,
                                   "position %zu of the generated part starts unmasked", i);
    }
    return 0;
}

int caloris_denoise_start(struct caloris_denoise *denoise, const struct caloris_job_params *params,
                          int32_t *canvas, struct caloris_mark *marks, size_t length, size_t prompt,
                          struct caloris_err *err)
{
    const size_t block = params->block_length > 0 ? params->block_length : 1;
    const size_t blocks = (params->gen_length + block - 1) / block;
    *denoise = (struct caloris_denoise){
        .params = *params,
        .canvas = canvas,
        .marks = marks,
        .candidate = params->candidate,
        .length = length,
        .prompt = prompt,
        .blocks = blocks > 0 ? blocks : 1,
    };
    if (check_ids(params, err) < 0 || check_lengths(denoise, err) < 0)
        return -1;
    if (params->seed < 0 && (params->temperature > 0 || params->order == CALORIS_ORDER_RANDOM))
        return caloris_err_set(err, CALORIS_INTERNAL, "seed: none was drawn");
    for (size_t i = 0; i < length; i++)
        marks[i] = (struct caloris_mark){.log_p = NAN};
    caloris_denoise_enter(denoise);
    return 0;
}

/* ---- one step -------------------------------------------------------------------------------- */

size_t caloris_denoise_quota(const struct caloris_denoise *denoise)
{
    const size_t m = denoise->block_masks, s = denoise->block_steps;
    return m / s + (denoise->block_step < m % s);
}

struct caloris_noise_key caloris_denoise_key(const struct caloris_denoise *denoise,
                                             enum caloris_noise_stream stream)
{
    return (struct caloris_noise_key){
        .seed = (uint64_t)denoise->params.seed,
        .candidate = denoise->candidate,
        .stream = stream,
        .step = denoise->step,
    };
}

size_t caloris_denoise_wanted(const struct caloris_denoise *denoise, uint32_t *positions)
{
    if (denoise->done ||
        (denoise->params.commit == CALORIS_COMMIT_QUOTA && caloris_denoise_quota(denoise) == 0))
        return 0;
    size_t n = 0;
    const size_t end = caloris_denoise_block_end(denoise);
    for (size_t i = 0; i < end; i++) {
        if (denoise->canvas[i] != denoise->params.mask_id)
            continue;
        if (positions)
            positions[n] = (uint32_t)i;
        n++;
    }
    return n;
}

/* Flags of one id stand in one entry, also where two roles share the id. */
static void add_special(struct caloris_rule *rule, int32_t id, uint32_t flags)
{
    uint32_t i = 0;
    while (i < rule->specials && rule->special[i].id != id)
        i++;
    if (i == rule->specials)
        rule->special[rule->specials++] = (struct caloris_special){.id = id};
    rule->special[i].flags |= flags;
}

void caloris_denoise_rule(const struct caloris_denoise *denoise, struct caloris_rule *rule)
{
    const struct caloris_job_params *params = &denoise->params;
    *rule = (struct caloris_rule){
        .best = caloris_denoise_best(denoise),
        .likeliest = params->early_commit > 0 && params->temperature > 0,
        .temperature = (float)params->temperature,
        .noise = caloris_denoise_key(denoise, CALORIS_NOISE_TOKEN),
        .guidance = (float)params->cfg_scale,
    };
    add_special(rule, params->mask_id, CALORIS_NO_CHOICE);
    if (params->logits_eos_inf)
        add_special(rule, params->eos_id, CALORIS_NO_CHOICE | CALORIS_NO_SUM);
    if (params->confidence_eos_eot_inf) {
        add_special(rule, params->eos_id, CALORIS_NO_SUM);
        add_special(rule, params->eot_id, CALORIS_NO_SUM);
    }
}

/* The first EOS of the generated part when no mask stands before it; else length. */
static size_t end_of_text(const struct caloris_denoise *denoise)
{
    const int32_t eos = denoise->params.eos_id, mask = denoise->params.mask_id;
    if (!denoise->params.early_stop || eos < 0)
        return denoise->length;
    for (size_t i = 0; i < denoise->length; i++) {
        if (denoise->canvas[i] == mask)
            return denoise->length;
        if (i >= denoise->prompt && denoise->canvas[i] == eos)
            return i;
    }
    return denoise->length;
}

/* What follows position at becomes EOS. Of what this step revealed behind it only the id changes;
 * the others come in between, from the last one on, so that positions still ascend. */
static size_t fill_tail(struct caloris_denoise *denoise, size_t at, struct caloris_reveal *reveals,
                        size_t n)
{
    const int32_t eos = denoise->params.eos_id;
    size_t total = n;
    for (size_t i = at + 1; i < denoise->length; i++)
        total += denoise->canvas[i] != eos;
    for (size_t i = 0; i < n; i++)
        total -= reveals[i].position > at && reveals[i].id != eos; /* counted twice */
    size_t to = total;
    for (size_t i = denoise->length; i-- > at + 1;) {
        const bool chosen = n > 0 && reveals[n - 1].position == i;
        if (chosen)
            n--;
        if (denoise->canvas[i] != eos) {
            reveals[--to] =
                (struct caloris_reveal){.position = (uint32_t)i, .id = eos, .log_p = NAN};
            denoise->canvas[i] = eos;
            denoise->marks[i].log_p = NAN; /* that of what stood there */
        } else if (chosen) {
            reveals[--to] = reveals[n];
        }
    }
    denoise->masks = 0;
    return total;
}

size_t caloris_denoise_apply(struct caloris_denoise *denoise, struct caloris_reveal *reveals,
                             size_t n)
{
    denoise->masks -= n;
    denoise->step++;
    for (size_t i = 0; i < n; i++) {
        denoise->canvas[reveals[i].position] = reveals[i].id;
        denoise->marks[reveals[i].position] =
            (struct caloris_mark){denoise->step, reveals[i].log_p};
    }
    denoise->block_step++;
    /* A threshold reveals at least one. If no row had a candidate, none ever will. */
    const bool stuck = n == 0 && denoise->params.commit != CALORIS_COMMIT_QUOTA;
    const size_t end = end_of_text(denoise);
    if (end < denoise->length) {
        n = fill_tail(denoise, end, reveals, n);
        denoise->done = true;
    } else if (stuck) {
        denoise->done = true;
    } else {
        skip_finished_blocks(denoise);
    }
    return n;
}

double caloris_denoise_score(const struct caloris_denoise *denoise)
{
    const struct caloris_job_params *params = &denoise->params;
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < denoise->length; i++) {
        const struct caloris_mark *mark = &denoise->marks[i];
        if (mark->step > 0 && !isnan(mark->log_p)) {
            sum += (double)mark->log_p;
            n++;
        }
        const int32_t id = denoise->canvas[i];
        if (i >= denoise->prompt && id >= 0 && (id == params->eos_id || id == params->eot_id))
            break;
    }
    return n > 0 ? sum / (double)n : (double)NAN;
}
