/* Lines of OpenAI's batches, as jobs, and their results in the form that is expected of them. */
#include "proto/jobs_fields.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct {
    const char *url, *object, *id; /* of its answer */
} endpoints[] = {
    [CALORIS_LINE_CHAT] = {"/v1/chat/completions", "chat.completion", "chatcmpl"},
    [CALORIS_LINE_COMPLETION] = {"/v1/completions", "text_completion", "cmpl"},
};
enum { ENDPOINTS = sizeof(endpoints) / sizeof(endpoints[0]) };

/* What a body may hold besides the fields of a job and its messages or prompt. */
static const struct {
    const char *name;
    const char *only;  /* the values that change nothing, as JSON; NULL: any */
    const char *field; /* it is another name of this; NULL: it is left out */
} body_fields[] = {
    {"max_tokens", NULL, "gen_length"},
    {"max_completion_tokens", NULL, "gen_length"},
    {"frequency_penalty", "[0, 0.0, null]", NULL},
    {"logit_bias", "[{}, null]", NULL},
    {"logprobs", "[false, null]", NULL},
    {"metadata", NULL, NULL},
    {"n", "[1, null]", NULL},
    {"presence_penalty", "[0, 0.0, null]", NULL},
    {"response_format", "[{\"type\": \"text\"}, null]", NULL},
    {"service_tier", NULL, NULL},
    {"stop", "[[], null]", NULL},
    {"store", NULL, NULL},
    {"stream", "[false, null]", NULL},
    {"top_p", "[1, 1.0, null]", NULL},
    {"user", NULL, NULL},
};
enum { BODY_FIELDS = sizeof(body_fields) / sizeof(body_fields[0]) };

static bool is_one_of(const json_t *value, const char *values)
{
    json_t *array = json_loads(values, 0, NULL);
    bool found = false;
    for (size_t i = 0; i < json_array_size(array); i++)
        found |= json_equal(value, json_array_get(array, i));
    json_decref(array);
    return found;
}

static int put(json_t *object, const char *name, json_t *value, struct caloris_err *err)
{
    if (value && json_object_set_new(object, name, value) == 0)
        return 0;
    return caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for a line");
}

/* ---- a line of theirs -> a job of ours ------------------------------------------------------- */

/* Content that is a list of parts {"type": "text", "text": …} becomes one text; any other content
 * stays as it is, for the parser to judge. */
static json_t *plain_content(const json_t *content)
{
    json_t *text = json_string("");
    for (size_t i = 0; json_is_array(content) && i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *more = json_object_get(part, "text");
        const size_t before = json_string_length(text), n = json_string_length(more);
        char *joined = type && strcmp(type, "text") == 0 && json_is_string(more)
                           ? malloc(before + n + 1)
                           : NULL;
        if (!joined)
            break;
        memcpy(joined, json_string_value(text), before);
        memcpy(joined + before, json_string_value(more), n);
        json_decref(text);
        text = json_stringn(joined, before + n);
        free(joined);
        if (i + 1 == json_array_size(content))
            return text;
    }
    json_decref(text);
    return json_deep_copy(content);
}

static int put_messages(json_t *job, const json_t *messages, struct caloris_err *err)
{
    json_t *copy = json_deep_copy(messages);
    for (size_t i = 0; i < json_array_size(copy); i++) {
        json_t *message = json_array_get(copy, i);
        json_t *content = json_object_get(message, "content");
        const char *role = json_string_value(json_object_get(message, "role"));
        if (json_is_array(content) &&
            json_object_set_new(message, "content", plain_content(content)) < 0)
            break;
        if (role && strcmp(role, "developer") == 0) /* what "system" is called of late */
            json_object_set_new(message, "role", json_string("system"));
    }
    return put(job, "messages", copy, err);
}

static int put_body_field(json_t *job, const json_t *body, const char *name, const json_t *value,
                          struct caloris_err *err)
{
    char quoted[CALORIS_JOB_QUOTE];
    if (strcmp(name, "messages") == 0)
        return put_messages(job, value, err);
    for (int i = 0; i < BODY_FIELDS; i++) {
        if (strcmp(body_fields[i].name, name) != 0)
            continue;
        const char *field = body_fields[i].field;
        if (body_fields[i].only && !is_one_of(value, body_fields[i].only))
            return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: %s is not supported", name,
                                   caloris_job_quote(value, quoted));
        if (!field || json_is_null(value) || json_object_get(body, field))
            return 0;
        return put(job, field, json_deep_copy(value), err);
    }
    return put(job, name, json_deep_copy(value), err);
}

