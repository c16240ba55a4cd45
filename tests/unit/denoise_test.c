/* Which masks are revealed: each rule on summaries made by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/denoise/denoise.h"
#include "tests/unit/plain_summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 9, EOS = 8, EOT = 7, MAX = 32 };

static struct caloris_job_params params_of(uint32_t gen_length, enum caloris_commit commit)
{
    struct caloris_job_params params;
    caloris_job_params_preset(&params, CALORIS_PRESET_EXACT);
    params.gen_length = gen_length;
    params.block_length = gen_length > 0 ? gen_length : 1;
    params.commit = commit;
    params.mask_id = MASK;
    params.early_stop = false;
    params.seed = 1;
    return params;
}

static void start(struct caloris_denoise *denoise, const struct caloris_job_params *params,
                  int32_t *canvas, size_t length)
{
    static struct caloris_mark marks[MAX];
    struct caloris_err err;
    if (caloris_denoise_start(denoise, params, canvas, marks, length, length - params->gen_length,
                              &err) < 0)
        fail_msg("%s", err.text);
}

/* One step in which position i's choice is id[i] with the given rest and its logit below the
 * maximum. */
struct sight {
    int32_t id;
    double rest;
    float below;
};

static size_t step(struct caloris_denoise *denoise, const struct sight *sights,
                   struct caloris_reveal *reveals)
{
    uint32_t positions[MAX];
    struct caloris_summary summaries[MAX];
    struct caloris_candidate candidates[MAX];
    void *scratch = malloc(caloris_denoise_scratch_bytes(MAX));
    assert_non_null(scratch);
    size_t n = caloris_denoise_wanted(denoise, positions);
    for (size_t i = 0; i < n; i++) {
        const struct sight *sight = &sights[positions[i]];
        const bool found = sight->id >= 0;
        summaries[i] = (struct caloris_summary){.max = 5, .rest = sight->rest, .found = found};
        candidates[i] = (struct caloris_candidate){.id = sight->id, .logit = 5 - sight->below};
    }
    n = caloris_denoise_decide(denoise, positions, summaries, candidates, n, 1, reveals, scratch);
    free(scratch);
    return caloris_denoise_apply(denoise, reveals, n);
}

/* ---- one decision ---------------------------------------------------------------------------- */

#define P(p) ((1 - (p)) / (p)) /* the rest that makes the probability p */

