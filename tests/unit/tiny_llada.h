/* tests/unit/tiny_llada.h: LLaDA's forward in float64, as slow and plain as its formulas: what
 * decoding is tested on without an engine. Reads F32 safetensors of a small model. */
#ifndef TINY_LLADA_H
#define TINY_LLADA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tiny_llada;

/* NULL when something is missing or odd. */
struct tiny_llada *tiny_llada_load(const char *dir);
void tiny_llada_free(struct tiny_llada *model);

size_t tiny_llada_vocab(const struct tiny_llada *model);

/* K and V of every layer for n positions; NULL without memory. Free with free. */
struct tiny_llada_kept;
struct tiny_llada_kept *tiny_llada_keep(const struct tiny_llada *model, size_t n);

/* logits [n, vocab] of ids [n] where computed [n]: those rows write their K/V and attend to that
 * of all n positions. 0, or -1 without memory. */
int tiny_llada_rows(const struct tiny_llada *model, struct tiny_llada_kept *kept,
                    const int32_t *ids, const bool *computed, double *logits);

#endif
