/* Where a job stands, in bytes and back; and bytes that are none of this job's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "coordinator/link/hand_over.h"
#include "proto/caloris.pb-c.h"
#include "proto/wire.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 3, BEST = 2 };

static const struct caloris_engine_facts facts = {.format = "fp32"};
static const struct link_model model = {.facts = &facts};
static const struct link_job job = {.length = LENGTH, .best = BEST};

static struct caloris_stand *unpack(const struct caloris_buf *bytes, struct caloris_err *err)
{
    return link_hand_over_unpack(&model, "m", &job, (const uint8_t *)bytes->data, bytes->size, err);
}

static void comes_back_as_it_was(void **state)
{
    (void)state;
    static const int32_t ids[] = {5, INT32_MAX, 0};
    static const float log_p[] = {NAN, -0.25f, -INFINITY};
    struct caloris_buf bytes = CALORIS_BUF(1 << 20);
    struct caloris_err err;
    struct caloris_stand *stands = caloris_stand_new(BEST, LENGTH);
    assert_non_null(stands);
    stands[1].block = 4;
    stands[1].step = 70;
    stands[1].passes = 69;
    stands[1].rows = 1ull << 40;
    stands[1].done = true;
    memcpy(stands[1].canvas, ids, sizeof(ids));
    memcpy(stands[1].log_p, log_p, sizeof(log_p));
    assert_int_equal(link_hand_over_pack(&model, "m", &job, stands, &bytes, &err), 0);
    struct caloris_stand *back = unpack(&bytes, &err);
    if (!back)
        fail_msg("%s", err.text);
    assert_int_equal(back[0].step, 0);
    assert_true(back[1].block == 4 && back[1].step == 70 && back[1].passes == 69);
    assert_true(back[1].rows == 1ull << 40 && back[1].done);
    assert_memory_equal(back[1].canvas, ids, sizeof(ids));
    assert_memory_equal(back[1].log_p, log_p, sizeof(log_p));
    free(back);

    /* Every shorter part of it is refused or, at the end of a field, something else. */
    const size_t whole = bytes.size;
    for (bytes.size = 0; bytes.size < whole; bytes.size++)
        free(unpack(&bytes, &err));
    free(stands);
    caloris_buf_free(&bytes);
}

static const struct {
    const char *name, *model, *weights;
    size_t candidates, ids, log_p;
    uint32_t id;
    const char *complaint;
} foreign[] = {
    {"another model", "n", "fp32", 2, 3, 3, 1, "progress: of model n as fp32, but this is m as"},
    {"other weights", "m", "int8", 2, 3, 3, 1, "progress: of model m as int8, but this is m as"},
    {"one candidate", "m", "fp32", 1, 3, 3, 1, "progress: of 1 candidates, but the job has 2"},
    {"three candidates", "m", "fp32", 3, 3, 3, 1, "progress: of 3 candidates, but the job has 2"},
    {"none", "m", "fp32", 0, 3, 3, 1, "progress: of 0 candidates, but the job has 2"},
    {"a short canvas", "m", "fp32", 2, 2, 3, 1, "progress: a canvas of 2 ids and 3 log p, but 3"},
    {"a long canvas", "m", "fp32", 2, 4, 3, 1, "progress: a canvas of 4 ids and 3 log p, but 3"},
    {"short of scores", "m", "fp32", 2, 3, 2, 1, "progress: a canvas of 3 ids and 2 log p, but 3"},
    {"a negative id", "m", "fp32", 2, 3, 3, 0x80000000, "progress: id 2147483648 at 2"},
};

static void refuses_what_is_not_of_this_job(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
        uint32_t ids[4] = {1, 1, foreign[i].id, 1};
        float log_p[4] = {-1, -1, -1, -1};
        char name[8], weights[8];
        Caloris__Wire__Stand stand = CALORIS__WIRE__STAND__INIT;
        Caloris__Wire__Stand *list[] = {&stand, &stand, &stand};
        Caloris__Wire__HandOver message = CALORIS__WIRE__HAND_OVER__INIT;
        struct caloris_err err = {0};
        strcpy(name, foreign[i].model);
        strcpy(weights, foreign[i].weights);
        stand.step = 1;
        stand.ids = ids;
        stand.n_ids = foreign[i].ids;
        stand.log_p = log_p;
        stand.n_log_p = foreign[i].log_p;
        message.model = name;
        message.weights = weights;
        message.candidates = list;
        message.n_candidates = foreign[i].candidates;
        uint8_t bytes[256];
        const size_t n = caloris__wire__hand_over__pack(&message, bytes);
        struct caloris_stand *stands = link_hand_over_unpack(&model, "m", &job, bytes, n, &err);
        if (stands || strncmp(err.text, foreign[i].complaint, strlen(foreign[i].complaint)) != 0)
            fail_msg("%s: %s", foreign[i].name, stands ? "taken" : err.text);
    }
}

static void refuses_what_is_too_much(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    uint8_t *bytes = calloc(1, CALORIS_WIRE_MAX_HAND_OVER + 1);
    assert_non_null(bytes);
    assert_null(
        link_hand_over_unpack(&model, "m", &job, bytes, CALORIS_WIRE_MAX_HAND_OVER + 1, &err));
    assert_non_null(strstr(err.text, "progress: 4194305 bytes, more than 4194304"));
    free(bytes);

    enum { LONG = 1 << 20 };
    const struct link_job longest = {.length = LONG, .best = 1};
    struct caloris_stand *stands = caloris_stand_new(1, LONG);
    struct caloris_buf packed = CALORIS_BUF(16 << 20);
    assert_non_null(stands);
    stands->step = 1;
    assert_int_equal(link_hand_over_pack(&model, "m", &longest, stands, &packed, &err), -1);
    assert_int_equal(packed.size, 0);
    free(stands);
    caloris_buf_free(&packed);
}

static void says_how_far_the_slowest_is(void **state)
{
    (void)state;
    static const struct {
        struct caloris_stand stands[3];
        uint32_t block, passes;
    } cases[] = {
        {{{.step = 0}, {.step = 0}, {.step = 0}}, 0, 0},
        {{{.step = 5, .block = 3, .passes = 5}, {.step = 4, .block = 2, .passes = 3}, {.step = 0}},
         0,
         8},
        {{{.step = 5, .block = 3, .passes = 5},
          {.step = 4, .block = 2, .passes = 3},
          {.step = 9, .block = 1, .passes = 9, .done = true}},
         2,
         17},
        {{{.step = 5, .block = 3, .passes = 5, .done = true},
          {.step = 4, .block = 3, .passes = 3, .done = true},
          {.step = 9, .block = 1, .passes = 9, .done = true}},
         3,
         17},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct link_place place = link_place(cases[i].stands, 3);
        assert_int_equal(place.block, cases[i].block);
        assert_int_equal(place.passes, cases[i].passes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_as_it_was),
        cmocka_unit_test(refuses_what_is_not_of_this_job),
        cmocka_unit_test(refuses_what_is_too_much),
        cmocka_unit_test(says_how_far_the_slowest_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
