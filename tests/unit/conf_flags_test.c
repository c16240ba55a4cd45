/* base/conf: flags, environment, and what is printed from the table. */
#include "tests/unit/conf_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void test_flags(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        const char *model;
        int64_t rows;
        double threshold;
        bool fast, loud, dry;
        int rest;
    } cases[] = {
        {"--step-rows 5", NULL, 5, 0.9, false, true, false, 3},
        {"--step-rows=5", NULL, 5, 0.9, false, true, false, 2},
        {"-n5 -t 0.25", NULL, 5, 0.25, false, true, false, 4},
        {"-fm /m x y", "/m", 256, 0.9, true, true, false, 3},
        {"-fm/m", "/m", 256, 0.9, true, true, false, 2},
        {"--no-loud --fast --dry-run", NULL, 256, 0.9, true, false, true, 4},
        {"--fast --no-fast", NULL, 256, 0.9, false, true, false, 3},
        {"--fast=no --loud=0", NULL, 256, 0.9, false, false, false, 3},
        {"-- --fast", NULL, 256, 0.9, false, true, false, 2},
        {"plan --fast", NULL, 256, 0.9, false, true, false, 1},
        {"- --fast", NULL, 256, 0.9, false, true, false, 1},
        {"--model -x", "-x", 256, 0.9, false, true, false, 3},
        {"--model= x", "", 256, 0.9, false, true, false, 2},
        {"", NULL, 256, 0.9, false, true, false, 1},
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        struct values v;
        struct caloris_err err;
        int rest = -1;
        struct caloris_conf *conf = load(cases[i].line, &v, &rest, NULL, &err);
        if (!conf)
            fail_msg("%s: %s", cases[i].line, err.text);
        if (cases[i].model)
            assert_string_equal(v.model, cases[i].model);
        else
            assert_null(v.model);
        assert_int_equal(v.rows, cases[i].rows);
        assert_true(v.threshold == cases[i].threshold);
        assert_int_equal(v.fast, cases[i].fast);
        assert_int_equal(v.loud, cases[i].loud);
        assert_int_equal(v.dry, cases[i].dry);
        assert_int_equal(rest, cases[i].rest);
        caloris_conf_free(conf);
    }
}

static void test_wrong_flags(void **state)
{
    (void)state;
    static const struct {
        const char *line, *complaint;
    } wrong[] = {
        {"--step-row 5", "unknown option --step-row; did you mean --step-rows?"},
        {"--step_rows=5", "unknown option --step_rows; did you mean --step-rows?"},
        {"--verison", "unknown option --verison; did you mean --version?"},
        {"--zebra", "unknown option --zebra"},
        {"--no-model", "unknown option --no-model"},
        {"--no-help", "unknown option --no-help"},
        {"-x", "unknown option -x in -x"},
        {"-fx", "unknown option -x in -fx"},
        {"--step-rows", "--step-rows needs a value, a whole number"},
        {"-fn", "-n needs a value, a whole number"},
        {"--step-rows x", "--step-rows: \"x\" is not a whole number"},
        {"--step-rows 5k", "--step-rows: \"5k\" is not a whole number"},
        {"--step-rows=", "--step-rows: \"\" is not a whole number"},
        {"--seed 99999999999999999999", "--seed: 99999999999999999999 does not fit 64 bits"},
        {"--threshold nan", "--threshold: \"nan\" is not a number"},
        {"--threshold -0.1", "--threshold: -0.1 is out of range (0 to 1)"},
        {"--cache -1", "--cache: \"-1\" is not a size like 512MiB or 8GiB"},
        {"--fast=maybe", "--fast: \"maybe\" is neither true nor false"},
        {"--no-fast=1", "--no-fast takes no value"},
        {"stray", "unexpected argument \"stray\""},
        {"-- stray", "unexpected argument \"stray\""},
    };
    for (size_t i = 0; i < LENGTH(wrong); i++) {
        struct values v;
        struct caloris_err err;
        if (load(wrong[i].line, &v, NULL, NULL, &err))
            fail_msg("taken without a word: %s", wrong[i].line);
        assert_int_equal(err.code, CALORIS_USAGE);
        assert_string_equal(err.text, wrong[i].complaint);
    }
}

