/* tests/bench/decode: whole requests through the step loop. CSV on stdout.
 *
 *   decode cached [options]   a request with a cache, revealing so many tokens a step, against the
 *                             plain loop (its length times the median of 5 of its steps), and
 *                             against what the medians of its own full and block steps predict
 *   decode sixteen [options]  32 tokens of prompt, 128 generated, dual, 16 steps
 *   decode full [options]     32 requests of 128 + 128 tokens at the row budget: tokens/s beside
 *                             what the budget's step time gives, and how full steps are
 *   decode packed [options]   64 requests of mixed lengths: packed step by step, and held in
 *                             batches, as many as fill the budget: nobody enters until the last is
 *                             done (not block-synchronous: refreshes go beyond the budget, and
 *                             members drift apart)
 *
 *   --synthetic NAME (llada-8b; packed: the model of --model DIR)  --weights FORMAT (int8)
 *   --threads T (2)  --ranks N (1)  --gen N …  --cache dual|active …  --reveal R …
 *   --budget ROWS (packed; else it is measured)
 *
 * N is a multiple of the block's 32 tokens; R divides 32, and is less. A step is crowded while
 * requests wait for a slot or for a part in it; its fill is min(rows, budget) / budget.
 * Where the budget is below a block's rows every step is one request's, and packed and held make
 * the same steps: only their order differs.
 *
 * Tokens are revealed by quota, so that the counts do not depend on what weights say. own_share:
 * packing and deciding; plan_share: checking the plan, broadcasting it, merging summaries, all that
 * the model's stopwatch does not see; rest_share: applying the plan and gathering summaries, with
 * the wait for slower ranks. All are rank 0's, of the seconds of steps.
 */
#include "base/err.h"
#include "base/time.h"
#include "coordinator/schedule/schedule.h"
#include "tests/bench/bench.h"
#include "worker/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CASES = 8, MAX_STEPS = 4096, MAX_REQUESTS = 64, BLOCK = 32, PLAIN_STEPS = 5 };
enum { PROMPT = 128, MAX_GEN = MAX_STEPS }; /* of cached */

struct bench {
    const char *mode;
    uint32_t gen[MAX_CASES], reveal[MAX_CASES];
    enum caloris_cache cache[MAX_CASES];
    size_t n_gen, n_reveal, n_cache;
    size_t budget; /* of packed; 0: the measured one */
};

/* ---- requests -------------------------------------------------------------------------------- */

struct shape {
    uint32_t prompt, gen, steps;
    enum caloris_cache cache;
};

static struct caloris_request *make_request(const struct caloris_engine_facts *facts,
                                            const struct shape *shape)
{
    struct caloris_request *request = calloc(1, sizeof(*request));
    if (!request)
        return NULL;
    request->length = shape->prompt + shape->gen;
    request->prompt = shape->prompt;
    request->canvas = malloc(request->length * sizeof(*request->canvas));
    if (!request->canvas) {
        free(request);
        return NULL;
    }
    caloris_job_params_default(&request->params);
    request->params.gen_length = shape->gen;
    request->params.block_length = BLOCK;
    request->params.commit = CALORIS_COMMIT_QUOTA;
    request->params.quota = CALORIS_QUOTA_BLOCK;
    request->params.steps = shape->steps;
    request->params.cache = shape->cache;
    request->params.early_stop = false;
    request->params.early_commit = 0;
    request->params.seed = 1;
    request->params.mask_id =
        facts->model.mask_id >= 0 ? facts->model.mask_id : (int32_t)facts->model.vocab - 1;
    request->params.eos_id = request->params.eot_id = 0;
    for (size_t i = 0; i < request->length; i++)
        request->canvas[i] = i < request->prompt
                                 ? (int32_t)(i * 2654435761u % (facts->model.vocab - 2) + 1)
                                 : request->params.mask_id;
    return request;
}

/* A number of requests through a schedule of their own: what came of them. */
struct run {
    struct caloris_engine *engine;
    const struct shape *shape; /* [n] */
    size_t n, aim, held;       /* held: at a time, 0: all that have room */
    bool follow;
    size_t stop_after; /* steps of a followed one, then it is cancelled; 0: none */

