#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/plain_loop.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CANVAS = 48 };

struct loop {
    const struct tiny_llada *model;
    const struct caloris_job_params *p;
    size_t length, prompt, vocab;
    int32_t canvas[CANVAS];
    bool given[CANVAS]; /* of the prompt, no hole */
    bool open[CANVAS];  /* before the block, and masked when the block began */
    bool fresh[CANVAS]; /* revealed by the last step */
    bool computed[CANVAS];
    double log_p[CANVAS]; /* of what was revealed; else NAN */
    struct tiny_llada_kept *kept, *unconditional_kept;
    double *logits, *unconditional; /* [length, vocab] */
    uint32_t step;
    uint64_t disturb; /* not 0: noise on the logits, of this seed */
    json_t *trace;
};

/* What a candidate looks like. */
struct sight {
    int32_t choice;
    double p, second; /* of the choice and of its runner-up */
    double lead;      /* in log p, of the likeliest over the second */
    double entropy;
};

/* ---- one step -------------------------------------------------------------------------------- */

/* docs/DECODING.md, "Caches". */
static void choose_rows(struct loop *loop, size_t block, size_t first, size_t end, bool entry)
{
    const struct caloris_job_params *p = loop->p;
    const bool full = p->cache == CALORIS_CACHE_NONE || (entry && block % p->refresh == 0);
    for (size_t i = 0; i < loop->length; i++) {
        const bool masked = loop->canvas[i] == p->mask_id;
        if (entry)
            loop->open[i] = i < first && masked;
        const bool in_block = i >= first && i < end;
        const bool behind = i >= end;
        const bool late = entry && loop->fresh[i];
        if (full)
            loop->computed[i] = true;
        else if (p->cache == CALORIS_CACHE_PREFIX)
            loop->computed[i] = in_block || behind || loop->open[i] || late;
        else if (p->cache == CALORIS_CACHE_DUAL)
            loop->computed[i] = in_block || loop->open[i] || late;
        else
            loop->computed[i] = (masked && !behind) || loop->fresh[i];
    }
}

static double disturbance(const struct loop *loop, size_t at)
{
    const struct caloris_noise_key key = {loop->disturb, 0, CALORIS_NOISE_TOKEN, loop->step};
    return loop->disturb ? 2e-3 * (caloris_noise_uniform(&key, (uint32_t)at, 0) - 0.5) : 0;
}

static void compute(struct loop *loop)
{
    const double w = loop->p->cfg_scale;
    int32_t masked[CANVAS];
    assert_int_equal(
        tiny_llada_rows(loop->model, loop->kept, loop->canvas, loop->computed, loop->logits), 0);
    for (size_t i = 0; i < loop->length; i++)
        masked[i] = loop->given[i] ? loop->p->mask_id : loop->canvas[i];
    if (w > 0)
        assert_int_equal(tiny_llada_rows(loop->model, loop->unconditional_kept, masked,
                                         loop->computed, loop->unconditional),
                         0);
    for (size_t k = 0; k < loop->length * loop->vocab; k++) {
        if (w > 0)
            loop->logits[k] =
                loop->unconditional[k] + (w + 1) * (loop->logits[k] - loop->unconditional[k]);
        loop->logits[k] += disturbance(loop, k);
    }
}

static struct sight look(const struct loop *loop, size_t i)
{
    const struct caloris_noise_key key = {(uint64_t)loop->p->seed, loop->p->candidate,
                                          CALORIS_NOISE_TOKEN, loop->step};
    const double *x = loop->logits + i * loop->vocab;
    struct sight sight = {.choice = -1};
    double best = -INFINITY, next = -INFINITY, sum = 0, second = 0;
    double most = -INFINITY, less = -INFINITY; /* the largest two logits, without noise */
    for (uint32_t v = 0; v < loop->vocab; v++) {
        double score = x[v];
        if (loop->p->temperature > 0)
            score += loop->p->temperature * caloris_noise_gumbel(&key, (uint32_t)i, v);
        sum += exp(x[v]);
        if ((int32_t)v == loop->p->mask_id)
            continue;
        less = fmax(less, fmin(x[v], most));
        most = fmax(most, x[v]);
        if (score > best) {
            next = best;
            second = sight.choice >= 0 ? x[sight.choice] : 0;
            best = score;
            sight.choice = (int32_t)v;
        } else if (score > next) {
            next = score;
            second = x[v];
        }
    }
    sight.p = exp(x[sight.choice]) / sum;
    sight.second = exp(second) / sum;
    sight.lead = most - less;
    for (uint32_t v = 0; v < loop->vocab; v++)
        sight.entropy -= exp(x[v]) / sum * log(exp(x[v]) / sum);
    return sight;
}

