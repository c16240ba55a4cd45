/* coordinator/gateway/broker/figures.h: what groups tell of themselves, whatever that is, leaves
 * text that Prometheus reads and the figures of other groups as they are. */
#include "coordinator/gateway/broker/state.h"

#include "base/buf.h"
#include "base/err.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST_RANKS = 5000 };

static struct caloris_broker b;
static struct group honest = {.name = "honest", .model = "m", .ranks = 2};
static struct group hostile = {.name = "hostile", .model = "m", .ranks = 2};
static struct caloris_buf text;

static int setup(void **state)
{
    (void)state;
    b = (struct caloris_broker){.options = {.beat_ms = 1000}, .n_groups = 2, .groups = &hostile};
    hostile.next = &honest;
    hostile.ranks = 2;
    figures_open(&b.figures);
    text = CALORIS_BUF(CALORIS_WIRE_MAX_FRAME / 2); /* as an answer has it */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(honest.ranks_told);
    free(hostile.ranks_told);
    honest.ranks_told = hostile.ranks_told = NULL;
    honest.n_ranks_told = hostile.n_ranks_told = 0;
    caloris_buf_free(&text);
    return 0;
}

/* A beat in which every rank tells the same, through the bytes of a message. */
static void beat(struct group *group, Caloris__Wire__RankFigures *figures, size_t ranks)
{
    static Caloris__Wire__RankFigures *list[MOST_RANKS];
    Caloris__Wire__GroupBeat message = CALORIS__WIRE__GROUP_BEAT__INIT;
    assert_true(ranks <= MOST_RANKS);
    for (size_t i = 0; i < ranks; i++)
        list[i] = figures;
    message.n_ranks = ranks;
    message.ranks = list;
    uint8_t *bytes = malloc(caloris__wire__group_beat__get_packed_size(&message));
    assert_non_null(bytes);
    const size_t n = caloris__wire__group_beat__pack(&message, bytes);
    Caloris__Wire__GroupBeat *told = caloris__wire__group_beat__unpack(NULL, n, bytes);
    assert_non_null(told);
    figures_of_group(group, told);
    caloris__wire__group_beat__free_unpacked(told, NULL);
    free(bytes);
}

static void beat_honestly(void)
{
    uint64_t steps_by_rows[CALORIS_METRICS_CLASSES] = {3, 0, 2, [CALORIS_METRICS_CLASSES - 1] = 1};
    Caloris__Wire__RankFigures figures = CALORIS__WIRE__RANK_FIGURES__INIT;
    figures.compute_s = 1.5;
    figures.steps = 6;
    figures.rows = 2000;
    figures.n_steps_by_rows = CALORIS_METRICS_CLASSES;
    figures.steps_by_rows = steps_by_rows;
    beat(&honest, &figures, 2);
}

static void write_all(void)
{
    struct caloris_err err = {0};
    text.size = 0;
    if (figures_write(&b, &text, &err) < 0 || caloris_buf_append(&text, "", 1, &err) < 0)
        fail_msg("%s", err.text);
}

/* The value of the one sample that begins so. */
static double value(const char *start)
{
    for (const char *at = text.data; (at = strstr(at, start)) != NULL; at++) {
        if (at == text.data || at[-1] == '\n')
            return strtod(strchr(at, ' '), NULL);
    }
    fail_msg("no %s", start);
    return 0;
}

static void expect_honest(void)
{
    assert_true(
        value("caloris_forward_seconds_total{group=\"honest\",rank=\"1\",phase=\"other\"}") == 1.5);
    assert_true(value("caloris_batch_rows_bucket{group=\"honest\",model_name=\"m\",le=\"4\"}") ==
                5);
    assert_true(value("caloris_batch_rows_count{group=\"honest\"") == 6);
    assert_true(value("caloris_batch_rows_sum{group=\"honest\"") == 2000);
}

/* No sample is negative, infinite or no number, and no bucket holds less than the one before. */
static void expect_sane(void)
{
    double bucket = 0;
    for (const char *line = text.data, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        if (*line == '#')
            continue;
        const char *space = end;
        while (space[-1] != ' ')
            space--;
        const double number = strtod(space, NULL);
        if (!(number >= 0) || isinf(number))
            fail_msg("%.*s", (int)(end - line), line);
        if (strncmp(line, "caloris_batch_rows_bucket", 25) != 0)
            continue;
        if (!strstr(line, "le=\"1\"}") || strstr(line, "le=\"1\"}") > end)
            assert_true(number >= bucket);
        bucket = number;
    }
}

