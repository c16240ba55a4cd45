#include "coordinator/denoise/denoise.h"
#include "coordinator/denoise/loop.h"
#include "coordinator/denoise/sort.h"

#include <math.h>
#include <string.h>

/* One wanted row of this step. */
struct row {
    uint32_t position;
    const struct caloris_summary *summary;
    const struct caloris_candidate *choice; /* the others behind it */
};

/* ---- orders: how sure ------------------------------------------------------------------------ */

static bool is_left_out(const struct caloris_job_params *params, int32_t id)
{
    return params->confidence_eos_eot_inf && (id == params->eos_id || id == params->eot_id);
}

/* The second best; NULL when there is none, or it is left out of the sums and so impossible. */
static const struct caloris_candidate *runner_up(const struct caloris_denoise *denoise,
                                                 const struct row *row)
{
    const struct caloris_candidate *second = row->choice + 1;
    return row->summary->found < 2 || is_left_out(&denoise->params, second->id) ? NULL : second;
}

/* -log p = log1p(rest) + (max - x): p itself rounds to 1 long before the order of rows is lost. A
 * choice that is left out of the sums has probability 0. Everything of to but the row. */
static void by_confidence(const struct caloris_denoise *denoise, const struct row *row,
                          struct caloris_ranked *to)
{
    const struct caloris_summary *sums = row->summary;
    const double below = sums->max - (double)row->choice->logit;
    const double surprise = below + log1p(sums->rest);
    const double entropy = log1p(sums->rest) - sums->moment / (1 + sums->rest);
    const bool known = !is_left_out(&denoise->params, row->choice->id) && !isnan(surprise);
    to->key = known ? surprise : INFINITY;
    to->probability = known ? exp(-below) / (1 + sums->rest) : 0;
    to->entropy = known && !isnan(entropy) ? entropy : INFINITY;
}

/* The key alone of each other order; to holds what by_confidence says. */

static double by_chance(const struct caloris_denoise *denoise, const struct row *row,
                        struct caloris_ranked *to)
{
    const struct caloris_noise_key key = caloris_denoise_key(denoise, CALORIS_NOISE_ORDER);
    to->probability = caloris_noise_uniform(&key, row->position, 0);
    return -to->probability;
}

/* 1 - (p - p of the runner-up), put so that it does not round to 0 where p rounds to 1. */
static double by_margin(const struct caloris_denoise *denoise, const struct row *row,
                        struct caloris_ranked *to)
{
    const struct caloris_summary *sums = row->summary;
    const struct caloris_candidate *second = runner_up(denoise, row);
    if (isinf(to->key))
        return INFINITY;
    const double others = sums->rest - expm1((double)row->choice->logit - sums->max);
    return (others + (second ? exp((double)second->logit - sums->max) : 0)) / (1 + sums->rest);
}

static double by_entropy(const struct caloris_denoise *denoise, const struct row *row,
                         struct caloris_ranked *to)
{
    (void)denoise;
    (void)row;
    return to->entropy;
}

static double by_position(const struct caloris_denoise *denoise, const struct row *row,
                          struct caloris_ranked *to)
{
    (void)denoise;
    (void)to;
    return row->position;
}

static const struct {
    double (*key)(const struct caloris_denoise *, const struct row *, struct caloris_ranked *);
    uint32_t best; /* candidates that it looks at */
} orders[] = {
    [CALORIS_ORDER_CONFIDENCE] = {NULL, 1},           [CALORIS_ORDER_RANDOM] = {by_chance, 1},
    [CALORIS_ORDER_MARGIN] = {by_margin, 2},          [CALORIS_ORDER_ENTROPY] = {by_entropy, 1},
    [CALORIS_ORDER_LEFT_TO_RIGHT] = {by_position, 1},
};

uint32_t caloris_denoise_best(const struct caloris_denoise *denoise)
{
    return denoise->params.early_commit > 0 ? 2 : orders[denoise->params.order].best;
}

/* ---- commits: which of ranked [n], n > 0, surest first; the first always goes ---------------- */

/* Entropies of the ranks before: the largest, and the sum of the others. */
struct so_far {
    double largest, others;
};

static bool fits_quota(const struct caloris_denoise *denoise, const struct caloris_ranked *ranked,
                       size_t rank, struct so_far *so_far)
{
    (void)ranked;
    (void)so_far;
    return rank < caloris_denoise_quota(denoise);
}

static bool reaches_threshold(const struct caloris_denoise *denoise,
                              const struct caloris_ranked *ranked, size_t rank,
                              struct so_far *so_far)
{
    (void)so_far;
    return ranked[rank].probability >= denoise->params.threshold;
}

/* The n-th surest, n >= 2, goes while p >= 1 - f / (n + 1).       Fast-dLLM, arXiv 2505.22618,
 * §3.3 */
