#include "client/cmd/cmd.h"

#include "proto/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct flags, member)

static const struct caloris_option gateway_options[] = {
    {.help = "Gateway"},
    {.name = "endpoint",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(endpoint),
     .argument = "ADDRESS",
     .help = "the gateway's address, such as tcp://login1:7711 or ipc:///run/…/clients.sock"},
    {.name = "cluster",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(cluster),
     .argument = "NAME",
     .help =
         "the gateway whose address stands in ~/.caloris/NAME; \"default\" where neither is said"},
    {.name = "server-key",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(server_key),
     .argument = "FILE|KEY",
     .help = "tcp://: the gateway's public key, or its .pub file (default: the cluster file's)"},
    {.name = "certificate",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(certificate),
     .argument = "FILE",
     .help = "tcp://: your own keys, of mode 0600 (default: what the cluster file has, else "
             "~/.config/caloris/key; \"caloris keygen\" makes them)"},
    {.name = "timeout",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(timeout_ms),
     .default_text = "5s",
     .argument = "TIME",
     .help = "how long an answer may take"},
    {.name = "patience",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(patience_ms),
     .default_text = "10m",
     .argument = "TIME",
     .help = "how long to dial a gateway that goes away while this command waits for a job"},
    {.name = "json",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(json),
     .help = "JSON on stdout: one object, or a line for each event",
     .flag_only = true},
    {.name = "quiet",
     .letter = 'q',
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(quiet),
     .help = "only errors on stderr",
     .flag_only = true},
};

/* What any verb may find in the group of the file, whether it talks to a gateway or not. */
static const struct caloris_program gateway_keys = {
    .name = "caloris",
    .group = "client",
    .options = gateway_options,
    .n_options = sizeof(gateway_options) / sizeof(gateway_options[0]),
};
static const struct caloris_program *const siblings[] = {&gateway_keys, NULL};

/* The options of one verb, with the names that the jobs schema gives to flags. */
struct table {
    struct caloris_option options[MAX_OPTIONS];
    size_t count;
    char names[MAX_FIELDS][48];
    struct caloris_program program;
    char name[64], usage[160];
};

static void add(struct table *table, const struct caloris_option *option)
{
    if (table->count < MAX_OPTIONS)
        table->options[table->count++] = *option;
}

/* gen_length -> --gen-length, a text: its value is checked where the job is made. */
static void add_fields(struct table *table)
{
    static const char *const arguments[] = {
        [CALORIS_FIELD_UINT] = "N",          [CALORIS_FIELD_INT] = "N",
        [CALORIS_FIELD_ID] = "ID",           [CALORIS_FIELD_REAL] = "X",
        [CALORIS_FIELD_BOOL] = "true|false", [CALORIS_FIELD_CHOICE] = NULL,
        [CALORIS_FIELD_TEXT] = "TEXT",       [CALORIS_FIELD_WHEN] = "TIME",
    };
    add(table, &(struct caloris_option){.help = "The job"});
    for (size_t i = 0; i < caloris_job_fields_count && i < MAX_FIELDS; i++) {
        const struct caloris_job_field *field = &caloris_job_fields[i];
        char *name = table->names[i];
        snprintf(name, sizeof(table->names[i]), "%s", field->name);
        for (char *c = name; *c; c++)
            *c = *c == '_' ? '-' : *c;
        add(table, &(struct caloris_option){
                       .name = name,
                       .type = CALORIS_OPTION_TEXT,
                       .offset = AT(fields) + i * sizeof(char *),
                       .argument = field->choices ? field->choices : arguments[field->type],
                       .help = field->help,
                       .flag_only = true,
                   });
    }
}

static void fill_table(struct table *table, const struct verb *verb)
{
    for (const struct caloris_option *o = verb->options; o && (o->name || o->help); o++)
        add(table, o);
    if (verb->wants & WANTS_JOB)
        add_fields(table);
    for (size_t i = 0; i < sizeof(gateway_options) / sizeof(gateway_options[0]); i++) {
        if (verb->wants & WANTS_GATEWAY)
            add(table, &gateway_options[i]);
    }
}

/* ---- operands between options ---------------------------------------------------------------- */

static const struct caloris_option *find_long(const struct table *table, const char *name, size_t n)
{
    for (size_t i = 0; i < table->count; i++) {
        const char *known = table->options[i].name;
        if (known && strlen(known) == n && memcmp(known, name, n) == 0)
            return &table->options[i];
    }
    return NULL;
}

