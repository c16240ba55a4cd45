/* worker/engine_impl.h (inside worker): one rank of the engine, as its files share it. */
#ifndef CALORIS_ENGINE_IMPL_H
#define CALORIS_ENGINE_IMPL_H

#include "worker/calibrate.h"
#include "worker/engine.h"
#include "worker/memory.h"

struct caloris_comm;
struct caloris_err;
struct caloris_pool;

struct caloris_engine {
    struct caloris_engine_options options; /* effective */
    struct caloris_comm *comm;
    int rank, ranks;
    struct caloris_pool *pool;
    struct caloris_model_config config;
    struct caloris_stored stored; /* the folder's shard file */
    struct caloris_sample sample; /* to calibrate with; empty: nothing is calibrated */
    struct caloris_weights weights;
    struct caloris_memory memory;
    struct caloris_nn nn;
    struct caloris_step_state step;
    struct caloris_engine_counters counters, before_profile;
    struct caloris_engine_facts facts;
    struct caloris_rank_share *shares; /* rank 0: [ranks] */
    float *compared;                   /* rank 0 while loading: [ranks, hidden + 1] */
    char core_warning[256], isa_warning[256], watch_warning[256];
    uint64_t longest_ns, longest_rows; /* an operation so far, and the rows of its step */
    bool lost;                         /* a collective failed: the world is gone */
};

/* Stages that may fail on one rank, each followed by an agreement: on return all ranks are open, or
 * none is. */
int caloris_engine_open(struct caloris_engine *engine, struct caloris_err *err);
void caloris_engine_close(struct caloris_engine *engine);

/* The outcome of a stage, rc and mine here, is that of all ranks. */
int caloris_engine_agree(struct caloris_engine *engine, int rc, const struct caloris_err *mine,
                         struct caloris_err *err);

/* A collective failed: the world is gone. -1, and err says where. */
int caloris_engine_lose(struct caloris_engine *engine, struct caloris_err *err);

#endif
