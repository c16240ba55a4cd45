/* Who shares a step, and the plan that comes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "coordinator/schedule/pack.h"
#include "coordinator/schedule/regions.h"
#include "coordinator/schedule/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { MEMBERS = 4, MASK = 9, CANVAS = 8 };

/* ---- turns ----------------------------------------------------------------------------------- */

enum { NOW = 1000 }; /* rows of all steps so far */

static const struct {
    const char *name;
    size_t rows[MEMBERS];    /* 0: no such member */
    uint64_t waits[MEMBERS]; /* for so many rows of others */
    size_t max_rows, aim;    /* aim 0: as many as max_rows */
    const char *chosen;
} turns[] = {
    {"all fit", {3, 4, 5}, {0, 0, 0}, 12, 0, "012"},
    {"the last does not fit", {3, 4, 5}, {0, 0, 0}, 11, 0, "01"},
    {"a smaller one fills what is left", {3, 6, 2}, {0, 0, 0}, 8, 0, "02"},
    {"who came first goes first", {8, 8}, {8, 63}, 8, 0, "0"},
    {"but nobody waits for more than four rounds", {8, 8}, {8, 64}, 8, 0, "1"},
    {"of several such the longest wait", {8, 8, 8}, {96, 97, 98}, 8, 0, "2"},
    {"then by arrival", {8, 8, 8}, {8, 96, 96}, 8, 0, "1"},
    {"and others fill what is left", {3, 4, 5}, {0, 0, 48}, 8, 0, "02"},
    {"until the aim is reached", {3, 4, 5}, {0, 0, 0}, 20, 7, "01"},
    {"the last may exceed the aim", {3, 4, 5}, {0, 0, 0}, 20, 8, "012"},
    {"one alone may exceed it", {9, 4}, {0, 0}, 20, 8, "0"},
    {"but not the room of a step", {6, 9, 2, 2}, {0, 0, 0, 0}, 10, 8, "02"},
    {"nobody", {0}, {0}, 8, 0, ""},
};

static void takes_turns(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
        struct caloris_member members[MEMBERS] = {0}, *list[MEMBERS], *chosen[MEMBERS];
        size_t n = 0;
        for (; n < MEMBERS && turns[i].rows[n] > 0; n++) {
            members[n].denoise.length = turns[i].rows[n];
            members[n].partner = CALORIS_NO_SLOT;
            members[n].arrival = n;
            members[n].served = NOW - turns[i].waits[n];
            list[n] = &members[n];
        }
        const size_t count =
            caloris_pack_choose(list, n, NOW, turns[i].aim > 0 ? turns[i].aim : turns[i].max_rows,
                                turns[i].max_rows, chosen);
        char found[MEMBERS + 1] = "";
        for (size_t k = 0; k < count; k++)
            found[k] = (char)('0' + (chosen[k] - members));
        if (strcmp(found, turns[i].chosen) != 0)
            fail_msg("%s: expected \"%s\", found \"%s\"", turns[i].name, turns[i].chosen, found);
    }
}

/* Whatever the sizes and the order, everybody has a turn within four rounds and as many steps as
 * there are members. */
static void serves_all_with(size_t aim, size_t shift)
{
    enum { ROOM = 10, ROUND = 22 };
    struct caloris_member members[MEMBERS] = {0}, *list[MEMBERS], *chosen[MEMBERS];
    static const size_t rows[MEMBERS] = {10, 1, 9, 2};
    size_t served[MEMBERS] = {0};
    for (size_t i = 0; i < MEMBERS; i++) {
        members[i].denoise.length = rows[(i + shift) % MEMBERS];
        members[i].partner = CALORIS_NO_SLOT;
        members[i].arrival = i;
        list[i] = &members[i];
    }
    uint64_t computed = 0;
    for (int turn = 0; turn < 1000; turn++) {
        const size_t count = caloris_pack_choose(list, MEMBERS, computed, aim, ROOM, chosen);
        size_t sum = 0;
        for (size_t i = 0; i < count; i++) {
            sum += chosen[i]->denoise.length;
            chosen[i]->served = computed;
            served[chosen[i] - members]++;
        }
        assert_in_range(sum, 1, ROOM);
        computed += sum;
        for (size_t i = 0; i < MEMBERS; i++)
            assert_true(computed - members[i].served < 4 * ROUND + (MEMBERS + 1) * ROOM);
    }
    for (size_t i = 1; i < MEMBERS; i++) /* one of them takes a step for itself */
        assert_true(served[0] >= served[i] || aim > 1);
}

