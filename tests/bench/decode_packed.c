/* decode packed: requests that share steps as they come, against batches that are held.
 *
 * Held is what an engine does that has no scheduler: as many requests as fill the row budget with
 * their blocks enter together; in every step all of them compute the rows of the batch's block, who
 * has nothing left to reveal there, too, and the whole canvas where a block is entered; the next
 * block is entered when all are done with this one; nobody enters before all are done. It is spared
 * what such engines also pay: padding prompts and answers to one length. */
#include "tests/bench/decode.h"

#include "base/err.h"
#include "base/json.h"
#include "base/time.h"
#include "coordinator/schedule/pack.h"
#include "coordinator/text/text.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 7, MAX_LINE_BYTES = 1 << 16 };

/* ---- held ------------------------------------------------------------------------------------ */

struct batch {
    struct caloris_pack pack;
    size_t n, to_release;
    struct caloris_request *request[MAX_REQUESTS];
    struct caloris_member member[MAX_REQUESTS];
    struct caloris_mark *marks[MAX_REQUESTS];
};

static int fill(struct batch *batch, struct run *run, size_t first, struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(run->engine);
    for (size_t i = 0; i < batch->n; i++) {
        struct caloris_request *request = bench_request(facts, &run->shape[first + i]);
        struct caloris_member *member = &batch->member[i];
        *member = (struct caloris_member){.slot = (uint32_t)i,
                                          .partner = CALORIS_NO_SLOT,
                                          .kv_first = (uint32_t)(i * facts->max_canvas)};
        batch->request[i] = request;
        batch->marks[i] = calloc(facts->max_canvas, sizeof(*batch->marks[i]));
        member->reveals = calloc(facts->max_canvas, sizeof(*member->reveals));
        if (!request || !batch->marks[i] || !member->reveals)
            return caloris_err_sys(err, "a request");
        if (caloris_denoise_start(&member->denoise, &request->params, request->canvas,
                                  batch->marks[i], request->length, request->prompt, err) < 0)
            return -1;
    }
    return 0;
}

static void empty(struct batch *batch)
{
    for (size_t i = 0; i < MAX_REQUESTS; i++) {
        caloris_request_free(batch->request[i]);
        free(batch->marks[i]);
        free(batch->member[i].reveals);
        batch->request[i] = NULL;
        batch->marks[i] = NULL;
        batch->member[i].reveals = NULL;
    }
}

/* The block that the batch is in: the first that somebody is in; false when all are done. */
static bool find_block(const struct batch *batch, size_t *block)
{
    *block = SIZE_MAX;
    for (size_t i = 0; i < batch->n; i++) {
        const struct caloris_denoise *denoise = &batch->member[i].denoise;
        if (!denoise->done && denoise->block < *block)
            *block = denoise->block;
    }
    return *block != SIZE_MAX;
}

static int step(struct batch *batch, struct run *run, struct caloris_err *err)
{
    struct caloris_step_result result;
    struct caloris_schedule_figures *figures = &run->figures;
    uint64_t at_ns[2];
    at_ns[0] = caloris_time_ns();
    if (caloris_engine_step(run->engine, &batch->pack.plan, &result, err) < 0)
        return -1;
    at_ns[1] = caloris_time_ns();
    for (size_t i = 0; i < batch->pack.n_parts; i++)
        caloris_pack_decide(&batch->pack, &batch->pack.parts[i], &result);
    for (size_t i = 0; i < batch->pack.plan.n_spans; i++)
        figures->rows += batch->pack.plan.spans[i].count;
    figures->steps++;
    figures->step_s += (double)(at_ns[1] - at_ns[0]) * 1e-9;
    return 0;
}

static double since_start(const struct run *run)
{
    return (double)(caloris_time_ns() - run->start_ns) * 1e-9;
}

/* Everybody's rows: of those that are done with the block, too. */
static void pack_all(struct batch *batch, size_t block, bool entered)
{
    struct caloris_pack *pack = &batch->pack;
    for (size_t i = 0; i < batch->n; i++) {
        struct caloris_member *member = &batch->member[i];
        const struct caloris_denoise *denoise = &member->denoise;
        if (!denoise->done && denoise->block == block)
            caloris_pack_step(pack, member);
        else if (block < denoise->blocks && entered)
            pack->spans[pack->plan.n_spans++] =
                (struct caloris_span){member->slot, 0, (uint32_t)denoise->length};
        else if (block < denoise->blocks)
            pack->spans[pack->plan.n_spans++] = (struct caloris_span){
                member->slot, (uint32_t)(denoise->prompt + block * BLOCK), BLOCK};
    }
}

