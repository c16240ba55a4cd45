#include "proto/jobs_fields.h"

#include "base/err.h"
#include "base/json.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

static int refuse_type(const char *name, const json_t *value, const char *due,
                       struct caloris_err *err)
{
    char found[CALORIS_JOB_QUOTE];
    return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: %s is not %s", name,
                           caloris_job_quote(value, found), due);
}

/* The bytes of a JSON string, NUL-terminated; they may hold NULs. */
static char *copy_text(const json_t *value, size_t *bytes, struct caloris_err *err)
{
    size_t n = json_string_length(value);
    char *copy = malloc(n + 1);
    if (!copy) {
        caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for a job's text of %zu bytes", n);
        return NULL;
    }
    memcpy(copy, json_string_value(value), n + 1);
    if (bytes)
        *bytes = n;
    return copy;
}

/* ---- the prompt ------------------------------------------------------------------------------ */

static int read_prompt(const json_t *value, struct caloris_job *job, struct caloris_err *err)
{
    if (!json_is_string(value))
        return refuse_type("prompt", value, "text", err);
    job->source = CALORIS_JOB_PROMPT;
    job->prompt = copy_text(value, &job->prompt_bytes, err);
    return job->prompt ? 0 : -1;
}

static int read_message(const json_t *value, size_t index, struct caloris_job_message *message,
                        struct caloris_err *err)
{
    const json_t *role = json_object_get(value, "role");
    const json_t *content = json_object_get(value, "content");
    if (!json_is_object(value) || json_object_size(value) != 2 || !json_is_string(role) ||
        !json_is_string(content))
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "messages[%zu]: not an object of two texts, role and content",
                               index);
    static const char *const roles[] = {"system", "user", "assistant"};
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(json_string_value(role), roles[i]) == 0 &&
            json_string_length(role) == strlen(roles[i])) {
            message->role = copy_text(role, NULL, err);
            message->content = copy_text(content, &message->content_bytes, err);
            return message->role && message->content ? 0 : -1;
        }
    }
    char found[CALORIS_JOB_QUOTE];
    return caloris_err_set(err, CALORIS_BAD_REQUEST,
                           "messages[%zu].role: %s is not one of system|user|assistant", index,
                           caloris_job_quote(role, found));
}

static int read_messages(const json_t *value, struct caloris_job *job, struct caloris_err *err)
{
    size_t n = json_array_size(value);
    if (n < 1 || n > CALORIS_JOB_MAX_MESSAGES)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "messages: not an array of 1 to %d messages",
                               CALORIS_JOB_MAX_MESSAGES);
    job->source = CALORIS_JOB_MESSAGES;
    job->messages = calloc(n, sizeof(*job->messages));
    if (!job->messages)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "messages: no memory for %zu", n);
    for (; job->n_messages < n; job->n_messages++) {
        size_t i = job->n_messages;
        if (read_message(json_array_get(value, i), i, &job->messages[i], err) < 0) {
            job->n_messages++; /* may be half filled: freed with the rest */
            return -1;
        }
    }
    return 0;
}

static int read_ids(const json_t *value, struct caloris_job *job, struct caloris_err *err)
{
    size_t n = json_array_size(value);
    if (n < 1 || n > CALORIS_JOB_MAX_TOKENS)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "ids: not an array of 1 to %d token ids",
                               CALORIS_JOB_MAX_TOKENS);
    job->source = CALORIS_JOB_IDS;
    job->ids = calloc(n, sizeof(*job->ids));
    if (!job->ids)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "ids: no memory for %zu", n);
    for (; job->n_ids < n; job->n_ids++) {
        const json_t *id = json_array_get(value, job->n_ids);
        json_int_t number = json_integer_value(id);
        char found[CALORIS_JOB_QUOTE];
        if (!json_is_integer(id) || number < 0 || number > INT32_MAX)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "ids[%zu]: %s is not a token id from 0 to %d", job->n_ids,
                                   caloris_job_quote(id, found), INT32_MAX);
        job->ids[job->n_ids] = (int32_t)number;
    }
    return 0;
}

static const struct {
    const char *name;
    int (*read)(const json_t *, struct caloris_job *, struct caloris_err *);
} sources[] = {
    {"prompt", read_prompt},
    {"messages", read_messages},
    {"ids", read_ids},
};
enum { SOURCES = sizeof(sources) / sizeof(sources[0]) };

static int read_source(const json_t *root, struct caloris_job *job, struct caloris_err *err)
{
    int found = -1;
    for (int i = 0; i < SOURCES; i++) {
        if (!json_object_get(root, sources[i].name))
            continue;
        if (found >= 0)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "%s: stands beside %s; a job has one of prompt, messages, ids",
                                   sources[i].name, sources[found].name);
        found = i;
    }
    if (found < 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "prompt: missing; a job has one of prompt, messages, ids");
    return sources[found].read(json_object_get(root, sources[found].name), job, err);
}

