#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/plain_decodes.h"

#include "base/rng.h"
#include "tests/unit/plain_loop.h"
#include "tests/unit/tiny_llada.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- the requests ---------------------------------------------------------------------------- */

/* Jobs without a prompt; of the prompt the length and the distance of its holes (0: none). */
static const struct {
    const char *job;
    size_t prompt, holes;
} requests[] = {
    {"'cache':'active','commit':'threshold','threshold':0.9,'gen_length':24,'block_length':8", 9,
     0},
    {"'cache':'active','commit':'quota','steps':12,'gen_length':24,'block_length':8", 12, 0},
    {"'cache':'active','commit':'quota','steps':24,'gen_length':12,'block_length':6", 7, 0},
    {"'cache':'active','commit':'factor','factor':1.5,'gen_length':20,'block_length':20", 10, 0},
    {"'cache':'active','commit':'threshold','threshold':0.6,'gen_length':18,'block_length':6,"
     "'refresh':2",
     8, 0},
    {"'cache':'active','commit':'threshold','threshold':0.7,'gen_length':16,'block_length':4,"
     "'refresh':4",
     14, 5},
    {"'cache':'active','commit':'quota','gen_length':12,'block_length':4,'cfg_scale':1", 6, 0},
    {"'cache':'active','commit':'threshold','threshold':0.5,'gen_length':12,'block_length':6,"
     "'cfg_scale':0.5",
     11, 3},
    {"'cache':'active','commit':'quota','steps':8,'gen_length':16,'block_length':8,"
     "'quota':'block'",
     10, 4},
    {"'cache':'active','commit':'quota','steps':9,'gen_length':18,'block_length':6,"
     "'temperature':0.7,'seed':5",
     10, 0},
    {"'cache':'active','commit':'quota','steps':8,'gen_length':16,'block_length':4,"
     "'order':'random','seed':6,'refresh':3",
     9, 0},
    {"'cache':'dual','commit':'threshold','threshold':0.8,'gen_length':18,'block_length':6", 12, 4},
    {"'cache':'dual','commit':'quota','steps':12,'gen_length':24,'block_length':6,'refresh':2", 9,
     0},
    {"'cache':'dual','commit':'quota','steps':8,'gen_length':16,'block_length':4,'refresh':100", 12,
     3},
    {"'cache':'dual','commit':'quota','steps':4,'gen_length':16,'block_length':8,"
     "'quota':'block'",
     10, 3},
    {"'cache':'dual','commit':'factor','factor':1,'gen_length':16,'block_length':8,"
     "'cfg_scale':1",
     8, 0},
    {"'cache':'dual','commit':'threshold','threshold':0.5,'gen_length':15,'block_length':4", 8, 0},
    {"'cache':'prefix','commit':'threshold','threshold':0.8,'gen_length':18,'block_length':6", 12,
     4},
    {"'cache':'prefix','commit':'quota','steps':12,'gen_length':24,'block_length':6,"
     "'refresh':3",
     9, 0},
    {"'cache':'prefix','commit':'quota','steps':8,'gen_length':16,'block_length':4,"
     "'cfg_scale':0.5,'refresh':2",
     12, 3},
    {"'cache':'none','commit':'threshold','threshold':0.7,'gen_length':16,'block_length':4", 9, 3},
    {"'cache':'none','commit':'quota','steps':8,'gen_length':16,'order':'margin'", 9, 0},
    {"'cache':'dual','commit':'threshold','threshold':0.6,'gen_length':16,'block_length':8,"
     "'order':'margin'",
     9, 3},
    {"'cache':'none','commit':'quota','steps':8,'gen_length':16,'order':'entropy'", 8, 0},
    {"'cache':'active','commit':'factor','factor':2,'gen_length':16,'order':'entropy'", 8, 0},
    {"'cache':'none','commit':'entropy_bounded','gamma':0.5,'gen_length':16", 8, 3},
    {"'cache':'prefix','commit':'entropy_bounded','gamma':1.5,'gen_length':16,'block_length':8", 8,
     0},
    {"'cache':'active','commit':'entropy_bounded','gamma':1,'gen_length':18,'block_length':6,"
     "'order':'confidence'",
     10, 0},
    {"'cache':'none','commit':'entropy_bounded','gamma':3,'gen_length':12,'cfg_scale':1,"
     "'order':'margin'",
     7, 3},
    {"'cache':'dual','commit':'quota','steps':8,'gen_length':16,'block_length':8,"
     "'order':'left_to_right'",
     9, 0},
    {"'cache':'none','commit':'threshold','threshold':0.5,'gen_length':16,'block_length':4,"
     "'order':'left_to_right'",
     9, 0},
    {"'cache':'dual','commit':'quota','steps':16,'gen_length':16,'block_length':4,"
     "'early_commit':0.4",
     9, 0},
    {"'cache':'active','commit':'threshold','threshold':0.99,'gen_length':16,'block_length':4,"
     "'early_commit':0.6",
     11, 0},
    {"'cache':'none','commit':'threshold','threshold':0.6,'gen_length':16,'block_length':8,"
     "'early_stop':true",
     9, 0},
    {"'cache':'prefix','commit':'quota','steps':12,'gen_length':24,'block_length':6,"
     "'early_stop':true",
     10, 0},
    {"'cache':'dual','commit':'threshold','threshold':0.5,'gen_length':18,'block_length':6,"
     "'early_stop':true",
     11, 4},
    {"'cache':'active','commit':'factor','factor':1.5,'gen_length':16,'block_length':8,"
     "'early_stop':true",
     8, 0},
};
enum { REQUESTS = sizeof(requests) / sizeof(requests[0]) };

