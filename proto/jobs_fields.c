#include "proto/jobs_fields.h"

#include "base/err.h"
#include "base/json.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARAM(member) offsetof(struct caloris_job_params, member)
#define TOKENS        (double)CALORIS_JOB_MAX_TOKENS
#define LARGEST_ID    (double)INT32_MAX
#define LONGEST_S     1e9                /* 31 years */
#define LARGEST_SEED  9007199254740991.0 /* 2^53 - 1: survives any JSON reader */

const struct caloris_job_field caloris_job_fields[] = {
    {"id", CALORIS_FIELD_TEXT, 1, CALORIS_JOB_MAX_ID, NULL, "",
     "your own name of the job; stands in its result", SIZE_MAX},
    {"hole", CALORIS_FIELD_TEXT, 1, CALORIS_JOB_MAX_NAME, NULL, "",
     "text that stands for one mask wherever it occurs in the prompt or the messages", SIZE_MAX},
    {"chat_template", CALORIS_FIELD_TEXT, 1, CALORIS_JOB_MAX_NAME, NULL, "",
     "chat template for the messages (llada, plain); the model's own where it is not said",
     SIZE_MAX},
    {"model", CALORIS_FIELD_TEXT, 1, CALORIS_JOB_MAX_MODEL, NULL, "",
     "name of the model that shall compute it, as caloris cluster lists it; any where it is not "
     "said",
     SIZE_MAX},
    {"priority", CALORIS_FIELD_INT, -100, 100, NULL, "0", "higher goes first", PARAM(priority)},
    {"deadline", CALORIS_FIELD_WHEN, 0, LONGEST_S, NULL, "",
     "when it expires if it has not finished by then", PARAM(deadline_ms)},
    {"preset", CALORIS_FIELD_CHOICE, 0, 0, "exact|balanced|fast", "balanced",
     "where the fields of decoding that the job leaves open come from (caloris presets lists them)",
     PARAM(preset)},
    {"gen_length", CALORIS_FIELD_UINT, 0, TOKENS, NULL, "96",
     "tokens to generate; 0 only fills the holes of the prompt", PARAM(gen_length)},
    {"block_length", CALORIS_FIELD_UINT, 1, TOKENS, NULL, "96",
     "the generated part is revealed block by block, each of this length (the default shrinks to "
     "what fits gen_length and steps)",
     PARAM(block_length)},
    {"order", CALORIS_FIELD_CHOICE, 0, 0, "confidence|random|margin|entropy|left_to_right",
     "confidence",
     "which masks are revealed first: the most probable, any, those with the largest lead or the "
     "least entropy (the default of entropy_bounded), or the leftmost",
     PARAM(order)},
    {"commit", CALORIS_FIELD_CHOICE, 0, 0, "quota|threshold|factor|entropy_bounded", "threshold",
     "how many are revealed per step: a quota over steps, all that reach threshold, by factor, or "
     "as many as the bound gamma on their entropy lets go together",
     PARAM(commit)},
    {"steps", CALORIS_FIELD_UINT, 1, TOKENS, NULL, "",
     "commit quota: forward passes over all blocks; one for every mask where it is not said",
     PARAM(steps)},
    {"threshold", CALORIS_FIELD_REAL, 0, 1, NULL, "0.9",
     "commit threshold: reveal what is at least this probable, and the surest always",
     PARAM(threshold)},
    {"factor", CALORIS_FIELD_REAL, 0, 1000, NULL, "1",
     "commit factor: the n-th surest goes while its probability is at least 1 - factor / (n + 1)",
     PARAM(factor)},
    {"gamma", CALORIS_FIELD_REAL, 0, 1000, NULL, "0.1",
     "commit entropy_bounded: reveal while the entropies but the largest add up to at most so many "
     "nats",
     PARAM(gamma)},
    {"early_commit", CALORIS_FIELD_REAL, 0, 1000, NULL, "0",
     "reveal the rest of a block once in every mask of it the most probable token leads the second "
     "by so many nats; 0: never",
     PARAM(early_commit)},
    {"quota", CALORIS_FIELD_CHOICE, 0, 0, "all|block", "all",
     "commit quota: count every mask that may be revealed, or the block's own only (as LLaDA's "
     "generate does)",
     PARAM(quota)},
    {"temperature", CALORIS_FIELD_REAL, 0, 100, NULL, "0",
     "Gumbel noise on the choice of tokens; 0 takes the most probable", PARAM(temperature)},
    {"cfg_scale", CALORIS_FIELD_REAL, 0, 100, NULL, "0",
     "classifier-free guidance against the masked prompt; doubles the work", PARAM(cfg_scale)},
    {"cache", CALORIS_FIELD_CHOICE, 0, 0, "none|prefix|dual|active", "active",
     "whose K/V is kept inside a block: nobody's, the prefix's, all but the block's, or all but "
     "that "
     "of masks and fresh tokens",
     PARAM(cache)},
    {"refresh", CALORIS_FIELD_UINT, 1, TOKENS, NULL, "1",
     "with a cache: every row is computed anew at the entry of every so many blocks",
     PARAM(refresh)},
    {"seed", CALORIS_FIELD_INT, 0, LARGEST_SEED, NULL, "",
     "of the noise and of order random; drawn and reported where it is not said", PARAM(seed)},
    {"best", CALORIS_FIELD_UINT, 1, CALORIS_JOB_MAX_BEST, NULL, "1",
     "so many answers, each with noise of its own, ranked by the model's own score; needs a "
     "temperature",
     PARAM(best)},
    {"candidate", CALORIS_FIELD_UINT, 0, CALORIS_JOB_MAX_CANDIDATE, NULL, "0",
     "which of the answers that a seed gives; with best the first of them", PARAM(candidate)},
    {"early_stop", CALORIS_FIELD_BOOL, 0, 0, NULL, "true",
     "end at the first EOS that has no mask before it; the rest becomes EOS", PARAM(early_stop)},
    {"eos_id", CALORIS_FIELD_ID, 0, LARGEST_ID, NULL, "",
     "id of the end of text; the model's where it is not said", PARAM(eos_id)},
    {"eot_id", CALORIS_FIELD_ID, 0, LARGEST_ID, NULL, "",
     "id of the end of a turn; the model's where it is not said", PARAM(eot_id)},
    {"mask_id", CALORIS_FIELD_ID, 0, LARGEST_ID, NULL, "",
     "id of the mask; the model's where it is not said", PARAM(mask_id)},
    {"logits_eos_inf", CALORIS_FIELD_BOOL, 0, 0, NULL, "false", "never choose EOS",
     PARAM(logits_eos_inf)},
    {"confidence_eos_eot_inf", CALORIS_FIELD_BOOL, 0, 0, NULL, "false",
     "a chosen EOS or end of turn counts as least sure", PARAM(confidence_eos_eot_inf)},
};
const size_t caloris_job_fields_count = sizeof(caloris_job_fields) / sizeof(caloris_job_fields[0]);

