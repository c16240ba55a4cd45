/* The jobs that a group holds: from their lease until the gateway has their result on disk, or has
 * them back. */
#include "coordinator/link/serve.h"

#include "base/buf.h"
#include "base/log.h"
#include "proto/wire.h"

#include <stdlib.h>

struct group_job *serve_find_job(struct serve *s, uint64_t number)
{
    struct group_job *job = s->jobs;
    while (job && job->number != number)
        job = job->next;
    return job;
}

void serve_drop_job(struct serve *s, struct group_job *job)
{
    struct group_job **at = &s->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    s->held--;
    link_job_free(&job->job);
    free(job->result);
    free(job->stands);
    free(job);
}

int serve_say_beat(struct serve *s, struct caloris_err *err)
{
    const uint32_t room =
        s->draining || s->held >= s->who.capacity ? 0 : s->who.capacity - (uint32_t)s->held;
    s->said_ms = serve_now_ms();
    return group_send_beat(&s->socket, &(struct group_beat){room, s->draining, s->engine}, err);
}

int serve_send_result(struct serve *s, struct group_job *job, struct caloris_err *err)
{
    job->sent_ms = serve_now_ms();
    return group_send_result(&s->socket, job, err);
}

int serve_send_results_again(struct serve *s, struct caloris_err *err)
{
    const uint64_t now = serve_now_ms();
    for (struct group_job *job = s->jobs; job; job = job->next) {
        if (job->finished && now - job->sent_ms > s->lost_ms && serve_send_result(s, job, err) < 0)
            return -1;
    }
    return 0;
}

int serve_finish_job(struct serve *s, struct group_job *job, struct caloris_buf *json,
                     struct caloris_err *err)
{
    if (json->size > CALORIS_WIRE_MAX_FRAME / 2) {
        struct caloris_err why;
        caloris_err_set(&why, CALORIS_BAD_REQUEST,
                        "gen_length: the result of %zu bytes is too large to send", json->size);
        caloris_buf_clear(json);
        if (link_failure(job->job.id, &why, json, err) < 0)
            return -1;
    }
    job->result = json->data;
    job->result_bytes = json->size;
    *json = CALORIS_BUF(json->max);
    job->finished = true;
    return s->welcome ? serve_send_result(s, job, err) : 0;
}

int serve_fail_job(struct serve *s, struct group_job *job, const struct caloris_err *why,
                   struct caloris_err *err)
{
    struct caloris_buf json = CALORIS_BUF(CALORIS_JOB_MAX_BYTES * 4u);
    int rc =
        link_failure(job->job.id, why, &json, err) < 0 || serve_finish_job(s, job, &json, err) < 0
            ? -1
            : 0;
    caloris_buf_free(&json);
    return rc;
}

int serve_drain(struct serve *s, bool hand_back, const char *why, struct caloris_err *err)
{
    if (s->abandoned || (s->draining && !hand_back))
        return 0;
    caloris_log(CALORIS_LOG_WARN, "%s: %s %zu jobs%s, then leaving", why,
                hand_back ? "handing" : "finishing", s->held,
                hand_back ? " back behind this step" : "");
    s->draining = true;
    s->abandoned = hand_back;
    caloris_schedule_close(s->schedule, hand_back);
    return s->welcome ? serve_say_beat(s, err) : 0;
}