static void starves_nobody(void **state)
{
    (void)state;
    for (size_t aim = 1; aim <= 10; aim++) {
        for (size_t shift = 0; shift < MEMBERS; shift++)
            serves_all_with(aim, shift);
    }
}

/* However many rows the others take. */
static void nobody_waits_for_more_than_some_steps(void **state)
{
    (void)state;
    struct caloris_member members[2] = {0}, *list[2], *chosen[2];
    static const size_t rows[2] = {4, 4096};
    for (size_t i = 0; i < 2; i++) {
        members[i].denoise.length = rows[i];
        members[i].partner = CALORIS_NO_SLOT;
        members[i].arrival = i;
        list[i] = &members[i];
    }
    uint64_t computed = 0;
    for (size_t step = 0; step < 3 * (CALORIS_PATIENCE_STEPS + 1); step++) {
        assert_int_equal(caloris_pack_choose(list, 2, computed, 4, 4096, chosen), 1);
        const bool its_turn = step % (CALORIS_PATIENCE_STEPS + 1) == CALORIS_PATIENCE_STEPS;
        assert_ptr_equal(chosen[0], its_turn ? &members[1] : &members[0]);
        computed += chosen[0]->denoise.length;
        chosen[0]->served = computed;
    }
}

/* The smallest count whose rows per second are 95 % of the best. */
static void finds_the_budget(void **state)
{
    (void)state;
    static const struct caloris_row_rate rates[] = {
        {1, 0.01}, {2, 0.01}, {16, 0.02}, {64, 0.0674}, {96, 0.1}, {128, 0.125}, {256, 0.25},
    };
    assert_int_equal(caloris_row_budget_of(rates, 7), 128); /* 96 has 94 %: 960 of 1024 */
    assert_int_equal(caloris_row_budget_of(rates, 5), 64);
    assert_int_equal(caloris_row_budget_of(rates, 1), 1);
    assert_int_equal(caloris_row_budget_of(rates, 0), 0);
}

/* A machine that is too slow for the largest steps is told so. */
static void says_what_was_not_timed(void **state)
{
    (void)state;
    char text[CALORIS_ROW_WARNING];
    struct caloris_row_budget budget = {.timed = 192, .most = 512};
    assert_non_null(caloris_row_budget_warning(&budget, text));
    assert_non_null(strstr(text, "no step of more than 192 rows was timed: 512 would have"));
    budget.most = 192; /* as the group's limits have it */
    assert_null(caloris_row_budget_warning(&budget, text));
}

static void counts_both_canvases_under_guidance(void **state)
{
    (void)state;
    struct caloris_member member = {.denoise = {.length = 7}, .partner = CALORIS_NO_SLOT};
    assert_int_equal(caloris_member_rows(&member), 7);
    member.partner = 3;
    assert_int_equal(caloris_member_rows(&member), 14);
}

/* ---- the plan -------------------------------------------------------------------------------- */

static void start(struct caloris_member *member, int32_t canvas[CANVAS],
                  struct caloris_mark marks[CANVAS], size_t prompt, double cfg_scale)
{
    struct caloris_job_params params;
    struct caloris_err err;
    caloris_job_params_preset(&params, CALORIS_PRESET_EXACT);
    params.commit = CALORIS_COMMIT_THRESHOLD;
    params.mask_id = MASK;
    params.gen_length = CANVAS - (uint32_t)prompt;
    params.block_length = 2;
    params.cfg_scale = cfg_scale;
    assert_int_equal(
        caloris_denoise_start(&member->denoise, &params, canvas, marks, CANVAS, prompt, &err), 0);
    member->reveals = calloc(CANVAS, sizeof(*member->reveals));
    assert_non_null(member->reveals);
    member->n_reveals = 0;
}

