/* tests/bench/decode: whole requests through the step loop. CSV on stdout.
 *
 *   decode cached [options]   a request with a cache, revealing so many tokens a step, against the
 *                             plain loop (its length times the median of 5 of its steps), and
 *                             against what the medians of its own full and block steps predict
 *   decode sixteen [options]  32 tokens of prompt, 128 generated, dual, 16 steps
 *   decode full [options]     32 requests of 128 + 128 tokens at the row budget: tokens/s beside
 *                             what the budget's step time gives, and how full steps are
 *   decode packed [options]   64 requests of mixed lengths: packed step by step, and held in
 *                             batches that are in step with each other (decode_packed.c), ROUNDS
 *                             times in turns; medians, and times_held with its least and most
 *
 *   --synthetic NAME (llada-8b; packed: the model of --model DIR)  --weights FORMAT (int8)
 *   --threads T (2)  --ranks N (1)  --comm threads|mpi (mpi: under mpirun)  --gen N …
 *   --cache dual|active …  --reveal R …
 *   --budget ROWS (packed; else it is measured)
 *   --prompts FILE (packed: the "prompt" of its lines, by threshold until EOS, in place of made-up
 *   ones)
 *
 * N is a multiple of the block's 32 tokens; R divides 32, and is less. A step is crowded while
 * requests wait for a slot or for a part in it; its fill is min(rows, budget) / budget.
 *
 * Tokens are revealed by quota, so that counts do not depend on what weights say (not with
 * --prompts). times_held_cpu: by processor time, which a busy machine spoils less. own_share:
 * packing and deciding; plan_share: checking the plan, broadcasting it, merging summaries, all that
 * the model's stopwatch does not see; rest_share: applying the plan and gathering summaries, with
 * the wait for slower ranks. All are rank 0's, of the seconds of steps.
 */
#include "tests/bench/decode.h"

#include "base/err.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 128, MAX_GEN = MAX_STEPS }; /* of cached */

/* ---- cached ---------------------------------------------------------------------------------- */

/* Median seconds of a step of the plain loop. */
static int time_plain(struct caloris_engine *engine, uint32_t prompt, uint32_t gen, double *seconds,
                      struct caloris_err *err)
{
    static struct run run;
    const struct shape shape = {prompt, gen, gen, CALORIS_CACHE_NONE, NULL};
    run = (struct run){
        .engine = engine, .shape = &shape, .n = 1, .follow = true, .stop_after = PLAIN_STEPS + 1};
    if (bench_run(&run, err) < 0)
        return -1;
    /* The first one warms up. */
    double *steps = run.n_full > 0 ? run.full : run.block;
    const size_t n = run.n_full > 0 ? run.n_full : run.n_block;
    *seconds = bench_median(steps + 1, n < PLAIN_STEPS + 1 ? n - 1 : PLAIN_STEPS);
    return 0;
}

static int bench_cached(struct caloris_engine *engine, const struct shape *shape, double t_plain,
                        double other_s, double other_too_s, struct caloris_err *err)
{
    static struct run run;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct shares shares;
    run = (struct run){.engine = engine, .shape = shape, .n = 1, .follow = true};
    if (caloris_engine_profile(engine, NULL, err) < 0 || bench_run(&run, err) < 0 ||
        bench_shares(engine, &run.figures, &shares, err) < 0)
        return -1;
    const double t_full = bench_median(run.full, run.n_full);
    const double t_block = bench_median(run.block, run.n_block);
    const double predicted = (double)run.n_full * t_full + (double)run.n_block * t_block;
    printf("%u,%u,%s,%u,%zu,%zu,%d,%d,%s,%.3f,%.2f,%.4f,%.4f,%.4f,%.2f,%.2f,%.3f,%.5f,%.5f,%.5f,%."
           "2f,%.2f,",
           shape->prompt, shape->gen, bench_cache_names[shape->cache], shape->gen / shape->steps,
           run.n_full, run.n_block, facts->ranks, facts->threads, facts->format, run.seconds,
           (double)shape->gen / run.seconds, t_plain, t_full, t_block,
           (double)shape->gen * t_plain / run.seconds, (double)shape->gen * t_plain / predicted,
           predicted / run.seconds, shares.own, shares.plan, shares.rest, other_s / run.seconds,
           other_too_s / run.seconds);
    bench_print_end(facts);
    return 0;
}

static void print_cached_head(void)
{
    puts("prompt,generated,cache,reveals,full_steps,block_steps,ranks,threads,weights,seconds,"
         "tokens_per_s,plain_step_s,full_step_s,block_step_s,times_plain,predicted_times_plain,"
         "of_predicted,own_share,plan_share,rest_share,times_llama_cpp_94s,times_diffuse_rs_175s,"
         "kernels,blas,"
         "machine,commit");
}

