#include "base/conf_impl.h"

#include "base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *suffix;
    uint64_t factor;
};

/* Largest first, the last one is 1. */
static const struct unit size_units[] = {
    {"TiB", UINT64_C(1) << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20},
    {"KiB", 1 << 10},           {"B", 1},         {NULL, 0},
};
static const struct unit duration_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0},
};

static bool is_bounded(const struct caloris_option *option)
{
    return option->min != 0 || option->max != 0;
}

static int parse_flag(const struct caloris_option *option, const char *text, void *at,
                      struct caloris_err *err)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {
        {"true", true},   {"yes", true}, {"on", true},   {"1", true},
        {"false", false}, {"no", false}, {"off", false}, {"0", false},
    };
    (void)option;
    for (size_t i = 0; i < CONF_LENGTH(words); i++) {
        if (strcasecmp(text, words[i].word) == 0) {
            *(bool *)at = words[i].value;
            return 0;
        }
    }
    return caloris_err_set(err, CALORIS_USAGE, "\"%.80s\" is neither true nor false", text);
}

static int parse_int(const struct caloris_option *option, const char *text, void *at,
                     struct caloris_err *err)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end)
        return caloris_err_set(err, CALORIS_USAGE, "\"%.80s\" is not a whole number", text);
    if (errno)
        return caloris_err_set(err, CALORIS_USAGE, "%.80s does not fit 64 bits", text);
    if (is_bounded(option) && ((double)value < option->min || (double)value > option->max))
        return caloris_err_set(err, CALORIS_USAGE, "%lld is out of range (%.15g to %.15g)", value,
                               option->min, option->max);
    *(int64_t *)at = value;
    return 0;
}

static int parse_real(const struct caloris_option *option, const char *text, void *at,
                      struct caloris_err *err)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value))
        return caloris_err_set(err, CALORIS_USAGE, "\"%.80s\" is not a number", text);
    if (is_bounded(option) && (value < option->min || value > option->max))
        return caloris_err_set(err, CALORIS_USAGE, "%g is out of range (%g to %g)", value,
                               option->min, option->max);
    *(double *)at = value;
    return 0;
}

static int parse_size(const struct caloris_option *option, const char *text, void *at,
                      struct caloris_err *err)
{
    (void)option;
    return caloris_size_parse(text, at, err);
}

static int parse_duration(const struct caloris_option *option, const char *text, void *at,
                          struct caloris_err *err)
{
    (void)option;
    return caloris_duration_parse(text, at, err);
}

static int parse_choice(const struct caloris_option *option, const char *text, void *at,
                        struct caloris_err *err)
{
    size_t n = strlen(text);
    int64_t index = 0;
    for (const char *word = option->choices; word; index++) {
        size_t length = strcspn(word, "|");
        if (length == n && memcmp(word, text, n) == 0) {
            *(int64_t *)at = index;
            return 0;
        }
        word = word[length] ? word + length + 1 : NULL;
    }
    return caloris_err_set(err, CALORIS_USAGE, "\"%.80s\" is none of %s", text, option->choices);
}

static void print_flag(const struct caloris_option *option, const void *at, FILE *to)
{
    (void)option;
    fputs(*(const bool *)at ? "true" : "false", to);
}

static void print_int(const struct caloris_option *option, const void *at, FILE *to)
{
    int64_t value = *(const int64_t *)at;
    (void)option;
    fprintf(to, "%" PRId64 "%s", value, value == (int32_t)value ? "" : "L");
}

/* With a point or an exponent, so that libconfig reads it as a real. */
static void print_real(const struct caloris_option *option, const void *at, FILE *to)
{
    char text[40];
    (void)option;
    snprintf(text, sizeof(text), "%.15g", *(const double *)at);
    fprintf(to, "%s%s", text, strpbrk(text, ".e") ? "" : ".0");
}

/* The largest unit that divides the value. */
static void print_in_units(uint64_t value, const struct unit *units, FILE *to)
{
    while (units->factor > 1 && (value < units->factor || value % units->factor != 0))
        units++;
    fprintf(to, "\"%" PRIu64 "%s\"", value / units->factor, units->suffix);
}