static const struct {
    const char *name;
    enum caloris_commit commit;
    double threshold, factor;
    uint32_t steps;
    struct sight sights[4];
    const char *revealed; /* by position, 'x' */
} decisions[] = {
    {"threshold takes all that reach it",
     CALORIS_COMMIT_THRESHOLD,
     0.75,
     0,
     0,
     {{1, P(0.75), 0}, {1, P(0.74), 0}, {1, P(0.99), 0}, {1, P(0.1), 0}},
     "x.x."},
    {"threshold takes the surest at least",
     CALORIS_COMMIT_THRESHOLD,
     0.9,
     0,
     0,
     {{1, P(0.2), 0}, {1, P(0.3), 0}, {1, P(0.1), 0}, {1, P(0.25), 0}},
     ".x.."},
    {"a tie goes to the lowest position",
     CALORIS_COMMIT_THRESHOLD,
     0.9,
     0,
     0,
     {{1, P(0.2), 0}, {1, P(0.3), 0}, {1, P(0.3), 0}, {1, P(0.3), 0}},
     ".x.."},
    {"threshold 0 takes everything",
     CALORIS_COMMIT_THRESHOLD,
     0,
     0,
     0,
     {{1, P(0.2), 0}, {1, P(0.3), 0}, {1, 1e300, 0}, {1, P(0.3), 0}},
     "xxxx"},
    {"threshold 1 takes certainty",
     CALORIS_COMMIT_THRESHOLD,
     1,
     0,
     0,
     {{1, 0, 0}, {1, 1e-9, 0}, {1, 0, 0}, {1, P(0.3), 0}},
     "x.x."},
    {"p is of the chosen id",
     CALORIS_COMMIT_THRESHOLD,
     0.5,
     0,
     0,
     {{1, 0.5, 0}, {1, 0.5, 0.6f}, {1, 0.01, 1}, {1, 0.01, 0.5f}},
     "x..x"},
    {"a quota of 2 by order, though all p round to 1",
     CALORIS_COMMIT_QUOTA,
     0,
     0,
     2,
     {{1, 3e-18, 0}, {1, 1e-18, 0}, {1, 4e-18, 0}, {1, 2e-18, 0}},
     ".x.x"},
    {"a quota dealt unevenly starts large",
     CALORIS_COMMIT_QUOTA,
     0,
     0,
     3,
     {{1, P(0.2), 0}, {1, P(0.3), 0}, {1, P(0.4), 0}, {1, P(0.1), 0}},
     ".xx."},
    {"a quota over more steps than masks",
     CALORIS_COMMIT_QUOTA,
     0,
     0,
     6,
     {{1, P(0.2), 0}, {1, P(0.3), 0}, {1, P(0.4), 0}, {1, P(0.1), 0}},
     "..x."},
    {"no steps given: one mask each",
     CALORIS_COMMIT_QUOTA,
     0,
     0,
     0,
     {{1, P(0.2), 0}, {1, P(0.3), 0}, {1, P(0.4), 0}, {1, P(0.1), 0}},
     "..x."},
    /* factor 1: bounds 1 - 1/3, 1 - 1/4, 1 - 1/5 for the second, third and fourth. */
    {"factor takes while the bound holds",
     CALORIS_COMMIT_FACTOR,
     0,
     1,
     0,
     {{1, P(0.7), 0}, {1, P(0.76), 0}, {1, P(0.9), 0}, {1, P(0.69), 0}},
     ".xx."},
    {"factor stops at the first failure",
     CALORIS_COMMIT_FACTOR,
     0,
     1,
     0,
     {{1, P(0.65), 0}, {1, P(0.66), 0}, {1, P(0.67), 0}, {1, P(0.5), 0}},
     "..x."},
    {"factor takes the last only if it may",
     CALORIS_COMMIT_FACTOR,
     0,
     1,
     0,
     {{1, P(0.79), 0}, {1, P(0.9), 0}, {1, P(0.9), 0}, {1, P(0.9), 0}},
     ".xxx"},
    {"factor takes the last when it may",
     CALORIS_COMMIT_FACTOR,
     0,
     1,
     0,
     {{1, P(0.81), 0}, {1, P(0.9), 0}, {1, P(0.9), 0}, {1, P(0.9), 0}},
     "xxxx"},
    {"a row without a candidate is left alone",
     CALORIS_COMMIT_THRESHOLD,
     0,
     0,
     0,
     {{-1, 0, 0}, {1, P(0.3), 0}, {-1, 0, 0}, {1, P(0.3), 0}},
     ".x.x"},
};

static void decides(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(decisions) / sizeof(decisions[0]); i++) {
        struct caloris_job_params params = params_of(4, decisions[i].commit);
        params.threshold = decisions[i].threshold;
        params.factor = decisions[i].factor;
        params.steps = decisions[i].steps;
        int32_t canvas[4] = {MASK, MASK, MASK, MASK};
        struct caloris_denoise denoise;
        struct caloris_reveal reveals[4];
        start(&denoise, &params, canvas, 4);
        step(&denoise, decisions[i].sights, reveals);
        char found[5] = "....";
        for (size_t p = 0; p < 4; p++)
            found[p] = canvas[p] == MASK ? '.' : 'x';
        if (strcmp(found, decisions[i].revealed) != 0)
            fail_msg("%s: expected %s, found %s", decisions[i].name, decisions[i].revealed, found);
    }
}