/* A value as JSON, shortened. */
const char *caloris_job_quote(const json_t *value, char text[CALORIS_JOB_QUOTE])
{
    const char *large = json_is_array(value)    ? "an array"
                        : json_is_object(value) ? "an object"
                                                : NULL;
    char *dump =
        large ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | CALORIS_JSON_DIGITS);
    if (dump && strlen(dump) >= CALORIS_JOB_QUOTE)
        snprintf(text, CALORIS_JOB_QUOTE, "%.60s...", dump);
    else
        snprintf(text, CALORIS_JOB_QUOTE, "%s", dump ? dump : large ? large : "the value");
    free(dump);
    return text;
}

const char *caloris_job_quote_name(const char *name, char text[CALORIS_JOB_QUOTE])
{
    json_t *value = json_string(name);
    caloris_job_quote(value, text);
    json_decref(value);
    return text;
}

const char *caloris_job_field_words(const struct caloris_job_field *field,
                                    char text[CALORIS_FIELD_WORDS])
{
    static const char *const leads[] = {
        [CALORIS_FIELD_UINT] = "a whole number from",
        [CALORIS_FIELD_INT] = "a whole number from",
        [CALORIS_FIELD_ID] = "a token id from",
        [CALORIS_FIELD_REAL] = "a number from",
        [CALORIS_FIELD_BOOL] = "true or false",
        [CALORIS_FIELD_CHOICE] = "one of",
        [CALORIS_FIELD_TEXT] = "text of",
        [CALORIS_FIELD_WHEN] = "seconds from",
    };
    static const char *const tails[] = {
        [CALORIS_FIELD_TEXT] = " bytes without control characters",
        [CALORIS_FIELD_WHEN] = " after it was accepted, or a time such as 2026-11-24T08:00:00Z",
    };
    const char *lead = leads[field->type];
    if (field->type == CALORIS_FIELD_BOOL)
        snprintf(text, CALORIS_FIELD_WORDS, "%s", lead);
    else if (field->type == CALORIS_FIELD_CHOICE)
        snprintf(text, CALORIS_FIELD_WORDS, "%s %s", lead, field->choices);
    else
        snprintf(text, CALORIS_FIELD_WORDS, "%s %.16g to %.16g%s", lead, field->min, field->max,
                 tails[field->type] ? tails[field->type] : "");
    return text;
}