static json_t *job_of(const char *fields, int32_t mask_id)
{
    char text[512], *at = text;
    snprintf(text, sizeof(text), "{'preset':'exact','early_stop':false,%s,'mask_id':%d}", fields,
             mask_id);
    for (; *at; at++)
        *at = *at == '\'' ? '"' : *at;
    json_t *job = json_loads(text, 0, NULL);
    assert_non_null(job);
    return job;
}

static void make_prompt(struct golden_decode *decode, size_t index, size_t length, size_t holes)
{
    const int32_t mask = decode->params.mask_id;
    decode->n_prompt = length;
    decode->length = length + decode->params.gen_length;
    decode->prompt = calloc(length, sizeof(*decode->prompt));
    assert_non_null(decode->prompt);
    for (size_t i = 0; i < length; i++) {
        const bool hole = holes > 0 && i % holes == 1;
        decode->prompt[i] = hole ? mask : (int32_t)(37 * i + 11 * index * index + 3) % 300;
        decode->holes |= hole;
    }
}

/* Whether noise leaves every write where it is. */
static bool is_sturdy(const struct tiny_llada *model, const struct golden_decode *decode)
{
    enum { TRIALS = 3 };
    bool same = true;
    for (uint64_t trial = 1; same && trial <= TRIALS; trial++) {
        int32_t *canvas = golden_canvas(decode);
        json_t *trace = plain_loop_decode(model, decode, canvas, trial, NULL);
        same = json_equal(trace, decode->trace);
        json_decref(trace);
        free(canvas);
    }
    return same;
}

/* An EOS that comes: what stands in the middle of the answer where nothing is one. */
static void choose_eos(const struct tiny_llada *model, struct golden_decode *decode)
{
    int32_t *canvas = golden_canvas(decode);
    decode->params.early_stop = false;
    json_decref(plain_loop_decode(model, decode, canvas, 0, NULL));
    size_t at = decode->n_prompt + decode->params.gen_length / 2;
    while (at + 1 < decode->length && canvas[at] == decode->params.mask_id)
        at++;
    decode->params.early_stop = true;
    decode->params.eos_id = canvas[at] == decode->params.mask_id ? 0 : canvas[at];
    json_object_set_new(decode->job, "eos_id", json_integer(decode->params.eos_id));
    free(canvas);
}

/* The decode of a request, as its candidate; false when it is not sturdy. */
static bool make_decode(const struct tiny_llada *model, const char *fields, uint32_t candidate,
                        int32_t mask, size_t index, size_t prompt, size_t holes,
                        struct golden_decode *decode)
{
    *decode = (struct golden_decode){.name = fields, .job = job_of(fields, mask)};
    if (candidate > 0)
        json_object_set_new(decode->job, "candidate", json_integer(candidate));
    golden_params(decode->job, &decode->params);
    make_prompt(decode, index, prompt, holes);
    if (decode->params.early_stop && decode->params.eos_id < 0)
        choose_eos(model, decode);
    decode->final = golden_canvas(decode);
    decode->trace = plain_loop_decode(model, decode, decode->final, 0, &decode->score);
    decode->calls = json_array_size(decode->trace);
    return is_sturdy(model, decode);
}

static int32_t mask_of(const struct golden_decodes *decodes)
{
    return (int32_t)json_integer_value(json_object_get(decodes->root, "mask_id"));
}