/* Four rows over three ids besides the mask; p of each and what a rule makes of them. */
static const struct {
    const char *name;
    enum caloris_order order;
    enum caloris_commit commit;
    double parameter; /* of the commit; of quota: how many */
    double early_commit;
    double p[4][3];
    const char *revealed;
} rules[] = {
    {"margin is the lead over the runner-up, not p",
     CALORIS_ORDER_MARGIN,
     CALORIS_COMMIT_QUOTA,
     1,
     0,
     {{0.5, 0.49, 0.01}, {0.45, 0.275, 0.275}, {0.48, 0.4, 0.12}, {0.4, 0.3, 0.3}},
     ".x.."},
    {"entropy counts what lies below, too",
     CALORIS_ORDER_ENTROPY,
     CALORIS_COMMIT_QUOTA,
     1,
     0,
     {{0.62, 0.19, 0.19}, {0.6, 0.399, 0.001}, {0.4, 0.3, 0.3}, {0.5, 0.25, 0.25}},
     ".x.."},
    {"left to right does not look",
     CALORIS_ORDER_LEFT_TO_RIGHT,
     CALORIS_COMMIT_QUOTA,
     2,
     0,
     {{0.4, 0.3, 0.3}, {0.5, 0.3, 0.2}, {0.9, 0.05, 0.05}, {0.99, 0.005, 0.005}},
     "xx.."},
    {"threshold takes all that reach it, whoever is first",
     CALORIS_ORDER_LEFT_TO_RIGHT,
     CALORIS_COMMIT_THRESHOLD,
     0.8,
     0,
     {{0.4, 0.3, 0.3}, {0.5, 0.3, 0.2}, {0.9, 0.05, 0.05}, {0.79, 0.2, 0.01}},
     "x.x."},
    /* Entropies of (1/2, 1/2), (1/3, 1/3, 1/3) and (1): 0.693, 1.099, 0. */
    {"the bound leaves out the largest entropy",
     CALORIS_ORDER_ENTROPY,
     CALORIS_COMMIT_ENTROPY_BOUNDED,
     0.7,
     0,
     {{1. / 3, 1. / 3, 1. / 3}, {1, 0, 0}, {0.5, 0.5, 0}, {1. / 3, 1. / 3, 1. / 3}},
     "xxx."},
    {"the bound is met just not",
     CALORIS_ORDER_ENTROPY,
     CALORIS_COMMIT_ENTROPY_BOUNDED,
     0.69,
     0,
     {{1. / 3, 1. / 3, 1. / 3}, {1, 0, 0}, {0.5, 0.5, 0}, {1. / 3, 1. / 3, 1. / 3}},
     ".xx."},
    {"a bound of 0 takes the first at least",
     CALORIS_ORDER_ENTROPY,
     CALORIS_COMMIT_ENTROPY_BOUNDED,
     0,
     0,
     {{0.8, 0.1, 0.1}, {0.6, 0.2, 0.2}, {0.5, 0.5, 0}, {0.7, 0.2, 0.1}},
     "x..."},
    {"all lead by log 2: all go",
     CALORIS_ORDER_CONFIDENCE,
     CALORIS_COMMIT_QUOTA,
     1,
     0.69,
     {{0.5, 0.25, 0.25}, {0.6, 0.3, 0.1}, {0.9, 0.05, 0.05}, {0.5, 0.2, 0.3 - 0.06}},
     "xxxx"},
    {"one leads by less: the commit decides",
     CALORIS_ORDER_CONFIDENCE,
     CALORIS_COMMIT_QUOTA,
     1,
     0.7,
     {{0.5, 0.25, 0.25}, {0.6, 0.3, 0.1}, {0.9, 0.05, 0.05}, {0.5, 0.2, 0.3}},
     "..x."},
};

static void applies_rules(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof(rules) / sizeof(rules[0]); r++) {
        struct caloris_job_params params = params_of(4, rules[r].commit);
        params.order = rules[r].order;
        params.threshold = params.gamma = rules[r].parameter;
        params.steps =
            rules[r].commit == CALORIS_COMMIT_QUOTA ? 4 / (uint32_t)rules[r].parameter : 0;
        params.early_commit = rules[r].early_commit;
        int32_t canvas[4] = {MASK, MASK, MASK, MASK};
        uint32_t positions[4];
        struct caloris_denoise denoise;
        struct caloris_rule rule;
        struct caloris_summary summaries[4];
        struct caloris_candidate candidates[8];
        struct caloris_reveal reveals[4];
        void *scratch = malloc(caloris_denoise_scratch_bytes(4));
        assert_non_null(scratch);
        start(&denoise, &params, canvas, 4);
        size_t n = caloris_denoise_wanted(&denoise, positions);
        caloris_denoise_rule(&denoise, &rule);
        for (size_t i = 0; i < n; i++) {
            double logits[3];
            for (size_t v = 0; v < 3; v++)
                logits[v] = fmax(log(rules[r].p[i][v]), -200);
            plain_summary(logits, NULL, 3, positions[i], &rule, &summaries[i],
                          &candidates[i * caloris_rule_candidates(&rule)]);
        }
        n = caloris_denoise_decide(&denoise, positions, summaries, candidates, n,
                                   caloris_rule_candidates(&rule), reveals, scratch);
        char found[5] = "....";
        for (size_t i = 0; i < n; i++)
            found[reveals[i].position] = 'x';
        if (strcmp(found, rules[r].revealed) != 0)
            fail_msg("%s: expected %s, found %s", rules[r].name, rules[r].revealed, found);
        free(scratch);
    }
}

