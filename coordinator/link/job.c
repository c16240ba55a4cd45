#include "coordinator/link/job.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT_BYTES = 64 << 20 };

int link_model_load(struct link_model *model, const char *dir,
                    const struct caloris_engine_facts *facts, struct caloris_err *err)
{
    bool found = true;
    model->name = link_model_name(dir);
    model->facts = facts;
    model->tokenizer = caloris_tokenizer_load(dir, &found, err);
    if (model->tokenizer)
        return 0;
    if (found)
        return -1;
    caloris_log(CALORIS_LOG_WARN, "%s has no tokenizer: jobs of ids only", dir);
    return 0;
}

const char *link_model_name(const char *dir)
{
    const char *slash = strrchr(dir, '/');
    return slash ? slash + 1 : dir;
}

void link_model_free(struct link_model *model)
{
    caloris_tokenizer_free(model->tokenizer);
    model->tokenizer = NULL;
}

void link_job_free(struct link_job *job)
{
    free(job->id);
    free(job->hole);
    job->id = NULL;
    job->hole = NULL;
}

/* ---- job -> request -------------------------------------------------------------------------- */

/* A special id: the job's word, else config.json's, else the tokenizer's; -1 when nobody knows. */
static int resolve_id(const char *field, int32_t given, int32_t config, int32_t tokenizer,
                      size_t vocab, int32_t *id, struct caloris_err *err)
{
    *id = given >= 0 ? given : config >= 0 ? config : tokenizer;
    if (*id >= 0 && (size_t)*id >= vocab)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s: %d is outside the vocabulary of %zu",
                               field, *id, vocab);
    return 0;
}

static int resolve_ids(const struct link_model *model, struct caloris_job_params *params,
                       struct caloris_err *err)
{
    const struct caloris_model_facts *facts = &model->facts->model;
    const struct caloris_tokenizer *t = model->tokenizer;
    if (resolve_id("mask_id", params->mask_id, facts->mask_id,
                   t ? caloris_tokenizer_mask_id(t) : -1, facts->vocab, &params->mask_id,
                   err) < 0 ||
        resolve_id("eos_id", params->eos_id, facts->eos_id, t ? caloris_tokenizer_eos_id(t) : -1,
                   facts->vocab, &params->eos_id, err) < 0 ||
        resolve_id("eot_id", params->eot_id, -1, t ? caloris_tokenizer_eot_id(t) : -1, facts->vocab,
                   &params->eot_id, err) < 0)
        return -1;
    if (params->mask_id < 0)
        return caloris_err_set(
            err, CALORIS_BAD_REQUEST,
            "mask_id: neither config.json nor the tokenizer says it; the job must");
    return 0;
}

static int copy_ids(const struct caloris_job *parsed, size_t vocab, struct caloris_ids *ids,
                    struct caloris_err *err)
{
    for (size_t i = 0; i < parsed->n_ids; i++) {
        if ((size_t)parsed->ids[i] >= vocab)
            return caloris_err_set(err, CALORIS_BAD_REQUEST,
                                   "ids: %d at %zu is outside the vocabulary of %zu",
                                   parsed->ids[i], i, vocab);
        if (caloris_ids_append(ids, parsed->ids[i], err) < 0)
            return -1;
    }
    return 0;
}

static int render(const struct caloris_tokenizer *tokenizer, const struct caloris_job *parsed,
                  int32_t mask_id, struct caloris_ids *ids, struct caloris_err *err)
{
    struct caloris_message *messages = calloc(parsed->n_messages, sizeof(*messages));
    if (!messages)
        return caloris_err_sys(err, "messages");
    for (size_t i = 0; i < parsed->n_messages; i++)
        messages[i] =
            (struct caloris_message){parsed->messages[i].role, parsed->messages[i].content,
                                     parsed->messages[i].content_bytes};
    int rc = caloris_tokenizer_render(tokenizer, parsed->chat_template, messages,
                                      parsed->n_messages, parsed->hole, mask_id, ids, err);
    free(messages);
    return rc;
}

