/* Which masks are revealed: whole loops against the same loops written out on raw logits in
 * float64, every order with every commit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/denoise/denoise.h"
#include "tests/unit/plain_summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 9, EOS = 8, EOT = 7, VOCAB = 10, LENGTH = 14, PROMPT = 4 };

static uint32_t dice(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* What the plain loop knows of a row: its choice and its distribution in full. */
struct plain {
    int32_t choice;
    bool left_out; /* the choice is: p is 0, whatever else */
    double p, second, entropy, lead;
};

static bool counts(const struct caloris_job_params *p, int v)
{
    return !((p->logits_eos_inf || p->confidence_eos_eot_inf) && v == EOS) &&
           !(p->confidence_eos_eot_inf && v == EOT);
}

/* log p of the most probable, less that of the second; noise has no part in it. */
static double plain_lead(const double *x, const struct caloris_job_params *p)
{
    int first = -1, next = -1;
    for (int v = 0; v < VOCAB; v++) {
        if (v == MASK || (p->logits_eos_inf && v == EOS))
            continue;
        if (first < 0 || x[v] > x[first]) {
            next = first;
            first = v;
        } else if (next < 0 || x[v] > x[next]) {
            next = v;
        }
    }
    return !counts(p, first) ? -INFINITY : !counts(p, next) ? INFINITY : x[first] - x[next];
}

static struct plain plain_row(const double *x, const struct caloris_job_params *p, size_t i,
                              uint32_t step_index)
{
    const struct caloris_noise_key key = {(uint64_t)p->seed, 0, CALORIS_NOISE_TOKEN, step_index};
    double score[VOCAB], sum = 0;
    int first = -1, next = -1;
    for (int v = 0; v < VOCAB; v++) {
        score[v] = x[v] + p->temperature * caloris_noise_gumbel(&key, (uint32_t)i, (uint32_t)v);
        sum += counts(p, v) ? exp(x[v]) : 0;
    }
    for (int v = 0; v < VOCAB; v++) {
        if (v == MASK || (p->logits_eos_inf && v == EOS))
            continue;
        if (first < 0 || score[v] > score[first]) {
            next = first;
            first = v;
        } else if (next < 0 || score[v] > score[next]) {
            next = v;
        }
    }
    struct plain row = {.choice = first, .left_out = !counts(p, first)};
    row.p = row.left_out ? 0 : exp(x[first]) / sum;
    row.second = counts(p, next) ? exp(x[next]) / sum : 0;
    row.lead = row.left_out ? -INFINITY : plain_lead(x, p);
    for (int v = 0; v < VOCAB; v++)
        row.entropy -= counts(p, v) ? exp(x[v]) / sum * log(exp(x[v]) / sum) : 0;
    if (row.left_out)
        row.entropy = INFINITY;
    return row;
}

static double plain_score(const struct plain *row, const struct caloris_job_params *p, size_t i,
                          uint32_t step_index)
{
    const struct caloris_noise_key key = {(uint64_t)p->seed, 0, CALORIS_NOISE_ORDER, step_index};
    const double scores[] = {
        [CALORIS_ORDER_CONFIDENCE] = row->p,
        [CALORIS_ORDER_RANDOM] = caloris_noise_uniform(&key, (uint32_t)i, 0),
        [CALORIS_ORDER_MARGIN] = row->left_out ? -10 : row->p - row->second,
        [CALORIS_ORDER_ENTROPY] = row->left_out ? -1e9 : -row->entropy,
        [CALORIS_ORDER_LEFT_TO_RIGHT] = -(double)i,
    };
    return scores[p->order];
}

/* Whether the n-th in order, n >= 2, goes; ps and hs: what the first n have. */
static bool plain_goes(const struct caloris_job_params *p, size_t n, const double *ps,
                       const double *hs, size_t quota)
{
    double sum = 0, most = 0;
    for (size_t k = 0; k < n; k++) {
        sum += fmin(hs[k], 1e6); /* an infinite one would hide itself */
        most = fmax(most, fmin(hs[k], 1e6));
    }
    if (p->commit == CALORIS_COMMIT_QUOTA)
        return n <= quota;
    if (p->commit == CALORIS_COMMIT_THRESHOLD)
        return ps[n - 1] >= p->threshold;
    if (p->commit == CALORIS_COMMIT_FACTOR)
        return ps[n - 1] >= 1 - p->factor / (double)(n + 1);
    return sum - most <= p->gamma;
}

