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

void plain_summary(const double *logits, const double *u, size_t vocab, uint32_t position,
                   const struct caloris_rule *rule, struct caloris_summary *summary,
                   struct caloris_candidate *candidate)
{
    size_t top = vocab;
    *summary = (struct caloris_summary){.max = -INFINITY};
    *candidate = (struct caloris_candidate){.id = -1, .score = -INFINITY};
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
        if (!is_special(rule, id, CALORIS_NO_CHOICE) && score > candidate->score) {
            *candidate = (struct caloris_candidate){(int32_t)id, (float)x, score};
            summary->found = 1;
        }
    }
    for (size_t id = 0; id < vocab; id++) {
        const double below =
            (double)(float)guided(logits, u, id, (double)rule->guidance) - summary->max;
        if (id == top || is_special(rule, id, CALORIS_NO_SUM))
            continue;
        summary->rest += exp(below);
        summary->moment += below * exp(below);
    }
}