static int body_cached(struct caloris_engine *engine, const struct bench *b,
                       struct caloris_err *err)
{
    print_cached_head();
    for (size_t g = 0; g < b->n_gen; g++) {
        double t_plain;
        if (time_plain(engine, PROMPT, b->gen[g], &t_plain, err) < 0)
            return -1;
        for (size_t c = 0; c < b->n_cache; c++) {
            for (size_t r = 0; r < b->n_reveal; r++) {
                const struct shape shape = {PROMPT, b->gen[g], b->gen[g] / b->reveal[r],
                                            b->cache[c], NULL};
                if (bench_cached(engine, &shape, t_plain, 0, 0, err) < 0)
                    return -1;
            }
        }
    }
    return 0;
}

static int body_sixteen(struct caloris_engine *engine, const struct bench *b,
                        struct caloris_err *err)
{
    const struct shape shape = {32, 128, 16, CALORIS_CACHE_DUAL, NULL};
    double t_plain;
    (void)b;
    print_cached_head();
    if (time_plain(engine, shape.prompt, shape.gen, &t_plain, err) < 0)
        return -1;
    return bench_cached(engine, &shape, t_plain, 94, 175, err);
}

/* ---- many ------------------------------------------------------------------------------------ */

static int body_full(struct caloris_engine *engine, const struct bench *b, struct caloris_err *err)
{
    enum { REQUESTS = 32 };
    static struct run run;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct shape shapes[REQUESTS];
    struct caloris_row_budget budget;
    struct shares shares;
    double at_budget = 0;
    if (caloris_row_budget_measure(engine, &budget, err) < 0)
        return -1;
    for (size_t i = 0; i < budget.n; i++)
        at_budget = budget.rates[i].rows == budget.rows ? budget.rates[i].seconds : at_budget;
    puts("requests,cache,reveals,ranks,threads,weights,budget,budget_step_s,seconds,tokens_per_s,"
         "of_budget_rate,mean_fill_while_crowded,crowded_steps,steps,rows,own_share,plan_share,"
         "rest_share,"
         "kernels,blas,machine,commit");
    for (size_t c = 0; c < b->n_cache; c++) {
        for (size_t i = 0; i < REQUESTS; i++)
            shapes[i] = (struct shape){128, 128, 128 / b->reveal[0], b->cache[c], NULL};
        run = (struct run){.engine = engine, .shape = shapes, .n = REQUESTS, .aim = budget.rows};
        if (caloris_engine_profile(engine, NULL, err) < 0 || bench_run(&run, err) < 0 ||
            bench_shares(engine, &run.figures, &shares, err) < 0)
            return -1;
        const struct caloris_schedule_figures *f = &run.figures;
        const double at_rate = (double)f->rows * at_budget / (double)budget.rows;
        printf("%d,%s,%u,%d,%d,%s,%zu,%.4f,%.3f,%.2f,%.3f,%.3f,%llu,%llu,%llu,%.5f,%.5f,%.5f,",
               REQUESTS, bench_cache_names[b->cache[c]], b->reveal[0], facts->ranks, facts->threads,
               facts->format, budget.rows, at_budget, run.seconds, (double)run.tokens / run.seconds,
               at_rate / run.seconds,
               f->crowded_steps > 0 ? f->crowded_fill / (double)f->crowded_steps : 0,
               (unsigned long long)f->crowded_steps, (unsigned long long)f->steps,
               (unsigned long long)f->rows, shares.own, shares.plan, shares.rest);
        bench_print_end(facts);
    }
    return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static const struct {
    const char *mode;
    int (*body)(struct caloris_engine *engine, const struct bench *b, struct caloris_err *err);
    const char *synthetic;
    size_t max_canvas, max_requests, kv_tokens, step_rows;
    uint32_t reveal;
} modes[] = {
    {"cached", body_cached, "llada-8b", 0, 1, 0, 2048, 0}, /* canvas: of the longest case */
    {"sixteen", body_sixteen, "llada-8b", 32 + 128, 1, 32 + 128, 2048, 0},
    {"full", body_full, "llada-1b", 256, 32, 32 * 256, 2048, 4},
    {"packed", bench_packed, NULL, 160, 64, 64 * 160, 64 * 160, 4},
};
enum { MODES = sizeof(modes) / sizeof(modes[0]) };

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct bench *b = arg;
    for (size_t i = 0; i < MODES; i++) {
        if (strcmp(b->mode, modes[i].mode) == 0)
            return modes[i].body(engine, b, err);
    }
    return -1;
}

