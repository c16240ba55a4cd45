#include "tests/unit/conf_support.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_ARGS = 12 };

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

const char *path_of(const char *name, char path[PATH_BYTES])
{
    assert_int_equal(caloris_file_join(path, PATH_BYTES, folder, name, NULL), 0);
    return path;
}

void write_bytes(const char *name, const char *bytes, size_t n)
{
    char path[PATH_BYTES];
    struct caloris_err err;
    if (caloris_file_write(path_of(name, path), bytes, n, 0600, &err) < 0)
        fail_msg("%s", err.text);
}

void write_file(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

struct caloris_conf *load(const char *line, struct values *values, int *rest, bool *done,
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

const char *shown(const struct caloris_err *err)
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

int make_folder(void **state)
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

int remove_folder(void **state)
{
    (void)state;
    char command[PATH_BYTES + 16];
    snprintf(command, sizeof(command), "rm -r '%s'", folder);
    return system(command) == 0 ? 0 : -1;
}