/* Sure of all it sees in the first step, a quota over many steps is done after it. */
static void an_early_commit_ends_the_block(void **state)
{
    (void)state;
    struct caloris_job_params params = params_of(4, CALORIS_COMMIT_QUOTA);
    params.early_commit = 0.5;
    params.block_length = 2;
    params.steps = 4;
    int32_t canvas[4] = {MASK, MASK, MASK, MASK};
    struct caloris_denoise denoise;
    struct caloris_reveal all[2] = {{0, 1, 1, 0}, {1, 1, 1, 0}};
    start(&denoise, &params, canvas, 4);
    caloris_denoise_apply(&denoise, all, 2);
    assert_int_equal(denoise.block, 1);
    assert_int_equal(denoise.step, 1);
}

static void reports_the_probability(void **state)
{
    (void)state;
    const struct caloris_job_params params = params_of(2, CALORIS_COMMIT_QUOTA);
    static const struct sight sights[2] = {{1, P(0.25), 0}, {1, 1, 0.5f}};
    int32_t canvas[2] = {MASK, MASK};
    struct caloris_denoise denoise;
    struct caloris_reveal reveals[2];
    start(&denoise, &params, canvas, 2);
    assert_int_equal(step(&denoise, sights, reveals), 1);
    assert_int_equal(reveals[0].position, 1);
    assert_float_equal(reveals[0].confidence, exp(-0.5) / 2, 1e-7);
    assert_int_equal(step(&denoise, sights, reveals), 1);
    assert_float_equal(reveals[0].confidence, 0.25, 1e-7);
    assert_true(denoise.done);
    assert_int_equal(denoise.step, 2);
}

static void gives_up_where_nothing_can_be_chosen(void **state)
{
    (void)state;
    const struct caloris_job_params params = params_of(2, CALORIS_COMMIT_THRESHOLD);
    static const struct sight sights[2] = {{-1, 0, 0}, {-1, 0, 0}};
    int32_t canvas[2] = {MASK, MASK};
    struct caloris_denoise denoise;
    struct caloris_reveal reveals[2];
    start(&denoise, &params, canvas, 2);
    assert_int_equal(step(&denoise, sights, reveals), 0);
    assert_true(denoise.done);
    assert_int_equal(denoise.masks, 2);
}

/* ---- quotas, blocks, holes ------------------------------------------------------------------- */

/* Counts revealed at each step, when every row is equally sure. */
static void count_reveals(const struct caloris_job_params *params, const int32_t *prompt,
                          size_t n_prompt, const char *expected)
{
    int32_t canvas[MAX];
    struct caloris_denoise denoise;
    struct caloris_reveal reveals[MAX];
    struct sight sights[MAX];
    char found[MAX] = "";
    const size_t length = n_prompt + params->gen_length;
    memcpy(canvas, prompt, n_prompt * sizeof(*canvas));
    for (size_t i = n_prompt; i < length; i++)
        canvas[i] = MASK;
    for (size_t i = 0; i < MAX; i++)
        sights[i] = (struct sight){1, 0.5, 0};
    start(&denoise, params, canvas, length);
    while (!denoise.done && denoise.step < MAX - 1) {
        const uint32_t at = denoise.step;
        found[at] = (char)('0' + step(&denoise, sights, reveals));
    }
    assert_string_equal(found, expected);
    size_t masks = 0;
    for (size_t i = 0; i < length; i++)
        masks += canvas[i] == MASK;
    assert_int_equal(denoise.masks, masks);
}