static void packs_admissions_writes_and_wants(void **state)
{
    (void)state;
    struct caloris_pack pack;
    struct caloris_err err;
    int32_t plain_canvas[CANVAS] = {1, 2, 3, 4, MASK, MASK, MASK, MASK};
    int32_t guided_canvas[CANVAS] = {5, MASK, 6, MASK, MASK, MASK, MASK, MASK};
    struct caloris_mark marks[2][CANVAS];
    struct caloris_member plain = {.slot = 4, .partner = CALORIS_NO_SLOT};
    struct caloris_member guided = {.slot = 0, .partner = 2};
    start(&plain, plain_canvas, marks[0], 4, 0);
    start(&guided, guided_canvas, marks[1], 3, 1);
    assert_int_equal(caloris_pack_init(&pack, 5, CANVAS, 3 * CANVAS, &err), 0);

    caloris_pack_begin(&pack);
    caloris_pack_release(&pack, 4);
    caloris_pack_admit(&pack, &plain);
    caloris_pack_admit(&pack, &guided);
    caloris_pack_step(&pack, &plain);
    caloris_pack_step(&pack, &guided);
    const struct caloris_step_plan *plan = &pack.plan;
    assert_true(plan->n_releases == 1 && plan->releases[0] == 4);
    assert_int_equal(plan->n_admissions, 3);
    static const uint32_t slots[3] = {4, 0, 2};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(plan->admissions[i].slot, slots[i]);
        assert_int_equal(plan->admissions[i].length, CANVAS);
        assert_int_equal(plan->admissions[i].ids_first, i * CANVAS);
        assert_int_equal(plan->spans[i].slot, slots[i]);
        assert_int_equal(plan->spans[i].count, CANVAS);
    }
    assert_memory_equal(plan->ids, plain_canvas, sizeof(plain_canvas));
    assert_memory_equal(plan->ids + CANVAS, guided_canvas, sizeof(guided_canvas));
    for (size_t i = 0; i < CANVAS; i++)
        assert_int_equal(plan->ids[2 * CANVAS + i], MASK); /* the unconditional canvas */
    assert_int_equal(plan->n_rules, 2);
    assert_int_equal(plan->n_writes, 0);
    static const struct caloris_want wants[] = {
        {0, 4, CALORIS_NO_PARTNER, 0},
        {0, 5, CALORIS_NO_PARTNER, 0},
        {1, 1, 2, 1},
        {1, 3, 2, 1},
        {1, 4, 2, 1},
    };
    assert_int_equal(plan->n_wants, 5);
    assert_memory_equal(plan->wants, wants, sizeof(wants));

    /* Of the guided one a hole and a generated position are revealed: written to both canvases. */
    struct caloris_summary summaries[5];
    struct caloris_candidate candidates[5];
    for (size_t i = 0; i < 5; i++) {
        summaries[i] = (struct caloris_summary){.max = 1, .rest = i == 4 ? 9 : 0.01, .found = 1};
        candidates[i] = (struct caloris_candidate){.id = (int32_t)i + 1, .logit = 1};
    }
    const struct caloris_step_result result = {summaries, candidates, 1};
    assert_int_equal(pack.n_parts, 2);
    caloris_pack_decide(&pack, &pack.parts[0], &result);
    caloris_pack_decide(&pack, &pack.parts[1], &result);
    assert_int_equal(plain.n_reveals, 2);
    assert_int_equal(guided.n_reveals, 2);
    assert_int_equal(guided_canvas[1], 3);
    assert_int_equal(guided_canvas[3], 4);

    /* Only who has part in a step sends its writes; the other's wait. */
    caloris_pack_begin(&pack);
    caloris_pack_step(&pack, &guided);
    static const struct caloris_write writes[] = {{0, 1, 3}, {0, 3, 4}, {2, 1, 3}, {2, 3, 4}};
    assert_int_equal(plan->n_writes, 4);
    assert_memory_equal(plan->writes, writes, sizeof(writes));
    assert_int_equal(guided.n_reveals, 0);
    assert_int_equal(plain.n_reveals, 2);
    caloris_pack_begin(&pack);
    caloris_pack_step(&pack, &guided);
    assert_int_equal(plan->n_writes, 0);

    free(plain.reveals);
    free(guided.reveals);
    caloris_pack_free(&pack);
}