/* Larger is surer. */
static double sureness(const struct loop *loop, const struct sight *sight, size_t i)
{
    const struct caloris_noise_key key = {(uint64_t)loop->p->seed, loop->p->candidate,
                                          CALORIS_NOISE_ORDER, loop->step};
    if (loop->p->order == CALORIS_ORDER_RANDOM)
        return caloris_noise_uniform(&key, (uint32_t)i, 0);
    if (loop->p->order == CALORIS_ORDER_MARGIN)
        return sight->p - sight->second;
    if (loop->p->order == CALORIS_ORDER_ENTROPY)
        return -sight->entropy;
    return loop->p->order == CALORIS_ORDER_LEFT_TO_RIGHT ? -(double)i : sight->p;
}

/* Reveals some of the masks before end. */
static void reveal(struct loop *loop, size_t end, size_t quota)
{
    const struct caloris_job_params *p = loop->p;
    struct sight sights[CANVAS];
    double sure[CANVAS];
    bool goes[CANVAS] = {false}, stopped = false, sure_of_all = p->early_commit > 0;
    double sum = 0, most = 0; /* of the entropies so far: all but the largest; the largest */
    size_t candidates = 0;
    for (size_t i = 0; i < loop->length; i++) {
        sure[i] = -INFINITY;
        if (i >= end || loop->canvas[i] != p->mask_id)
            continue;
        assert_true(loop->computed[i]);
        sights[i] = look(loop, i);
        sure[i] = sureness(loop, &sights[i], i);
        candidates++;
        sure_of_all = sure_of_all && sights[i].lead >= p->early_commit;
    }
    for (size_t n = 1; n <= candidates; n++) { /* n-th in order */
        size_t top = 0;
        for (size_t i = 1; i < loop->length; i++)
            top = sure[i] > sure[top] ? i : top;
        const double q = p->order == CALORIS_ORDER_RANDOM ? sure[top] : sights[top].p;
        if (p->commit == CALORIS_COMMIT_QUOTA)
            goes[top] = n <= quota;
        else if (p->commit == CALORIS_COMMIT_THRESHOLD)
            goes[top] = n == 1 || q >= p->threshold;
        else if (p->commit == CALORIS_COMMIT_FACTOR)
            goes[top] = n == 1 || (!stopped && q >= 1 - p->factor / (double)(n + 1));
        else
            goes[top] = n == 1 || (!stopped && sum + fmin(most, sights[top].entropy) <= p->gamma);
        sum += fmin(most, sights[top].entropy);
        most = fmax(most, sights[top].entropy);
        stopped = stopped || !goes[top];
        goes[top] = goes[top] || (sure_of_all && (p->commit != CALORIS_COMMIT_QUOTA || quota > 0));
        sure[top] = -INFINITY;
    }
    json_t *writes = json_array(), *computed = json_array();
    for (size_t i = 0; i < loop->length; i++) {
        loop->fresh[i] = goes[i];
        if (loop->computed[i])
            json_array_append_new(computed, json_integer((json_int_t)i));
        if (!goes[i])
            continue;
        loop->canvas[i] = sights[i].choice;
        loop->log_p[i] = log(sights[i].p);
        json_array_append_new(writes, json_pack("[i, i]", (int)i, (int)sights[i].choice));
    }
    json_array_append_new(loop->trace,
                          json_pack("{s:o, s:o}", "computed", computed, "writes", writes));
    loop->step++;
}