static void print_size(const struct caloris_option *option, const void *at, FILE *to)
{
    (void)option;
    print_in_units(*(const uint64_t *)at, size_units, to);
}

static void print_duration(const struct caloris_option *option, const void *at, FILE *to)
{
    (void)option;
    print_in_units(*(const uint64_t *)at, duration_units, to);
}

/* Quoted as libconfig reads it. */
static void print_text(const struct caloris_option *option, const void *at, FILE *to)
{
    (void)option;
    fputc('"', to);
    for (const unsigned char *c = *(unsigned char *const *)at; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(to, "\\%c", *c);
        else if (*c < ' ')
            fprintf(to, "\\x%02x", *c);
        else
            fputc(*c, to);
    }
    fputc('"', to);
}

static void print_choice(const struct caloris_option *option, const void *at, FILE *to)
{
    const char *word = option->choices;
    for (int64_t skip = *(const int64_t *)at; skip > 0 && strchr(word, '|'); skip--)
        word = strchr(word, '|') + 1;
    fprintf(to, "\"%.*s\"", (int)strcspn(word, "|"), word);
}

static const struct {
    const char *kind; /* for errors */
    size_t bytes;     /* of the value */
    int (*parse)(const struct caloris_option *, const char *text, void *at, struct caloris_err *);
    void (*print)(const struct caloris_option *, const void *at, FILE *);
} types[] = {
    [CALORIS_OPTION_FLAG] = {"true or false", sizeof(bool), parse_flag, print_flag},
    [CALORIS_OPTION_INT] = {"a whole number", sizeof(int64_t), parse_int, print_int},
    [CALORIS_OPTION_REAL] = {"a number", sizeof(double), parse_real, print_real},
    [CALORIS_OPTION_SIZE] = {"a size in quotes, like \"8GiB\"", sizeof(uint64_t), parse_size,
                             print_size},
    [CALORIS_OPTION_DURATION] = {"a duration in quotes, like \"30s\"", sizeof(uint64_t),
                                 parse_duration, print_duration},
    [CALORIS_OPTION_TEXT] = {"a text in quotes", sizeof(char *), NULL, print_text},
    [CALORIS_OPTION_CHOICE] = {"a word in quotes", sizeof(int64_t), parse_choice, print_choice},
};

int conf_value_parse(const struct caloris_option *option, const char *text, void *at, char **owned,
                     struct caloris_err *err)
{
    if (!text) {
        memset(at, 0, types[option->type].bytes);
        if (owned) {
            free(*owned);
            *owned = NULL;
        }
        return 0;
    }
    if (option->type != CALORIS_OPTION_TEXT)
        return types[option->type].parse(option, text, at, err);
    char *copy = strdup(text);
    if (!copy)
        return caloris_err_sys(err, "%s", option->name);
    free(*owned);
    *owned = copy;
    *(char **)at = copy;
    return 0;
}

bool conf_value_print(const struct caloris_option *option, const void *at, FILE *to)
{
    if (option->type == CALORIS_OPTION_TEXT && !*(char *const *)at)
        return false;
    types[option->type].print(option, at, to);
    return true;
}

const char *conf_value_kind(enum caloris_option_type type)
{
    return types[type].kind;
}

int caloris_duration_parse(const char *text, uint64_t *ms, struct caloris_err *err)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || !(number >= 0))
        goto wrong;
    while (*end == ' ')
        end++;
    for (const struct unit *unit = duration_units; unit->suffix; unit++) {
        if (strcmp(end, unit->suffix) != 0)
            continue;
        double value = round(number * (double)unit->factor);
        if (value >= 0x1p53)
            return caloris_err_set(err, CALORIS_USAGE, "duration %.80s is too long", text);
        *ms = (uint64_t)value;
        return 0;
    }
wrong:
    return caloris_err_set(err, CALORIS_USAGE,
                           "\"%.80s\" is not a duration like 500ms, 30s, 5m, 2h or 1d", text);
}
