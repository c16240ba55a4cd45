/* worker/engine.h: the ranks that compute denoising steps. The one door from the coordinator to the
 * tensors.
 *
 * caloris_engine_run opens the world, loads each rank's shard, and calls a body on rank 0 while all
 * other ranks serve it. The body admits requests to slots, packs step plans and reads step results.
 * Workers hold canvases and K/V and decide nothing; they know nothing of users, text or decoding.
 * Rows and positions count from 0; ids are token ids. Nothing is allocated between a step's plan
 * and its result. See docs/ARCHITECTURE.md, "The step". */
#ifndef CALORIS_ENGINE_H
#define CALORIS_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "base/rng.h"

struct caloris_err;
struct caloris_engine;
struct caloris_engine_facts;

enum caloris_transport { CALORIS_TRANSPORT_MPI, CALORIS_TRANSPORT_THREADS };

struct caloris_engine_options {
    const char *model_dir;
    enum caloris_transport transport;
    int ranks;   /* THREADS: how many (1 is a world of one); MPI: ignored, the launcher says */
    int threads; /* compute threads per rank; 0: the cores that this rank owns */
    size_t max_requests;  /* canvases held at a time (a request under guidance holds two) */
    size_t max_canvas;    /* longest canvas, in tokens; 0: what the model was made for */
    size_t max_step_rows; /* rows of one step over all requests; at least max_canvas. 0: chosen */
    size_t kv_tokens;     /* positions whose K/V are kept, over all cached canvases. 0: chosen */
    /* A name of caloris_engine_format; NULL: what the folder's shard file holds, else the first. */
    const char *weights;
    /* Ids to look for outliers with, where int8 or int4 weights are made from safetensors: a file
     * of lines {"ids": [1, 2, …]}; NULL: 256 of our own; "none": nothing is looked for. */
    const char *calibrate;
    const char
        *isa;     /* kernels up to this instruction set ("avx2"); NULL: all that every rank has */
    bool profile; /* measure the phases of steps: caloris_engine_profile, rank figures */
    /* NULL: none; else a made-up model of this name ("llada-1b", "llada-8b") instead of model_dir:
     * weights are invented in memory, and layers share as many distinct ones as fit in half of the
     * memory. For benchmarks. */
    const char *synthetic;
    /* Rank 0, when the split and the bytes are known and before anything is loaded; may be NULL. */
    void (*planned)(const struct caloris_engine_facts *facts);
    /* MPI, rank 0: what the run failed of, while all ranks are still there. A launcher ends the
     * world as soon as the first rank has left, so that a line printed later may be lost. May be
     * NULL. */
    void (*failed)(const struct caloris_err *err);
    /* NULL: nobody watches. Else: ends this process when a rank is lost, from a thread of its own;
     * one line of the log has said which rank, and what the others wait for. */
    void (*lost)(void);
    /* Of ranks that are watched: what a handler of signals writes when this process, not rank 0, is
     * asked to leave, and what rank 0 then calls, on that other thread, with every beat of that
     * rank. Both may be NULL. */
    const _Atomic int *asked;
    void (*ask)(int rank, int signal);
    uint64_t silent_ms; /* a rank is lost that gives no sign of life for so long */
    uint64_t stands_ms; /* so is one that gets no further for so long, and for 20 x what it should
                           take */
};

/* How matrices may stand in memory, the exact one first: "fp32", "bf16", "int8", "int4"; NULL
 * behind the last. Embedding and norms are fp32 in all of them. */
const char *caloris_engine_format(size_t i);

/* What a caller may know of the model. */
struct caloris_model_facts {
    char family[32]; /* "llada" */
    size_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    size_t max_sequence;
    int32_t mask_id, eos_id; /* from config.json; -1 where it says nothing */
    uint64_t parameters;
    bool packed; /* weights are in a shard file, and in no other format than that one's */
};

