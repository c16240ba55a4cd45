/* coordinator/denoise/denoise.h: which masks are revealed, and as what. Pure functions over logit
 * summaries.
 *
 * One struct caloris_denoise is the loop of one request: it says which rows it wants to see, is
 * shown their summaries, and answers with the writes. No tensor, no clock, no I/O: a step is a
 * function of canvas, parameters and summaries. Algorithms: LLaDA's semi-autoregressive remasking
 * (arXiv 2502.09992), Fast-dLLM's threshold, factor and caches (arXiv 2505.22618), the
 * entropy-bounded sampler (arXiv 2505.24857); docs/DECODING.md defines each. A step is: rows,
 * wanted, rule, (the engine), decide, apply.
 */
#ifndef CALORIS_DENOISE_H
#define CALORIS_DENOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/jobs.h"
#include "worker/engine.h"

struct caloris_err;

/* How a position came to its token. */
struct caloris_mark {
    uint32_t step; /* the step that revealed it, counted from 1; 0: none did */
    float log_p;   /* log of the probability that its token had then; NAN: it had none */
};

struct caloris_denoise {
    struct caloris_job_params params; /* ids and seed resolved */
    uint32_t candidate;               /* which of several answers to one prompt */
    int32_t *canvas; /* [length]; the caller's memory, written by caloris_denoise_apply */
    struct caloris_mark *marks; /* [length]; likewise */
    size_t length, prompt;      /* prompt: the first so many positions are the prompt's */
    size_t blocks, block;       /* of the generated part; block: the current one */
    size_t block_masks;         /* masks that the block's quota was made for */
    size_t block_steps;         /* steps that it is dealt to; unused unless commit is quota */
    uint32_t block_step;        /* steps done in the block */
    uint32_t entered;           /* steps done before the block */
    uint32_t step;              /* denoising steps done: one forward pass each */
    size_t masks;               /* masked positions left in the whole canvas */
    bool done;
};

/* A loop over canvas [length]: prompt positions, then gen_length masks; marks are cleared. Errors
 * name the field (a needed id unknown, a length that does not fit). With nothing masked it is done
 * at once. */
int caloris_denoise_start(struct caloris_denoise *denoise, const struct caloris_job_params *params,
                          int32_t *canvas, struct caloris_mark *marks, size_t length, size_t prompt,
                          struct caloris_err *err);

/* Where a loop stands when it is about to enter a block with a step that computes every row.
 * Caches and all that belongs to a block are made anew there, so that whoever goes on from here, on
 * any number of ranks, does what the same loop would have done. */
struct caloris_stand {
    uint32_t block; /* the one to enter */
    uint32_t step; /* steps done: keys the noise. 0: the loop is at its start, the rest is unused */
    bool done;
    uint32_t passes; /* forward passes and rows that it took: counted by the schedule */
    uint64_t rows;
    int32_t *canvas; /* [length] */
    float *log_p;    /* [length] of the marks; NAN where there is none */
};

/* n of them at their start, zeroed, for canvases of length; NULL without memory. One free() for
 * all. */
struct caloris_stand *caloris_stand_new(size_t n, size_t length);

void caloris_stand_copy(struct caloris_stand *to, const struct caloris_stand *from, size_t length);

/* Whether the loop stands so that it can be taken up from here. */
bool caloris_denoise_can_stand(const struct caloris_denoise *denoise);
void caloris_denoise_note(const struct caloris_denoise *denoise, struct caloris_stand *stand);

/* A stand that came from outside, against a loop that was started and did no step: -1 and err
 * when it cannot be one of its own. Ids are not held against a vocabulary. */
int caloris_denoise_check_stand(const struct caloris_denoise *denoise,
                                const struct caloris_stand *stand, struct caloris_err *err);
/* Goes on from there. */
void caloris_denoise_resume(struct caloris_denoise *denoise, const struct caloris_stand *stand);

/* The positions that this step computes. All of them, in every step without a cache and in a
 * refresh; else the K/V of the others is that of the step which computed them last. */
struct caloris_range {
    uint32_t first, count;
};
bool caloris_denoise_is_full(const struct caloris_denoise *denoise);
size_t caloris_denoise_count_rows(const struct caloris_denoise *denoise);
/* Ascending and apart, into ranges [(length + 1) / 2]; how many. Those wanted are among them. */
size_t caloris_denoise_rows(const struct caloris_denoise *denoise, struct caloris_range *ranges);

/* The positions whose logits this step needs, ascending, into positions [length] (NULL: they are
 * only counted); how many. None
 * when the step's quota is 0: such a step is computed all the same. */
size_t caloris_denoise_wanted(const struct caloris_denoise *denoise, uint32_t *positions);

/* What is asked of them. */
void caloris_denoise_rule(const struct caloris_denoise *denoise, struct caloris_rule *rule);

struct caloris_reveal {
    uint32_t position;
    int32_t id;
    float confidence; /* probability of id in the row's distribution; 0 where nobody chose it */
    float log_p;      /* its logarithm, which does not round to 0; NAN where it has none */
};

/* The step's decision from the summaries [n] and candidates [n, best] of positions [n]: reveals, at
 * most n of them, ascending by position; how many. Changes nothing. scratch, aligned as malloc's
 * memory: caloris_denoise_scratch_bytes(n). */
size_t caloris_denoise_scratch_bytes(size_t n);
size_t caloris_denoise_decide(const struct caloris_denoise *denoise, const uint32_t *positions,
                              const struct caloris_summary *summaries,
                              const struct caloris_candidate *candidates, size_t n, size_t best,
                              struct caloris_reveal *reveals, void *scratch);

/* Writes the reveals into the canvas and moves on: next step, next block, done. Ending early
 * (early_stop) fills what follows the EOS with EOS: those positions join the reveals (room for
 * length), so that every copy of the canvas can follow. Positions ascend, before as behind. Returns
 * the new number of reveals. */
size_t caloris_denoise_apply(struct caloris_denoise *denoise, struct caloris_reveal *reveals,
                             size_t n);

/* How sure the model was of the answer: the mean log p of what was revealed, in the generated part
 * up to the first EOS or end of turn, that included. NAN where nothing has a probability. */
double caloris_denoise_score(const struct caloris_denoise *denoise);

#endif