static bool reaches_factor(const struct caloris_denoise *denoise,
                           const struct caloris_ranked *ranked, size_t rank, struct so_far *so_far)
{
    (void)so_far;
    return ranked[rank].probability >= 1 - denoise->params.factor / (double)(rank + 2);
}

/* Σ H - max H over the first ones, this included, at most gamma.       EB-Sampler, arXiv
 * 2505.24857 */
static bool keeps_the_bound(const struct caloris_denoise *denoise,
                            const struct caloris_ranked *ranked, size_t rank, struct so_far *so_far)
{
    so_far->others += fmin(ranked[rank].entropy, so_far->largest);
    so_far->largest = fmax(ranked[rank].entropy, so_far->largest);
    return so_far->others <= denoise->params.gamma;
}

static const struct {
    bool (*goes)(const struct caloris_denoise *, const struct caloris_ranked *, size_t rank,
                 struct so_far *); /* asked for each rank in turn, from the second on */
    bool ends;                     /* the first that does not go ends it */
} commits[] = {
    [CALORIS_COMMIT_QUOTA] = {fits_quota, true},
    [CALORIS_COMMIT_THRESHOLD] = {reaches_threshold, false},
    [CALORIS_COMMIT_FACTOR] = {reaches_factor, true},
    [CALORIS_COMMIT_ENTROPY_BOUNDED] = {keeps_the_bound, true},
};

static void choose(const struct caloris_denoise *denoise, const struct caloris_ranked *ranked,
                   size_t n, bool *chosen)
{
    const enum caloris_commit commit = denoise->params.commit;
    struct so_far so_far = {.largest = n > 0 ? ranked[0].entropy : 0};
    for (size_t rank = 0; rank < n; rank++) {
        if (rank == 0 || commits[commit].goes(denoise, ranked, rank, &so_far))
            chosen[ranked[rank].row] = true;
        else if (commits[commit].ends)
            return;
    }
}

/* ---- early commit: the model is sure of every mask of the block ------------------------------ */

/* Of the two that are likeliest. Noise may have chosen another: that says nothing of how sure the
 * model is. */
static bool leads(const struct caloris_denoise *denoise, const struct row *row)
{
    const struct caloris_job_params *params = &denoise->params;
    const struct caloris_candidate *first = row->choice;
    if (params->temperature > 0)
        first += caloris_denoise_best(denoise);
    if (row->summary->found == 0 || is_left_out(params, row->choice->id) ||
        is_left_out(params, first->id))
        return false;
    return row->summary->found < 2 || is_left_out(params, first[1].id) ||
           (double)first->logit - (double)first[1].logit >= params->early_commit;
}

static bool all_lead(const struct caloris_denoise *denoise, const uint32_t *positions,
                     const struct caloris_summary *summaries,
                     const struct caloris_candidate *candidates, size_t n, size_t best)
{
    if (denoise->params.early_commit <= 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct row row = {positions[i], &summaries[i], &candidates[i * best]};
        if (!leads(denoise, &row))
            return false;
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------- */

/* Scratch: ranked [n], then chosen [n]. */
size_t caloris_denoise_scratch_bytes(size_t n)
{
    return n * (sizeof(struct caloris_ranked) + sizeof(bool));
}

size_t caloris_denoise_decide(const struct caloris_denoise *denoise, const uint32_t *positions,
                              const struct caloris_summary *summaries,
                              const struct caloris_candidate *candidates, size_t n, size_t best,
                              struct caloris_reveal *reveals, void *scratch)
{
    struct caloris_ranked *ranked = scratch;
    bool *chosen = (bool *)(ranked + n);
    size_t ranks = 0;
    for (size_t i = 0; i < n; i++) {
        chosen[i] = false; /* so far */
        const struct row row = {positions[i], &summaries[i], &candidates[i * best]};
        if (row.summary->found == 0)
            continue; /* nothing may be chosen here */
        struct caloris_ranked *to = &ranked[ranks++];
        to->row = (uint32_t)i;
        by_confidence(denoise, &row, to);
        if (orders[denoise->params.order].key)
            to->key = orders[denoise->params.order].key(denoise, &row, to);
    }
    caloris_denoise_sort(ranked, ranks);
    choose(denoise, ranked, ranks, chosen);
    const bool all = all_lead(denoise, positions, summaries, candidates, n, best);

    size_t revealed = 0;
    for (size_t i = 0; i < n; i++) {
        if (!chosen[i] && !all)
            continue;
        const struct row row = {positions[i], &summaries[i], &candidates[i * best]};
        struct caloris_ranked sure;
        by_confidence(denoise, &row, &sure);
        reveals[revealed++] = (struct caloris_reveal){
            .position = row.position,
            .id = row.choice->id,
            .confidence = (float)sure.probability,
            .log_p = isinf(sure.key) ? NAN : (float)-sure.key,
        };
    }
    return revealed;
}