static int put_body(json_t *job, const json_t *root, struct caloris_line *line,
                    struct caloris_err *err)
{
    const json_t *body = json_object_get(root, "body");
    const json_t *model = json_object_get(body, "model");
    const char *name;
    json_t *value;
    if (!json_is_object(body))
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "body: not an object");
    if (json_is_string(model) && !(line->model = strdup(json_string_value(model))))
        return caloris_err_sys(err, "a line");
    json_object_foreach((json_t *)(uintptr_t)body, name, value)
    {
        if (strcmp(name, "model") == 0 && !caloris_job_field_find("model"))
            continue;
        if (put_body_field(job, body, name, value, err) < 0)
            return caloris_err_prefix(err, "body");
    }
    return 0;
}

static int check_envelope(const json_t *root, struct caloris_line *line, struct caloris_err *err)
{
    static const char *const known[] = {"custom_id", "method", "url", "body"};
    const char *method = json_string_value(json_object_get(root, "method"));
    const char *url = json_string_value(json_object_get(root, "url"));
    char quoted[CALORIS_JOB_QUOTE];
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, name, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            found |= strcmp(known[i], name) == 0;
        if (!found)
            return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: unknown field beside body",
                                   caloris_job_quote_name(name, quoted));
    }
    if (!method || strcmp(method, "POST") != 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "method: not \"POST\"");
    for (int i = CALORIS_LINE_CHAT; url && i < ENDPOINTS; i++) {
        if (strcmp(endpoints[i].url, url) == 0) {
            line->form = (enum caloris_line_form)i;
            return 0;
        }
    }
    return caloris_err_set(err, CALORIS_BAD_REQUEST, "url: neither %s nor %s",
                           endpoints[CALORIS_LINE_CHAT].url,
                           endpoints[CALORIS_LINE_COMPLETION].url);
}

/* Our own form of root, which has a body. */
static json_t *translate(const json_t *root, struct caloris_line *line, struct caloris_err *err)
{
    json_t *job = json_object(), *id = json_object_get(root, "custom_id");
    line->form = CALORIS_LINE_CHAT; /* until the url says otherwise: the answer has this shape */
    if (id && put(job, "custom_id", json_deep_copy(id), err) < 0)
        goto fail;
    if (check_envelope(root, line, err) < 0 || put_body(job, root, line, err) < 0)
        goto fail;
    return job;
fail:
    json_decref(job);
    return NULL;
}

/* The name that the answer carries, also of a line that is wrong otherwise. */
static int take_id(const json_t *root, struct caloris_line *line, struct caloris_err *err)
{
    const struct caloris_job_field *field = caloris_job_field_find("id");
    const json_t *id = json_object_get(root, "custom_id");
    if (!id)
        id = json_object_get(root, "id");
    if (!id || caloris_job_field_read(field, id, NULL, NULL) < 0)
        return 0;
    line->id = strdup(json_string_value(id));
    return line->id ? 0 : caloris_err_sys(err, "a line");
}

static int check_job(const char *json, size_t n, struct caloris_err *err)
{
    struct caloris_job job = {0};
    int rc = caloris_job_parse(json, n, &job, err);
    caloris_job_free(&job);
    return rc;
}

static int append(const char *bytes, size_t n, void *arg)
{
    return caloris_buf_append(arg, bytes, n, NULL);
}

static int dump(const json_t *object, size_t flags, struct caloris_buf *to, struct caloris_err *err)
{
    if (json_dump_callback(object, append, to, JSON_COMPACT | flags) == 0)
        return 0;
    return caloris_err_set(err, CALORIS_NO_MEMORY, "no room for a line");
}

int caloris_line_read(const char *text, size_t n, struct caloris_line *line,
                      struct caloris_buf *job, struct caloris_err *err)
{
    json_t *root = NULL, *ours = NULL;
    int rc = -1;
    *line = (struct caloris_line){.form = CALORIS_LINE_JOB};
    if (n <= CALORIS_JOB_MAX_BYTES)
        root = caloris_json_decode(text, n, JSON_ALLOW_NUL, NULL);
    if (take_id(root, line, err) < 0)
        goto out;
    if (!root || !json_object_get(root, "body")) { /* as it is; the parser says what is wrong */
        rc = check_job(text, n, err) < 0 ? -1 : caloris_buf_append(job, text, n, err);
        goto out;
    }
    const size_t before = job->size;
    ours = translate(root, line, err);
    if (!ours || dump(ours, 0, job, err) < 0)
        goto out;
    rc = check_job(job->data + before, job->size - before, err);
    if (rc < 0)
        caloris_err_prefix(err, "body");
out:
    json_decref(root);
    json_decref(ours);
    return rc;
}

void caloris_line_free(struct caloris_line *line)
{
    free(line->id);
    free(line->model);
    *line = (struct caloris_line){0};
}

