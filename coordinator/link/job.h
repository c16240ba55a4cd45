/* coordinator/link/job.h (inside link): a job's way in and out: job -> request, finished canvas ->
 * result. */
#ifndef CALORIS_LINK_JOB_H
#define CALORIS_LINK_JOB_H

#include "coordinator/schedule/schedule.h"
#include "coordinator/text/text.h"
#include "proto/jobs.h"
#include "worker/engine.h"

struct caloris_buf;
struct caloris_err;

/* What jobs are prepared with. */
struct link_model {
    const char *name; /* the last part of its folder's path; NULL: not known */
    const struct caloris_engine_facts *facts;
    struct caloris_tokenizer *tokenizer; /* NULL: jobs of ids only */
};

/* dir stays the caller's, and must be there as long as the model. */
int link_model_load(struct link_model *model, const char *dir,
                    const struct caloris_engine_facts *facts, struct caloris_err *err);
/* The last part of its folder's path: how people call it. */
const char *link_model_name(const char *dir);
void link_model_free(struct link_model *model);

/* A job on its way: what its result needs besides the canvas. */
struct link_job {
    char *id; /* NULL: none */
    int64_t seed;
    int32_t mask_id, eos_id, eot_id;
    size_t prompt; /* positions of the prompt */
    bool *hole;    /* [prompt]: whether a mask stood there; NULL: nowhere */
    size_t length; /* of the canvas */
    size_t best;   /* candidates */
    bool resumed;  /* at this block, after so many forward passes of another group */
    uint32_t resumed_block, resumed_passes;
};
void link_job_free(struct link_job *job); /* the contents */

/* The request of a parsed job; owner is left to the caller. Errors name the field (BAD_REQUEST). */
int link_prepare(const struct link_model *model, const struct caloris_job *parsed,
                 struct link_job *job, struct caloris_request **request, struct caloris_err *err);

/* The result of a finished event, one line of JSON without the newline. */
int link_result(const struct link_model *model, const struct link_job *job,
                const struct caloris_event *event, struct caloris_buf *json, uint64_t *tokens,
                struct caloris_err *err);

/* The result of a job that failed. */
int link_failure(const char *id, const struct caloris_err *why, struct caloris_buf *json,
                 struct caloris_err *err);

#endif
