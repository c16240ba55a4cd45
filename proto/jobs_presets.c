/* Named sets of fields, and what they make of a job that leaves those fields open. */
#include "proto/jobs_fields.h"

#include "base/buf.h"
#include "base/err.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* By enum caloris_preset. Each names the same fields. How balanced was chosen: docs/PERFORMANCE.md,
 * "Decoding on the demo model". */
const struct caloris_job_preset caloris_job_presets[] = {
    [CALORIS_PRESET_EXACT] = {"exact",
                              "the plain loop: every row in every step, one mask a step",
                              {{"block_length", "32"},
                               {"order", "confidence"},
                               {"commit", "quota"},
                               {"threshold", "0.9"},
                               {"cache", "none"},
                               {"refresh", "1"}}},
    [CALORIS_PRESET_BALANCED] = {"balanced",
                                 "fewest rows among those that answer as well as the plain loop",
                                 {{"block_length", "96"},
                                  {"order", "confidence"},
                                  {"commit", "threshold"},
                                  {"threshold", "0.9"},
                                  {"cache", "active"},
                                  {"refresh", "1"}}},
    [CALORIS_PRESET_FAST] = {"fast",
                             "fewer steps: more is revealed on less certainty",
                             {{"block_length", "96"},
                              {"order", "confidence"},
                              {"commit", "threshold"},
                              {"threshold", "0.7"},
                              {"cache", "active"},
                              {"refresh", "1"}}},
};
const size_t caloris_job_presets_count =
    sizeof(caloris_job_presets) / sizeof(caloris_job_presets[0]);

void caloris_job_params_preset(struct caloris_job_params *params, enum caloris_preset preset)
{
    const struct caloris_job_preset *set = &caloris_job_presets[preset];
    caloris_job_params_plain(params);
    params->preset = preset;
    for (size_t i = 0; i < CALORIS_PRESET_FIELDS && set->fields[i].name; i++)
        caloris_job_field_default(caloris_job_field_find(set->fields[i].name), set->fields[i].value,
                                  params);
}

void caloris_job_params_default(struct caloris_job_params *params)
{
    caloris_job_params_preset(params, CALORIS_PRESET_BALANCED);
}

/* ---- stored with the job --------------------------------------------------------------------- */

static int put_choice(const struct caloris_job_field *field, const void *from,
                      struct caloris_buf *to, struct caloris_err *err)
{
    unsigned index;
    const char *choice = field->choices;
    memcpy(&index, from, sizeof(index));
    while (index-- > 0)
        choice += strcspn(choice, "|") + 1;
    return caloris_buf_printf(to, err, "\"%.*s\"", (int)strcspn(choice, "|"), choice);
}

/* In as few digits as read back the same. */
static int put_real(double real, struct caloris_buf *to, struct caloris_err *err)
{
    enum { FEW = 15, ENOUGH = 17, ROOM = 32 };
    char text[ROOM];
    snprintf(text, sizeof(text), "%.*g", FEW, real);
    if (strtod(text, NULL) != real)
        snprintf(text, sizeof(text), "%.*g", ENOUGH, real);
    return caloris_buf_printf(to, err, "%s", text);
}

/* Those that say how it is decoded stand behind preset in the table. One without a default that
 * nobody said means just that, and stays open. */
static bool is_settled(const struct caloris_job_field *field)
{
    return field > caloris_job_field_find("preset") && *field->default_text;
}

/* "field": value of params, as JSON. */
static int put_field(const struct caloris_job_field *field, const struct caloris_job_params *params,
                     struct caloris_buf *to, struct caloris_err *err)
{
    const void *from = (const char *)params + field->offset;
    if (caloris_buf_printf(to, err, "\"%s\": ", field->name) < 0)
        return -1;
    if (field->type == CALORIS_FIELD_CHOICE)
        return put_choice(field, from, to, err);
    if (field->type == CALORIS_FIELD_REAL)
        return put_real(*(const double *)from, to, err);
    if (field->type == CALORIS_FIELD_BOOL)
        return caloris_buf_printf(to, err, "%s", *(const bool *)from ? "true" : "false");
    return caloris_buf_printf(to, err, "%" PRIu32, *(const uint32_t *)from);
}

int caloris_job_settle(const char *json, size_t n, const struct caloris_job *job,
                       struct caloris_buf *settled, size_t *added, struct caloris_err *err)
{
    const size_t before = settled->size;
    const char *brace = memchr(json, '{', n);
    json_t *root = json_loadb(json, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    int status = -1;
    if (!brace || !json_is_object(root)) {
        caloris_err_set(err, CALORIS_BAD_REQUEST, "job: not a JSON object");
        goto out;
    }
    if (caloris_buf_append(settled, "{", 1, err) < 0)
        goto out;
    for (size_t i = 0; i < caloris_job_fields_count; i++) {
        const struct caloris_job_field *field = &caloris_job_fields[i];
        if (!is_settled(field) || json_object_get(root, field->name))
            continue;
        if (put_field(field, &job->params, settled, err) < 0 ||
            caloris_buf_append(settled, ", ", 2, err) < 0)
            goto out;
    }
    if (added)
        *added = settled->size - before - 1;
    /* At least the prompt follows; its bytes stay as they came. */
    status = caloris_buf_append(settled, brace + 1, n - (size_t)(brace + 1 - json), err);
out:
    json_decref(root);
    return status;
}