void plain_decodes_append(struct golden_decodes *decodes)
{
    struct tiny_llada *model = tiny_llada_load(decodes->dir);
    assert_non_null(model);
    decodes->decode =
        realloc(decodes->decode, (decodes->count + REQUESTS) * sizeof(*decodes->decode));
    assert_non_null(decodes->decode);
    for (size_t i = 0; i < REQUESTS; i++) {
        struct golden_decode *decode = &decodes->decode[decodes->count];
        if (!make_decode(model, requests[i].job, 0, mask_of(decodes), i, requests[i].prompt,
                         requests[i].holes, decode))
            fail_msg("%s: not sturdy: %s", decodes->dir, requests[i].job);
        decodes->count++;
    }
    tiny_llada_free(model);
}

static void forget_all(struct golden_decodes *decodes)
{
    for (size_t i = 0; i < decodes->count; i++)
        golden_decode_free(&decodes->decode[i]);
    decodes->count = 0;
}

void plain_decodes_load(const char *model, struct golden_decodes *decodes)
{
    golden_decodes_load(model, decodes);
    forget_all(decodes);
    plain_decodes_append(decodes);
}

/* ---- several answers ------------------------------------------------------------------------- */

/* The seed is the first of some that gives sturdy answers. */
static const struct {
    const char *job;
    size_t best, prompt, holes;
} best_requests[] = {
    {"'temperature':0.7,'cache':'none','commit':'quota','steps':6,'gen_length':12", 3, 8, 0},
    {"'temperature':0.9,'cache':'active','commit':'threshold','threshold':0.4,'gen_length':16,"
     "'block_length':8",
     4, 9, 0},
    {"'temperature':0.8,'cache':'dual','commit':'quota','steps':6,'gen_length':12,"
     "'block_length':4,'order':'random'",
     2, 11, 4},
    {"'temperature':0.8,'cache':'prefix','commit':'factor','factor':2,'gen_length':12,"
     "'block_length':6,'refresh':2",
     3, 7, 0},
    {"'temperature':0.6,'cache':'active','commit':'quota','steps':4,'gen_length':8,"
     "'block_length':4,'cfg_scale':0.5",
     3, 6, 3},
    {"'temperature':1,'cache':'dual','commit':'threshold','threshold':0,'gen_length':8", 5, 5, 0},
};
enum { BEST = sizeof(best_requests) / sizeof(best_requests[0]), SEEDS = 20 };
_Static_assert((int)BEST <= (int)PLAIN_BEST_REQUESTS, "as many as fit");

static bool make_answers(const struct tiny_llada *model, struct golden_decodes *decodes,
                         size_t index, int seed)
{
    char fields[400];
    const size_t before = decodes->count, best = best_requests[index].best;
    snprintf(fields, sizeof(fields), "%s,'seed':%d", best_requests[index].job, seed);
    bool sturdy = true;
    for (size_t k = 0; sturdy && k < best; k++)
        sturdy = make_decode(model, fields, (uint32_t)k, mask_of(decodes), index,
                             best_requests[index].prompt, best_requests[index].holes,
                             &decodes->decode[decodes->count++]);
    for (size_t i = before; i < decodes->count; i++)
        decodes->decode[i].name = best_requests[index].job;
    while (!sturdy && decodes->count > before)
        golden_decode_free(&decodes->decode[--decodes->count]);
    return sturdy;
}

void plain_best_load(const char *name, struct plain_best *best)
{
    struct golden_decodes *decodes = &best->decodes;
    golden_decodes_load(name, decodes);
    forget_all(decodes);
    struct tiny_llada *model = tiny_llada_load(decodes->dir);
    assert_non_null(model);
    size_t all = 0;
    for (size_t i = 0; i < BEST; i++)
        all += best_requests[i].best;
    decodes->decode = realloc(decodes->decode, all * sizeof(*decodes->decode));
    assert_non_null(decodes->decode);
    best->requests = 0;
    for (size_t i = 0; i < BEST; i++) {
        int seed = 1;
        while (seed <= SEEDS && !make_answers(model, decodes, i, seed))
            seed++;
        if (seed > SEEDS)
            fail_msg("%s: no sturdy seed", best_requests[i].job);
        best->best[best->requests++] = best_requests[i].best;
    }
    tiny_llada_free(model);
}

/* ---- at random ------------------------------------------------------------------------------- */

enum { MAX_DRAWN_BEST = 4, MAX_FIELDS = 420 };

struct dice {
    uint64_t seed;
    uint32_t throws;
};

/* A whole number from least to most. */
static int roll(struct dice *dice, int least, int most)
{
    const struct caloris_noise_key key = {dice->seed, 0, CALORIS_NOISE_ORDER, dice->throws++};
    return least + (int)(caloris_noise_uniform(&key, 0, 0) * (most - least + 1));
}

static double roll_real(struct dice *dice, double least, double most)
{
    return least + (most - least) * roll(dice, 0, 1000) / 1000;
}