/* What one rank holds. All ranges are [first, first + count). */
struct caloris_rank_share {
    size_t head_first, heads;
    size_t kv_head_first, kv_heads;
    size_t ffn_first, ffn;
    size_t vocab_first, vocab;
    uint64_t weight_bytes;       /* weights in memory; before a calibration the most they may be */
    uint64_t plain_weight_bytes; /* what they are without outliers */
    uint64_t read_bytes;         /* tensor bytes this rank preads from the model's files */
    uint64_t kv_bytes;           /* K/V */
    uint64_t work_bytes;         /* activations, plan and result buffers, all-reduce scratch */
    double load;                 /* multiply-adds of a full step, relative to the mean over ranks */
};

/* The split and the bytes of every rank, from config.json and the tensor headers alone: shares
 * [options->ranks]. Effective limits (max_canvas, max_step_rows, …) and weights are written back
 * into options. */
int caloris_engine_plan(struct caloris_engine_options *options, struct caloris_model_facts *facts,
                        struct caloris_rank_share *shares, struct caloris_err *err);

/* ---- packing a model once -------------------------------------------------------------------- */

struct caloris_sharded_tensor {
    const char *name, *format; /* "int8"; NULL: a vector, kept as it is */
    size_t rows, cols;
    size_t outliers;       /* columns that are kept in bf16 besides */
    double relative_error; /* ‖W - Ŵ‖ / ‖W‖ of a matrix */
};

/* What caloris_engine_shard tells while it works, in its own thread; either may be NULL, and ends
 * it by -1. */
struct caloris_sharding {
    int (*progress)(void *arg, uint64_t done_bytes, uint64_t all_bytes, struct caloris_err *err);
    int (*tensor)(void *arg, const struct caloris_sharded_tensor *tensor, struct caloris_err *err);
    void *arg;
};

/* Writes the weights of options->model_dir, as options->weights says, into a shard file of out_dir,
 * for any number of ranks (docs/MODELS.md, "Shard files"). The file appears when it is whole. */
int caloris_engine_shard(const struct caloris_engine_options *options, const char *out_dir,
                         const struct caloris_sharding *told, struct caloris_err *err);

/* ---- a step ---------------------------------------------------------------------------------- */

enum {
    CALORIS_MAX_SPECIAL = 8,
    CALORIS_MAX_PROBES = 8,
    CALORIS_MAX_BEST = 32,
};

/* A canvas enters: slot < max_requests was free. Its ids stand in plan->ids[ids_first … + length).
 * A cached canvas keeps the K/V of every layer in positions [kv_first, kv_first + length) of the
 * group's kv_tokens, which nobody else holds. A forked one, cached, begins with the K/V that the
 * cached canvas of the same length in slot `from` has before this plan: no step of its own need be
 * whole. That canvas stays, and has been computed. */
struct caloris_admission {
    uint32_t slot, length;
    uint32_t ids_first;
    bool cached, forked;
    uint32_t kv_first;
    uint32_t from;
};

struct caloris_write {
    uint32_t slot, position;
    int32_t id;
};

/* Compute positions [first, first + count) of a canvas. Without a cache a span is the whole canvas.
 * A cached canvas may have several spans, ascending and next to each other in the plan; all its
 * positions are computed in its first step. Later, rows attend to themselves and to the K/V that
 * the other positions had when they were last computed. */
struct caloris_span {
    uint32_t slot, first, count;
};

/* An id that is treated apart. */
enum { CALORIS_NO_CHOICE = 1, CALORIS_NO_SUM = 2 };
struct caloris_special {
    int32_t id;
    uint32_t flags; /* NO_CHOICE: never among the best; NO_SUM: left out of max, rest and entropy */
};