    struct caloris_schedule *schedule;
    uint64_t start_ns, submitted_ns[MAX_REQUESTS];
    double seconds, wait[MAX_REQUESTS], done[MAX_REQUESTS]; /* since the start */
    double full[MAX_STEPS], block[MAX_STEPS];
    size_t n_full, n_block, tokens;
    struct caloris_schedule_figures figures;
    struct caloris_err err;
    int status;
};

static int submit(struct run *run, size_t i)
{
    struct caloris_request *request =
        make_request(caloris_engine_facts(run->engine), &run->shape[i]);
    if (!request)
        return caloris_err_sys(&run->err, "a request");
    request->follow = run->follow;
    request->owner = &run->submitted_ns[i];
    run->submitted_ns[i] = caloris_time_ns();
    if (caloris_schedule_submit(run->schedule, request, &run->err) == 0)
        return 0;
    caloris_request_free(request);
    return -1;
}

static void take(struct run *run, const struct caloris_event *event)
{
    const size_t i = (size_t)((uint64_t *)event->owner - run->submitted_ns);
    if (event->kind == CALORIS_EVENT_STEP) {
        if (event->refresh && run->n_full < MAX_STEPS)
            run->full[run->n_full++] = event->step_s;
        else if (!event->refresh && run->n_block < MAX_STEPS)
            run->block[run->n_block++] = event->step_s;
        if (run->stop_after > 0 && run->n_full + run->n_block == run->stop_after)
            caloris_schedule_cancel(run->schedule, event->owner);
    }
    if (event->kind == CALORIS_EVENT_FINISHED) {
        run->wait[i] = (double)(run->submitted_ns[i] - run->start_ns) * 1e-9 + event->wait_s;
        run->done[i] = run->wait[i] + event->denoise_s;
        run->tokens += run->shape[i].gen;
    }
}

/* Until so few are out. */
static int collect(struct run *run, size_t *out, size_t few)
{
    while (*out > few) {
        struct caloris_event *event = caloris_schedule_next_event(run->schedule, -1);
        if (!event)
            continue;
        const bool ended = event->kind == CALORIS_EVENT_ENDED;
        if (ended)
            run->err = event->error;
        else
            take(run, event);
        *out -= event->request != NULL;
        caloris_request_free(event->request);
        caloris_event_free(event);
        if (ended)
            return -1;
    }
    return 0;
}

static void *conduct(void *arg)
{
    struct run *run = arg;
    size_t out = 0;
    run->start_ns = caloris_time_ns();
    for (size_t i = 0; run->status == 0 && i < run->n; i++) {
        if (run->held > 0 && out == run->held)
            run->status = collect(run, &out, 0);
        if (run->status == 0)
            run->status = submit(run, i);
        out += run->status == 0;
    }
    if (run->status == 0)
        run->status = collect(run, &out, 0);
    run->seconds = (double)(caloris_time_ns() - run->start_ns) * 1e-9;
    caloris_schedule_close(run->schedule, run->status < 0);
    return NULL;
}

static int run_all(struct run *run, struct caloris_err *err)
{
    pthread_t thread;
    run->schedule = caloris_schedule_new(caloris_engine_facts(run->engine), err);
    if (!run->schedule)
        return -1;
    if (run->aim > 0)
        caloris_schedule_aim(run->schedule, run->aim);
    if (pthread_create(&thread, NULL, conduct, run) != 0) {
        caloris_schedule_free(run->schedule);
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no thread");
    }
    int rc = caloris_schedule_loop(run->schedule, run->engine, err);
    pthread_join(thread, NULL);
    caloris_schedule_figures(run->schedule, &run->figures);
    caloris_schedule_free(run->schedule);
    if (rc == 0 && run->status < 0) {
        *err = run->err;
        rc = -1;
    }
    return rc;
}

/* ---- what is printed ------------------------------------------------------------------------- */