/* ---- a result of ours -> a line of theirs ---------------------------------------------------- */

static json_t *text_of(const json_t *answer)
{
    json_t *text = json_object_get(answer, "text");
    return text ? json_incref(text) : json_string("");
}

static json_t *make_choice(const struct caloris_line *line, const json_t *answer)
{
    json_t *text = text_of(answer), *reason = json_object_get(answer, "finish_reason");
    if (line->form == CALORIS_LINE_COMPLETION)
        return json_pack("{s:i, s:o, s:O*, s:n}", "index", 0, "text", text, "finish_reason", reason,
                         "logprobs");
    return json_pack("{s:i, s:{s:s, s:o}, s:O*, s:n}", "index", 0, "message", "role", "assistant",
                     "content", text, "finish_reason", reason, "logprobs");
}

/* What their form has no place for stands in "caloris". */
static json_t *make_body(const struct caloris_line *line, uint64_t job, const json_t *result)
{
    static const char *const figures[] = {"ids",   "canvas",    "canvas_text", "forward_passes",
                                          "steps", "rows",      "ranks",       "timings",
                                          "seed",  "candidates"};
    const char *model = line->model;
    char id[64];
    json_t *more = json_object();
    if (!model) /* theirs is never null */
        model = json_string_value(json_object_get(result, "model"));
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        json_t *value = json_object_get(result, figures[i]);
        if (value)
            json_object_set(more, figures[i], value);
    }
    snprintf(id, sizeof(id), "%s-%" PRIu64, endpoints[line->form].id, job);
    return json_pack("{s:s, s:s, s:I, s:s?, s:[o], s:O*, s:o}", "id", id, "object",
                     endpoints[line->form].object, "created", (json_int_t)time(NULL), "model",
                     model, "choices", make_choice(line, result), "usage",
                     json_object_get(result, "usage"), "caloris", more);
}

static json_t *make_theirs(const struct caloris_line *line, uint64_t job, const json_t *result)
{
    enum { GOOD = 200 };
    char id[48], request[48];
    json_t *error = json_object_get(result, "error");
    snprintf(id, sizeof(id), "batch_req_%" PRIu64, line->number);
    snprintf(request, sizeof(request), "job-%" PRIu64, job);
    if (error)
        return json_pack("{s:s, s:s?, s:n, s:O}", "id", id, "custom_id", line->id, "response",
                         "error", error);
    return json_pack("{s:s, s:s?, s:{s:i, s:s, s:o}, s:n}", "id", id, "custom_id", line->id,
                     "response", "status_code", GOOD, "request_id", request, "body",
                     make_body(line, job, result), "error");
}

int caloris_line_write(const struct caloris_line *line, uint64_t job, const char *result, size_t n,
                       struct caloris_buf *to, struct caloris_err *err)
{
    enum { DIGITS = 6 }; /* of seconds */
    json_t *ours = json_loadb(result, n, JSON_ALLOW_NUL, NULL), *written = NULL;
    int rc = -1;
    if (!json_is_object(ours)) {
        caloris_err_set(err, CALORIS_INTERNAL, "line %" PRIu64 ": a result that is no JSON object",
                        line->number);
        goto out;
    }
    if (line->form == CALORIS_LINE_JOB) {
        written = json_incref(ours);
        if (put(written, "line", json_integer((json_int_t)line->number), err) < 0)
            goto out;
    } else {
        written = make_theirs(line, job, ours);
    }
    if (!written)
        caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for a line");
    else if (dump(written, JSON_REAL_PRECISION(DIGITS), to, err) == 0)
        rc = caloris_buf_append(to, "\n", 1, err);
out:
    json_decref(written);
    json_decref(ours);
    return rc;
}

uint64_t caloris_line_number(const char *text, size_t n)
{
    static const char prefix[] = "batch_req_";
    json_t *root = json_loadb(text, n, JSON_ALLOW_NUL, NULL);
    const json_t *line = json_object_get(root, "line");
    const char *id = json_string_value(json_object_get(root, "id"));
    uint64_t number = 0;
    if (json_is_integer(line) && json_integer_value(line) > 0)
        number = (uint64_t)json_integer_value(line);
    else if (!line && id && strncmp(id, prefix, sizeof(prefix) - 1) == 0)
        number = strtoull(id + sizeof(prefix) - 1, NULL, 10);
    json_decref(root);
    return number;
}

bool caloris_line_failed(const char *text, size_t n)
{
    json_t *root = json_loadb(text, n, JSON_ALLOW_NUL, NULL);
    const json_t *error = json_object_get(root, "error");
    const bool failed = error && !json_is_null(error);
    json_decref(root);
    return failed;
}
