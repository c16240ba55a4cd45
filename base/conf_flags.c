#include "base/conf_impl.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const struct caloris_option conf_common_options[] = {
    {.name = "config",
     .type = CALORIS_OPTION_TEXT,
     .offset = offsetof(struct conf_common, config),
     .argument = "FILE",
     .help = "read this configuration file (/dev/null: none)"},
    {.name = "print-config",
     .offset = offsetof(struct conf_common, print_config),
     .help = "show every setting with its origin, then exit"},
    {.name = "print-sample", .offset = offsetof(struct conf_common, print_sample)},
    {.name = "help",
     .letter = 'h',
     .offset = offsetof(struct conf_common, help),
     .help = "show this, then exit"},
    {.name = "version",
     .letter = 'V',
     .offset = offsetof(struct conf_common, version),
     .help = "show the version, then exit"},
};
const size_t conf_n_common_options = CONF_LENGTH(conf_common_options);

/* An option found by name or letter: one of the program's, or a common one. */
struct found {
    const struct caloris_option *option;
    bool common;
    bool negated; /* --no-NAME */
};

static bool name_is(const struct caloris_option *option, const char *name, size_t n)
{
    return option->name && strlen(option->name) == n && memcmp(option->name, name, n) == 0;
}

/* The program's options first, so that it may use the letters of the common ones. */
static struct found find(const struct caloris_program *program, const char *name, size_t n,
                         char letter)
{
    for (size_t i = 0; i < program->n_options; i++) {
        const struct caloris_option *option = &program->options[i];
        if (option->name && (letter ? option->letter == letter : name_is(option, name, n)))
            return (struct found){.option = option};
    }
    for (size_t i = 0; i < conf_n_common_options; i++) {
        const struct caloris_option *option = &conf_common_options[i];
        if (letter ? option->letter == letter : name_is(option, name, n))
            return (struct found){.option = option, .common = true};
    }
    if (!letter && n > 3 && memcmp(name, "no-", 3) == 0) {
        struct found found = find(program, name + 3, n - 3, 0);
        if (found.option && !found.common && found.option->type == CALORIS_OPTION_FLAG) {
            found.negated = true;
            return found;
        }
    }
    return (struct found){0};
}

static int unknown_flag(const struct caloris_program *program, const char *name, size_t n,
                        struct caloris_err *err)
{
    char typed[CONF_KEY_BYTES], hint[CONF_HINT_BYTES];
    snprintf(typed, sizeof(typed), "%.*s", (int)(n < 80 ? n : 80), name);
    struct conf_near near = {.typed = typed};
    for (size_t i = 0; i < program->n_options; i++) {
        if (program->options[i].name)
            conf_near_offer(&near, program->options[i].name);
    }
    for (size_t i = 0; i < conf_n_common_options; i++)
        conf_near_offer(&near, conf_common_options[i].name);
    return caloris_err_set(err, CALORIS_USAGE, "unknown option --%s%s", typed,
                           conf_near_hint(&near, "--", hint));
}

static int keep(struct conf_flags *flags, const struct caloris_program *program, struct found found,
                const char *value, struct caloris_err *err)
{
    if (found.common) {
        char *at = (char *)&flags->common + found.option->offset;
        return conf_value_parse(found.option, value, at, &flags->common.config, err);
    }
    size_t option = (size_t)(found.option - program->options);
    flags->flags[flags->n_flags++] = (struct conf_flag){option, value};
    return 0;
}

/* --name VALUE, --name=VALUE, --flag, --no-flag. *i moves to the last word that was used. */
static int parse_long(struct conf_flags *flags, const struct caloris_program *program, int argc,
                      char **argv, int *i, struct caloris_err *err)
{
    const char *word = argv[*i];
    const char *equals = strchr(word, '=');
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    struct found found = find(program, word + 2, n - 2, 0);
    if (!found.option)
        return unknown_flag(program, word + 2, n - 2, err);
    const char *value = equals ? equals + 1 : NULL;
    if (found.option->type == CALORIS_OPTION_FLAG) {
        if (value && found.negated)
            return caloris_err_set(err, CALORIS_USAGE, "%.*s takes no value", (int)n, word);
        if (!value)
            value = found.negated ? "false" : "true";
    } else if (!value) {
        if (*i + 1 >= argc)
            return caloris_err_set(err, CALORIS_USAGE, "%s needs a value, %s", word,
                                   conf_value_kind(found.option->type));
        value = argv[++*i];
    }
    return keep(flags, program, found, value, err);
}

/* -n VALUE, -nVALUE, -v, -vq. */
static int parse_letters(struct conf_flags *flags, const struct caloris_program *program, int argc,
                         char **argv, int *i, struct caloris_err *err)
{
    for (const char *letter = argv[*i] + 1; *letter; letter++) {
        struct found found = find(program, NULL, 0, *letter);
        if (!found.option)
            return caloris_err_set(err, CALORIS_USAGE, "unknown option -%c in %.80s", *letter,
                                   argv[*i]);
        if (found.option->type == CALORIS_OPTION_FLAG) {
            if (keep(flags, program, found, "true", err) < 0)
                return -1;
            continue;
        }
        const char *value = letter + 1;
        if (!*value) {
            if (*i + 1 >= argc)
                return caloris_err_set(err, CALORIS_USAGE, "-%c needs a value, %s", *letter,
                                       conf_value_kind(found.option->type));
            value = argv[++*i];
        }
        return keep(flags, program, found, value, err);
    }
    return 0;
}

static size_t count_letters(int argc, char **argv)
{
    size_t n = 0;
    for (int i = 1; i < argc; i++)
        n += strlen(argv[i]);
    return n;
}

int conf_flags_parse(struct conf_flags *flags, const struct caloris_program *program, int argc,
                     char **argv, int *rest, struct caloris_err *err)
{
    *flags = (struct conf_flags){0};
    /* A word sets at most as many options as it has letters. */
    flags->flags = calloc(count_letters(argc, argv) + 1, sizeof(*flags->flags));
    if (!flags->flags)
        return caloris_err_sys(err, "command line");
    int i = 1;
    for (; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--") == 0) {
            i++;
            break;
        }
        if (word[0] != '-' || !word[1]) /* "-" is an operand: standard input */
            break;
        int rc = word[1] == '-' ? parse_long(flags, program, argc, argv, &i, err)
                                : parse_letters(flags, program, argc, argv, &i, err);
        if (rc < 0)
            goto fail;
        if (flags->common.help || flags->common.version || flags->common.print_sample)
            return 0;
    }
    if (rest)
        *rest = i;
    else if (i < argc) {
        caloris_err_set(err, CALORIS_USAGE, "unexpected argument \"%.80s\"", argv[i]);
        goto fail;
    }
    return 0;
fail:
    conf_flags_free(flags);
    return -1;
}

void conf_flags_free(struct conf_flags *flags)
{
    free(flags->flags);
    free(flags->common.config);
    *flags = (struct conf_flags){0};
}
