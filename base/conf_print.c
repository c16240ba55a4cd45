#include "base/conf_impl.h"

#include <stdlib.h>
#include <string.h>

enum { WIDTH = 92, LEFT_MAX = 34, PIECE_BYTES = 512 };

/* Columns that UTF-8 text takes, near enough: one per code point. */
static size_t columns(const char *text, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* Words of text, broken at width; the first line goes on at column at, the others begin with
 * margin spaces and lead. */
static void print_wrapped(FILE *to, const char *text, size_t at, size_t margin, const char *lead)
{
    bool first = true;
    for (const char *word = text; *word;) {
        size_t bytes = strcspn(word, " ");
        size_t wide = columns(word, bytes);
        if (!first && at + 1 + wide > WIDTH) {
            fprintf(to, "\n%*s%s", (int)margin, "", lead);
            at = margin + columns(lead, strlen(lead));
            first = true;
        }
        fprintf(to, "%s%.*s", first ? "" : " ", (int)bytes, word);
        at += wide + (first ? 0 : 1);
        first = false;
        word += bytes;
        word += strspn(word, " ");
    }
    fputc('\n', to);
}

static const char *argument_of(const struct caloris_option *option)
{
    if (option->type == CALORIS_OPTION_FLAG)
        return NULL;
    if (option->argument)
        return option->argument;
    static const char *const usual[] = {
        [CALORIS_OPTION_INT] = "N",     [CALORIS_OPTION_REAL] = "X",
        [CALORIS_OPTION_SIZE] = "SIZE", [CALORIS_OPTION_DURATION] = "TIME",
        [CALORIS_OPTION_TEXT] = "TEXT", [CALORIS_OPTION_CHOICE] = "WORD",
    };
    return option->type == CALORIS_OPTION_CHOICE ? option->choices : usual[option->type];
}

static bool is_on_by_default(const struct caloris_option *option)
{
    bool value = false;
    if (option->type == CALORIS_OPTION_FLAG && option->default_text)
        conf_value_parse(option, option->default_text, &value, NULL, NULL);
    return value;
}

static void print_option(const struct caloris_option *option, FILE *to)
{
    char left[PIECE_BYTES], right[PIECE_BYTES];
    char letter[8] = "    ";
    const char *argument = argument_of(option);
    if (option->letter)
        snprintf(letter, sizeof(letter), "-%c, ", option->letter);
    snprintf(left, sizeof(left), "  %s--%s%s%s%s", letter, is_on_by_default(option) ? "no-" : "",
             option->name, argument ? " " : "", argument ? argument : "");
    bool shows_default = option->default_text && option->type != CALORIS_OPTION_FLAG;
    bool shows_choices = option->type == CALORIS_OPTION_CHOICE && argument != option->choices;
    snprintf(right, sizeof(right), "%s%s%s%s%s%s%s", is_on_by_default(option) ? "do not " : "",
             option->help, shows_choices ? ": " : "", shows_choices ? option->choices : "",
             shows_default ? " [" : "", shows_default ? option->default_text : "",
             shows_default ? "]" : "");
    size_t wide = columns(left, strlen(left));
    if (wide + 2 > LEFT_MAX)
        fprintf(to, "%s\n%*s", left, LEFT_MAX, "");
    else
        fprintf(to, "%s%*s", left, (int)(LEFT_MAX - wide), "");
    print_wrapped(to, right, LEFT_MAX, LEFT_MAX, "");
}

/* Options under their headings; those before the first heading stand under "Options". */
static void print_options(const struct caloris_option *options, size_t n, const char *title,
                          FILE *to)
{
    const char *heading = title;
    for (size_t i = 0; i < n; i++) {
        if (!options[i].name) {
            heading = options[i].help;
            continue;
        }
        if (!options[i].help)
            continue;
        if (heading)
            fprintf(to, "\n%s:\n", heading);
        heading = NULL;
        print_option(&options[i], to);
    }
}

static bool has_settings(const struct caloris_program *program, const struct caloris_option **one)
{
    for (size_t i = 0; i < program->n_options; i++) {
        if (conf_is_setting(&program->options[i]) && program->options[i].help) {
            *one = &program->options[i];
            return true;
        }
    }
    return false;
}

void caloris_conf_print_help(const struct caloris_program *program, FILE *to)
{
    const char *indent = "Usage: ";
    for (const char *line = program->usage; line && *line;) {
        size_t bytes = strcspn(line, "\n");
        fprintf(to, "%s%.*s\n", indent, (int)bytes, line);
        line += bytes + (line[bytes] == '\n');
        indent = "       ";
    }
    fputc('\n', to);
    if (program->about)
        print_wrapped(to, program->about, 0, 0, "");
    print_options(program->options, program->n_options, "Options", to);
    print_options(conf_common_options, conf_n_common_options, "Common options", to);

    const struct caloris_option *one;
    if (!has_settings(program, &one))
        return;
    char key[CONF_KEY_BYTES], text[PIECE_BYTES];
    char variable[CONF_KEY_BYTES];
    conf_key(one->name, key);
    snprintf(variable, sizeof(variable), "%s", key);
    for (char *c = variable; *c; c++)
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    snprintf(
        text, sizeof(text),
        "Options can also stand in the configuration file (group %s, key %s for --%s) and in "
        "the environment (CALORIS_%s); a flag beats the environment, the environment the file.",
        program->group, key, one->name, variable);
    fputc('\n', to);
    print_wrapped(to, text, 0, 0, "");
}

void conf_print_values(const struct caloris_conf *conf, FILE *to)
{
    const struct caloris_program *program = conf->program;
    char key[CONF_KEY_BYTES];
    for (size_t i = 0; i < program->n_options; i++) {
        const struct caloris_option *option = &program->options[i];
        if (!conf_is_setting(option))
            continue;
        fprintf(to, "%s = ", conf_key(option->name, key));
        if (!conf_value_print(option, conf->values + option->offset, to))
            fputs("(unset)", to);
        fprintf(to, "  # %s\n", conf->slots[i].origin);
    }
}

/* An example of a value where there is no default. */
static const char *example_of(enum caloris_option_type type)
{
    static const char *const examples[] = {
        [CALORIS_OPTION_FLAG] = "false",      [CALORIS_OPTION_INT] = "0",
        [CALORIS_OPTION_REAL] = "0.0",        [CALORIS_OPTION_SIZE] = "\"0B\"",
        [CALORIS_OPTION_DURATION] = "\"0s\"", [CALORIS_OPTION_TEXT] = "\"\"",
        [CALORIS_OPTION_CHOICE] = "\"\"",
    };
    return examples[type];
}

/* The option commented out, with its default: what holds when nothing is written. */
static void sample_option(const struct caloris_option *option, FILE *to)
{
    union {
        bool flag;
        int64_t whole;
        uint64_t amount;
        double real;
        char *text;
    } value = {0};
    char *owned = NULL;
    char key[CONF_KEY_BYTES], about[PIECE_BYTES];
    bool shows_choices = option->type == CALORIS_OPTION_CHOICE;
    snprintf(about, sizeof(about), "%s%s%s", option->help, shows_choices ? ": " : "",
             shows_choices ? option->choices : "");
    fputs("\n    # ", to);
    print_wrapped(to, about, 6, 4, "# ");
    fprintf(to, "    # %s = ", conf_key(option->name, key));
    if (!option->default_text ||
        conf_value_parse(option, option->default_text, &value, &owned, NULL) < 0)
        fputs(example_of(option->type), to);
    else
        conf_value_print(option, &value, to);
    fputs(";\n", to);
    free(owned);
}

static bool comes_before(const struct caloris_program *program, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (conf_is_setting(&program->options[i]) && strcmp(program->options[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Prints what programs[which] adds to the group. all [n]. */
static void sample_program(const struct caloris_program *const *all, size_t which, FILE *to)
{
    const struct caloris_program *program = all[which];
    const char *heading = NULL;
    for (size_t i = 0; i < program->n_options; i++) {
        const struct caloris_option *option = &program->options[i];
        if (!option->name)
            heading = option->help;
        if (!conf_is_setting(option) || !option->help)
            continue;
        bool seen = comes_before(program, i, option->name);
        for (size_t p = 0; p < which && !seen; p++)
            seen = comes_before(all[p], all[p]->n_options, option->name);
        if (seen)
            continue;
        if (heading)
            fprintf(to, "\n    # ---- %s ----\n", heading);
        heading = NULL;
        sample_option(option, to);
    }
}

void caloris_conf_print_sample(const struct caloris_program *program, FILE *to)
{
    enum { MOST = 64 };
    const struct caloris_program *all[MOST] = {program};
    size_t n = 1;
    for (const struct caloris_program *const *p = program->siblings; p && *p && n < MOST; p++) {
        if (*p != program)
            all[n++] = *p;
    }
    /* A verb ("caloris list") speaks for its command. */
    fprintf(to, "# Read by %.*s.\n%s: {\n", (int)strcspn(program->name, " "), program->name,
            program->group);
    for (size_t i = 0; i < n; i++)
        sample_program(all, i, to);
    fputs("};\n", to);
}
