/* caloris presets: what each named set of decoding fields says. Asks no gateway. */
#include "client/cmd/cmd.h"

#include "proto/jobs.h"

#include <stdio.h>

const struct caloris_option presets_options[] = {
    {.name = "json",
     .type = CALORIS_OPTION_FLAG,
     .offset = offsetof(struct flags, json),
     .help = "one object: of each preset, its fields",
     .flag_only = true},
    {0},
};

static int print_all_json(const struct invocation *in)
{
    json_t *all = json_object();
    for (size_t i = 0; i < caloris_job_presets_count; i++) {
        const struct caloris_job_preset *preset = &caloris_job_presets[i];
        json_t *fields = json_object();
        for (size_t k = 0; k < CALORIS_PRESET_FIELDS && preset->fields[k].name; k++)
            caloris_job_set(fields, preset->fields[k].name, preset->fields[k].value, NULL);
        json_object_set_new(all, preset->name, fields);
    }
    return cmd_print_json(in, all);
}

int verb_presets(struct invocation *in)
{
    if (in->flags.json)
        return print_all_json(in);
    for (size_t i = 0; i < caloris_job_presets_count; i++) {
        const struct caloris_job_preset *preset = &caloris_job_presets[i];
        printf("%-9s %s%s\n         ", preset->name, preset->help,
               i == CALORIS_PRESET_BALANCED ? " (the default)" : "");
        for (size_t k = 0; k < CALORIS_PRESET_FIELDS && preset->fields[k].name; k++)
            printf(" %s=%s", preset->fields[k].name, preset->fields[k].value);
        putchar('\n');
    }
    return EXIT_DONE;
}