/* What is asked of the wanted rows of one request. */
struct caloris_rule {
    struct caloris_special special[CALORIS_MAX_SPECIAL];
    uint32_t specials;
    int32_t probe[CALORIS_MAX_PROBES]; /* ids whose logits are returned as they are */
    uint32_t probes;
    uint32_t best; /* how many best, 1 … CALORIS_MAX_BEST */
    /* As many follow the best that have the largest logits, whatever noise chose: both together are
     * at most CALORIS_MAX_BEST. */
    bool likeliest;
    /* > 0: choice is by logit + temperature * Gumbel noise of this key, position and id */
    float temperature;
    struct caloris_noise_key noise;
    float guidance; /* with a partner row u: logit = u + (guidance + 1) * (logit - u) */
};

/* Candidates of each row that it asks for. */
static inline size_t caloris_rule_candidates(const struct caloris_rule *rule)
{
    return rule->likeliest ? 2 * (size_t)rule->best : rule->best;
}

enum { CALORIS_NO_PARTNER = UINT32_MAX };

/* A row whose logits are wanted: position of spans[span]; partner: the same position of
 * spans[partner]. */
struct caloris_want {
    uint32_t span, position;
    uint32_t partner; /* index of the span of the unconditional canvas, or CALORIS_NO_PARTNER */
    uint32_t rule;    /* index into rules */
};

/* All arrays belong to the caller. Order of effects: releases, admissions, writes, then the spans
 * are computed. */
struct caloris_step_plan {
    const uint32_t *releases;
    size_t n_releases;
    const struct caloris_admission *admissions;
    size_t n_admissions;
    const int32_t *ids;
    size_t n_ids;
    const struct caloris_write *writes;
    size_t n_writes;
    const struct caloris_span *spans; /* Σ count <= max_step_rows */
    size_t n_spans;
    const struct caloris_want *wants;
    size_t n_wants;
    const struct caloris_rule *rules;
    size_t n_rules;
};

struct caloris_candidate {
    int32_t id;
    float logit;  /* after guidance, without noise */
    double score; /* what it was chosen by: logit + noise */
};

/* One wanted row, merged over the ranks: ids without NO_SUM are in the sums. */
struct caloris_summary {
    double max; /* largest logit */
    double
        rest; /* Σ exp(x - max) over all ids but one that has it: log-sum-exp = max + log1p(rest) */
    double moment;  /* Σ (x - max) exp(x - max): entropy = log1p(rest) - moment / (1 + rest) */
    uint32_t found; /* best there are (fewer than asked when the vocabulary is that small) */
    float probe[CALORIS_MAX_PROBES];
};

struct caloris_step_result {
    const struct caloris_summary *summaries; /* [n_wants], in the order of the plan */
    const struct caloris_candidate
        *candidates; /* [n_wants, best]: as many as the plan's largest rule asks for; best first,
                      * ties to the lowest id; the likeliest, of their number, from rule.best on */
    size_t best;
};

/* Rank 0, inside the body. The result is valid until the next step. A plan that breaks a rule above
 * is an error and leaves everything as it was. An error with code PEER_LOST or INTERNAL ends the
 * world. */
int caloris_engine_step(struct caloris_engine *engine, const struct caloris_step_plan *plan,
                        struct caloris_step_result *result, struct caloris_err *err);

/* Rank 0, inside the body, with no canvas admitted: logits of every row of ids [n], a block of
 * whole rows at a time, in order: sink(arg, logits [rows, vocab], rows, err). */
int caloris_engine_logits(struct caloris_engine *engine, const int32_t *ids, size_t n,
                          int (*sink)(void *arg, const float *logits, size_t rows,
                                      struct caloris_err *),
                          void *arg, struct caloris_err *err);

/* ---- the world ------------------------------------------------------------------------------- */

typedef int (*caloris_engine_body_fn)(struct caloris_engine *engine, void *arg,
                                      struct caloris_err *err);

/* Collective under MPI: every rank calls it with the same options. Loads, runs body on rank 0 while
 * the others serve, and returns on every rank with the same code when body returns or a stage
 * failed: 0, or -1 with err, which names rank and host where one rank is to blame. *report (may be
 * NULL) says whether this process is the one to print err: rank 0 if it is alive. Call from the
 * main thread, before starting others. */
