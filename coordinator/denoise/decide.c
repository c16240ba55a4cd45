#include "coordinator/denoise/denoise.h"
#include "coordinator/denoise/loop.h"
#include "coordinator/denoise/sort.h"

#include <math.h>
#include <string.h>

/* One wanted row of this step. */
struct row {
    uint32_t position;
    const struct caloris_summary *summary;
    const struct caloris_candidate *choice;
};

/* ---- orders: how sure ------------------------------------------------------------------------ */

static bool is_left_out(const struct caloris_job_params *params, int32_t id)
{
    return params->confidence_eos_eot_inf && (id == params->eos_id || id == params->eot_id);
}

/* -log p = log1p(rest) + (max - x): p itself rounds to 1 long before the order of rows is lost. A
 * choice that is left out of the sums has probability 0. */
static void by_confidence(const struct caloris_denoise *denoise, const struct row *row,
                          struct caloris_ranked *to)
{
    const double below = row->summary->max - (double)row->choice->logit;
    const double surprise = below + log1p(row->summary->rest);
    const double probability = exp(-below) / (1 + row->summary->rest);
    const bool known = !is_left_out(&denoise->params, row->choice->id) && !isnan(surprise);
    to->surprise = known ? surprise : INFINITY;
    to->probability = known ? probability : 0;
}

static void by_chance(const struct caloris_denoise *denoise, const struct row *row,
                      struct caloris_ranked *to)
{
    const struct caloris_noise_key key = caloris_denoise_key(denoise, CALORIS_NOISE_ORDER);
    const double uniform = caloris_noise_uniform(&key, row->position, 0);
    to->surprise = -log(uniform);
    to->probability = uniform;
}

static void (*const orders[])(const struct caloris_denoise *, const struct row *,
                              struct caloris_ranked *) = {
    [CALORIS_ORDER_CONFIDENCE] = by_confidence,
    [CALORIS_ORDER_RANDOM] = by_chance,
};

/* ---- commits: how many of ranked [n], n > 0, surest first ------------------------------------ */

static size_t by_quota(const struct caloris_denoise *denoise, const struct caloris_ranked *ranked,
                       size_t n)
{
    (void)ranked;
    const size_t quota = caloris_denoise_quota(denoise);
    return quota < n ? quota : n;
}

static size_t by_threshold(const struct caloris_denoise *denoise,
                           const struct caloris_ranked *ranked, size_t n)
{
    size_t count = 1; /* the surest always */
    while (count < n && ranked[count].probability >= denoise->params.threshold)
        count++;
    return count;
}

/* The c-th surest, c >= 2, goes while p >= 1 - f / (c + 1).       Fast-dLLM, arXiv 2505.22618,
 * §3.3 */
static size_t by_factor(const struct caloris_denoise *denoise, const struct caloris_ranked *ranked,
                        size_t n)
{
    size_t count = 1;
    while (count < n &&
           ranked[count].probability >= 1 - denoise->params.factor / (double)(count + 2))
        count++;
    return count;
}

static size_t (*const commits[])(const struct caloris_denoise *, const struct caloris_ranked *,
                                 size_t) = {
    [CALORIS_COMMIT_QUOTA] = by_quota,
    [CALORIS_COMMIT_THRESHOLD] = by_threshold,
    [CALORIS_COMMIT_FACTOR] = by_factor,
};

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
        chosen[i] = false;
        const struct row row = {positions[i], &summaries[i], &candidates[i * best]};
        if (row.summary->found == 0)
            continue; /* nothing may be chosen here */
        ranked[ranks].row = (uint32_t)i;
        orders[denoise->params.order](denoise, &row, &ranked[ranks]);
        ranks++;
    }
    caloris_denoise_sort(ranked, ranks);
    const size_t count = ranks > 0 ? commits[denoise->params.commit](denoise, ranked, ranks) : 0;
    for (size_t i = 0; i < count; i++)
        chosen[ranked[i].row] = true;

    size_t revealed = 0;
    for (size_t i = 0; i < n; i++) {
        if (!chosen[i])
            continue;
        const struct row row = {positions[i], &summaries[i], &candidates[i * best]};
        struct caloris_ranked sure;
        by_confidence(denoise, &row, &sure);
        reveals[revealed++] = (struct caloris_reveal){
            .position = row.position,
            .id = row.choice->id,
            .confidence = (float)sure.probability,
        };
    }
    return revealed;
}
