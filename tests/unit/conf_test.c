/* base/conf: the order of its sources, every type in a file, and the traps of the file format. */
#include "tests/unit/conf_support.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_defaults(void **state)
{
    (void)state;
    struct values v;
    struct caloris_err err;
    bool done = true;
    struct caloris_conf *conf = load("--config /dev/null", &v, NULL, &done, &err);
    assert_non_null(conf);
    assert_false(done);
    assert_null(v.model);
    assert_int_equal(v.comm, 0);
    assert_int_equal(v.rows, 256);
    assert_int_equal(v.seed, 0);
    assert_true(v.threshold == 0.9);
    assert_int_equal(v.cache, UINT64_C(8) << 30);
    assert_int_equal(v.wait, 1500);
    assert_false(v.fast);
    assert_true(v.loud);
    assert_false(v.dry);
    assert_string_equal(caloris_conf_origin(conf, "step-rows"), "default");
    assert_null(caloris_conf_origin(conf, "nothing"));
    caloris_conf_free(conf);
    caloris_conf_free(NULL);
}

static void test_each_source_beats_the_one_before(void **state)
{
    (void)state;
    static const struct {
        const char *file, *environment, *flags;
        int64_t rows;
        const char *origin;
    } cases[] = {
        {NULL, NULL, "", 256, "default"},
        {"engine: {\n\n step_rows = 3; };\n", NULL, "", 3, "order.conf:3"},
        {"engine: { step_rows = 3; };\n", "4", "", 4, "CALORIS_STEP_ROWS"},
        {NULL, "4", "", 4, "CALORIS_STEP_ROWS"},
        {"engine: { step_rows = 3; };\n", "", "", 3, "order.conf:1"},
        {"engine: { step_rows = 3; };\n", "4", " --step-rows 5", 5, "--step-rows"},
        {NULL, "4", " -n 5 -n 6", 6, "--step-rows"},
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        char line[100], where[PATH_BYTES];
        struct values v;
        struct caloris_err err;
        if (cases[i].file)
            write_file("order.conf", cases[i].file);
        snprintf(line, sizeof(line), "--config %s%s", cases[i].file ? "@order.conf" : "/dev/null",
                 cases[i].flags);
        if (cases[i].environment)
            setenv("CALORIS_STEP_ROWS", cases[i].environment, 1);
        struct caloris_conf *conf = load(line, &v, NULL, NULL, &err);
        unsetenv("CALORIS_STEP_ROWS");
        if (!conf)
            fail_msg("case %zu: %s", i, err.text);
        assert_int_equal(v.rows, cases[i].rows);
        const char *origin = cases[i].origin;
        if (strncmp(origin, "order", 5) == 0)
            origin = path_of(cases[i].origin, where);
        assert_string_equal(caloris_conf_origin(conf, "step-rows"), origin);
        caloris_conf_free(conf);
    }
}

static void test_every_type_in_a_file(void **state)
{
    (void)state;
    struct values v;
    struct caloris_err err;
    write_file("types.conf",
               "# a comment with 99999999999 in it\n"
               "engine: {\n"
               "  model = \"/m \\\"x\\\" 5000000000\"; /* 5000000000 */ comm=\"self\";\n"
               "  step_rows = 0x10; // 5000000000\n"
               "  seed = -5000000000L\n"
               "  threshold = 1;   # a whole number where a real is meant\n"
               "  cache = \"1.5GiB\"; wait = \"2h\"; fast = TRUE; loud = false;\n"
               "  keep = 3; # another verb's\n"
               "};\n"
               "gateway: { anything9999999 = [1, 2]; x = { y = (1, \"a\"); }; };\n");
    struct caloris_conf *conf = load("--config @types.conf", &v, NULL, NULL, &err);
    if (!conf)
        fail_msg("%s", err.text);
    assert_string_equal(v.model, "/m \"x\" 5000000000");
    assert_int_equal(v.comm, 2);
    assert_int_equal(v.rows, 16);
    assert_int_equal(v.seed, INT64_C(-5000000000));
    assert_true(v.threshold == 1.0);
    assert_int_equal(v.cache, UINT64_C(3) << 29);
    assert_int_equal(v.wait, 7200000);
    assert_true(v.fast);
    assert_false(v.loud);
    caloris_conf_free(conf);
}

