/* tests/unit/plain_decodes.h: decodes made by loops that are written as docs/DECODING.md says them,
 * row by row in float64, slow and without a thought of speed: what caches, orders and commits are
 * held against where nobody recorded a run. */
#ifndef PLAIN_DECODES_H
#define PLAIN_DECODES_H

#include "tests/unit/golden_decodes.h"

/* Runs of every cache on the model of decodes' folder, appended to decodes. The same requests for
 * the same model; those whose writes change with noise of 1e-3 on every logit are left out. */
void plain_decodes_append(struct golden_decodes *decodes);

/* As golden_decodes_load, but with these runs alone. */
void plain_decodes_load(const char *model, struct golden_decodes *decodes);

#endif