/* 2 when the option's value is the next word, else 1. */
static int words_of(const struct table *table, const char *word)
{
    const struct caloris_option *option = NULL;
    if (strncmp(word, "--", 2) == 0) {
        if (strchr(word, '='))
            return 1;
        if (strcmp(word, "--config") == 0)
            return 2;
        option = find_long(table, word + 2, strlen(word + 2));
    } else if (!word[2]) {
        for (size_t i = 0; i < table->count && !option; i++)
            option = table->options[i].letter == word[1] ? &table->options[i] : NULL;
    }
    return option && option->type != CALORIS_OPTION_FLAG ? 2 : 1;
}

int cmd_find_verb(int argc, char **argv)
{
    static const struct verb any = {.wants = WANTS_GATEWAY};
    struct table *table = calloc(1, sizeof(*table));
    int at = 1;
    if (table)
        fill_table(table, &any);
    while (at < argc && argv[at][0] == '-')
        at += table ? words_of(table, argv[at]) : 1;
    free(table);
    return at < argc ? at : argc;
}

/* Where a value came from: 0 nowhere, 1 a file, 2 the environment, 3 a flag. */
static int origin_rank(const struct caloris_conf *conf, const char *option)
{
    const char *origin = caloris_conf_origin(conf, option);
    if (!origin || strcmp(origin, "default") == 0)
        return 0;
    return origin[0] == '-' ? 3 : strncmp(origin, "CALORIS_", 8) == 0 ? 2 : 1;
}

/* ---- the whole command line ------------------------------------------------------------------ */

static char separator[] = "--";

/* argv with the options in front, then "--" and the operands, because the parser stops at the
 * first operand. NULL-terminated, [*count]; to free(). */
static char **options_first(const struct table *table, int argc, char **argv, int *count,
                            struct caloris_err *err)
{
    char **sorted = calloc((size_t)argc + 2, sizeof(*sorted));
    char **operands = calloc((size_t)argc + 1, sizeof(*operands));
    int n = 0, n_operands = 0, i = 1;
    if (!sorted || !operands) {
        caloris_err_sys(err, "the command line");
        free(sorted);
        free(operands);
        return NULL;
    }
    sorted[n++] = argv[0];
    for (; i < argc && strcmp(argv[i], separator) != 0; i++) {
        if (argv[i][0] != '-' || !argv[i][1]) { /* "-" is stdin */
            operands[n_operands++] = argv[i];
            continue;
        }
        sorted[n++] = argv[i];
        if (words_of(table, argv[i]) == 2 && i + 1 < argc)
            sorted[n++] = argv[++i];
    }
    for (i++; i < argc; i++)
        operands[n_operands++] = argv[i];
    sorted[n++] = separator;
    memcpy(sorted + n, operands, (size_t)n_operands * sizeof(*operands));
    *count = n + n_operands;
    free(operands);
    return sorted;
}

static int check_operands(const struct verb *verb, int n, struct caloris_err *err)
{
    if (n >= verb->least && n <= verb->most)
        return 0;
    if (verb->most == 0)
        return caloris_err_set(err, CALORIS_USAGE, "takes no operands, %d given", n);
    return caloris_err_set(err, CALORIS_USAGE, "%s: %s, %d given", verb->operands,
                           n < verb->least ? "missing" : "too many", n);
}

int cmd_parse(struct invocation *in, const struct verb *verb, int argc, char **argv, bool *done,
              struct caloris_err *err)
{
    struct table *table = calloc(1, sizeof(*table));
    int rest = 0, count = 0;
    if (!table)
        return caloris_err_sys(err, "the options of %s", verb->name);
    *in = (struct invocation){.verb = verb, .table = table};
    fill_table(table, verb);
    snprintf(table->name, sizeof(table->name), "caloris %s", verb->name);
    snprintf(table->usage, sizeof(table->usage), "caloris %s [options]%s%s", verb->name,
             verb->operands ? " " : "", verb->operands ? verb->operands : "");
    table->program = (struct caloris_program){
        .name = table->name,
        .group = "client",
        .usage = table->usage,
        .about = verb->about,
        .options = table->options,
        .n_options = table->count,
        .siblings = siblings,
    };
    in->sorted = options_first(table, argc, argv, &count, err);
    if (!in->sorted)
        return -1;
    in->conf = caloris_conf_load(&table->program, count, in->sorted, &in->flags, &rest, done, err);
    if (!in->conf)
        return -1;
    if (*done)
        return 0;
    in->operands = in->sorted + rest;
    in->n_operands = count - rest;
    in->cluster_first =
        in->flags.cluster && origin_rank(in->conf, "cluster") > origin_rank(in->conf, "endpoint");
    return check_operands(verb, in->n_operands, err);
}

void cmd_release(struct invocation *in)
{
    caloris_conf_free(in->conf);
    free(in->sorted);
    free(in->table);
    in->conf = NULL;
    in->sorted = NULL;
    in->table = NULL;
}