static void counts_quotas(void **state)
{
    (void)state;
    static const int32_t holes[3] = {MASK, 2, MASK}, plain[1] = {2};
    struct caloris_job_params params = params_of(6, CALORIS_COMMIT_QUOTA);
    params.block_length = 3;
    params.steps = 4;
    count_reveals(&params, plain, 1, "2121");
    count_reveals(&params, holes, 3,
                  "3221"); /* all: five masks in the first block, three in the second */
    params.quota = CALORIS_QUOTA_BLOCK;
    count_reveals(&params, holes, 3, "2121"); /* two masks stay */
    params.steps = 8;
    count_reveals(&params, plain, 1, "11101110");
    params.steps = 0;
    count_reveals(&params, holes, 3, "111111");
    params.quota = CALORIS_QUOTA_ALL;
    count_reveals(&params, holes, 3, "11111111");
    params.gen_length = 5; /* a short last block */
    count_reveals(&params, plain, 1, "11111");
    params.gen_length = 0; /* only the holes */
    params.block_length = 1;
    count_reveals(&params, holes, 3, "11");
    params.steps = 1;
    count_reveals(&params, holes, 3, "2");
    count_reveals(&params, plain, 1, "");
    params.commit = CALORIS_COMMIT_THRESHOLD;
    params.threshold = 0.1;
    count_reveals(&params, holes, 3, "2");
    params.gen_length = 5;
    params.block_length = 2;
    count_reveals(&params, holes, 3, "421"); /* holes with the first block */
    params.threshold = 0.9;
    count_reveals(&params, holes, 3, "1111111");
}

static void wants_masks_up_to_the_end_of_the_block(void **state)
{
    (void)state;
    struct caloris_job_params params = params_of(4, CALORIS_COMMIT_THRESHOLD);
    params.block_length = 2;
    int32_t canvas[7] = {MASK, 1, 2, MASK, MASK, MASK, MASK};
    uint32_t positions[7];
    struct caloris_denoise denoise;
    start(&denoise, &params, canvas, 7);
    assert_int_equal(caloris_denoise_wanted(&denoise, positions), 3);
    static const uint32_t first[3] = {0, 3, 4};
    assert_memory_equal(positions, first, sizeof(first));
    struct caloris_reveal all[3] = {{0, 1, 1, 0}, {3, 1, 1, 0}, {4, 1, 1, 0}};
    caloris_denoise_apply(&denoise, all, 3);
    assert_int_equal(denoise.block, 1);
    assert_int_equal(caloris_denoise_wanted(&denoise, positions), 2);
    assert_int_equal(positions[0], 5);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    int32_t canvas[6]; /* two of the prompt, four generated, behind a step that revealed them */
    bool done;
    int32_t after[6];
} ends[] = {
    {"no EOS", {1, 1, 2, 2, 2, MASK}, false, {1, 1, 2, 2, 2, MASK}},
    {"EOS behind a mask", {1, 1, MASK, EOS, 2, 2}, false, {1, 1, MASK, EOS, 2, 2}},
    {"EOS behind a hole", {MASK, 1, EOS, MASK, 2, 2}, false, {MASK, 1, EOS, MASK, 2, 2}},
    {"EOS of the prompt", {1, EOS, 2, MASK, 2, 2}, false, {1, EOS, 2, MASK, 2, 2}},
    {"EOS with nothing before it", {1, 1, 2, EOS, MASK, 3}, true, {1, 1, 2, EOS, EOS, EOS}},
    {"EOS before a gap", {1, 1, EOS, MASK, 2, 3}, true, {1, 1, EOS, EOS, EOS, EOS}},
    {"EOS before two gaps", {1, 1, EOS, MASK, 2, MASK}, true, {1, 1, EOS, EOS, EOS, EOS}},
    {"EOS at once", {1, 1, EOS, MASK, 2, EOS}, true, {1, 1, EOS, EOS, EOS, EOS}},
    {"EOS last", {1, 1, 2, 2, 2, EOS}, true, {1, 1, 2, 2, 2, EOS}},
};

static void ends_early(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        struct caloris_job_params params = params_of(4, CALORIS_COMMIT_THRESHOLD);
        params.early_stop = true;
        params.eos_id = EOS;
        int32_t canvas[6], copy[6];
        for (size_t p = 0; p < 6; p++)
            canvas[p] = p >= 2 || ends[i].canvas[p] == MASK ? MASK : ends[i].canvas[p];
        memcpy(copy, canvas, sizeof(copy));
        struct caloris_denoise denoise;
        struct caloris_reveal reveals[6];
        size_t n = 0;
        start(&denoise, &params, canvas, 6);
        for (uint32_t p = 2; p < 6; p++) {
            if (ends[i].canvas[p] != MASK)
                reveals[n++] = (struct caloris_reveal){p, ends[i].canvas[p], 0.5f, 0};
        }
        n = caloris_denoise_apply(&denoise, reveals, n);
        for (size_t k = 0; k < n; k++) {
            const uint32_t at = reveals[k].position;
            if (k > 0 && at <= reveals[k - 1].position)
                fail_msg("%s: position %u behind %u", ends[i].name, at, reveals[k - 1].position);
            copy[at] = reveals[k].id;
        }
        if (denoise.done != ends[i].done || memcmp(canvas, ends[i].after, sizeof(canvas)) != 0)
            fail_msg("%s: another end than expected", ends[i].name);
        assert_memory_equal(copy, canvas, sizeof(canvas)); /* the reveals tell it all */
    }
}