static int prompt_ids(const struct link_model *model, const struct caloris_job *parsed,
                      int32_t mask_id, struct caloris_ids *ids, struct caloris_err *err)
{
    if (parsed->source == CALORIS_JOB_IDS)
        return copy_ids(parsed, model->facts->model.vocab, ids, err);
    const char *field = parsed->source == CALORIS_JOB_PROMPT ? "prompt" : "messages";
    if (!model->tokenizer)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "%s: this model has no tokenizer; send ids", field);
    int rc =
        parsed->source == CALORIS_JOB_MESSAGES ? render(model->tokenizer, parsed, mask_id, ids, err)
        : parsed->hole
            ? caloris_tokenizer_encode_holes(model->tokenizer, parsed->prompt, parsed->prompt_bytes,
                                             parsed->hole, mask_id, ids, err)
            : caloris_tokenizer_encode(model->tokenizer, parsed->prompt, parsed->prompt_bytes,
                                       CALORIS_TEXT_USER, ids, err);
    if (rc < 0) {
        if (err && err->code != CALORIS_NO_MEMORY)
            err->code = CALORIS_BAD_REQUEST;
        return caloris_err_prefix(err, "%s", field);
    }
    for (size_t i = 0; i < ids->count; i++) {
        if ((size_t)ids->id[i] >= model->facts->model.vocab)
            return caloris_err_set(
                err, CALORIS_BAD_REQUEST,
                "%s: the tokenizer's id %d is outside the model's vocabulary of %zu", field,
                ids->id[i], model->facts->model.vocab);
    }
    return 0;
}

/* Where the prompt has masks of its own, which its canvas tells only until they are filled. */
static int note_holes(const struct caloris_ids *ids, int32_t mask_id, struct link_job *job,
                      struct caloris_err *err)
{
    for (size_t i = 0; i < ids->count; i++) {
        if (ids->id[i] != mask_id)
            continue;
        if (!job->hole && !(job->hole = calloc(ids->count, sizeof(*job->hole))))
            return caloris_err_sys(err, "a prompt of %zu tokens", ids->count);
        job->hole[i] = true;
    }
    return 0;
}

int link_prepare(const struct link_model *model, const struct caloris_job *parsed,
                 struct link_job *job, struct caloris_request **out, struct caloris_err *err)
{
    struct caloris_ids ids = {0};
    struct caloris_request *request = calloc(1, sizeof(*request));
    if (!request)
        return caloris_err_sys(err, "request");
    request->params = parsed->params;
    if (resolve_ids(model, &request->params, err) < 0 ||
        prompt_ids(model, parsed, request->params.mask_id, &ids, err) < 0)
        goto fail;
    if (request->params.seed < 0)
        request->params.seed = (int64_t)caloris_rng_fresh_seed();

    request->prompt = ids.count;
    request->length = ids.count + request->params.gen_length;
    request->canvas = malloc(request->params.best * request->length * sizeof(*request->canvas));
    job->id = parsed->id ? strdup(parsed->id) : NULL;
    if (!request->canvas || (parsed->id && !job->id)) {
        caloris_err_sys(err, "canvas of %zu tokens", request->length);
        goto fail;
    }
    for (size_t i = 0; i < request->length; i++)
        request->canvas[i] = i < ids.count ? ids.id[i] : request->params.mask_id;
    if (note_holes(&ids, request->params.mask_id, job, err) < 0)
        goto fail;
    if (request->params.gen_length == 0 && !job->hole) { /* ids: nobody knew their mask so far */
        caloris_err_set(err, CALORIS_BAD_REQUEST,
                        "gen_length: 0, and no id is the mask's, %d: there is nothing to do",
                        request->params.mask_id);
        goto fail;
    }
    job->seed = request->params.seed;
    job->mask_id = request->params.mask_id;
    job->eos_id = request->params.eos_id;
    job->eot_id = request->params.eot_id;
    job->prompt = request->prompt;
    job->length = request->length;
    job->best = request->params.best;
    caloris_ids_free(&ids);
    *out = request;
    return 0;
fail:
    caloris_ids_free(&ids);
    caloris_request_free(request);
    link_job_free(job);
    return -1;
}

/* ---- canvas -> result ------------------------------------------------------------------------ */

/* Tokens before the first EOS or end of turn. */
static size_t completion(const struct link_job *job, const int32_t *generated, size_t n)
{
    size_t end = 0;
    while (end < n && generated[end] != job->eos_id && generated[end] != job->eot_id)
        end++;
    return end;
}