/* Requests [first, first + batch->n). */
static int run_batch(struct batch *batch, struct run *run, size_t first, struct caloris_err *err)
{
    const double wait = since_start(run);
    caloris_pack_begin(&batch->pack);
    for (size_t i = 0; i < batch->to_release; i++)
        caloris_pack_release(&batch->pack, (uint32_t)i);
    for (size_t i = 0; i < batch->n; i++)
        caloris_pack_admit(&batch->pack, &batch->member[i]);
    batch->to_release = batch->n;
    for (size_t block, last = SIZE_MAX; find_block(batch, &block); last = block) {
        pack_all(batch, block, block != last);
        if (step(batch, run, err) < 0)
            return -1;
        for (size_t i = 0; i < batch->n; i++) {
            if (batch->member[i].denoise.done && run->done[first + i] == 0)
                run->done[first + i] = since_start(run);
        }
        caloris_pack_begin(&batch->pack);
    }
    for (size_t i = 0; i < batch->n; i++) {
        run->wait[first + i] = wait;
        run->tokens += bench_tokens(batch->request[i]);
    }
    return 0;
}

static int run_held(struct run *run, size_t together, struct caloris_err *err)
{
    static struct batch batch;
    const struct caloris_engine_facts *facts = caloris_engine_facts(run->engine);
    struct caloris_step_result nothing;
    batch = (struct batch){0};
    if (caloris_pack_init(&batch.pack, facts->max_requests, facts->max_canvas, facts->max_step_rows,
                          err) < 0)
        return -1;
    int rc = 0;
    const double cpu_before = bench_cpu();
    run->start_ns = caloris_time_ns();
    for (size_t first = 0; rc == 0 && first < run->n; first += batch.n) {
        batch.n = run->n - first < together ? run->n - first : together;
        rc = fill(&batch, run, first, err);
        if (rc == 0)
            rc = run_batch(&batch, run, first, err);
        empty(&batch);
    }
    run->seconds = since_start(run);
    run->cpu_s = bench_cpu() - cpu_before;
    run->figures.own_s = run->seconds - run->figures.step_s;
    caloris_pack_begin(&batch.pack);
    for (size_t i = 0; i < batch.to_release; i++)
        caloris_pack_release(&batch.pack, (uint32_t)i);
    if (rc == 0)
        rc = caloris_engine_step(run->engine, &batch.pack.plan, &nothing, err);
    caloris_pack_free(&batch.pack);
    return rc;
}

/* ---- what is asked --------------------------------------------------------------------------- */

struct prompts {
    struct caloris_ids ids; /* of all, one behind the other */
    size_t end[MAX_REQUESTS];
};

static int read_prompt(FILE *file, const char *path, const struct caloris_tokenizer *tokenizer,
                       struct caloris_ids *ids, struct caloris_err *err)
{
    static char line[MAX_LINE_BYTES];
    if (!fgets(line, sizeof(line), file))
        return caloris_err_set(err, CALORIS_USAGE, "%s: fewer than %d lines", path, MAX_REQUESTS);
    json_t *object = caloris_json_parse(line, strlen(line), path, err);
    if (!object)
        return -1;
    const json_t *prompt = json_object_get(object, "prompt");
    const int rc =
        json_is_string(prompt)
            ? caloris_tokenizer_encode(tokenizer, json_string_value(prompt),
                                       json_string_length(prompt), CALORIS_TEXT_USER, ids, err)
            : caloris_err_set(err, CALORIS_USAGE, "%s: a line without a prompt", path);
    json_decref(object);
    return rc;
}

/* The first ones of a file. */
static int read_prompts(const struct bench *b, struct prompts *prompts, struct caloris_err *err)
{
    struct caloris_tokenizer *tokenizer = caloris_tokenizer_load(b->model_dir, NULL, err);
    if (!tokenizer)
        return -1;
    FILE *file = fopen(b->prompts, "re");
    int rc = file ? 0 : caloris_err_sys(err, "%s", b->prompts);
    for (size_t i = 0; rc == 0 && i < MAX_REQUESTS; i++) {
        rc = read_prompt(file, b->prompts, tokenizer, &prompts->ids, err);
        prompts->end[i] = prompts->ids.count;
    }
    if (file)
        fclose(file);
    caloris_tokenizer_free(tokenizer);
    return rc;
}

static int make_shapes(const struct bench *b, struct prompts *prompts, struct shape *shapes,
                       struct caloris_err *err)
{
    if (b->prompts && read_prompts(b, prompts, err) < 0)
        return -1;
    for (uint32_t i = 0; i < MAX_REQUESTS; i++) {
        const uint32_t gen = BLOCK * (1 + i * 7 % 3);
        const size_t first = i > 0 ? prompts->end[i - 1] : 0;
        shapes[i] = (struct shape){8 + i * 29 % 57, gen, gen / b->reveal[0], b->cache[0], NULL};
        if (b->prompts) {
            shapes[i].prompt = (uint32_t)(prompts->end[i] - first);
            shapes[i].ids = prompts->ids.id + first;
        }
    }
    return 0;
}

/* ---- the comparison -------------------------------------------------------------------------- */