static void print_end(const struct caloris_engine_facts *facts)
{
    char machine[BENCH_MACHINE];
    printf("%s,%s,\"%s\",%s\n", facts->kernels, facts->blas, bench_machine(machine),
           bench_commit());
    fflush(stdout);
}

static const char *const cache_names[] = {"none", "prefix", "dual", "active"};

struct shares {
    double own, plan, rest;
};

/* The engine's profile began with the run. */
static int take_shares(struct caloris_engine *engine, const struct caloris_schedule_figures *f,
                       struct shares *shares, struct caloris_err *err)
{
    const int ranks = caloris_engine_facts(engine)->ranks;
    struct caloris_rank_profile *profile = calloc((size_t)ranks, sizeof(*profile));
    double seen = 0;
    if (!profile)
        return caloris_err_sys(err, "profile of %d ranks", ranks);
    int rc = caloris_engine_profile(engine, profile, err);
    for (int i = 0; i < CALORIS_PHASES; i++)
        seen += profile[0].phase[i].seconds;
    shares->own = f->own_s / f->step_s;
    shares->plan = (f->step_s - seen) / f->step_s;
    shares->rest = profile[0].phase[CALORIS_PHASE_REST].seconds / f->step_s;
    free(profile);
    return rc;
}

/* ---- cached ---------------------------------------------------------------------------------- */

/* Median seconds of a step of the plain loop. */
static int time_plain(struct caloris_engine *engine, uint32_t prompt, uint32_t gen, double *seconds,
                      struct caloris_err *err)
{
    static struct run run;
    const struct shape shape = {prompt, gen, gen, CALORIS_CACHE_NONE};
    run = (struct run){
        .engine = engine, .shape = &shape, .n = 1, .follow = true, .stop_after = PLAIN_STEPS + 1};
    if (run_all(&run, err) < 0)
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
    if (caloris_engine_profile(engine, NULL, err) < 0 || run_all(&run, err) < 0 ||
        take_shares(engine, &run.figures, &shares, err) < 0)
        return -1;
    const double t_full = bench_median(run.full, run.n_full);
    const double t_block = bench_median(run.block, run.n_block);
    const double predicted = (double)run.n_full * t_full + (double)run.n_block * t_block;
    printf("%u,%u,%s,%u,%zu,%zu,%d,%d,%s,%.3f,%.2f,%.4f,%.4f,%.4f,%.2f,%.2f,%.3f,%.5f,%.5f,%.5f,%."
           "2f,%.2f,",
           shape->prompt, shape->gen, cache_names[shape->cache], shape->gen / shape->steps,
           run.n_full, run.n_block, facts->ranks, facts->threads, facts->format, run.seconds,
           (double)shape->gen / run.seconds, t_plain, t_full, t_block,
           (double)shape->gen * t_plain / run.seconds, (double)shape->gen * t_plain / predicted,
           predicted / run.seconds, shares.own, shares.plan, shares.rest, other_s / run.seconds,
           other_too_s / run.seconds);
    print_end(facts);
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
                                            b->cache[c]};
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
    const struct shape shape = {32, 128, 16, CALORIS_CACHE_DUAL};
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
            shapes[i] = (struct shape){128, 128, 128 / b->reveal[0], b->cache[c]};
        run = (struct run){.engine = engine, .shape = shapes, .n = REQUESTS, .aim = budget.rows};
        if (caloris_engine_profile(engine, NULL, err) < 0 || run_all(&run, err) < 0 ||
            take_shares(engine, &run.figures, &shares, err) < 0)
            return -1;
        const struct caloris_schedule_figures *f = &run.figures;
        const double at_rate = (double)f->rows * at_budget / (double)budget.rows;
        printf("%d,%s,%u,%d,%d,%s,%zu,%.4f,%.3f,%.2f,%.3f,%.3f,%llu,%llu,%llu,%.5f,%.5f,%.5f,",
               REQUESTS, cache_names[b->cache[c]], b->reveal[0], facts->ranks, facts->threads,
               facts->format, budget.rows, at_budget, run.seconds, (double)run.tokens / run.seconds,
               at_rate / run.seconds,
               f->crowded_steps > 0 ? f->crowded_fill / (double)f->crowded_steps : 0,
               (unsigned long long)f->crowded_steps, (unsigned long long)f->steps,
               (unsigned long long)f->rows, shares.own, shares.plan, shares.rest);
        print_end(facts);
    }
    return 0;
}

