/* tests/bench/decode.h: requests through the step loop, timed. Inside bench_decode only. */
#ifndef CALORIS_BENCH_DECODE_H
#define CALORIS_BENCH_DECODE_H

#include "base/err.h"
#include "coordinator/schedule/schedule.h"
#include "worker/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_CASES = 8, MAX_STEPS = 4096, MAX_REQUESTS = 64, BLOCK = 32, PLAIN_STEPS = 5 };

struct bench {
    const char *mode;
    uint32_t gen[MAX_CASES], reveal[MAX_CASES];
    enum caloris_cache cache[MAX_CASES];
    size_t n_gen, n_reveal, n_cache;
    /* Of packed: 0 for the measured one; NULL for made-up prompts, whose ids model_dir has not. */
    size_t budget;
    const char *prompts, *model_dir;
};

/* A request. Without ids its prompt is made up, and its tokens are revealed by quota over steps;
 * with ids [prompt] by threshold, until EOS. */
struct shape {
    uint32_t prompt, gen, steps;
    enum caloris_cache cache;
    const int32_t *ids;
};

/* NULL without memory. */
struct caloris_request *bench_request(const struct caloris_engine_facts *facts,
                                      const struct shape *shape);

/* Generated tokens before the first EOS. */
size_t bench_tokens(const struct caloris_request *request);

/* A number of requests through a schedule of their own: what came of them. */
struct run {
    struct caloris_engine *engine;
    const struct shape *shape; /* [n] */
    size_t n, aim;
    bool follow;
    size_t stop_after; /* steps of a followed one, then it is cancelled; 0: none */

    struct caloris_schedule *schedule;
    uint64_t start_ns, submitted_ns[MAX_REQUESTS];
    double cpu_s, seconds, wait[MAX_REQUESTS], done[MAX_REQUESTS]; /* since the start */
    double full[MAX_STEPS], block[MAX_STEPS];
    size_t n_full, n_block, tokens;
    struct caloris_schedule_figures figures;
    struct caloris_err err;
    int status;
};
int bench_run(struct run *run, struct caloris_err *err);

/* Processor seconds of this process so far. */
double bench_cpu(void);

struct shares {
    double own, plan, rest;
};
/* The engine's profile began with the run. */
int bench_shares(struct caloris_engine *engine, const struct caloris_schedule_figures *figures,
                 struct shares *shares, struct caloris_err *err);

extern const char *const bench_cache_names[];
void bench_print_end(const struct caloris_engine_facts *facts);

/* decode_packed.c */
int bench_packed(struct caloris_engine *engine, const struct bench *b, struct caloris_err *err);

#endif
