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

/* From now on as a rank count and a weight format compute it, in float64 but for what the format
 * rounds: the rows of matrices, and the inputs of products, at o and down in the parts that ranks
 * hold (whole heads; columns by 16); and to bf16 what attention multiplies: q, k, v and the weights
 * of the softmax. Once per model. */
enum tiny_llada_format { TINY_LLADA_BF16, TINY_LLADA_INT8, TINY_LLADA_INT4 };
void tiny_llada_round(struct tiny_llada *model, enum tiny_llada_format format, size_t ranks);

size_t tiny_llada_vocab(const struct tiny_llada *model);

/* K and V of every layer for n positions; NULL without memory. Free with free. */
struct tiny_llada_kept;
struct tiny_llada_kept *tiny_llada_keep(const struct tiny_llada *model, size_t n);

/* logits [n, vocab] of ids [n] where computed [n]: those rows write their K/V and attend to that
 * of all n positions. 0, or -1 without memory. */
int tiny_llada_rows(const struct tiny_llada *model, struct tiny_llada_kept *kept,
                    const int32_t *ids, const bool *computed, double *logits);

#endif
