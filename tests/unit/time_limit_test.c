/* When a group takes no more jobs, and when it hands back what it has. */
#include "coordinator/link/time_limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_words(void **state)
{
    (void)state;
    /* The end is at 100000, the margin 10000, a job takes 20000 (0: nobody knows). */
    static const struct {
        uint64_t end_ms, job_ms, now_ms;
        enum link_time expected;
    } cases[] = {
        {0, 20000, UINT64_MAX / 2, LINK_TIME_ENOUGH},
        {100000, 20000, 0, LINK_TIME_ENOUGH},
        {100000, 20000, 69999, LINK_TIME_ENOUGH},
        {100000, 20000, 70000, LINK_TIME_FOR_NO_OTHER},
        {100000, 20000, 89999, LINK_TIME_FOR_NO_OTHER},
        {100000, 20000, 90000, LINK_TIME_OVER},
        {100000, 20000, 200000, LINK_TIME_OVER},
        {100000, 0, 89999, LINK_TIME_ENOUGH},
        {100000, 0, 90000, LINK_TIME_OVER},
        {5000, 0, 0, LINK_TIME_OVER}, /* less is left than the margin */
        {100000, 500000, 0, LINK_TIME_FOR_NO_OTHER},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct link_time_limit limit = {.end_ms = cases[i].end_ms, .margin_ms = 10000};
        if (cases[i].job_ms)
            link_time_limit_learn(&limit, cases[i].job_ms);
        assert_int_equal(link_time_limit_ask(&limit, cases[i].now_ms), cases[i].expected);
    }
}

static void test_jobs_that_became_longer(void **state)
{
    (void)state;
    struct link_time_limit limit = {.end_ms = 100000, .margin_ms = 10000};
    link_time_limit_learn(&limit, 1000);
    assert_int_equal(link_time_limit_ask(&limit, 60000), LINK_TIME_ENOUGH);
    for (int i = 0; i < 50; i++)
        link_time_limit_learn(&limit, 40000);
    assert_int_equal(link_time_limit_ask(&limit, 60000), LINK_TIME_FOR_NO_OTHER);
    assert_true(limit.job_ms < 40001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_jobs_that_became_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
