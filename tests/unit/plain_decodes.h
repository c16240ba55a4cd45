/* tests/unit/plain_decodes.h: decodes made by loops that are written as docs/DECODING.md says them,
 * row by row in float64, slow and without a thought of speed: what caches, orders and commits are
 * held against where nobody recorded a run. */
#ifndef PLAIN_DECODES_H
#define PLAIN_DECODES_H

#include "tests/unit/golden_decodes.h"

/* Runs of every cache on the model of decodes' folder, appended to decodes. The same requests for
 * the same model; one whose writes change with noise of 1e-3 on every logit fails the test. */
void plain_decodes_append(struct golden_decodes *decodes);

/* As golden_decodes_load, but with these runs alone. */
void plain_decodes_load(const char *model, struct golden_decodes *decodes);

/* Several answers to one request each: decodes [n] in a row that differ in their candidate alone.
 * best[i] is n of request i, requests how many there are. */
enum { PLAIN_BEST_REQUESTS = 8 };
struct plain_best {
    struct golden_decodes decodes;
    size_t best[PLAIN_BEST_REQUESTS], requests;
};
void plain_best_load(const char *model, struct plain_best *best);

/* Requests drawn at random: caches, orders, commits, lengths, holes, guidance, several answers.
 * One that is drawn is best[] decodes in a row, as above. */
struct plain_drawn {
    struct golden_decodes decodes;
    size_t *best; /* [requests] */
    size_t requests;
};
/* As many as take so many seconds, at most so many; at least one. The first ones of a seed are
 * always the same. */
void plain_drawn_load(const char *model, uint64_t seed, double seconds, size_t most,
                      struct plain_drawn *drawn);
void plain_drawn_free(struct plain_drawn *drawn);

#endif
