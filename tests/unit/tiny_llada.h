/* tests/unit/tiny_llada.h: LLaDA's forward in float64, as slow and plain as its formulas: what
 * decoding is tested on without an engine. Reads F32 safetensors of a small model. */
#ifndef TINY_LLADA_H
#define TINY_LLADA_H

#include <stddef.h>
#include <stdint.h>

struct tiny_llada;

/* NULL when something is missing or odd. */
struct tiny_llada *tiny_llada_load(const char *dir);
void tiny_llada_free(struct tiny_llada *model);

size_t tiny_llada_vocab(const struct tiny_llada *model);

/* logits [n, vocab] of ids [n]; 0, or -1 without memory. */
int tiny_llada_forward(const struct tiny_llada *model, const int32_t *ids, size_t n,
                       double *logits);

#endif