/* The answers [n] in words; their texts stand one after another in texts. */
static int describe_answers(const struct link_model *model, const struct link_job *job,
                            const struct caloris_event *event, struct caloris_job_answer *answers,
                            struct caloris_buf *texts, struct caloris_err *err)
{
    const struct caloris_request *request = event->request;
    const size_t n = request->length - request->prompt;
    for (size_t i = 0; i < event->n_answers; i++) {
        const int32_t *generated = event->answers[i].canvas + request->prompt;
        const size_t end = completion(job, generated, n), before = texts->size;
        answers[i] = (struct caloris_job_answer){
            .candidate = event->answers[i].candidate,
            .score = event->answers[i].score,
            .ids = generated,
            .finish_reason = end < n ? "stop" : "length",
            .completion_tokens = end,
        };
        if (model->tokenizer &&
            (caloris_buf_append(texts, "", 0, err) < 0 ||
             caloris_tokenizer_decode(model->tokenizer, generated, end, false, texts, err) < 0))
            return -1;
        answers[i].text_bytes = texts->size - before;
    }
    size_t at = 0; /* the buffer stays where it is from here on */
    for (size_t i = 0; i < event->n_answers; i++) {
        answers[i].text = texts->data ? texts->data + at : NULL;
        at += answers[i].text_bytes;
    }
    return 0;
}

/* The prompt with its holes filled, and the answer: whoever asked for no more than the former has
 * an empty answer. */
static int describe_canvas(const struct link_model *model, const struct link_job *job,
                           const int32_t *canvas, size_t completion_tokens,
                           struct caloris_buf *text, struct caloris_err *err)
{
    if (!job->hole || !model->tokenizer)
        return 0;
    return caloris_buf_append(text, "", 0, err) < 0
               ? -1
               : caloris_tokenizer_decode(model->tokenizer, canvas, job->prompt + completion_tokens,
                                          false, text, err);
}

int link_result(const struct link_model *model, const struct link_job *job,
                const struct caloris_event *event, struct caloris_buf *json, uint64_t *tokens,
                struct caloris_err *err)
{
    const struct caloris_request *request = event->request;
    struct caloris_job_answer *answers = calloc(event->n_answers, sizeof(*answers));
    struct caloris_buf texts = CALORIS_BUF(MAX_TEXT_BYTES), whole = CALORIS_BUF(MAX_TEXT_BYTES);
    int rc = -1;
    if (!answers) {
        caloris_err_sys(err, "%zu answers", event->n_answers);
        goto out;
    }
    if (describe_answers(model, job, event, answers, &texts, err) < 0 ||
        describe_canvas(model, job, event->answers[0].canvas, answers[0].completion_tokens, &whole,
                        err) < 0)
        goto out;
    const struct caloris_job_result result = {
        .id = job->id,
        .ids = answers[0].ids,
        .n_ids = request->length - request->prompt,
        .canvas = job->hole ? event->answers[0].canvas : NULL,
        .n_canvas = request->length,
        .canvas_text = whole.data,
        .canvas_text_bytes = whole.size,
        .text = answers[0].text,
        .text_bytes = answers[0].text_bytes,
        .finish_reason = answers[0].finish_reason,
        .prompt_tokens = request->prompt,
        .completion_tokens = answers[0].completion_tokens,
        .forward_passes = event->step,
        .steps = event->answers[0].steps,
        .rows = event->rows,
        .resumed = job->resumed,
        .resumed_block = job->resumed_block,
        .resumed_passes = job->resumed_passes,
        .seed = (uint64_t)job->seed,
        .queue_s = event->wait_s,
        .denoise_s = event->denoise_s,
        .model = model->name,
        .ranks = (uint32_t)model->facts->ranks,
        .answers = event->n_answers > 1 ? answers : NULL,
        .n_answers = event->n_answers,
    };
    rc = caloris_job_result_write(&result, json, err);
    *tokens = answers[0].completion_tokens;
out:
    if (rc < 0)
        caloris_err_prefix(err, "the result");
    caloris_buf_free(&texts);
    caloris_buf_free(&whole);
    free(answers);
    return rc;
}

int link_failure(const char *id, const struct caloris_err *why, struct caloris_buf *json,
                 struct caloris_err *err)
{
    const struct caloris_job_result result = {.id = id, .error = why};
    return caloris_job_result_write(&result, json, err);
}