/* ---- a value, checked, into the params ------------------------------------------------------- */

static bool read_whole(const struct caloris_job_field *field, const json_t *value, void *to)
{
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < (json_int_t)field->min ||
        number > (json_int_t)field->max)
        return false;
    if (field->type == CALORIS_FIELD_INT)
        *(int64_t *)to = number;
    else if (field->type == CALORIS_FIELD_ID)
        *(int32_t *)to = (int32_t)number;
    else
        *(uint32_t *)to = (uint32_t)number;
    return true;
}

static bool read_real(const struct caloris_job_field *field, const json_t *value, void *to)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= field->min && number <= field->max))
        return false;
    *(double *)to = number;
    return true;
}

static bool read_bool(const struct caloris_job_field *field, const json_t *value, void *to)
{
    (void)field;
    if (!json_is_boolean(value))
        return false;
    *(bool *)to = json_is_true(value);
    return true;
}

static bool read_choice(const struct caloris_job_field *field, const json_t *value, void *to)
{
    const char *text = json_string_value(value);
    if (!text || json_string_length(value) != strlen(text))
        return false;
    unsigned index = 0;
    for (const char *choice = field->choices; choice; index++) {
        size_t n = strcspn(choice, "|");
        if (strlen(text) == n && memcmp(text, choice, n) == 0) {
            memcpy(to, &index, sizeof(index)); /* every choice is an enum of this size */
            return true;
        }
        choice = choice[n] == '|' ? choice + n + 1 : NULL;
    }
    return false;
}

static bool read_text(const struct caloris_job_field *field, const json_t *value, void *to)
{
    (void)to; /* the job's own strings are copied by the parser */
    const unsigned char *text = (const unsigned char *)json_string_value(value);
    size_t n = json_string_length(value);
    if (!text || n < (size_t)field->min || n > (size_t)field->max)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < 0x20 || text[i] == 0x7f)
            return false;
    }
    return true;
}

static bool read_when(const struct caloris_job_field *field, const json_t *value, void *to)
{
    const char *text = json_string_value(value);
    uint64_t wall_ms;
    double seconds = json_number_value(value);
    if (text) {
        if (json_string_length(value) != strlen(text) || caloris_time_parse(text, &wall_ms) < 0)
            return false;
        *(int64_t *)to = wall_ms > 0 ? (int64_t)wall_ms : 1;
        return true;
    }
    if (!json_is_number(value) || !(seconds >= field->min && seconds <= field->max))
        return false;
    *(int64_t *)to = -(int64_t)(seconds * 1000) - (seconds == 0);
    return true;
}