static void test_wrong_environment(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value, *complaint;
    } wrong[] = {
        {"CALORIS_STEP_ROWS", "many", "CALORIS_STEP_ROWS: \"many\" is not a whole number"},
        {"CALORIS_FAST", "maybe", "CALORIS_FAST: \"maybe\" is neither true nor false"},
        {"CALORIS_WAIT", "99999999999d", "CALORIS_WAIT: duration 99999999999d is too long"},
        {"CALORIS_DRY_RUN", "maybe", NULL}, /* a flag only */
        {"CALORIS_SOMETHING_ELSE", "x", NULL},
    };
    for (size_t i = 0; i < LENGTH(wrong); i++) {
        struct values v;
        struct caloris_err err;
        setenv(wrong[i].name, wrong[i].value, 1);
        struct caloris_conf *conf = load("", &v, NULL, NULL, &err);
        unsetenv(wrong[i].name);
        if (!wrong[i].complaint) {
            assert_non_null(conf);
            caloris_conf_free(conf);
            continue;
        }
        assert_null(conf);
        assert_int_equal(err.code, CALORIS_BAD_CONFIG);
        assert_string_equal(err.text, wrong[i].complaint);
    }
}

static void test_durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"0s", 0},       {"500ms", 500},   {"1.5s", 1500},  {"5m", 300000},
                {"2h", 7200000}, {"1d", 86400000}, {"30 s", 30000}, {"0.29s", 290}};
    static const char *const bad[] = {"", "s", "5", "5 minutes", "-1s", "nans", "infs", "1e300d"};
    for (size_t i = 0; i < LENGTH(good); i++) {
        uint64_t ms = 77;
        assert_int_equal(caloris_duration_parse(good[i].text, &ms, NULL), 0);
        assert_int_equal(ms, good[i].ms);
    }
    for (size_t i = 0; i < LENGTH(bad); i++) {
        uint64_t ms = 77;
        assert_int_equal(caloris_duration_parse(bad[i], &ms, NULL), -1);
        assert_int_equal(ms, 77);
    }
}

/* What the program prints on stdout when it is started with line. */
static void printed(const char *line, char text[OUTPUT_BYTES])
{
    struct values v;
    struct caloris_err err;
    bool done = false;
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    struct caloris_conf *conf = load(line, &v, NULL, &done, &err);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    text[fread(text, 1, OUTPUT_BYTES - 1, file)] = '\0';
    fclose(file);
    if (!conf)
        fail_msg("%s: %s", line, err.text);
    assert_true(done);
    caloris_conf_free(conf);
}

static void test_print_config(void **state)
{
    (void)state;
    char text[OUTPUT_BYTES], expected[OUTPUT_BYTES], path[PATH_BYTES];
    write_file("print.conf", "engine: {\n seed = 5000000000L;\n cache = \"1000KiB\"; };\n");
    setenv("CALORIS_MODEL", "a \"b\"\\", 1);
    printed("--config @print.conf --fast --wait 90s --print-config", text);
    unsetenv("CALORIS_MODEL");
    path_of("print.conf", path);
    snprintf(expected, sizeof(expected),
             "model = \"a \\\"b\\\"\\\\\"  # CALORIS_MODEL\n"
             "comm = \"mpi\"  # default\n"
             "step_rows = 256  # default\n"
             "seed = 5000000000L  # %s:2\n"
             "threshold = 0.9  # default\n"
             "cache = \"1000KiB\"  # %s:3\n"
             "wait = \"90s\"  # --wait\n"
             "fast = true  # --fast\n"
             "loud = true  # default\n",
             path, path);
    assert_string_equal(text, expected);
    printed("--print-config", text);
    assert_non_null(strstr(text, "model = (unset)  # default\n"));
    assert_non_null(strstr(text, "wait = \"1500ms\"  # default\n"));
}

/* No line of the text is wider than width. */
static void assert_narrow(const char *text, size_t width)
{
    for (const char *line = text; *line;) {
        size_t n = strcspn(line, "\n");
        if (n > width)
            fail_msg("%zu columns: %.*s", n, (int)n, line);
        line += n + (line[n] == '\n');
    }
}

