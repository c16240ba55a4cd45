#include "base/conf_impl.h"

#include <libconfig.h>
#include <string.h>

/* Every program's group. A file serves all of them; a group of another program is left alone, one
 * that no program reads is a slip. */
static const char *const groups[] = {"engine", "gateway", "client"};

/* Where the setting stands, as "file:line". */
static const char *where(const struct conf_source *source, const config_setting_t *setting,
                         char *text, size_t size)
{
    unsigned number;
    const char *file = conf_source_where(source, setting->line, &number);
    snprintf(text, size, "%s:%u", file, number);
    return text;
}

static const char *type_name(int type)
{
    static const char *const names[] = {
        [CONFIG_TYPE_GROUP] = "a group",        [CONFIG_TYPE_INT] = "a whole number",
        [CONFIG_TYPE_INT64] = "a whole number", [CONFIG_TYPE_FLOAT] = "a number with a fraction",
        [CONFIG_TYPE_STRING] = "a text",        [CONFIG_TYPE_BOOL] = "true or false",
        [CONFIG_TYPE_ARRAY] = "an array",       [CONFIG_TYPE_LIST] = "a list",
    };
    return type > 0 && (size_t)type < CONF_LENGTH(names) ? names[type] : "nothing";
}

static bool has_key(const struct caloris_program *program, const char *name)
{
    char key[CONF_KEY_BYTES];
    for (size_t i = 0; i < program->n_options; i++) {
        if (conf_is_setting(&program->options[i]) &&
            strcmp(conf_key(program->options[i].name, key), name) == 0)
            return true;
    }
    return false;
}

static bool is_siblings_key(const struct caloris_program *program, const char *name)
{
    for (const struct caloris_program *const *p = program->siblings; p && *p; p++) {
        if (has_key(*p, name))
            return true;
    }
    return false;
}

static int unknown_key(const struct caloris_program *program, const char *name, const char *place,
                       struct caloris_err *err)
{
    struct conf_near near = {.typed = name};
    char hint[CONF_HINT_BYTES], key[CONF_KEY_BYTES], best[CONF_KEY_BYTES];
    for (size_t i = 0; i < program->n_options; i++) {
        if (conf_is_setting(&program->options[i]))
            conf_near_offer(&near, program->options[i].name);
    }
    for (const struct caloris_program *const *p = program->siblings; p && *p; p++) {
        for (size_t i = 0; i < (*p)->n_options; i++) {
            if (conf_is_setting(&(*p)->options[i]))
                conf_near_offer(&near, (*p)->options[i].name);
        }
    }
    if (near.best)
        near.best = strcpy(best, conf_key(near.best, key));
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: group %s has no key %.80s%s", place,
                           program->group, name, conf_near_hint(&near, "", hint));
}

/* The setting as text, which the option's own parser then reads; -1 when its type does not fit. */
static int setting_text(const config_setting_t *setting, enum caloris_option_type type,
                        char number[40], const char **text)
{
    bool is_whole = setting->type == CONFIG_TYPE_INT || setting->type == CONFIG_TYPE_INT64;
    *text = number;
    switch (type) {
    case CALORIS_OPTION_FLAG:
        *text = config_setting_get_bool(setting) ? "true" : "false";
        return setting->type == CONFIG_TYPE_BOOL ? 0 : -1;
    case CALORIS_OPTION_INT:
        snprintf(number, 40, "%lld", config_setting_get_int64(setting));
        return is_whole ? 0 : -1;
    case CALORIS_OPTION_REAL:
        if (setting->type == CONFIG_TYPE_INT64) /* auto-conversion gives 0 for these */
            snprintf(number, 40, "%lld", config_setting_get_int64(setting));
        else
            snprintf(number, 40, "%.17g", config_setting_get_float(setting));
        return is_whole || setting->type == CONFIG_TYPE_FLOAT ? 0 : -1;
    case CALORIS_OPTION_SIZE:
    case CALORIS_OPTION_DURATION:
    case CALORIS_OPTION_TEXT:
    case CALORIS_OPTION_CHOICE:
        *text = config_setting_get_string(setting);
        return setting->type == CONFIG_TYPE_STRING ? 0 : -1;
    }
    return -1;
}