int caloris_engine_run(const struct caloris_engine_options *options, caloris_engine_body_fn body,
                       void *arg, bool *report, struct caloris_err *err);

struct caloris_engine_facts {
    struct caloris_model_facts model;
    int ranks, threads;
    const char *transport;     /* "mpi (Open MPI v4.1.4)" */
    const char *blas;          /* "OpenBLAS 0.3.21 SkylakeX" */
    const char *blas_warning;  /* NULL, or why the BLAS core is below this CPU */
    const char *core_warning;  /* NULL, or which rank owns fewer cores than threads */
    const char *isa_warning;   /* NULL, or which rank's CPU keeps the others' back */
    const char *watch_warning; /* NULL, or why nobody would notice that a rank is lost */
    const char *format;        /* of the matrices: "int8" */
    const char *kernels;       /* that multiply with them on rank 0: "avx512-vnni" */
    size_t max_requests, max_canvas, max_step_rows, kv_tokens;
    const struct caloris_rank_share *shares;  /* [ranks] */
    double load_s;                            /* seconds spent loading */
    double calibrate_s;                       /* of them calibrating; 0: it was not */
    size_t outlier_columns, outlier_matrices; /* multiplied apart in bf16; wholly in bf16 */
};

const struct caloris_engine_facts *caloris_engine_facts(const struct caloris_engine *engine);

/* What this rank (in the body: rank 0) has done so far. Seconds add up to the time inside
 * caloris_engine_step. */
struct caloris_engine_counters {
    uint64_t steps, rows, head_rows;
    uint64_t bytes_read;      /* from the model's files */
    uint64_t allreduce_bytes; /* sent */
    double compute_s, allreduce_s, wait_s;
};
void caloris_engine_counters(const struct caloris_engine *engine,
                             struct caloris_engine_counters *out);

/* The same of any rank, a beat or two old: rank 0, on any thread, inside the body. False: nobody
 * watches (options.lost), or it has not been heard of yet. */
struct caloris_rank_figures {
    double compute_s, allreduce_s, wait_s;
    double attention_s, mlp_s, head_s; /* parts of compute_s; 0 without options.profile */
    uint64_t steps, rows, allreduce_bytes;
    uint64_t steps_by_rows[CALORIS_METRICS_CLASSES];
};
bool caloris_engine_rank_figures(const struct caloris_engine *engine, int rank,
                                 struct caloris_rank_figures *out);

/* ---- where the time goes (options.profile) --------------------------------------------------- */

/* Norms include the sums into the residual stream, attention the rotary and what is kept of K and
 * V; rest is the plan's application and the summaries' way to rank 0. */
enum caloris_phase {
    CALORIS_PHASE_EMBED,
    CALORIS_PHASE_NORMS,
    CALORIS_PHASE_QKV,
    CALORIS_PHASE_ATTENTION,
    CALORIS_PHASE_O,
    CALORIS_PHASE_GATE_UP,
    CALORIS_PHASE_SWIGLU,
    CALORIS_PHASE_DOWN,
    CALORIS_PHASE_ALLREDUCE, /* moving and summing */
    CALORIS_PHASE_WAIT,      /* in all-reduces for ranks that were late */
    CALORIS_PHASE_HEAD,
    CALORIS_PHASE_REST,
    CALORIS_PHASES
};
const char *caloris_phase_name(enum caloris_phase phase);

/* operations: multiplications and additions. bytes: weights, inputs and outputs of each call once,
 * sent ones of all-reduces. */
struct caloris_phase_cost {
    double seconds, operations, bytes;
};

struct caloris_rank_profile {
    struct caloris_phase_cost phase[CALORIS_PHASES];
    struct caloris_engine_counters counters;
};

/* Rank 0, inside the body, between steps: what every rank has done so far: profiles [ranks]. NULL:
 * it counts from now on. */
int caloris_engine_profile(struct caloris_engine *engine, struct caloris_rank_profile *profiles,
                           struct caloris_err *err);

#endif