/* One step of LLaDA's loop as decoding papers write it: softmax, score, top k. */
static void plain_step(const double *logits, int32_t *canvas, const struct caloris_job_params *p,
                       size_t end, size_t quota, uint32_t step_index)
{
    struct plain rows[LENGTH];
    double score[LENGTH], ps[LENGTH], hs[LENGTH];
    bool open[LENGTH], sure = p->early_commit > 0 && quota > 0, stopped = false;
    size_t candidates = 0;
    for (size_t i = 0; i < LENGTH; i++) {
        rows[i] = plain_row(logits + i * VOCAB, p, i, step_index);
        score[i] = plain_score(&rows[i], p, i, step_index);
        open[i] = canvas[i] == MASK && i < end;
        candidates += open[i];
        sure = sure && (!open[i] || rows[i].lead >= p->early_commit);
    }
    if (quota == 0 && p->commit == CALORIS_COMMIT_QUOTA)
        return;
    for (size_t n = 1; n <= candidates; n++) {
        size_t top = LENGTH;
        for (size_t i = 0; i < LENGTH; i++)
            top = open[i] && (top == LENGTH || score[i] > score[top]) ? i : top;
        ps[n - 1] = p->order == CALORIS_ORDER_RANDOM ? score[top] : rows[top].p;
        hs[n - 1] = rows[top].entropy;
        open[top] = false;
        const bool goes = n == 1 || plain_goes(p, n, ps, hs, quota);
        if (sure || (goes && !stopped))
            canvas[top] = rows[top].choice;
        stopped = stopped || (!goes && p->commit != CALORIS_COMMIT_THRESHOLD);
    }
}

static void compare_with_plain(uint64_t seed, const struct caloris_job_params *params)
{
    int32_t canvas[LENGTH], plain[LENGTH];
    struct caloris_mark marks[LENGTH];
    struct caloris_err err;
    double logits[LENGTH * VOCAB];
    struct caloris_denoise denoise;
    uint32_t positions[LENGTH];
    struct caloris_summary summaries[LENGTH];
    struct caloris_candidate candidates[4 * LENGTH];
    struct caloris_reveal reveals[LENGTH];
    struct caloris_rule rule;
    void *scratch = malloc(caloris_denoise_scratch_bytes(LENGTH));
    assert_non_null(scratch);
    for (size_t i = 0; i < LENGTH; i++)
        canvas[i] = i >= PROMPT || dice(&seed) % 3 == 0 ? MASK : 1;
    memcpy(plain, canvas, sizeof(plain));
    if (caloris_denoise_start(&denoise, params, canvas, marks, LENGTH, PROMPT, &err) < 0)
        fail_msg("%s", err.text);
    size_t block = SIZE_MAX, masks = 0;
    uint32_t block_step = 0;
    while (!denoise.done) {
        for (size_t i = 0; i < LENGTH * VOCAB; i++)
            logits[i] = (float)(8.0 * dice(&seed) / 0x80000000u - 4.0);
        const size_t end = PROMPT + (denoise.block + 1) * params->block_length;
        if (denoise.block != block) {
            block = denoise.block;
            block_step = 0;
            masks = 0;
            for (size_t i = 0; i < end; i++)
                masks += plain[i] == MASK;
        }
        const size_t steps = params->steps / (params->gen_length / params->block_length);
        const size_t quota = masks / steps + (block_step < masks % steps);
        plain_step(logits, plain, params, end, params->commit == CALORIS_COMMIT_QUOTA ? quota : 1,
                   denoise.step);
        block_step++;

        size_t n = caloris_denoise_wanted(&denoise, positions);
        caloris_denoise_rule(&denoise, &rule);
        for (size_t i = 0; i < n; i++)
            plain_summary(logits + positions[i] * VOCAB, NULL, VOCAB, positions[i], &rule,
                          &summaries[i], &candidates[i * caloris_rule_candidates(&rule)]);
        n = caloris_denoise_decide(&denoise, positions, summaries, candidates, n,
                                   caloris_rule_candidates(&rule), reveals, scratch);
        caloris_denoise_apply(&denoise, reveals, n);
        assert_memory_equal(canvas, plain, sizeof(canvas));
    }
    assert_int_equal(denoise.masks, 0);
    free(scratch);
}

static void equals_the_plain_loop(void **state)
{
    (void)state;
    enum { ROUNDS = 40 };
    for (int order = 0; order <= CALORIS_ORDER_LEFT_TO_RIGHT; order++) {
        for (int commit = 0; commit <= CALORIS_COMMIT_ENTROPY_BOUNDED; commit++) {
            for (uint64_t round = 0; round < ROUNDS; round++) {
                struct caloris_job_params params;
                caloris_job_params_preset(&params, CALORIS_PRESET_EXACT);
                params.gen_length = LENGTH - PROMPT;
                params.mask_id = MASK;
                params.early_stop = false;
                params.commit = (enum caloris_commit)commit;
                params.order = (enum caloris_order)order;
                params.block_length = round % 2 ? 5 : 10;
                params.steps = round % 3 ? 6 : 2;
                params.threshold = 0.1 * (double)(round % 7);
                params.factor = 0.5 * (double)(round % 5);
                params.gamma = 0.6 * (double)(round % 6);
                params.early_commit = round % 6 == 3 ? 0.05 * (double)(round % 11) : 0;
                params.temperature = round % 4 && round % 12 != 3 ? 0 : 0.7;
                params.seed = (int64_t)round;
                params.eos_id = EOS;
                params.eot_id = EOT;
                params.logits_eos_inf = round % 5 == 1;
                params.confidence_eos_eot_inf = round % 5 == 2;
                compare_with_plain(round * 1000 + 17, &params);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(equals_the_plain_loop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