static int body_packed(struct caloris_engine *engine, const struct bench *b,
                       struct caloris_err *err)
{
    static struct run runs[2];
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct shape shapes[MAX_REQUESTS];
    struct caloris_row_budget budget;
    struct shares shares;
    if (caloris_row_budget_measure(engine, &budget, err) < 0)
        return -1;
    if (b->budget > 0)
        budget.rows = b->budget;
    for (uint32_t i = 0; i < MAX_REQUESTS; i++) {
        const uint32_t gen = BLOCK * (1 + i * 7 % 3);
        shapes[i] = (struct shape){8 + i * 29 % 57, gen, gen / b->reveal[0], b->cache[0]};
    }
    puts("way,requests,cache,reveals,ranks,threads,weights,budget,seconds,tokens_per_s,times_held,"
         "wait_p50_s,wait_p99_s,done_p50_s,done_p99_s,steps,rows_per_step,own_share,plan_share,"
         "rest_share,"
         "kernels,blas,machine,"
         "commit");
    for (int held = 1; held >= 0; held--) {
        struct run *run = &runs[held];
        *run = (struct run){.engine = engine,
                            .shape = shapes,
                            .n = MAX_REQUESTS,
                            .aim = budget.rows,
                            .held = held ? (budget.rows + BLOCK - 1) / BLOCK : 0};
        if (caloris_engine_profile(engine, NULL, err) < 0 || run_all(run, err) < 0 ||
            take_shares(engine, &run->figures, &shares, err) < 0)
            return -1;
        const double wait = bench_median(run->wait, MAX_REQUESTS); /* sorts */
        const double done = bench_median(run->done, MAX_REQUESTS);
        const struct caloris_schedule_figures *f = &run->figures;
        printf("%s,%d,%s,%u,%d,%d,%s,%zu,%.3f,%.1f,%.3f,%.3f,%.3f,%.3f,%.3f,%llu,%.1f,"
               "%.5f,%.5f,%.5f,",
               held ? "held" : "packed", MAX_REQUESTS, cache_names[b->cache[0]], b->reveal[0],
               facts->ranks, facts->threads, facts->format, budget.rows, run->seconds,
               (double)run->tokens / run->seconds, runs[1].seconds / run->seconds, wait,
               run->wait[MAX_REQUESTS * 99 / 100], done, run->done[MAX_REQUESTS * 99 / 100],
               (unsigned long long)f->steps, (double)f->rows / (double)f->steps, shares.own,
               shares.plan, shares.rest);
        print_end(facts);
    }
    return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static const struct {
    const char *mode;
    int (*body)(struct caloris_engine *engine, const struct bench *b, struct caloris_err *err);
    const char *synthetic;
    size_t max_canvas, max_requests, kv_tokens;
    uint32_t reveal;
} modes[] = {
    {"cached", body_cached, "llada-8b", 0, 1, 0, 0}, /* canvas: of the longest case */
    {"sixteen", body_sixteen, "llada-8b", 32 + 128, 1, 32 + 128, 0},
    {"full", body_full, "llada-1b", 256, 32, 32 * 256, 4},
    {"packed", body_packed, NULL, 160, 64, 64 * 160, 4},
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
          "[--weights FORMAT] [--threads T] [--ranks N] [--gen N]… [--cache prefix|dual|active]… "
          "[--reveal R]… [--budget ROWS]\n",
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
            strcmp(value, cache_names[c]) == 0) {
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
    options.max_step_rows = 2048;
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
        else if (!read_case(&b, argv[i], value))
            return usage();
    }
    if (!options.synthetic && !options.model_dir)
        return usage();
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
