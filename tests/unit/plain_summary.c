#include "tests/unit/plain_summary.h"

#include <math.h>
#include <stdbool.h>

static bool is_special(const struct caloris_rule *rule, size_t id, uint32_t flag)
{
    for (uint32_t i = 0; i < rule->specials; i++) {
        if ((size_t)rule->special[i].id == id && rule->special[i].flags & flag)
            return true;
    }
    return false;
}

static double guided(const double *logits, const double *u, size_t id, double guidance)
{
    return u ? u[id] + (guidance + 1) * (logits[id] - u[id]) : logits[id];
}

/* Into its place among the best [n]. */
static void keep(struct caloris_candidate *best, uint32_t n, struct caloris_candidate one)
{
    for (uint32_t b = 0; b < n; b++) {
        if (one.score > best[b].score) {
            const struct caloris_candidate moved = best[b];
            best[b] = one;
            one = moved;
        }
    }
}

void plain_summary(const double *logits, const double *u, size_t vocab, uint32_t position,
                   const struct caloris_rule *rule, struct caloris_summary *summary,
                   struct caloris_candidate *candidates)
{
    size_t top = vocab;
    *summary = (struct caloris_summary){.max = -INFINITY};
    for (size_t b = 0; b < caloris_rule_candidates(rule); b++)
        candidates[b] = (struct caloris_candidate){.id = -1, .score = -INFINITY};
    for (size_t id = 0; id < vocab; id++) {
        const double x = (float)guided(logits, u, id, (double)rule->guidance);
        double score = x;
        if (rule->temperature > 0)
            score += (double)rule->temperature *
                     caloris_noise_gumbel(&rule->noise, position, (uint32_t)id);
        if (!is_special(rule, id, CALORIS_NO_SUM) && x > summary->max) {
            summary->max = x;
            top = id;
        }
        if (is_special(rule, id, CALORIS_NO_CHOICE))
            continue;
        keep(candidates, rule->best, (struct caloris_candidate){(int32_t)id, (float)x, score});
        if (rule->likeliest)
            keep(candidates + rule->best, rule->best,
                 (struct caloris_candidate){(int32_t)id, (float)x, x});
    }
    while (summary->found < rule->best && candidates[summary->found].id >= 0)
        summary->found++;
    for (size_t id = 0; id < vocab; id++) {
        const double below =
            (double)(float)guided(logits, u, id, (double)rule->guidance) - summary->max;
        if (id == top || is_special(rule, id, CALORIS_NO_SUM))
            continue;
        summary->rest += exp(below);
        summary->moment += below * exp(below);
    }
}
