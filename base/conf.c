#include "base/conf_impl.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SYSTEM_FILE "/etc/caloris/caloris.conf"

const char *conf_key(const char *name, char key[CONF_KEY_BYTES])
{
    snprintf(key, CONF_KEY_BYTES, "%s", name);
    for (char *c = key; *c; c++) {
        if (*c == '-')
            *c = '_';
    }
    return key;
}

bool conf_is_setting(const struct caloris_option *option)
{
    return option->name && !option->flag_only;
}

int conf_set(struct caloris_conf *conf, size_t i, const char *text, const char *origin,
             struct caloris_err *err)
{
    const struct caloris_option *option = &conf->program->options[i];
    struct conf_slot *slot = &conf->slots[i];
    char *copy = strdup(origin);
    if (!copy)
        return caloris_err_sys(err, "%s", option->name);
    if (conf_value_parse(option, text, conf->values + option->offset, &slot->text, err) < 0) {
        free(copy);
        return -1;
    }
    free(slot->origin);
    slot->origin = copy;
    return 0;
}

static int set_defaults(struct caloris_conf *conf, struct caloris_err *err)
{
    for (size_t i = 0; i < conf->program->n_options; i++) {
        const struct caloris_option *option = &conf->program->options[i];
        if (option->name && conf_set(conf, i, option->default_text, "default", err) < 0) {
            if (err && err->code != CALORIS_NO_MEMORY)
                err->code = CALORIS_INTERNAL;
            return caloris_err_prefix(err, "default of --%s", option->name);
        }
    }
    return 0;
}

static int set_from_environment(struct caloris_conf *conf, struct caloris_err *err)
{
    for (size_t i = 0; i < conf->program->n_options; i++) {
        const struct caloris_option *option = &conf->program->options[i];
        if (!conf_is_setting(option))
            continue;
        char key[CONF_KEY_BYTES], variable[CONF_KEY_BYTES + 8];
        snprintf(variable, sizeof(variable), "CALORIS_%s", conf_key(option->name, key));
        for (char *c = variable; *c; c++)
            *c = (char)toupper((unsigned char)*c);
        const char *text = getenv(variable);
        if (!text || !*text)
            continue;
        if (conf_set(conf, i, text, variable, err) < 0) {
            if (err && err->code == CALORIS_USAGE)
                err->code = CALORIS_BAD_CONFIG;
            return caloris_err_prefix(err, "%s", variable);
        }
    }
    return 0;
}

static int set_from_flags(struct caloris_conf *conf, const struct conf_flags *flags,
                          struct caloris_err *err)
{
    for (size_t i = 0; i < flags->n_flags; i++) {
        const struct conf_flag *flag = &flags->flags[i];
        char shown[CONF_KEY_BYTES];
        snprintf(shown, sizeof(shown), "--%s", conf->program->options[flag->option].name);
        if (conf_set(conf, flag->option, flag->value, shown, err) < 0)
            return caloris_err_prefix(err, "%s", shown);
    }
    return 0;
}

/* The first of the usual places that has a file: path [PATH_MAX], or "". */
static void usual_file(char path[PATH_MAX])
{
    const char *xdg = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    int n = -1;
    if (xdg && xdg[0] == '/') /* the specification wants relative ones ignored */
        n = snprintf(path, PATH_MAX, "%s/caloris/caloris.conf", xdg);
    else if (home && *home)
        n = snprintf(path, PATH_MAX, "%s/.config/caloris/caloris.conf", home);
    if (n > 0 && n < PATH_MAX && access(path, F_OK) == 0)
        return;
    strcpy(path, access(SYSTEM_FILE, F_OK) == 0 ? SYSTEM_FILE : "");
}

static int set_from_file(struct caloris_conf *conf, const char *flag, struct caloris_err *err)
{
    char usual[PATH_MAX];
    const char *path = flag;
    if (!path)
        path = getenv("CALORIS_CONFIG");
    if (!path || !*path) {
        usual_file(usual);
        path = usual;
    }
    if (!*path || strcmp(path, "/dev/null") == 0)
        return 0;
    if (conf_file_read(conf, path, err) == 0)
        return 0;
    if (err && err->code == CALORIS_USAGE) /* a value's own parser thinks of flags */
        err->code = CALORIS_BAD_CONFIG;
    return -1;
}

/* The flags that answer at once, whatever else is wrong. */
static bool serve_early(const struct caloris_program *program, const struct conf_common *common)
{
    if (common->help)
        caloris_conf_print_help(program, stdout);
    else if (common->version)
        printf("%s %s\n", program->name, CALORIS_VERSION);
    else if (common->print_sample)
        caloris_conf_print_sample(program, stdout);
    return common->help || common->version || common->print_sample;
}

struct caloris_conf *caloris_conf_load(const struct caloris_program *program, int argc, char **argv,
                                       void *values, int *rest, bool *done, struct caloris_err *err)
{
    struct conf_flags flags;
    if (conf_flags_parse(&flags, program, argc, argv, rest, err) < 0)
        return NULL;
    *done = false;
    struct caloris_conf *conf = calloc(1, sizeof(*conf));
    if (!conf || !(conf->slots = calloc(program->n_options + 1, sizeof(*conf->slots)))) {
        caloris_err_sys(err, "options of %s", program->name);
        goto fail;
    }
    conf->program = program;
    conf->values = values;
    if (set_defaults(conf, err) < 0)
        goto fail;
    *done = serve_early(program, &flags.common);
    if (*done)
        goto out;
    if (set_from_file(conf, flags.common.config, err) < 0 || set_from_environment(conf, err) < 0 ||
        set_from_flags(conf, &flags, err) < 0)
        goto fail;
    if (flags.common.print_config) {
        conf_print_values(conf, stdout);
        *done = true;
    }
    goto out;
fail:
    caloris_conf_free(conf);
    conf = NULL;
out:
    conf_flags_free(&flags);
    return conf;
}

void caloris_conf_free(struct caloris_conf *conf)
{
    if (!conf)
        return;
    for (size_t i = 0; conf->slots && i < conf->program->n_options; i++) {
        free(conf->slots[i].text);
        free(conf->slots[i].origin);
    }
    free(conf->slots);
    free(conf);
}

const char *caloris_conf_origin(const struct caloris_conf *conf, const char *option)
{
    for (size_t i = 0; i < conf->program->n_options; i++) {
        const char *name = conf->program->options[i].name;
        if (name && strcmp(name, option) == 0)
            return conf->slots[i].origin;
    }
    return NULL;
}
