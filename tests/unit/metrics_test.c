/* Figures as text: what stands there, letter by letter. */
#include "base/metrics.h"

#include "base/buf.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void expect(struct caloris_buf *text, const char *expected)
{
    assert_int_equal(caloris_buf_append(text, "", 1, NULL), 0);
    assert_string_equal(text->data, expected);
    caloris_buf_free(text);
}

static void test_values(void **state)
{
    (void)state;
    struct caloris_buf text = CALORIS_BUF(4096);
    const struct caloris_metrics_label one[] = {{"state", "done"}, {NULL, NULL}};
    const struct caloris_metrics_label odd[] = {{"a", "q\"b\\n\n"}, {"b", ""}, {NULL, NULL}};
    assert_int_equal(caloris_metrics_head(&text, "x_total", "counter", "Help.", NULL), 0);
    assert_int_equal(caloris_metrics_value(&text, "x_total", NULL, 0, NULL), 0);
    assert_int_equal(caloris_metrics_value(&text, "x_total", one, 123456789012.0, NULL), 0);
    assert_int_equal(caloris_metrics_value(&text, "x_total", odd, 0.25, NULL), 0);
    expect(&text, "# HELP x_total Help.\n# TYPE x_total counter\nx_total 0\n"
                  "x_total{state=\"done\"} 123456789012\n"
                  "x_total{a=\"q\\\"b\\\\n\\n\",b=\"\"} 0.25\n");
}

static void test_histogram(void **state)
{
    (void)state;
    static const double bounds[] = {0.5, 1, 10};
    struct caloris_histogram histogram = {.bounds = bounds, .n = 3};
    static const double values[] = {0, 0.5, 0.75, 1, 2, 10, 11, 1000};
    struct caloris_buf text = CALORIS_BUF(4096);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        caloris_histogram_add(&histogram, values[i]);
    assert_int_equal(caloris_metrics_histogram(&text, "h_seconds", "Help.", &histogram, NULL), 0);
    expect(&text, "# HELP h_seconds Help.\n# TYPE h_seconds histogram\n"
                  "h_seconds_bucket{le=\"0.5\"} 2\nh_seconds_bucket{le=\"1\"} 4\n"
                  "h_seconds_bucket{le=\"10\"} 6\nh_seconds_bucket{le=\"+Inf\"} 8\n"
                  "h_seconds_sum 1025.25\nh_seconds_count 8\n");
}

static void test_classes(void **state)
{
    (void)state;
    static const struct {
        uint64_t value;
        size_t at;
    } cases[] = {{0, 0}, {1, 0},     {2, 1},     {3, 2},          {4, 2},
                 {5, 3}, {1024, 10}, {1025, 11}, {UINT64_MAX, 11}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(caloris_metrics_class(cases[i].value), cases[i].at);
    assert_int_equal(caloris_metrics_class(UINT64_MAX), CALORIS_METRICS_CLASSES - 1);
}

static void test_no_room(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    struct caloris_buf text = CALORIS_BUF(16);
    assert_int_equal(caloris_metrics_head(&text, "x_total", "counter", "Help.", &err), -1);
    assert_int_not_equal(err.code, CALORIS_OK);
    caloris_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
