/* base/conf: the four sources and their order, every type, and the traps of the file format. */
#include "base/conf.h"
#include "base/err.h"
#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

enum { MOST_ARGS = 12, PATH_BYTES = 256, OUTPUT_BYTES = 16384 };

struct values {
    bool fast, loud;
    int64_t rows, seed, comm;
    double threshold;
    uint64_t cache, wait;
    char *model;
    bool dry;
};

static const struct caloris_option options[] = {
    {.name = "model",
     .letter = 'm',
     .type = CALORIS_OPTION_TEXT,
     .offset = offsetof(struct values, model),
     .argument = "DIR",
     .help = "folder of the model"},
    {.name = "comm",
     .type = CALORIS_OPTION_CHOICE,
     .offset = offsetof(struct values, comm),
     .default_text = "mpi",
     .choices = "mpi|threads|self",
     .help = "how ranks talk"},
    {.help = "Steps"},
    {.name = "step-rows",
     .letter = 'n',
     .type = CALORIS_OPTION_INT,
     .offset = offsetof(struct values, rows),
     .default_text = "256",
     .min = 1,
     .max = 65536,
     .help = "rows of a step at most; this line is made long enough to be wrapped once in the "
             "help and in the sample, whatever the width of either is"},
    {.name = "seed",
     .type = CALORIS_OPTION_INT,
     .offset = offsetof(struct values, seed),
     .help = "of the noise"},
    {.name = "threshold",
     .letter = 't',
     .type = CALORIS_OPTION_REAL,
     .offset = offsetof(struct values, threshold),
     .default_text = "0.9",
     .min = 0,
     .max = 1,
     .help = "reveal what is surer"},
    {.name = "cache",
     .type = CALORIS_OPTION_SIZE,
     .offset = offsetof(struct values, cache),
     .default_text = "8GiB",
     .help = "bytes of K/V"},
    {.name = "wait",
     .type = CALORIS_OPTION_DURATION,
     .offset = offsetof(struct values, wait),
     .default_text = "1500ms",
     .help = "before giving up"},
    {.name = "fast", .letter = 'f', .offset = offsetof(struct values, fast), .help = "hurry"},
    {.name = "loud",
     .letter = 'l',
     .offset = offsetof(struct values, loud),
     .default_text = "true",
     .help = "log more"},
    {.name = "dry-run",
     .offset = offsetof(struct values, dry),
     .help = "compute nothing",
     .flag_only = true},
};

static const struct caloris_option sibling_options[] = {
    {.name = "keep", .type = CALORIS_OPTION_INT, .help = "of another verb"},
    {.name = "model", .type = CALORIS_OPTION_TEXT, .help = "folder of the model"},
};

static const struct caloris_program sibling = {
    .name = "caloris-engine plan",
    .group = "engine",
    .options = sibling_options,
    .n_options = LENGTH(sibling_options),
};
static const struct caloris_program *const siblings[] = {&sibling, NULL};

static const struct caloris_program program = {
    .name = "caloris-engine",
    .group = "engine",
    .usage = "caloris-engine [options] [FILE…]\ncaloris-engine plan [options]",
    .about = "Computes denoising steps.",
    .options = options,
    .n_options = LENGTH(options),
    .siblings = siblings,
};

static char folder[PATH_BYTES];

static const char *path_of(const char *name, char path[PATH_BYTES])
{
    assert_int_equal(caloris_file_join(path, PATH_BYTES, folder, name, NULL), 0);
    return path;
}

static void write_bytes(const char *name, const char *bytes, size_t n)
{
    char path[PATH_BYTES];
    struct caloris_err err;
    if (caloris_file_write(path_of(name, path), bytes, n, 0600, &err) < 0)
        fail_msg("%s", err.text);
}

static void write_file(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

/* caloris_conf_load with the words of line as arguments. "@NAME" stands for the test's file. */
static struct caloris_conf *load(const char *line, struct values *values, int *rest, bool *done,
                                 struct caloris_err *err)
{
    static char words[1024], paths[MOST_ARGS][PATH_BYTES];
    char *argv[MOST_ARGS] = {(char[]){"caloris-engine"}};
    int argc = 1;
    assert_true(strlen(line) < sizeof(words));
    strcpy(words, line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        assert_true(argc < MOST_ARGS - 1);
        argv[argc] = word;
        if (word[0] == '@') {
            path_of(word + 1, paths[argc]);
            argv[argc] = paths[argc];
        }
        argc++;
    }
    memset(values, 0x5A, sizeof(*values)); /* nothing may be taken for zero beforehand */
    memset(err, 0, sizeof(*err));
    bool ignored;
    return caloris_conf_load(&program, argc, argv, values, rest, done ? done : &ignored, err);
}

/* The text of err with the test's folder cut out. */
static const char *shown(const struct caloris_err *err)
{
    static char text[CALORIS_ERR_TEXT];
    size_t n = strlen(folder), used = 0;
    for (const char *c = err->text; *c;) {
        if (strncmp(c, folder, n) == 0 && c[n] == '/')
            c += n + 1;
        else
            text[used++] = *c++;
    }
    text[used] = '\0';
    return text;
}

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
    assert_non_null(strstr(text, "engine: {\n\n    # folder of the model\n    # model = \"\";\n"));
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

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/caloris-conf-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    /* Nothing of the user's own may be read. */
    setenv("HOME", folder, 1);
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("CALORIS_CONFIG");
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[PATH_BYTES + 16];
    snprintf(command, sizeof(command), "rm -r '%s'", folder);
    return system(command) == 0 ? 0 : -1;
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
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_wrong_flags),
        cmocka_unit_test(test_wrong_environment),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_print_config),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_wrong_default),
        cmocka_unit_test(test_where_the_file_is_looked_for),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
