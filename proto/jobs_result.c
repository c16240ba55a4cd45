#include "proto/jobs.h"

#include "base/buf.h"
#include "base/err.h"

#include <math.h>
#include <string.h>

/* The length of the UTF-8 sequence at the start of s [n]; 0 and *bad (bytes to replace) when
 * there is none. Bounds of the second byte: Unicode, table 3-7. */
static size_t sequence(const unsigned char *s, size_t n, size_t *bad)
{
    static const struct {
        unsigned char first, last, low, high; /* lead bytes; second byte */
        size_t length;
    } leads[] = {
        {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    *bad = 1;
    for (size_t i = 0; i < sizeof(leads) / sizeof(leads[0]); i++) {
        if (s[0] < leads[i].first || s[0] > leads[i].last)
            continue;
        for (size_t k = 1; k < leads[i].length; k++) {
            unsigned char low = k == 1 ? leads[i].low : 0x80, high = k == 1 ? leads[i].high : 0xbf;
            if (k >= n || s[k] < low || s[k] > high) {
                *bad = k;
                return 0;
            }
        }
        return leads[i].length;
    }
    return 0;
}

/* text [n] as a JSON string, what is no UTF-8 replaced. */
static json_t *clean_string(const char *text, size_t n, struct caloris_err *err)
{
    const unsigned char *s = (const unsigned char *)text;
    struct caloris_buf clean = CALORIS_BUF(3 * n + 1); /* U+FFFD takes three bytes */
    size_t start = 0, i = 0;
    json_t *value = NULL;
    while (i < n) {
        size_t bad, length = sequence(s + i, n - i, &bad);
        if (length > 0) {
            i += length;
            continue;
        }
        if (caloris_buf_append(&clean, text + start, i - start, err) < 0 ||
            caloris_buf_append(&clean, "\xef\xbf\xbd", 3, err) < 0)
            goto out;
        i += bad;
        start = i;
    }
    if (n > start && caloris_buf_append(&clean, text + start, n - start, err) < 0)
        goto out;
    value = json_stringn(clean.size > 0 ? clean.data : "", clean.size);
out:
    caloris_buf_free(&clean);
    return value;
}

static json_t *id_array(const int32_t *ids, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < n; i++) {
        if (json_array_append_new(array, json_integer(ids[i])) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *make_error(const struct caloris_err *error, struct caloris_err *err)
{
    json_t *message = clean_string(error->text, strlen(error->text), err);
    return message
               ? json_pack("{s:s, s:o}", "code", caloris_code_name(error->code), "message", message)
               : NULL;
}

/* Sets name in object; takes value over. 0, or -1 when value is NULL or memory is short. */
static int put(json_t *object, const char *name, json_t *value)
{
    return value ? json_object_set_new(object, name, value) : -1;
}

static json_t *integer(uint64_t number)
{
    return json_integer((json_int_t)number);
}

static json_t *make_answer(const struct caloris_job_result *result,
                           const struct caloris_job_answer *answer, struct caloris_err *err)
{
    json_t *object = json_object();
    int status = put(object, "candidate", integer(answer->candidate));
    status |=
        put(object, "score", isfinite(answer->score) ? json_real(answer->score) : json_null());
    status |= put(object, "ids", id_array(answer->ids, result->n_ids));
    if (answer->text)
        status |= put(object, "text", clean_string(answer->text, answer->text_bytes, err));
    status |= put(object, "finish_reason", json_string(answer->finish_reason));
    status |= put(object, "completion_tokens", integer(answer->completion_tokens));
    if (status == 0)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *make_answers(const struct caloris_job_result *result, struct caloris_err *err)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < result->n_answers; i++) {
        if (json_array_append_new(array, make_answer(result, &result->answers[i], err)) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int fill(json_t *object, const struct caloris_job_result *result, struct caloris_err *err)
{
    json_t *id = result->id ? clean_string(result->id, strlen(result->id), err) : json_null();
    if (put(object, "id", id) < 0)
        return -1;
    if (result->error)
        return put(object, "error", make_error(result->error, err));
    if (put(object, "ids", id_array(result->ids, result->n_ids)) < 0)
        return -1;
    if (result->canvas && put(object, "canvas", id_array(result->canvas, result->n_canvas)) < 0)
        return -1;
    if (result->canvas && result->canvas_text &&
        put(object, "canvas_text",
            clean_string(result->canvas_text, result->canvas_text_bytes, err)) < 0)
        return -1;
    if (result->text &&
        put(object, "text", clean_string(result->text, result->text_bytes, err)) < 0)
        return -1;
    uint64_t total = result->prompt_tokens + result->completion_tokens;
    json_t *usage = json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)result->prompt_tokens,
                              "completion_tokens", (json_int_t)result->completion_tokens,
                              "total_tokens", (json_int_t)total);
    json_t *timings =
        json_pack("{s:f, s:f}", "queue_s", result->queue_s, "denoise_s", result->denoise_s);
    int status = put(object, "finish_reason",
                     json_string(result->finish_reason ? result->finish_reason : "length"));
    status |= put(object, "usage", usage);
    status |= put(object, "forward_passes", integer(result->forward_passes));
    status |= put(object, "steps", integer(result->steps));
    status |= put(object, "rows", integer(result->rows));
    if (result->resumed)
        status |= put(object, "resumed",
                      json_pack("{s:I, s:I}", "block", (json_int_t)result->resumed_block,
                                "forward_passes", (json_int_t)result->resumed_passes));
    status |= put(object, "timings", timings);
    status |= put(object, "seed", integer(result->seed));
    if (result->model)
        status |= put(object, "model", clean_string(result->model, strlen(result->model), err));
    status |= put(object, "ranks", integer(result->ranks));
    if (result->answers)
        status |= put(object, "candidates", make_answers(result, err));
    return status;
}

struct sink {
    struct caloris_buf *json;
    struct caloris_err *err;
    bool failed;
};

static int append(const char *bytes, size_t n, void *arg)
{
    struct sink *sink = arg;
    if (caloris_buf_append(sink->json, bytes, n, sink->err) == 0)
        return 0;
    sink->failed = true;
    return -1;
}

int caloris_job_result_write(const struct caloris_job_result *result, struct caloris_buf *json,
                             struct caloris_err *err)
{
    enum { DIGITS = 6 }; /* of seconds */
    struct sink sink = {json, err, false};
    json_t *object = json_object();
    int status = object ? fill(object, result, err) : -1;
    if (status == 0)
        status =
            json_dump_callback(object, append, &sink, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS));
    if (status != 0 && !sink.failed)
        status = caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for a result of %zu ids",
                                 result->error ? 0 : result->n_ids);
    json_decref(object);
    return status;
}