_Static_assert(sizeof(enum caloris_preset) == sizeof(unsigned) &&
                   sizeof(enum caloris_order) == sizeof(unsigned) &&
                   sizeof(enum caloris_commit) == sizeof(unsigned) &&
                   sizeof(enum caloris_quota) == sizeof(unsigned) &&
                   sizeof(enum caloris_cache) == sizeof(unsigned),
               "read_choice writes an unsigned");

int caloris_job_field_read(const struct caloris_job_field *field, const json_t *value,
                           struct caloris_job_params *params, struct caloris_err *err)
{
    static bool (*const readers[])(const struct caloris_job_field *, const json_t *, void *) = {
        [CALORIS_FIELD_UINT] = read_whole, [CALORIS_FIELD_INT] = read_whole,
        [CALORIS_FIELD_ID] = read_whole,   [CALORIS_FIELD_REAL] = read_real,
        [CALORIS_FIELD_BOOL] = read_bool,  [CALORIS_FIELD_CHOICE] = read_choice,
        [CALORIS_FIELD_TEXT] = read_text,  [CALORIS_FIELD_WHEN] = read_when,
    };
    void *to = field->offset == SIZE_MAX ? NULL : (char *)params + field->offset;
    if (readers[field->type](field, value, to))
        return 0;
    char found[CALORIS_JOB_QUOTE], due[CALORIS_FIELD_WORDS];
    return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: %s is not %s", field->name,
                           caloris_job_quote(value, found), caloris_job_field_words(field, due));
}

const struct caloris_job_field *caloris_job_field_find(const char *name)
{
    for (size_t i = 0; i < caloris_job_fields_count; i++) {
        if (strcmp(caloris_job_fields[i].name, name) == 0)
            return &caloris_job_fields[i];
    }
    return NULL;
}

void caloris_job_field_default(const struct caloris_job_field *field, const char *text,
                               struct caloris_job_params *params)
{
    json_t *value = field->type == CALORIS_FIELD_CHOICE ? json_string(text)
                                                        : json_loads(text, JSON_DECODE_ANY, NULL);
    caloris_job_field_read(field, value, params, NULL);
    json_decref(value);
}

void caloris_job_params_plain(struct caloris_job_params *params)
{
    /* What default_text cannot say is "not said". */
    *params = (struct caloris_job_params){.seed = -1, .eos_id = -1, .eot_id = -1, .mask_id = -1};
    for (size_t i = 0; i < caloris_job_fields_count; i++) {
        const struct caloris_job_field *field = &caloris_job_fields[i];
        if (field->offset != SIZE_MAX && *field->default_text)
            caloris_job_field_default(field, field->default_text, params);
    }
}

int caloris_job_set(json_t *job, const char *name, const char *text, struct caloris_err *err)
{
    const struct caloris_job_field *field = caloris_job_field_find(name);
    char quoted[CALORIS_JOB_QUOTE];
    if (!field)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: unknown field",
                               caloris_job_quote_name(name, quoted));
    bool is_text = field->type == CALORIS_FIELD_TEXT || field->type == CALORIS_FIELD_CHOICE;
    json_t *value = is_text ? NULL : json_loads(text, JSON_DECODE_ANY, NULL);
    if (!value)
        value = json_string(text);
    if (!value)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: the value is no UTF-8 text", name);
    struct caloris_job_params checked;
    if (caloris_job_field_read(field, value, &checked, err) < 0) {
        json_decref(value);
        return -1;
    }
    if (json_object_set_new(job, name, value) < 0)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "%s: no memory for a value", name);
    return 0;
}