/* A cached one's second step: its hole and its block, in two spans for each canvas. */
static void packs_the_rows_of_a_window(void **state)
{
    (void)state;
    struct caloris_pack pack;
    struct caloris_err err;
    int32_t canvas[CANVAS] = {5, MASK, 6, MASK, MASK, MASK, MASK, MASK};
    struct caloris_mark marks[CANVAS];
    struct caloris_member member = {.slot = 1, .partner = 3, .kv_first = 40, .kv_partner = 8};
    start(&member, canvas, marks, 3, 1);
    member.denoise.params.cache = CALORIS_CACHE_DUAL;
    assert_int_equal(caloris_pack_init(&pack, 5, CANVAS, 3 * CANVAS, &err), 0);
    const struct caloris_step_plan *plan = &pack.plan;
    caloris_pack_begin(&pack);
    caloris_pack_admit(&pack, &member);
    assert_int_equal(caloris_member_rows(&member), 2 * CANVAS);
    caloris_pack_step(&pack, &member);
    assert_true(plan->admissions[0].cached && plan->admissions[0].kv_first == 40);
    assert_true(plan->admissions[1].cached && plan->admissions[1].kv_first == 8);
    assert_int_equal(plan->n_spans, 2);

    struct caloris_summary summaries[3] = {{.rest = 1, .found = 1}, {.found = 1}, {.rest = 1}};
    struct caloris_candidate candidates[3] = {{.id = 1}, {.id = 2}, {.id = 3}};
    const struct caloris_step_result result = {summaries, candidates, 1};
    caloris_pack_decide(&pack, &pack.parts[0], &result);
    caloris_pack_begin(&pack);
    assert_int_equal(caloris_member_rows(&member), 2 * 3);
    caloris_pack_step(&pack, &member);
    static const struct caloris_span spans[] = {{1, 1, 1}, {1, 3, 2}, {3, 1, 1}, {3, 3, 2}};
    static const struct caloris_want wants[] = {{0, 1, 2, 0}, {1, 4, 3, 0}};
    assert_int_equal(plan->n_spans, 4);
    assert_memory_equal(plan->spans, spans, sizeof(spans));
    assert_int_equal(plan->n_wants, 2);
    assert_memory_equal(plan->wants, wants, sizeof(wants));
    assert_int_equal(member.rows, 2 * CANVAS + 2 * 3);
    free(member.reveals);
    caloris_pack_free(&pack);
}

/* ---- K/V ------------------------------------------------------------------------------------- */

static void keeps_regions_apart(void **state)
{
    (void)state;
    /* Each step takes so many positions, or gives back what starts at -n - 1; then first, or -1. */
    static const struct {
        int ask, first;
    } steps[] = {
        {10, 0},  {20, 10}, {5, 30},  {6, -1},  {5, 35},  {1, -1}, /* 40 in all: full */
        {-11, 0}, {21, -1}, {8, 10},  {12, 18}, {1, -1},           /* the middle again, in two */
        {-1, 0},  {-19, 0}, {11, 18}, {1, 0},   {10, -1}, {9, 1},
    };
    struct caloris_regions regions;
    struct caloris_err err;
    assert_int_equal(caloris_regions_init(&regions, 6, 40, &err), 0);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        uint32_t first = UINT32_MAX;
        if (steps[i].ask < 0) {
            caloris_regions_give(&regions, (uint32_t)(-steps[i].ask - 1));
            continue;
        }
        const bool taken = caloris_regions_take(&regions, (size_t)steps[i].ask, &first);
        if (taken != (steps[i].first >= 0) || (taken && first != (uint32_t)steps[i].first))
            fail_msg("step %zu: %u, expected %d", i, first, steps[i].first);
    }
    caloris_regions_free(&regions);
    assert_int_equal(caloris_regions_init(&regions, 1, 40, &err), 0);
    uint32_t first;
    assert_true(caloris_regions_take(&regions, 1, &first));
    assert_false(caloris_regions_take(&regions, 1, &first)); /* one at a time */
    caloris_regions_free(&regions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_the_rows_of_a_window),
        cmocka_unit_test(keeps_regions_apart),
        cmocka_unit_test(takes_turns),
        cmocka_unit_test(starves_nobody),
        cmocka_unit_test(nobody_waits_for_more_than_some_steps),
        cmocka_unit_test(finds_the_budget),
        cmocka_unit_test(says_what_was_not_timed),
        cmocka_unit_test(counts_both_canvases_under_guidance),
        cmocka_unit_test(packs_admissions_writes_and_wants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