/* The mean over what was revealed, up to the first EOS or end of turn of the generated part. */
static void scores_an_answer(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t canvas[6]; /* two of the prompt, four generated */
        float log_p[6];    /* of what was revealed; 1: it was not */
        double score;      /* 1: it has none */
    } answers[] = {
        {"all", {1, 1, 2, 3, 2, 3}, {1, 1, -1, -2, -3, -4}, -2.5},
        {"with a hole", {1, 7, 2, 3, 2, 3}, {1, -6, -1, -2, -3, -3}, -3},
        {"up to EOS", {1, 1, 2, EOS, 2, 3}, {1, 1, -1, -2, -30, -40}, -1.5},
        {"up to the end of turn", {1, 1, EOT, EOS, EOS, EOS}, {1, 1, -0.25, -2, -3, -4}, -0.25},
        {"an EOS of the prompt is no end", {1, EOS, 2, 3, 2, 3}, {1, 1, -1, -2, -3, -4}, -2.5},
        {"what has none is left out", {1, 1, 2, 3, 2, 3}, {1, 1, -1, NAN, -3, NAN}, -2},
        {"nothing", {1, 1, EOS, 3, 2, 3}, {1, 1, NAN, -2, -3, -4}, 1},
    };
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct caloris_mark marks[6];
        int32_t canvas[6];
        struct caloris_job_params params = params_of(4, CALORIS_COMMIT_THRESHOLD);
        params.eos_id = EOS;
        params.eot_id = EOT;
        memcpy(canvas, answers[i].canvas, sizeof(canvas));
        for (size_t p = 0; p < 6; p++)
            marks[p] = (struct caloris_mark){answers[i].log_p[p] < 1 || isnan(answers[i].log_p[p]),
                                             answers[i].log_p[p]};
        const struct caloris_denoise denoise = {
            .params = params, .canvas = canvas, .marks = marks, .length = 6, .prompt = 2};
        const double score = caloris_denoise_score(&denoise);
        if (answers[i].score > 0 ? !isnan(score) : score != answers[i].score)
            fail_msg("%s: %g", answers[i].name, score);
    }
}

static void never_ends_early_without_an_eos_id(void **state)
{
    (void)state;
    struct caloris_job_params params = params_of(2, CALORIS_COMMIT_THRESHOLD);
    params.early_stop = true;
    int32_t canvas[2] = {MASK, MASK};
    struct caloris_denoise denoise;
    struct caloris_reveal reveal[2] = {{0, EOS, 1, 0}};
    start(&denoise, &params, canvas, 2);
    caloris_denoise_apply(&denoise, reveal, 1);
    assert_false(denoise.done);
}

/* ---- rules and refusals ---------------------------------------------------------------------- */

static uint32_t flags_of(const struct caloris_rule *rule, int32_t id)
{
    uint32_t flags = 0, seen = 0;
    for (uint32_t i = 0; i < rule->specials; i++) {
        if (rule->special[i].id == id) {
            flags = rule->special[i].flags;
            seen++;
        }
    }
    assert_true(seen <= 1);
    return flags;
}

