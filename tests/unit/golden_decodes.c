#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/golden_decodes.h"

#include "base/err.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

/* Whether our loops, which do it right, make this run. */
static bool is_ours(const json_t *decode)
{
    static const char *const sources[] = {"llada-generate", "fast-dllm", "dinfer-fastdllm",
                                          "dinfer-decoder"};
    const json_t *params = json_object_get(decode, "params");
    const char *decoder = text_of(params, "decoder");
    if (json_is_true(json_object_get(decode, "upstream_off_by_one")) ||
        (*decoder && strcmp(decoder, "threshold") != 0))
        return false;
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        if (strcmp(text_of(decode, "source"), sources[i]) == 0)
            return true;
    }
    return false;
}

static int32_t *copy_ids(const json_t *array, size_t *n)
{
    *n = json_array_size(array);
    int32_t *ids = calloc(*n, sizeof(*ids));
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

/* The record's parameters as a job that has no prompt yet. */
static json_t *to_job(const json_t *record, int32_t mask_id)
{
    static const char *const same[] = {
        "gen_length",     "block_length",           "cfg_scale", "temperature", "eos_id", "eot_id",
        "logits_eos_inf", "confidence_eos_eot_inf", "threshold", "factor",      "cache"};
    json_t *job = json_pack("{s:s, s:b, s:s, s:i}", "preset", "exact", "early_stop", 0, "quota",
                            "block", "mask_id", mask_id);
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        json_t *value = json_object_get(record, same[i]);
        if (value)
            json_object_set(job, same[i], value);
    }
    const char *commit = json_object_get(record, "factor")      ? "factor"
                         : json_object_get(record, "threshold") ? "threshold"
                                                                : "quota";
    json_object_set_new(job, "commit", json_string(commit));
    if (strcmp(commit, "quota") == 0)
        json_object_set(job, "steps", json_object_get(record, "steps"));
    return job;
}

void golden_params(json_t *job, struct caloris_job_params *params)
{
    json_t *whole = json_copy(job);
    json_object_set_new(whole, "ids", json_pack("[i]", 0));
    char *text = json_dumps(whole, 0);
    struct caloris_job parsed;
    struct caloris_err err;
    if (caloris_job_parse(text, strlen(text), &parsed, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    *params = parsed.params;
    caloris_job_free(&parsed);
    free(text);
    json_decref(whole);
}

/* The calls of a run but those that the published loop makes on a block that is finished already
 * (upstream_extra_call): ours tests first. */
static json_t *calls_of(const json_t *record)
{
    const bool extra = json_is_true(json_object_get(record, "upstream_extra_call"));
    json_t *calls = json_array();
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(record, "trace"), i, call)
    {
        if (!extra || json_array_size(json_object_get(call, "writes")) > 0)
            json_array_append(calls, call);
    }
    return calls;
}

void golden_decodes_load(const char *model, struct golden_decodes *decodes)
{
    const char *source = getenv("CALORIS_SOURCE_DIR");
    char path[sizeof(decodes->dir) + 16];
    struct caloris_err err;
    assert_non_null(source);
    snprintf(decodes->dir, sizeof(decodes->dir), "%s/tests/golden/models/%s", source, model);
    snprintf(path, sizeof(path), "%s/cases.json", decodes->dir);
    decodes->root = caloris_json_load(path, 1 << 20, &err);
    if (!decodes->root)
        fail_msg("%s", err.text);
    const json_t *records = json_object_get(decodes->root, "decodes");
    int32_t mask = (int32_t)json_integer_value(json_object_get(decodes->root, "mask_id"));
    decodes->decode = calloc(json_array_size(records), sizeof(*decodes->decode));
    assert_non_null(decodes->decode);
    decodes->count = 0;
    for (size_t i = 0; i < json_array_size(records); i++) {
        const json_t *record = json_array_get(records, i);
        if (!is_ours(record))
            continue;
        struct golden_decode *decode = &decodes->decode[decodes->count++];
        decode->name = text_of(record, "name");
        decode->job = to_job(json_object_get(record, "params"), mask);
        golden_params(decode->job, &decode->params);
        decode->prompt = copy_ids(json_object_get(record, "prompt"), &decode->n_prompt);
        decode->final = copy_ids(json_object_get(record, "final"), &decode->length);
        for (size_t k = 0; k < decode->n_prompt; k++)
            decode->holes |= decode->prompt[k] == mask;
        decode->trace = calls_of(record);
        decode->calls = json_array_size(decode->trace);
        decode->score = NAN;
        assert_int_equal(decode->length, decode->n_prompt + decode->params.gen_length);
        if (!json_object_get(record, "upstream_extra_call"))
            assert_int_equal(decode->calls,
                             json_integer_value(json_object_get(record, "model_calls")));
    }
}

void golden_decode_free(struct golden_decode *decode)
{
    free(decode->prompt);
    free(decode->final);
    json_decref(decode->job);
    json_decref(decode->trace);
}

void golden_decodes_free(struct golden_decodes *decodes)
{
    for (size_t i = 0; i < decodes->count; i++)
        golden_decode_free(&decodes->decode[i]);
    free(decodes->decode);
    json_decref(decodes->root);
}

int32_t *golden_canvas(const struct golden_decode *decode)
{
    int32_t *canvas = malloc(decode->length * sizeof(*canvas));
    assert_non_null(canvas);
    memcpy(canvas, decode->prompt, decode->n_prompt * sizeof(*canvas));
    for (size_t i = decode->n_prompt; i < decode->length; i++)
        canvas[i] = decode->params.mask_id;
    return canvas;
}