/* ---- the other fields ------------------------------------------------------------------------ */

/* Text fields of the table that end up in the job itself. */
static const struct {
    const char *name;
    const char *field; /* whose rules it follows */
    size_t offset;
} texts[] = {
    {"id", "id", offsetof(struct caloris_job, id)},
    {"custom_id", "id", offsetof(struct caloris_job, id)},
    {"hole", "hole", offsetof(struct caloris_job, hole)},
    {"chat_template", "chat_template", offsetof(struct caloris_job, chat_template)},
    {"model", "model", offsetof(struct caloris_job, model)},
};
enum { TEXTS = sizeof(texts) / sizeof(texts[0]) };

static int read_texts(const json_t *root, struct caloris_job *job, struct caloris_err *err)
{
    for (int i = 0; i < TEXTS; i++) {
        const json_t *value = json_object_get(root, texts[i].name);
        if (!value)
            continue;
        char **to = (char **)((char *)job + texts[i].offset);
        if (*to)
            return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: stands beside %s", texts[i].name,
                                   texts[i].field);
        struct caloris_job_field field = *caloris_job_field_find(texts[i].field);
        field.name = texts[i].name;
        if (caloris_job_field_read(&field, value, NULL, err) < 0)
            return -1;
        *to = copy_text(value, NULL, err);
        if (!*to)
            return -1;
    }
    return 0;
}

static bool is_source_or_text(const char *name)
{
    for (int i = 0; i < SOURCES; i++) {
        if (strcmp(sources[i].name, name) == 0)
            return true;
    }
    for (int i = 0; i < TEXTS; i++) {
        if (strcmp(texts[i].name, name) == 0)
            return true;
    }
    return false;
}

/* The preset first, then what the job says itself. */
static int read_params(json_t *root, struct caloris_job *job, struct caloris_err *err)
{
    const char *name;
    json_t *value = json_object_get(root, "preset");
    if (value) {
        if (caloris_job_field_read(caloris_job_field_find("preset"), value, &job->params, err) < 0)
            return -1;
        caloris_job_params_preset(&job->params, job->params.preset);
    }
    json_object_foreach(root, name, value)
    {
        if (is_source_or_text(name))
            continue;
        const struct caloris_job_field *field = caloris_job_field_find(name);
        char quoted[CALORIS_JOB_QUOTE];
        if (!field)
            return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: unknown field",
                                   caloris_job_quote_name(name, quoted));
        if (caloris_job_field_read(field, value, &job->params, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- what must fit together ------------------------------------------------------------------ */

/* The divisors of n on either side of m, m itself none. */
static void divisors_around(uint32_t n, uint32_t m, uint32_t *below, uint32_t *above)
{
    *below = m;
    while (n % *below != 0)
        --*below;
    *above = m;
    while (n % *above != 0)
        ++*above;
}

/* A block length that only the preset says shrinks to the largest that a quota over steps can do
 * with. */
static int fit_block(struct caloris_job_params *params, struct caloris_err *err)
{
    uint32_t length = params->block_length;
    while (length > 0 &&
           (params->gen_length % length != 0 || params->steps % (params->gen_length / length) != 0))
        length--;
    if (length == 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "block_length: up to the preset's %u, none cuts gen_length %u into "
                               "blocks to which %u steps can be dealt evenly; %u would",
                               params->block_length, params->gen_length, params->steps,
                               params->gen_length);
    params->block_length = length;
    return 0;
}

static int check_blocks(const json_t *root, struct caloris_job_params *params,
                        struct caloris_err *err)
{
    /* Nothing to generate is one block all the same, and no block is shorter than 1. */
    const uint32_t longest = params->gen_length > 0 ? params->gen_length : 1;
    const bool said = json_object_get(root, "block_length");
    if (params->block_length > longest) {
        if (said)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "block_length: %u is longer than gen_length %u",
                                   params->block_length, params->gen_length);
        params->block_length = longest;
    }
    if (params->commit != CALORIS_COMMIT_QUOTA || params->steps == 0 || params->gen_length == 0)
        return 0;
    if (!said)
        return fit_block(params, err);
    if (params->gen_length % params->block_length != 0) {
        uint32_t below, above;
        divisors_around(params->gen_length, params->block_length, &below, &above);
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "block_length: %u does not divide gen_length %u, as a quota over "
                               "steps needs; %u or %u would",
                               params->block_length, params->gen_length, below, above);
    }
    uint32_t blocks = params->gen_length / params->block_length;
    if (params->steps % blocks != 0) {
        uint32_t below = params->steps - params->steps % blocks;
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "steps: %u cannot be dealt evenly to %u blocks (gen_length %u / "
                               "block_length %u); %u could",
                               params->steps, blocks, params->gen_length, params->block_length,
                               below > 0 ? below : blocks);
    }
    return 0;
}