static int usage(void)
{
    fputs("usage: decode cached|sixteen|full|packed [--synthetic NAME | --model DIR] "
          "[--weights FORMAT] [--threads T] [--ranks N] [--comm threads|mpi] [--gen N]… [--cache "
          "prefix|dual|active]… "
          "[--reveal R]… [--budget ROWS] [--prompts FILE]\n",
          stderr);
    return 2;
}

static bool read_case(struct bench *b, const char *flag, const char *value)
{
    const int number = atoi(value);
    if (strcmp(flag, "--gen") == 0 && b->n_gen < MAX_CASES && number > 0 && number <= MAX_GEN &&
        number % BLOCK == 0) {
        b->gen[b->n_gen++] = (uint32_t)number;
        return true;
    }
    if (strcmp(flag, "--reveal") == 0 && b->n_reveal < MAX_CASES && number > 0 && number < BLOCK &&
        BLOCK % number == 0) {
        b->reveal[b->n_reveal++] = (uint32_t)number;
        return true;
    }
    /* The plain loop is what the others are held against. */
    for (int c = CALORIS_CACHE_PREFIX; c <= CALORIS_CACHE_ACTIVE; c++) {
        if (strcmp(flag, "--cache") == 0 && b->n_cache < MAX_CASES &&
            strcmp(value, bench_cache_names[c]) == 0) {
            b->cache[b->n_cache++] = (enum caloris_cache)c;
            return true;
        }
    }
    return false;
}

static void fill_in(struct bench *b, uint32_t reveal)
{
    static const uint32_t gens[] = {128, 256, 512}, reveals[] = {2, 4, 8};
    for (size_t i = 0; b->n_gen == i && i < 3; i++)
        b->gen[b->n_gen++] = gens[i];
    if (b->n_reveal == 0 && reveal > 0)
        b->reveal[b->n_reveal++] = reveal;
    for (size_t i = 0; b->n_reveal == i && reveal == 0 && i < 3; i++)
        b->reveal[b->n_reveal++] = reveals[i];
    if (b->n_cache == 0) {
        b->cache[b->n_cache++] = CALORIS_CACHE_DUAL;
        b->cache[b->n_cache++] = CALORIS_CACHE_ACTIVE;
    }
}

int main(int argc, char **argv)
{
    struct bench b = {.mode = argc > 1 ? argv[1] : ""};
    struct caloris_engine_options options = {
        .transport = CALORIS_TRANSPORT_THREADS,
        .ranks = 1,
        .threads = 2,
        .weights = "int8",
        .profile = true,
    };
    size_t mode = 0;
    while (mode < MODES && strcmp(b.mode, modes[mode].mode) != 0)
        mode++;
    if (mode == MODES || argc % 2 != 0)
        return usage();
    options.synthetic = modes[mode].synthetic;
    options.max_canvas = modes[mode].max_canvas;
    options.max_requests = modes[mode].max_requests;
    options.kv_tokens = modes[mode].kv_tokens;
    options.max_step_rows = modes[mode].step_rows;
    for (int i = 2; i < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--synthetic") == 0)
            options.synthetic = value;
        else if (strcmp(argv[i], "--model") == 0) {
            options.model_dir = value;
            options.synthetic = NULL;
        } else if (strcmp(argv[i], "--weights") == 0)
            options.weights = value;
        else if (strcmp(argv[i], "--threads") == 0)
            options.threads = atoi(value);
        else if (strcmp(argv[i], "--ranks") == 0)
            options.ranks = atoi(value);
        else if (strcmp(argv[i], "--budget") == 0 && atoi(value) > 0)
            b.budget = (size_t)atoi(value);
        else if (strcmp(argv[i], "--prompts") == 0)
            b.prompts = value;
        else if (strcmp(argv[i], "--comm") == 0 && strcmp(value, "mpi") == 0)
            options.transport = CALORIS_TRANSPORT_MPI;
        else if (strcmp(argv[i], "--comm") == 0 && strcmp(value, "threads") == 0)
            options.transport = CALORIS_TRANSPORT_THREADS;
        else if (!read_case(&b, argv[i], value))
            return usage();
    }
    if ((!options.synthetic && !options.model_dir) || (b.prompts && !options.model_dir))
        return usage();
    b.model_dir = options.model_dir;
    fill_in(&b, modes[mode].reveal);
    for (size_t i = 0; modes[mode].max_canvas == 0 && i < b.n_gen; i++) {
        if (options.max_canvas < PROMPT + b.gen[i])
            options.max_canvas = options.kv_tokens = PROMPT + b.gen[i];
    }
    if (options.max_step_rows < options.max_canvas)
        options.max_step_rows = options.max_canvas;
    struct caloris_err err = {0};
    bool report = true;
    if (caloris_engine_run(&options, body, &b, &report, &err) == 0)
        return 0;
    if (report)
        fprintf(stderr, "decode: %s\n", err.text);
    return 1;
}