static void lies_are_not_told(void **state)
{
    (void)state;
    static const double lies[] = {NAN, -1, -INFINITY, INFINITY, 1e300};
    static uint64_t many[100000];
    for (size_t i = 0; i < sizeof(many) / sizeof(many[0]); i++)
        many[i] = i % 3 == 0 ? UINT64_MAX : i;
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        Caloris__Wire__RankFigures figures = CALORIS__WIRE__RANK_FIGURES__INIT;
        figures.compute_s = figures.allreduce_s = figures.wait_s = lies[i];
        figures.has_attention_s = figures.has_mlp_s = figures.has_head_s = 1;
        figures.attention_s = figures.mlp_s = figures.head_s = lies[i];
        figures.steps = figures.rows = figures.sent_bytes = UINT64_MAX;
        figures.weight_bytes = figures.kv_bytes = figures.work_bytes = UINT64_MAX;
        figures.n_steps_by_rows = sizeof(many) / sizeof(many[0]);
        figures.steps_by_rows = many;
        beat(&hostile, &figures, 1);
        beat_honestly();
        write_all();
        expect_sane();
        expect_honest();
        assert_true(
            value("caloris_forward_seconds_total{group=\"hostile\",rank=\"0\",phase=\"mlp\"}") ==
            0);
        assert_true(value("caloris_batch_rows_count{group=\"hostile\"") >= 0x1p53);
    }
}

/* A group tells of no more ranks than it has, nor of so many that others' figures find no room. */
static void ranks_are_bounded(void **state)
{
    (void)state;
    Caloris__Wire__RankFigures figures = CALORIS__WIRE__RANK_FIGURES__INIT;
    beat(&hostile, &figures, MOST_RANKS);
    assert_int_equal(hostile.n_ranks_told, 2);
    hostile.ranks = UINT32_MAX;
    memset(hostile.name, '"', BROKER_MAX_NAME); /* each takes two bytes in a label */
    beat(&hostile, &figures, MOST_RANKS);
    assert_int_equal(hostile.n_ranks_told, FIGURES_RANKS);
    beat_honestly();
    write_all();
    expect_honest();
    snprintf(hostile.name, sizeof(hostile.name), "hostile");
}

/* Those of another version: what it calls "more" is more than it has classes for. */
static void other_classes(void **state)
{
    (void)state;
    enum { MORE = CALORIS_METRICS_CLASSES + 2 };
    static const struct {
        size_t n;
        double up_to_4, up_to_1024, all;
    } cases[] = {{0, 0, 0, 0},
                 {1, 0, 0, 1},
                 {4, 3, 3, 4},
                 {CALORIS_METRICS_CLASSES, 3, 11, 12},
                 {MORE, 3, 11, MORE}};
    uint64_t ones[MORE];
    for (size_t i = 0; i < MORE; i++)
        ones[i] = 1;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Caloris__Wire__RankFigures figures = CALORIS__WIRE__RANK_FIGURES__INIT;
        figures.n_steps_by_rows = cases[i].n;
        figures.steps_by_rows = ones;
        beat(&hostile, &figures, 1);
        write_all();
#define BUCKET "caloris_batch_rows_bucket{group=\"hostile\",model_name=\"m\",le="
        assert_true(value(BUCKET "\"4\"}") == cases[i].up_to_4);
        assert_true(value(BUCKET "\"1024\"}") == cases[i].up_to_1024);
        assert_true(value(BUCKET "\"+Inf\"}") == cases[i].all);
    }
}

/* What the results of a group say counts for all: a lie is left out. */
static void results_that_lie(void **state)
{
    (void)state;
    const struct live live = {.started_ms = 1};
    static const char *const results[] = {
        "{\"usage\":{\"completion_tokens\":7,\"prompt_tokens\":3},\"forward_passes\":2}",
        "{\"usage\":{\"completion_tokens\":9223372036854775807,\"prompt_tokens\":-5},"
        "\"forward_passes\":\"x\"}",
        "{\"usage\":[],\"forward_passes\":1e300}", "{}"};
    for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
        json_t *result = json_loads(results[i], 0, NULL);
        assert_non_null(result);
        figures_done(&b, &live, 1, result);
        json_decref(result);
    }
    write_all();
    assert_true(value("caloris_generated_tokens_total") == 7);
    assert_true(value("caloris_prompt_tokens_total") == 3);
    assert_true(value("caloris_denoise_steps_total") == 2);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(lies_are_not_told),
        CASE(ranks_are_bounded),
        CASE(other_classes),
        CASE(results_that_lie),
    };
    return cmocka_run_group_tests_name("figures", tests, NULL, NULL);
}
