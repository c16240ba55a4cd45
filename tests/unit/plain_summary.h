/* tests/unit/plain_summary.h: a logit summary as engine.h defines it, straight from a row of
 * logits. */
#ifndef PLAIN_SUMMARY_H
#define PLAIN_SUMMARY_H

#include "worker/engine.h"

/* One row at position, its candidates [rule->best]: logits [vocab], u [vocab] its unconditional
 * partner or NULL. */
void plain_summary(const double *logits, const double *u, size_t vocab, uint32_t position,
                   const struct caloris_rule *rule, struct caloris_summary *summary,
                   struct caloris_candidate *candidates);

#endif