/* A job's fields, and of its prompt the length and the distance of its holes. Returns best. */
static size_t draw_fields(struct dice *dice, char fields[MAX_FIELDS], size_t *prompt, size_t *holes)
{
    static const char *const caches[] = {"none", "prefix", "dual", "active"};
    static const char *const orders[] = {"confidence", "random", "margin", "entropy",
                                         "left_to_right"};
    static const char *const commits[] = {"quota", "threshold", "factor", "entropy_bounded"};
    static const char *const quotas[] = {"all", "block"};
    const int commit = roll(dice, 0, 3), blocks = roll(dice, 1, 4), block = roll(dice, 2, 6);
    const int best = roll(dice, 1, 6) == 1 ? roll(dice, 2, MAX_DRAWN_BEST) : 1;
    char *at = fields;
    *prompt = (size_t)roll(dice, 1, 16);
    *holes = roll(dice, 0, 2) == 0 ? (size_t)roll(dice, 2, 5) : 0;
    at += sprintf(at, "'cache':'%s','order':'%s','commit':'%s'", caches[roll(dice, 0, 3)],
                  orders[roll(dice, 0, 4)], commits[commit]);
    at += sprintf(at, ",'gen_length':%d,'block_length':%d,'refresh':%d,'seed':%d", blocks * block,
                  block, roll(dice, 1, 3), roll(dice, 0, 1000));
    if (commit == 0 && roll(dice, 0, 1))
        at += sprintf(at, ",'steps':%d,'quota':'%s'", blocks * roll(dice, 1, block),
                      quotas[roll(dice, 0, 1)]);
    at += sprintf(at, ",'threshold':%.3f,'factor':%.3f,'gamma':%.3f", roll_real(dice, 0, 1),
                  roll_real(dice, 0, 3), roll_real(dice, 0, 3));
    if (best > 1 || roll(dice, 0, 3) == 0)
        at += sprintf(at, ",'temperature':%.3f", roll_real(dice, 0.5, 1));
    if (roll(dice, 0, 4) == 0)
        at += sprintf(at, ",'cfg_scale':%.3f", roll_real(dice, 0.2, 1));
    if (roll(dice, 0, 4) == 0)
        at += sprintf(at, ",'early_commit':%.3f", roll_real(dice, 0.2, 1));
    if (roll(dice, 0, 2) == 0)
        sprintf(at, ",'early_stop':true");
    return (size_t)best;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The answers to one request, if all are sturdy. */
static bool draw(const struct tiny_llada *model, struct dice *dice, struct plain_drawn *drawn)
{
    struct golden_decodes *decodes = &drawn->decodes;
    char fields[MAX_FIELDS];
    size_t prompt, holes, before = decodes->count;
    const size_t best = draw_fields(dice, fields, &prompt, &holes), index = dice->throws;
    bool sturdy = true;
    for (size_t k = 0; sturdy && k < best; k++) {
        struct golden_decode *decode = &decodes->decode[decodes->count++];
        sturdy = make_decode(model, fields, (uint32_t)k, mask_of(decodes), index % 1000, prompt,
                             holes, decode);
        if (k == 0 && decode->params.early_stop) /* one EOS for all */
            sprintf(fields + strlen(fields), ",'eos_id':%d", decode->params.eos_id);
    }
    while (!sturdy && decodes->count > before)
        golden_decode_free(&decodes->decode[--decodes->count]);
    for (size_t i = before; i < decodes->count; i++)
        decodes->decode[i].name = "drawn";
    if (sturdy)
        drawn->best[drawn->requests++] = best;
    return sturdy;
}

void plain_drawn_load(const char *name, uint64_t seed, double seconds, size_t most,
                      struct plain_drawn *drawn)
{
    const double end = seconds_now() + seconds;
    struct dice dice = {.seed = seed};
    *drawn = (struct plain_drawn){.best = calloc(most, sizeof(*drawn->best))};
    golden_decodes_load(name, &drawn->decodes);
    forget_all(&drawn->decodes);
    struct tiny_llada *model = tiny_llada_load(drawn->decodes.dir);
    drawn->decodes.decode =
        realloc(drawn->decodes.decode, most * MAX_DRAWN_BEST * sizeof(*drawn->decodes.decode));
    assert_true(model && drawn->best && drawn->decodes.decode);
    while (drawn->requests < most && (drawn->requests == 0 || seconds_now() < end))
        draw(model, &dice, drawn);
    tiny_llada_free(model);
}

void plain_drawn_free(struct plain_drawn *drawn)
{
    golden_decodes_free(&drawn->decodes);
    free(drawn->best);
}