static void test_damaged_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } damaged[] = {
        {"engine: {\n step_row = 1; };",
         "bad.conf:2: group engine has no key step_row; did you mean step_rows?"},
        {"engine: {\n step-rows = 1; };",
         "bad.conf:2: group engine has no key step-rows; did you mean step_rows?"},
        {"engine: { kep = 1; };", "bad.conf:1: group engine has no key kep; did you mean keep?"},
        {"engine: { zebra = 1; };", "bad.conf:1: group engine has no key zebra"},
        {"engine: { dry_run = true; };", "bad.conf:1: group engine has no key dry_run"},
        {"\nengin: { };", "bad.conf:2: no program reads a group engin; did you mean engine?"},
        {"zoo: { };", "bad.conf:1: no program reads a group zoo"},
        {"step_rows = 1;",
         "bad.conf:1: step_rows belongs inside the group: engine: { step_rows = … };"},
        {"engine = 1;", "bad.conf:1: engine must be a group, not a whole number"},
        {"engine: {\n\n step_rows = \"8\"; };",
         "bad.conf:3: engine.step_rows must be a whole number, not a text"},
        {"engine: { step_rows = 1.5; };",
         "bad.conf:1: engine.step_rows must be a whole number, not a number with a fraction"},
        {"engine: { step_rows = 0; };",
         "bad.conf:1: engine.step_rows: 0 is out of range (1 to 65536)"},
        {"engine: { threshold = 1.5; };",
         "bad.conf:1: engine.threshold: 1.5 is out of range (0 to 1)"},
        {"engine: { threshold = \"x\"; };",
         "bad.conf:1: engine.threshold must be a number, not a text"},
        {"engine: { threshold = 5000000000L; };",
         "bad.conf:1: engine.threshold: 5e+09 is out of range (0 to 1)"},
        {"engine: { cache = 4096; };",
         "bad.conf:1: engine.cache must be a size in quotes, like \"8GiB\", not a whole number"},
        {"engine: { cache = \"8 bits\"; };",
         "bad.conf:1: engine.cache: \"8 bits\" is not a size like 512MiB or 8GiB"},
        {"engine: { wait = 30; };",
         "bad.conf:1: engine.wait must be a duration in quotes, like \"30s\", not a whole number"},
        {"engine: { wait = \"30\"; };",
         "bad.conf:1: engine.wait: \"30\" is not a duration like 500ms, 30s, 5m, 2h or 1d"},
        {"engine: { fast = 1; };",
         "bad.conf:1: engine.fast must be true or false, not a whole number"},
        {"engine: { comm = \"pigeon\"; };",
         "bad.conf:1: engine.comm: \"pigeon\" is none of mpi|threads|self"},
        {"engine: { comm = \"thread\"; };",
         "bad.conf:1: engine.comm: \"thread\" is none of mpi|threads|self"},
        {"engine: { model = [\"a\"]; };",
         "bad.conf:1: engine.model must be a text in quotes, not an array"},
        /* What libconfig 1.5 takes without a word. */
        {"engine: {\n seed = 5000000000; };",
         "bad.conf:2: 5000000000 does not fit 32 bits; write 5000000000L"},
        {"engine: { seed = 2147483648; };",
         "bad.conf:1: 2147483648 does not fit 32 bits; write 2147483648L"},
        {"engine: { seed = -2147483649; };",
         "bad.conf:1: -2147483649 does not fit 32 bits; write -2147483649L"},
        {"engine: { seed = 0xFFFFFFFF; };",
         "bad.conf:1: 0xFFFFFFFF does not fit 32 bits; write 0xFFFFFFFFL"},
        {"engine: { seed =\n\n  99999999999999999999L; };",
         "bad.conf:3: 99999999999999999999L does not fit 64 bits"},
        {"client: { whoever = 5000000000; };",
         "bad.conf:1: 5000000000 does not fit 32 bits; write 5000000000L"},
        {"engine: { seed = 1; seed = 2; };", "bad.conf:1: duplicate setting name"},
        {"engine: { };\nengine: { };", "bad.conf:2: duplicate setting name"},
        {"engine: {\n seed = ;\n};", "bad.conf:2: syntax error"},
        {"engine: {\n seed = 1;\n", "bad.conf:3: syntax error"},
        {"engine: {\n model = \"x;\n};", "bad.conf:2: this text has no closing quote"},
        {"engine: { }; /* x\n", "bad.conf:1: this comment has no end"},
        {"engine: { }; /*/", "bad.conf:1: this comment has no end"},
        {"@include \"gone.conf\"", "bad.conf:1: gone.conf: No such file or directory"},
        {"\n@include \".\"", "bad.conf:2: . is not a file"},
        {"\n@include nothing", "bad.conf:2: @include wants a path in quotes"},
        {"@include \"a", "bad.conf:1: @include wants a path in quotes"},
        {"@include \"a\" x = 1", "bad.conf:1: @include must stand alone in its line"},
        {"engine: { }; @include \"a\"", "bad.conf:1: syntax error"},
        {"engine: {\n@include \"wrong.inc\"\n};", "wrong.inc:3: group engine has no key nonsense"},
        {"engine: {\n@include \"wrong.inc\"\n seed = ; };", "bad.conf:3: syntax error"},
        {"engine: {\n@include \"big.inc\"\n};",
         "big.inc:2: 5000000000 does not fit 32 bits; write 5000000000L"},
    };
    write_file("wrong.inc", "\n\nnonsense = 1;\n");
    write_file("big.inc", "\nseed = 5000000000;\n");
    for (size_t i = 0; i < LENGTH(damaged); i++) {
        struct values v;
        struct caloris_err err;
        write_file("bad.conf", damaged[i].text);
        struct caloris_conf *conf = load("--config @bad.conf", &v, NULL, NULL, &err);
        if (conf)
            fail_msg("taken without a word: %s", damaged[i].text);
        assert_int_equal(err.code, CALORIS_BAD_CONFIG);
        if (strstr(damaged[i].complaint, ": . is")) /* "FOLDER/." */
            assert_non_null(strstr(err.text, "/. is not a file"));
        else
            assert_string_equal(shown(&err), damaged[i].complaint);
    }
}

