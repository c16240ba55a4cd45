/* coordinator/denoise/denoise.h: which masks are revealed, and as what. Pure functions over logit summaries.
 *
 * One struct caloris_denoise is the loop of one request: it says which rows it wants to see, is shown their summaries,
 * and answers with the writes. No tensor, no clock, no I/O: a step is a function of canvas, parameters and
 * summaries. Algorithms: LLaDA's semi-autoregressive remasking (arXiv 2502.09992), Fast-dLLM's threshold and factor
 * (arXiv 2505.22618); docs/DECODING.md defines each.
 */
#ifndef CALORIS_DENOISE_H
#define CALORIS_DENOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/jobs.h"
#include "worker/engine.h"

struct caloris_err;

struct caloris_denoise {
    struct caloris_job_params params; /* ids, seed and steps resolved */
    uint32_t candidate;               /* which of several answers to one prompt */
    int32_t *canvas;                  /* [length]; the caller's memory, written by caloris_denoise_apply */
    size_t length, prompt;            /* prompt: the first so many positions are the prompt's */
    size_t blocks, block;             /* of the generated part; block: the current one */
    uint32_t block_step;              /* steps done in the block */
    uint32_t step;                    /* denoising steps done */
    size_t block_masks;               /* masks that the block's quota was made for */
    bool done;
};

/* A loop over canvas [length]: prompt positions, then gen_length masks. Errors name the field (a needed id unknown, a length that
 * does not fit). With nothing masked it is done at once. */
int caloris_denoise_start(struct caloris_denoise *denoise, const struct caloris_job_params *params,
                          int32_t *canvas, size_t length, size_t prompt, struct caloris_err *err);

/* The positions whose logits this step needs, ascending, into positions [length]; how many. */
size_t caloris_denoise_wanted(const struct caloris_denoise *denoise, uint32_t *positions);

/* What is asked of them. */
void caloris_denoise_rule(const struct caloris_denoise *denoise, struct caloris_rule *rule);

struct caloris_reveal {
    uint32_t position;
    int32_t id;
    float confidence; /* probability of id in the row's distribution */
};

/* The step's decision from the summaries [n] and candidates [n, best] of positions [n]: reveals, at most n of them, ascending by
 * position; how many. Changes nothing. scratch: caloris_denoise_scratch_bytes(n). */
size_t caloris_denoise_scratch_bytes(size_t n);
size_t caloris_denoise_decide(const struct caloris_denoise *denoise, const uint32_t *positions,
                              const struct caloris_summary *summaries,
                              const struct caloris_candidate *candidates, size_t n, size_t best,
                              struct caloris_reveal *reveals, void *scratch);

/* Writes the reveals into the canvas and moves on: next step, next block, done. Ending early (early_stop) fills what
 * follows the EOS with EOS: those positions are appended to reveals too (room for length), so that every copy of the canvas can
 * follow. Returns the new number of reveals. */
size_t caloris_denoise_apply(struct caloris_denoise *denoise, struct caloris_reveal *reveals, size_t n);

#endif
