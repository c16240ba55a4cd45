/* base/conf.h: options of a program, from one table: built-in default < configuration file <
 * CALORIS_* environment < flag.
 *
 * The same table makes --help, --print-config (every value with its origin) and the commented
 * sample file. The file is libconfig: one group per program. Traps of libconfig 1.5 are handled
 * here: an unknown or ill-typed key is an error with file:line, integers too large for 32 bits
 * without an L suffix are refused, sizes and durations are strings ("8GiB", "30s"), @include takes
 * absolute paths and paths relative to the including file.
 */
#ifndef CALORIS_CONF_H
#define CALORIS_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct caloris_err;

enum caloris_option_type {
    CALORIS_OPTION_FLAG,     /* bool */
    CALORIS_OPTION_INT,      /* int64_t, min … max */
    CALORIS_OPTION_REAL,     /* double, min … max */
    CALORIS_OPTION_SIZE,     /* uint64_t bytes: "8GiB" */
    CALORIS_OPTION_DURATION, /* uint64_t milliseconds: "30s", "5m" */
    CALORIS_OPTION_TEXT,     /* char *, owned by the values; NULL when unset */
    CALORIS_OPTION_CHOICE,   /* int64_t: index into choices "mpi|threads" */
};

/* An entry without a name is a heading: its help is the title of the options that follow. */
struct caloris_option {
    const char *name; /* "step-rows": --step-rows, CALORIS_STEP_ROWS, key step_rows */
    char letter;      /* -n, or 0 */
    enum caloris_option_type type;
    size_t offset;            /* of the value in the caller's struct */
    const char *default_text; /* NULL: zero / unset */
    const char *choices;      /* CHOICE */
    double min, max;          /* INT, REAL; both 0: any */
    const char *argument;     /* "DIR" in the help; NULL for flags */
    const char *help;         /* one line; wrapped where it is shown. NULL: hidden */
    bool flag_only;           /* not in file or environment (--help and the like) */
};

/* What a program says of itself. */
struct caloris_program {
    const char *name;  /* "caloris-engine" */
    const char *group; /* of the configuration file: "engine" */
    const char *usage; /* "caloris-engine [options] …", several lines */
    const char *about; /* what it does, a paragraph */
    const struct caloris_option *options;
    size_t n_options;
    /* Other verbs of the command that read the same group: keys of theirs are left alone. Ends
     * with NULL; may be NULL. */
    const struct caloris_program *const *siblings;
};

struct caloris_conf; /* origins of values, and memory of texts */

/* Fills values (a struct that the options' offsets point into) from all four sources. Every program
 * also understands --config FILE, --print-config, --help, --version. *rest (may be NULL: then
 * operands are errors) is the index in argv of the first operand; parsing stops there or behind
 * "--". *done: --help, --version or --print-config was served on stdout: exit with 0.
 * The file: --config, else $CALORIS_CONFIG, else $XDG_CONFIG_HOME/caloris/caloris.conf (~/.config),
 * else /etc/caloris/caloris.conf, if there; --config /dev/null reads none. An environment variable
 * that is set but empty counts as unset, and so does "" for a TEXT in the file.
 * NULL and err (USAGE or BAD_CONFIG). Free with caloris_conf_free, after the last use of values. */
struct caloris_conf *caloris_conf_load(const struct caloris_program *program, int argc, char **argv,
                                       void *values, int *rest, bool *done,
                                       struct caloris_err *err);
void caloris_conf_free(struct caloris_conf *conf);

/* Where the value of an option came from: "default", "/etc/caloris/caloris.conf:12",
 * "CALORIS_RANKS", "--ranks". NULL when there is no such option. */
const char *caloris_conf_origin(const struct caloris_conf *conf, const char *option);

void caloris_conf_print_help(const struct caloris_program *program, FILE *to);
/* The commented sample: one group of configs/caloris.conf. Every program prints its own with the
 * hidden flag --print-sample. */
void caloris_conf_print_sample(const struct caloris_program *program, FILE *to);

/* "30s", "500ms", "5m", "2h", "1d" -> milliseconds. */
int caloris_duration_parse(const char *text, uint64_t *ms, struct caloris_err *err);

#endif