static void test_files_that_are_no_text(void **state)
{
    (void)state;
    struct values v;
    struct caloris_err err;
    char path[PATH_BYTES];
    write_bytes("nul.conf", "engine: { }\0;", 13);
    assert_null(load("--config @nul.conf", &v, NULL, NULL, &err));
    assert_string_equal(shown(&err), "nul.conf:1: a NUL byte: this is not a text file");

    assert_int_equal(caloris_file_make_dirs(path_of("dir", path), 0700, NULL), 0);
    assert_null(load("--config @dir", &v, NULL, NULL, &err));
    assert_string_equal(shown(&err), "dir is not a file");

    size_t n = (1 << 20) + 1;
    char *large = malloc(n);
    assert_non_null(large);
    memset(large, ' ', n);
    write_bytes("large.conf", large, n);
    free(large);
    assert_null(load("--config @large.conf", &v, NULL, NULL, &err));
    assert_string_equal(shown(&err), "large.conf: more than 1048576 bytes");

    write_file("empty.conf", "");
    struct caloris_conf *conf = load("--config @empty.conf", &v, NULL, NULL, &err);
    assert_non_null(conf);
    caloris_conf_free(conf);
}

static void test_includes(void **state)
{
    (void)state;
    struct values v;
    struct caloris_err err;
    char path[PATH_BYTES], text[2 * PATH_BYTES], where[PATH_BYTES];
    assert_int_equal(caloris_file_make_dirs(path_of("inc", path), 0700, NULL), 0);
    write_file("inc/one.conf", "seed = 7;\n@include \"two.conf\"\nfast = true;");
    write_file("inc/two.conf", "\nthreshold = 0.5;");
    write_file("absolute.conf", "comm = \"self\";\n");
    snprintf(text, sizeof(text),
             "engine: {\n  @include \"inc/one.conf\"\n@include \"%s\"\n step_rows = 9;\n model = "
             "\"\n@include \\\"no\\\"\";\n};\n",
             path_of("absolute.conf", path));
    write_file("top.conf", text);
    struct caloris_conf *conf = load("--config @top.conf", &v, NULL, NULL, &err);
    if (!conf)
        fail_msg("%s", err.text);
    assert_int_equal(v.seed, 7);
    assert_true(v.threshold == 0.5);
    assert_true(v.fast);
    assert_int_equal(v.comm, 2);
    assert_int_equal(v.rows, 9);
    assert_string_equal(v.model, "\n@include \"no\"");
    assert_string_equal(caloris_conf_origin(conf, "seed"), path_of("inc/one.conf:1", where));
    assert_string_equal(caloris_conf_origin(conf, "threshold"), path_of("inc/two.conf:2", where));
    assert_string_equal(caloris_conf_origin(conf, "fast"), path_of("inc/one.conf:3", where));
    assert_string_equal(caloris_conf_origin(conf, "step-rows"), path_of("top.conf:4", where));
    caloris_conf_free(conf);

    write_file("circle.conf", "@include \"circle.conf\"\n");
    assert_null(load("--config @circle.conf", &v, NULL, NULL, &err));
    assert_int_equal(err.code, CALORIS_BAD_CONFIG);
    assert_non_null(strstr(err.text, "do they go in circles?"));
}