enum figure {
    SECONDS,
    CPU,
    TOKENS,
    WAIT_50,
    WAIT_99,
    DONE_50,
    DONE_99,
    STEPS,
    ROWS,
    OWN,
    PLAN,
    REST
};
enum { FIGURES = REST + 1 };

/* One round of one way: what came of it. */
static int take_figures(struct run *run, double at[FIGURES][ROUNDS], int round,
                        struct caloris_err *err)
{
    struct shares shares;
    if (bench_shares(run->engine, &run->figures, &shares, err) < 0)
        return -1;
    const double steps = (double)run->figures.steps;
    const double wait = bench_median(run->wait, run->n), done = bench_median(run->done, run->n);
    const double figures[FIGURES] = {
        [SECONDS] = run->seconds,
        [CPU] = run->cpu_s,
        [TOKENS] = (double)run->tokens / run->seconds,
        [WAIT_50] = wait,
        [WAIT_99] = run->wait[run->n * 99 / 100], /* the median has sorted them */
        [DONE_50] = done,
        [DONE_99] = run->done[run->n * 99 / 100],
        [STEPS] = steps,
        [ROWS] = (double)run->figures.rows / steps,
        [OWN] = shares.own,
        [PLAN] = shares.plan,
        [REST] = shares.rest,
    };
    for (size_t i = 0; i < FIGURES; i++)
        at[i][round] = figures[i];
    return 0;
}

static void print_head(void)
{
    puts("way,requests,prompts,cache,ranks,threads,weights,budget,batch,rounds,times_held,"
         "times_held_least,times_held_most,times_held_cpu,times_held_cpu_least,times_held_cpu_most,"
         "seconds,cpu_s,tokens_per_s,wait_p50_s,wait_p99_s,done_p50_s,done_p99_s,steps,"
         "rows_per_step,own_share,plan_share,rest_share,kernels,blas,machine,commit");
}

/* What came of a way, beside what came of held in the same rounds. */
struct way {
    const char *name;
    double figures[FIGURES][ROUNDS], ratio[ROUNDS], cpu_ratio[ROUNDS];
};

static void print_ratio(double ratio[ROUNDS])
{
    const double median = bench_median(ratio, ROUNDS); /* sorts */
    printf(",%.3f,%.3f,%.3f", median, ratio[0], ratio[ROUNDS - 1]);
}

static void print_way(struct way *way, const struct bench *b,
                      const struct caloris_engine_facts *facts, size_t budget, size_t batch)
{
    printf("%s,%d,%s,%s,%d,%d,%s,%zu,%zu,%d", way->name, MAX_REQUESTS,
           b->prompts ? "real" : "made up", bench_cache_names[b->cache[0]], facts->ranks,
           facts->threads, facts->format, budget, batch, ROUNDS);
    print_ratio(way->ratio);
    print_ratio(way->cpu_ratio);
    for (size_t i = 0; i < FIGURES; i++)
        printf(",%.5g", bench_median(way->figures[i], ROUNDS));
    putchar(',');
    bench_print_end(facts);
}

/* In turns, so that what else the machine does hits both alike. */
static int compare(struct caloris_engine *engine, const struct bench *b, const struct shape *shapes,
                   size_t budget, struct caloris_err *err)
{
    static struct run run;
    static struct way held = {.name = "held"}, packed = {.name = "packed"};
    const size_t fill_it = (budget + BLOCK - 1) / BLOCK;
    const size_t together = fill_it < MAX_REQUESTS ? fill_it : MAX_REQUESTS;
    for (int i = 0; i < 2 * ROUNDS; i++) {
        const int round = i / 2;
        struct way *way = i % 2 ? &packed : &held;
        run = (struct run){.engine = engine, .shape = shapes, .n = MAX_REQUESTS, .aim = budget};
        if (caloris_engine_profile(engine, NULL, err) < 0 ||
            (i % 2 ? bench_run(&run, err) : run_held(&run, together, err)) < 0 ||
            take_figures(&run, way->figures, round, err) < 0)
            return -1;
        way->ratio[round] = held.figures[SECONDS][round] / run.seconds;
        way->cpu_ratio[round] = held.figures[CPU][round] / run.cpu_s;
    }
    print_way(&held, b, caloris_engine_facts(engine), budget, together);
    print_way(&packed, b, caloris_engine_facts(engine), budget, together);
    return 0;
}

int bench_packed(struct caloris_engine *engine, const struct bench *b, struct caloris_err *err)
{
    static struct prompts prompts;
    struct shape shapes[MAX_REQUESTS];
    struct caloris_row_budget budget = {.rows = b->budget};
    int rc = make_shapes(b, &prompts, shapes, err);
    if (rc == 0 && budget.rows == 0)
        rc = caloris_row_budget_measure(engine, &budget, err);
    print_head();
    if (rc == 0)
        rc = compare(engine, b, shapes, budget.rows, err);
    caloris_ids_free(&prompts.ids);
    return rc;
}
