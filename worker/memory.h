/* worker/memory.h (inside worker): what a rank will hold, worked out before anything is loaded. */
#ifndef CALORIS_MEMORY_H
#define CALORIS_MEMORY_H

#include "worker/engine.h"
#include "worker/model/model.h"
#include "worker/nn/nn.h"
#include "worker/step.h"

struct caloris_err;

/* The effective limits of a group: the options with what they left open filled in, and checked
 * against the model. *stored: the folder's shard file, if it has one. */
int caloris_memory_limits(struct caloris_engine_options *options,
                          const struct caloris_model_config *config, struct caloris_stored *stored,
                          struct caloris_err *err);

/* How matrices stand in memory; the limits were checked. */
enum caloris_format caloris_memory_format(const struct caloris_engine_options *options);

/* One rank's buffers in one piece of memory. */
struct caloris_memory {
    void *base;
    size_t bytes;
    struct caloris_summary *gathered;        /* rank 0: [ranks, rows] */
    struct caloris_candidate *gathered_best; /* rank 0: [ranks, rows, CALORIS_MAX_BEST] */
    struct caloris_summary *summaries;       /* rank 0: [rows], merged */
    struct caloris_candidate *best;          /* rank 0: [rows, CALORIS_MAX_BEST] */
};

/* Measures (map false) or maps and lays out the buffers of one rank. *kv_bytes is the part that
 * holds keys and values. */
int caloris_memory_place(struct caloris_memory *memory,
                         const struct caloris_engine_options *options,
                         const struct caloris_model_config *config,
                         const struct caloris_model_split *split, int ranks, int rank, bool map,
                         struct caloris_nn *nn, struct caloris_step_state *step, uint64_t *kv_bytes,
                         struct caloris_err *err);
void caloris_memory_free(struct caloris_memory *memory);

/* The config that the options name: a folder's or a made-up one. */
int caloris_memory_config(const struct caloris_engine_options *options,
                          struct caloris_model_config *config, struct caloris_err *err);
void caloris_memory_facts(const struct caloris_model_config *config,
                          const struct caloris_stored *stored, struct caloris_model_facts *facts);

/* All that rank `rank` of `ranks` will hold, but for the load relative to others: multiply-adds of
 * a full row instead. calibration NULL: none yet. */
int caloris_memory_share(const struct caloris_engine_options *options,
                         const struct caloris_model_config *config,
                         const struct caloris_calibration *calibration, int ranks, int rank,
                         struct caloris_rank_share *share, struct caloris_err *err);
/* Turns multiply-adds into shares of the mean. */
void caloris_memory_balance(struct caloris_rank_share *shares, int ranks);

#endif