static int read_setting(struct caloris_conf *conf, const config_setting_t *setting,
                        const char *place, struct caloris_err *err)
{
    const struct caloris_program *program = conf->program;
    char key[CONF_KEY_BYTES], number[40];
    for (size_t i = 0; i < program->n_options; i++) {
        const struct caloris_option *option = &program->options[i];
        if (!conf_is_setting(option) || strcmp(conf_key(option->name, key), setting->name) != 0)
            continue;
        const char *text;
        if (setting_text(setting, option->type, number, &text) < 0)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %s.%s must be %s, not %s", place,
                                   program->group, key, conf_value_kind(option->type),
                                   type_name(setting->type));
        if (option->type == CALORIS_OPTION_TEXT && !*text)
            text = NULL; /* as in the sample: no text is none */
        if (conf_set(conf, i, text, place, err) < 0)
            return caloris_err_prefix(err, "%s: %s.%s", place, program->group, key);
        return 0;
    }
    return is_siblings_key(program, setting->name)
               ? 0
               : unknown_key(program, setting->name, place, err);
}

static int read_group(struct caloris_conf *conf, const struct conf_source *source,
                      const config_setting_t *group, struct caloris_err *err)
{
    char place[CALORIS_ERR_TEXT];
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *setting = config_setting_get_elem(group, (unsigned)i);
        if (read_setting(conf, setting, where(source, setting, place, sizeof(place)), err) < 0)
            return -1;
    }
    return 0;
}

static int read_root(struct caloris_conf *conf, const struct conf_source *source,
                     const config_setting_t *root, struct caloris_err *err)
{
    char place[CALORIS_ERR_TEXT], hint[CONF_HINT_BYTES];
    for (int i = 0; i < config_setting_length(root); i++) {
        const config_setting_t *group = config_setting_get_elem(root, (unsigned)i);
        struct conf_near near = {.typed = group->name};
        bool known = false;
        where(source, group, place, sizeof(place));
        for (size_t k = 0; k < CONF_LENGTH(groups); k++) {
            conf_near_offer(&near, groups[k]);
            known = known || strcmp(groups[k], group->name) == 0;
        }
        if (!known && group->type != CONFIG_TYPE_GROUP && has_key(conf->program, group->name))
            return caloris_err_set(err, CALORIS_BAD_CONFIG,
                                   "%s: %s belongs inside the group: %s: { %s = … };", place,
                                   group->name, conf->program->group, group->name);
        if (!known)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: no program reads a group %.80s%s",
                                   place, group->name, conf_near_hint(&near, "", hint));
        if (group->type != CONFIG_TYPE_GROUP)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: %s must be a group, not %s", place,
                                   group->name, type_name(group->type));
        if (strcmp(group->name, conf->program->group) == 0 &&
            read_group(conf, source, group, err) < 0)
            return -1;
    }
    return 0;
}

int conf_file_read(struct caloris_conf *conf, const char *path, struct caloris_err *err)
{
    struct conf_source source;
    if (conf_source_load(&source, path, err) < 0)
        return -1;
    config_t file;
    config_init(&file);
    config_set_auto_convert(&file, CONFIG_TRUE); /* 1 where 1.0 is meant */
    int rc = -1;
    if (!config_read_string(&file, source.text.data)) {
        unsigned number;
        const char *name = conf_source_where(&source, (unsigned)config_error_line(&file), &number);
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s:%u: %s", name, number,
                        config_error_text(&file));
        goto out;
    }
    rc = read_root(conf, &source, config_root_setting(&file), err);
out:
    config_destroy(&file);
    conf_source_free(&source);
    return rc;
}