static void test_help(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "Usage: caloris-engine [options] [FILE…]\n       caloris-engine plan [options]\n",
        "\nComputes denoising steps.\n",
        "\nOptions:\n  -m, --model DIR                 folder of the model\n",
        "      --comm mpi|threads|self     how ranks talk [mpi]\n",
        "\nSteps:\n  -n, --step-rows N               rows of a step at most; this",
        "      --cache SIZE                bytes of K/V [8GiB]\n",
        "  -f, --fast                      hurry\n",
        "  -l, --no-loud                   do not log more\n",
        "\nCommon options:\n      --config FILE ",
        "  -h, --help ",
        "(CALORIS_MODEL);",
    };
    char text[OUTPUT_BYTES];
    printed("--help", text);
    for (size_t i = 0; i < LENGTH(pieces); i++) {
        if (!strstr(text, pieces[i]))
            fail_msg("\"%s\" is not in\n%s", pieces[i], text);
    }
    assert_null(strstr(text, "print-sample"));
    assert_narrow(text, 100);
    char same[OUTPUT_BYTES];
    printed("-h --zebra", same); /* help comes whatever else is wrong */
    assert_string_equal(same, text);
    printed("--version", text);
    assert_string_equal(text, "caloris-engine " CALORIS_VERSION "\n");
}

/* The sample says what holds anyway: as it is, and with every key uncommented. */
static void test_sample(void **state)
{
    (void)state;
    char text[OUTPUT_BYTES], live[OUTPUT_BYTES];
    struct values v;
    struct caloris_err err;
    printed("--print-sample", text);
    assert_narrow(text, 100);
    assert_non_null(strstr(text, "# Read by caloris-engine.\nengine: {\n\n    # folder of the "
                                 "model\n    # model = \"\";\n"));
    assert_non_null(strstr(text, "    # comm = \"mpi\";\n"));
    assert_non_null(strstr(text, "    # of another verb\n    # keep = 0;\n"));
    assert_null(strstr(text, "dry"));
    assert_ptr_equal(strstr(strstr(text, "# model =") + 1, "# model ="), NULL);

    write_file("sample.conf", text);
    struct caloris_conf *conf = load("--config @sample.conf", &v, NULL, NULL, &err);
    if (!conf)
        fail_msg("%s", err.text);
    assert_string_equal(caloris_conf_origin(conf, "step-rows"), "default");
    caloris_conf_free(conf);

    strcpy(live, text);
    for (char *line = strstr(live, "\n    # "); line; line = strstr(line + 1, "\n    # ")) {
        char *end = strchr(line + 1, '\n');
        if (end[-1] == ';')
            line[5] = ' ';
    }
    write_file("sample.conf", live);
    conf = load("--config @sample.conf", &v, NULL, NULL, &err);
    if (!conf)
        fail_msg("%s\n%s", err.text, live);
    assert_non_null(strstr(caloris_conf_origin(conf, "step-rows"), "sample.conf:"));
    assert_null(v.model); /* "" in a file is no text */
    assert_int_equal(v.rows, 256);
    assert_true(v.threshold == 0.9);
    assert_int_equal(v.wait, 1500);
    assert_true(v.loud);
    caloris_conf_free(conf);
}

/* A table with a default that its own type refuses is a bug of ours, and says so. */
static void test_wrong_default(void **state)
{
    (void)state;
    static const struct caloris_option wrong[] = {
        {.name = "rows", .type = CALORIS_OPTION_INT, .default_text = "x", .help = "rows"}};
    static const struct caloris_program p = {
        .name = "x", .group = "engine", .usage = "x", .options = wrong, .n_options = 1};
    char name[] = "x";
    char *argv[] = {name, NULL};
    int64_t value;
    bool done;
    struct caloris_err err;
    assert_null(caloris_conf_load(&p, 1, argv, &value, NULL, &done, &err));
    assert_int_equal(err.code, CALORIS_INTERNAL);
    assert_string_equal(err.text, "default of --rows: \"x\" is not a whole number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_wrong_flags),
        cmocka_unit_test(test_wrong_environment),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_print_config),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_wrong_default),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