/* docs/DECODING.md, "EOS and end of turn". What turns into EOS is written by the last step, too. */
static bool stop_early(struct loop *loop)
{
    const struct caloris_job_params *p = loop->p;
    size_t end = loop->prompt;
    while (end < loop->length && loop->canvas[end] != p->eos_id)
        end++;
    for (size_t i = 0; i < end && i < loop->length; i++) {
        if (loop->canvas[i] == p->mask_id)
            return false;
    }
    if (!p->early_stop || end == loop->length)
        return false;
    json_t *writes = json_array();
    for (size_t i = 0; i < loop->length; i++) {
        const bool turns = i > end && loop->canvas[i] != p->eos_id;
        if (turns)
            loop->canvas[i] = p->eos_id;
        if (turns || loop->fresh[i])
            json_array_append_new(writes, json_pack("[i, i]", (int)i, (int)loop->canvas[i]));
    }
    json_t *last = json_array_get(loop->trace, json_array_size(loop->trace) - 1);
    json_object_set_new(last, "writes", writes);
    return true;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static size_t masks_in(const struct loop *loop, size_t first, size_t end)
{
    size_t masks = 0;
    for (size_t i = first; i < end; i++)
        masks += loop->canvas[i] == loop->p->mask_id;
    return masks;
}

static void run(struct loop *loop)
{
    const struct caloris_job_params *p = loop->p;
    const size_t blocks = (p->gen_length + p->block_length - 1) / p->block_length;
    for (size_t block = 0; block < blocks; block++) {
        const size_t first = loop->prompt + block * p->block_length;
        const size_t end =
            first + p->block_length < loop->length ? first + p->block_length : loop->length;
        const size_t m = masks_in(loop, p->quota == CALORIS_QUOTA_BLOCK ? first : 0, end);
        const size_t steps = p->steps > 0 ? p->steps / blocks : m;
        for (size_t t = 0;; t++) {
            const bool full = masks_in(loop, 0, end) == 0;
            const bool over = p->commit != CALORIS_COMMIT_QUOTA
                                  ? full
                                  : t == steps || (full && p->early_commit > 0);
            if (over)
                break;
            choose_rows(loop, block, first, end, t == 0);
            compute(loop);
            reveal(loop, end, p->commit == CALORIS_COMMIT_QUOTA ? m / steps + (t < m % steps) : 0);
            if (stop_early(loop))
                return;
        }
    }
}

/* Mean of log p over what was revealed, up to the first EOS. */
static double score_of(const struct loop *loop)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < loop->length; i++) {
        n += isnan(loop->log_p[i]) ? 0 : 1;
        sum += isnan(loop->log_p[i]) ? 0 : loop->log_p[i];
        if (i >= loop->prompt && loop->canvas[i] == loop->p->eos_id)
            break;
    }
    return sum / (double)n;
}

json_t *plain_loop_decode(const struct tiny_llada *model, const struct golden_decode *decode,
                          int32_t *canvas, uint64_t disturb, double *score)
{
    static struct loop loop;
    const size_t length = decode->length;
    assert_true(length <= CANVAS);
    loop = (struct loop){.model = model, .p = &decode->params, .length = length};
    loop.prompt = decode->n_prompt;
    loop.vocab = tiny_llada_vocab(model);
    loop.disturb = disturb;
    loop.trace = json_array();
    loop.kept = tiny_llada_keep(model, length);
    loop.unconditional_kept = tiny_llada_keep(model, length);
    loop.logits = calloc(length * loop.vocab, sizeof(double));
    loop.unconditional = calloc(length * loop.vocab, sizeof(double));
    assert_true(loop.kept && loop.unconditional_kept && loop.logits && loop.unconditional);
    memcpy(loop.canvas, canvas, length * sizeof(*canvas));
    for (size_t i = 0; i < length; i++)
        loop.log_p[i] = NAN;
    for (size_t i = 0; i < loop.prompt; i++)
        loop.given[i] = canvas[i] != decode->params.mask_id;
    run(&loop);
    memcpy(canvas, loop.canvas, length * sizeof(*canvas));
    if (score)
        *score = score_of(&loop);
    free(loop.kept);
    free(loop.unconditional_kept);
    free(loop.logits);
    free(loop.unconditional);
    return loop.trace;
}