static void asks_by_rule(void **state)
{
    (void)state;
    struct caloris_job_params params = params_of(2, CALORIS_COMMIT_THRESHOLD);
    int32_t canvas[2] = {MASK, MASK};
    struct caloris_denoise denoise;
    struct caloris_rule rule;
    params.temperature = 0.5;
    params.cfg_scale = 1.5;
    params.seed = 77;
    start(&denoise, &params, canvas, 2);
    denoise.candidate = 3;
    denoise.step = 4;
    caloris_denoise_rule(&denoise, &rule);
    assert_int_equal(flags_of(&rule, MASK), CALORIS_NO_CHOICE);
    assert_int_equal(rule.specials, 1);
    assert_true(rule.best == 1 && rule.temperature == 0.5f && rule.guidance == 1.5f);
    assert_true(rule.noise.seed == 77 && rule.noise.candidate == 3 && rule.noise.step == 4);
    assert_int_equal(rule.noise.stream, CALORIS_NOISE_TOKEN);

    params.eos_id = EOS;
    params.eot_id = EOT;
    params.confidence_eos_eot_inf = true;
    start(&denoise, &params, canvas, 2);
    caloris_denoise_rule(&denoise, &rule);
    assert_int_equal(flags_of(&rule, EOS), CALORIS_NO_SUM);
    assert_int_equal(flags_of(&rule, EOT), CALORIS_NO_SUM);
    params.logits_eos_inf = true;
    params.eot_id = EOS;
    start(&denoise, &params, canvas, 2);
    caloris_denoise_rule(&denoise, &rule);
    assert_int_equal(flags_of(&rule, EOS), CALORIS_NO_SUM | CALORIS_NO_CHOICE);
    assert_int_equal(rule.specials, 2);
}

static void refuses_by_field(void **state)
{
    (void)state;
    static const struct {
        const char *field;
        int32_t mask, eos, eot;
        bool logits_eos, confidence_eos;
        uint32_t steps;
    } cases[] = {
        {"mask_id: ", -1, EOS, EOT, false, false, 0}, {"eos_id: ", MASK, -1, EOT, true, false, 0},
        {"eos_id: ", MASK, -1, EOT, false, true, 0},  {"eot_id: ", MASK, EOS, -1, false, true, 0},
        {"steps: ", MASK, EOS, EOT, false, false, 3},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_job_params params = params_of(4, CALORIS_COMMIT_QUOTA);
        params.block_length = 2;
        params.mask_id = cases[i].mask;
        params.eos_id = cases[i].eos;
        params.eot_id = cases[i].eot;
        params.logits_eos_inf = cases[i].logits_eos;
        params.confidence_eos_eot_inf = cases[i].confidence_eos;
        params.steps = cases[i].steps;
        int32_t canvas[4] = {MASK, MASK, MASK, MASK};
        struct caloris_mark marks[4];
        struct caloris_denoise denoise;
        struct caloris_err err = {0};
        assert_int_equal(caloris_denoise_start(&denoise, &params, canvas, marks, 4, 0, &err), -1);
        assert_int_equal(err.code, CALORIS_BAD_REQUEST);
        if (strncmp(err.text, cases[i].field, strlen(cases[i].field)) != 0)
            fail_msg("expected %s, found %s", cases[i].field, err.text);
    }
}

static void left_out_ids_are_least_sure(void **state)
{
    (void)state;
    struct caloris_job_params params = params_of(3, CALORIS_COMMIT_QUOTA);
    params.confidence_eos_eot_inf = true;
    params.eos_id = EOS;
    params.eot_id = EOT;
    static const struct sight sights[3] = {{EOS, 1e-9, -3}, {EOT, 1e-9, -3}, {1, 1000, 0}};
    int32_t canvas[3] = {MASK, MASK, MASK};
    struct caloris_denoise denoise;
    struct caloris_reveal reveals[3];
    start(&denoise, &params, canvas, 3);
    static const uint32_t order[3] = {2, 0, 1};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(step(&denoise, sights, reveals), 1);
        assert_int_equal(reveals[0].position, order[i]);
        assert_true((reveals[0].confidence == 0) == (order[i] != 2));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decides),
        cmocka_unit_test(applies_rules),
        cmocka_unit_test(an_early_commit_ends_the_block),
        cmocka_unit_test(reports_the_probability),
        cmocka_unit_test(gives_up_where_nothing_can_be_chosen),
        cmocka_unit_test(counts_quotas),
        cmocka_unit_test(wants_masks_up_to_the_end_of_the_block),
        cmocka_unit_test(ends_early),
        cmocka_unit_test(scores_an_answer),
        cmocka_unit_test(never_ends_early_without_an_eos_id),
        cmocka_unit_test(asks_by_rule),
        cmocka_unit_test(refuses_by_field),
        cmocka_unit_test(left_out_ids_are_least_sure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
