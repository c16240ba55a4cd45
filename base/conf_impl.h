/* base/conf_impl.h: what the files of base/conf share. The door is base/conf.h. */
#ifndef CALORIS_CONF_IMPL_H
#define CALORIS_CONF_IMPL_H

#include "base/conf.h"

#include "base/buf.h"
#include "base/err.h"

#define CONF_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

struct caloris_conf {
    const struct caloris_program *program;
    char *values; /* the caller's struct */
    struct conf_slot {
        char *text; /* what a TEXT value points to */
        char *origin;
    } * slots; /* [program->n_options] */
};

/* conf.c ------------------------------------------------------------------------------------- */

/* Gives option number i the value that text says, and remembers where it came from. */
int conf_set(struct caloris_conf *conf, size_t i, const char *text, const char *origin,
             struct caloris_err *err);

enum { CONF_KEY_BYTES = 96 };

/* "step-rows" -> "step_rows", the key in the file. Returns key. */
const char *conf_key(const char *name, char key[CONF_KEY_BYTES]);

/* The option as a user may set it in a file or the environment. */
bool conf_is_setting(const struct caloris_option *option);

/* conf_value.c ------------------------------------------------------------------------------- */

/* Reads text into *at, which has the type of the option. TEXT: *at = *owned = a copy, what *owned
 * held before is freed. text NULL: zero. */
int conf_value_parse(const struct caloris_option *option, const char *text, void *at, char **owned,
                     struct caloris_err *err);

/* The value as a configuration file spells it: 5, 0.9, true, "8GiB"; false when it is unset. */
bool conf_value_print(const struct caloris_option *option, const void *at, FILE *to);

/* "a number", "a size like \"8GiB\"" …, for errors. */
const char *conf_value_kind(enum caloris_option_type type);

/* conf_near.c -------------------------------------------------------------------------------- */

/* The word that was probably meant. Start from {0}, offer all words, then ask. */
struct conf_near {
    const char *typed;
    const char *best;
    size_t distance;
};

void conf_near_offer(struct conf_near *near, const char *word);

enum { CONF_HINT_BYTES = 128 };

/* "; did you mean step_rows?" (prefix before the word) or "". Returns hint. */
const char *conf_near_hint(const struct conf_near *near, const char *prefix,
                           char hint[CONF_HINT_BYTES]);

/* conf_source.c ------------------------------------------------------------------------------ */

/* A configuration file with its includes put in place, and where every line came from. */
struct conf_source {
    struct caloris_buf text;
    struct conf_line {
        size_t file; /* index of files */
        unsigned number;
    } * lines;
    size_t n_lines, lines_capacity;
    char **files;
    size_t n_files;
};

/* Refuses what libconfig would silently mangle or die of: numbers that do not fit their type,
 * NUL bytes, directories, endless includes. */
int conf_source_load(struct conf_source *source, const char *path, struct caloris_err *err);
void conf_source_free(struct conf_source *source);

/* File and line in it of a line (from 1) of text. */
const char *conf_source_where(const struct conf_source *source, unsigned line, unsigned *number);

/* conf_file.c -------------------------------------------------------------------------------- */

/* Sets what the program's group in the file at path says. */
int conf_file_read(struct caloris_conf *conf, const char *path, struct caloris_err *err);

/* conf_flags.c ------------------------------------------------------------------------------- */

/* The flags that every program has. */
struct conf_common {
    char *config;
    bool print_config, print_sample, help, version;
};

extern const struct caloris_option conf_common_options[];
extern const size_t conf_n_common_options;

/* What the command line says, in order; nothing is applied yet but the common flags. */
struct conf_flags {
    struct conf_flag {
        size_t option;     /* of the program */
        const char *value; /* in argv, or a literal */
    } * flags;
    size_t n_flags;
    struct conf_common common;
};

int conf_flags_parse(struct conf_flags *flags, const struct caloris_program *program, int argc,
                     char **argv, int *rest, struct caloris_err *err);
void conf_flags_free(struct conf_flags *flags);

/* conf_print.c ------------------------------------------------------------------------------- */

void conf_print_values(const struct caloris_conf *conf, FILE *to);

#endif
