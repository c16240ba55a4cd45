/* Log lines as they reach stderr: one line each, whatever is in them; JSON that a parser reads. */
#include "base/log.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int ends[2], kept;

static int catch_stderr(void **state)
{
    (void)state;
    assert_int_equal(pipe(ends), 0);
    kept = dup(STDERR_FILENO);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    caloris_log_set_who("engine");
    caloris_log_set_rank(0, 0);
    caloris_log_set_level(CALORIS_LOG_INFO);
    return 0;
}

static int give_back(void **state)
{
    (void)state;
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[0]);
    close(ends[1]);
    return 0;
}

/* The line that was written last: one, and whole. */
static const char *line(void)
{
    static char text[8192];
    const ssize_t n = read(ends[0], text, sizeof(text) - 1);
    assert_true(n > 0);
    text[n] = '\0';
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    text[n - 1] = '\0';
    return text;
}

static void test_text(void **state)
{
    (void)state;
    caloris_log_set_format(CALORIS_LOG_TEXT);
    caloris_log(CALORIS_LOG_DEBUG, "not this");
    caloris_log(CALORIS_LOG_INFO, "%d jobs", 3);
    const char *said = line();
    assert_int_equal(said[10], 'T');
    assert_string_equal(strchr(said, ' '), " info engine 3 jobs");
    caloris_log_set_rank(2, 4);
    caloris_log_about(CALORIS_LOG_WARN, (struct caloris_log_about){.job = 17, .step = 5}, "begins");
    assert_string_equal(strchr(line(), ' '), " warn engine rank=2/4 job=17 step=5 begins");
    caloris_log(CALORIS_LOG_ERROR, "two\nlines\x1b[2J\t.");
    assert_string_equal(strchr(line(), ' '), " error engine rank=2/4 two lines [2J .");
}

static void test_json(void **state)
{
    (void)state;
    caloris_log_set_format(CALORIS_LOG_JSON);
    caloris_log_set_rank(2, 4);
    caloris_log_about(CALORIS_LOG_WARN, (struct caloris_log_about){.job = 17, .step = 5},
                      "a \"quoted\\\" name: \xc3\xa4");
    json_t *object = json_loads(line(), 0, NULL);
    assert_non_null(object);
    assert_string_equal(json_string_value(json_object_get(object, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(object, "program")), "engine");
    assert_int_equal(json_integer_value(json_object_get(object, "rank")), 2);
    assert_int_equal(json_integer_value(json_object_get(object, "ranks")), 4);
    assert_int_equal(json_integer_value(json_object_get(object, "job")), 17);
    assert_int_equal(json_integer_value(json_object_get(object, "step")), 5);
    assert_string_equal(json_string_value(json_object_get(object, "text")),
                        "a \"quoted\\\" name: \xc3\xa4");
    assert_non_null(json_object_get(object, "time"));
    json_decref(object);

    caloris_log_set_rank(0, 0);
    caloris_log(CALORIS_LOG_INFO, "no UTF-8: \xff\xfe.");
    object = json_loads(line(), 0, NULL);
    assert_non_null(object);
    assert_null(json_object_get(object, "rank"));
    assert_null(json_object_get(object, "job"));
    assert_string_equal(json_string_value(json_object_get(object, "text")), "no UTF-8: ??.");
    json_decref(object);
}

/* Longer than a line may be: cut, in either form. */
static void test_long(void **state)
{
    (void)state;
    char text[4000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    caloris_log_set_format(CALORIS_LOG_TEXT);
    caloris_log(CALORIS_LOG_INFO, "%s", text);
    assert_in_range(strlen(line()), 1000, 2047);
    caloris_log_set_format(CALORIS_LOG_JSON);
    caloris_log(CALORIS_LOG_INFO, "%s", text);
    json_t *object = json_loads(line(), 0, NULL);
    assert_non_null(object);
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_text, catch_stderr, give_back),
        cmocka_unit_test_setup_teardown(test_json, catch_stderr, give_back),
        cmocka_unit_test_setup_teardown(test_long, catch_stderr, give_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