/* The entropy-bounded sampler ranks by entropy where nobody wants otherwise. */
static void choose_order(const json_t *root, struct caloris_job_params *params)
{
    if (params->commit == CALORIS_COMMIT_ENTROPY_BOUNDED && !json_object_get(root, "order"))
        params->order = CALORIS_ORDER_ENTROPY;
}

static bool text_has(const char *text, size_t n, const char *hole)
{
    return memmem(text, n, hole, strlen(hole)) != NULL;
}

/* Whether anything in the prompt may be a mask; ids whose mask is the model's to say may. */
static bool may_have_holes(const struct caloris_job *job)
{
    bool found = false;
    if (job->source == CALORIS_JOB_IDS) {
        found = job->params.mask_id < 0;
        for (size_t i = 0; i < job->n_ids && !found; i++)
            found = job->ids[i] == job->params.mask_id;
    } else if (job->hole && job->source == CALORIS_JOB_PROMPT) {
        found = text_has(job->prompt, job->prompt_bytes, job->hole);
    } else if (job->hole) {
        for (size_t i = 0; i < job->n_messages && !found; i++)
            found = text_has(job->messages[i].content, job->messages[i].content_bytes, job->hole);
    }
    return found;
}

static int check_together(const json_t *root, struct caloris_job *job, struct caloris_err *err)
{
    if (job->hole && job->source == CALORIS_JOB_IDS)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "hole: needs prompt or messages; ids hold the mask id itself");
    if (job->chat_template && job->source != CALORIS_JOB_MESSAGES)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "chat_template: needs messages");
    /* As a float, which it becomes: noise of less than the smallest normal one changes nothing. */
    if (job->params.best > 1 && (float)job->params.temperature < FLT_MIN)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "best: %u answers need a temperature above 0, or all are the same",
                               job->params.best);
    if (job->params.gen_length == 0 && !may_have_holes(job))
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "gen_length: 0, and the prompt has no hole: there is nothing to do");
    choose_order(root, &job->params);
    return check_blocks(root, &job->params, err);
}

/* What a job can need, and some room for fields that are to be refused by name. */
static const struct caloris_json_limits json_limits = {
    .values = CALORIS_JOB_MAX_TOKENS + 4 * CALORIS_JOB_MAX_MESSAGES + 1024,
    .containers = CALORIS_JOB_MAX_MESSAGES + 64,
    .depth = 16,
};

static int parse(const char *json, size_t n, size_t most, struct caloris_job *job,
                 struct caloris_err *err)
{
    memset(job, 0, sizeof(*job));
    caloris_job_params_default(&job->params);
    if (n > most)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "job: %zu bytes, more than %zu", n, most);
    if (caloris_json_check(json, n, &json_limits, "job", err) < 0)
        return -1;
    json_error_t error;
    json_t *root = caloris_json_decode(json, n, JSON_ALLOW_NUL, &error);
    if (!root) {
        /* "… near 'text of the job'" is cut: prompts do not belong into logs. */
        const char *quote = strstr(error.text, " near '");
        const int n_text = quote ? (int)(quote - error.text) : (int)strlen(error.text);
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "job: no JSON: column %d: %.*s",
                               error.column, n_text, error.text);
    }
    int status = -1;
    if (!json_is_object(root))
        caloris_err_set(err, CALORIS_BAD_REQUEST, "job: not a JSON object");
    else if (read_texts(root, job, err) == 0 && read_params(root, job, err) == 0 &&
             read_source(root, job, err) == 0 && check_together(root, job, err) == 0)
        status = 0;
    json_decref(root);
    return status;
}

int caloris_job_parse(const char *json, size_t n, struct caloris_job *job, struct caloris_err *err)
{
    return parse(json, n, CALORIS_JOB_MAX_BYTES, job, err);
}

int caloris_job_parse_stored(const char *json, size_t n, struct caloris_job *job,
                             struct caloris_err *err)
{
    return parse(json, n, CALORIS_JOB_MAX_STORED, job, err);
}

void caloris_job_free(struct caloris_job *job)
{
    if (!job)
        return;
    for (size_t i = 0; i < job->n_messages; i++) {
        free(job->messages[i].role);
        free(job->messages[i].content);
    }
    free(job->messages);
    free(job->id);
    free(job->prompt);
    free(job->ids);
    free(job->hole);
    free(job->chat_template);
    free(job->model);
    memset(job, 0, sizeof(*job));
}