static void test_where_the_file_is_looked_for(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    struct values v;
    struct caloris_err err;
    assert_int_equal(caloris_file_make_dirs(path_of("xdg/caloris", path), 0700, NULL), 0);
    assert_int_equal(caloris_file_make_dirs(path_of("home/.config/caloris", path), 0700, NULL), 0);
    write_file("xdg/caloris/caloris.conf", "engine: { seed = 1; };");
    write_file("home/.config/caloris/caloris.conf", "engine: { seed = 2; };");
    write_file("named.conf", "engine: { seed = 3; };");
    write_file("flag.conf", "engine: { seed = 4; };");

    setenv("HOME", path_of("home", path), 1);
    struct caloris_conf *conf = load("", &v, NULL, NULL, &err);
    assert_non_null(conf);
    assert_int_equal(v.seed, 2);
    caloris_conf_free(conf);

    setenv("XDG_CONFIG_HOME", path_of("xdg", path), 1);
    conf = load("", &v, NULL, NULL, &err);
    assert_non_null(conf);
    assert_int_equal(v.seed, 1);
    caloris_conf_free(conf);

    setenv("CALORIS_CONFIG", path_of("named.conf", path), 1);
    conf = load("", &v, NULL, NULL, &err);
    assert_non_null(conf);
    assert_int_equal(v.seed, 3);
    caloris_conf_free(conf);

    conf = load("--config @flag.conf", &v, NULL, NULL, &err);
    assert_non_null(conf);
    assert_int_equal(v.seed, 4);
    caloris_conf_free(conf);

    /* One that was asked for must be there. */
    setenv("CALORIS_CONFIG", path_of("gone.conf", path), 1);
    assert_null(load("", &v, NULL, NULL, &err));
    assert_int_equal(err.code, CALORIS_BAD_CONFIG);
    assert_string_equal(shown(&err), "gone.conf: No such file or directory");
    unsetenv("CALORIS_CONFIG");
    setenv("XDG_CONFIG_HOME", path_of("none", path), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_each_source_beats_the_one_before),
        cmocka_unit_test(test_every_type_in_a_file),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_files_that_are_no_text),
        cmocka_unit_test(test_includes),
        cmocka_unit_test(test_where_the_file_is_looked_for),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
