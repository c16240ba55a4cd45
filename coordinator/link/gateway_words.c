/* What the gateway says to a group, and what the group does about it. */
#include "coordinator/link/serve.h"

#include "base/log.h"
#include "coordinator/link/hand_over.h"
#include "proto/caloris.pb-c.h"
#include "proto/wire.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A lease of a job that we have: said twice, or we were already told to drop it, and the gateway
 * must know that we do. */
static int lease_again(struct serve *s, struct group_job *job, const Caloris__Wire__Lease *lease,
                       struct caloris_err *err)
{
    const struct group_lease again = {lease->lease->epoch, lease->lease->counter};
    if (job->dropped) {
        const struct group_job returned = {.number = job->number, .lease = again};
        return group_send_give_back(&s->socket, &returned, err);
    }
    job->lease = again;
    return job->finished ? serve_send_result(s, job, err) : 0;
}

/* Where another group left the job. What is not this job's own is no reason to fail: it begins
 * anew. */
static void resume(struct serve *s, struct group_job *job, const Caloris__Wire__Lease *lease,
                   struct caloris_request *request)
{
    struct caloris_err why;
    if (!lease->has_hand_over)
        return;
    request->stands = link_hand_over_unpack(&s->model, s->who.model, &job->job,
                                            lease->hand_over.data, lease->hand_over.len, &why);
    if (!request->stands)
        caloris_log_about(CALORIS_LOG_WARN, (struct caloris_log_about){.job = job->number},
                          "begins anew: %s", why.text);
}

/* To the schedule, which owns request then; what it says of progress from elsewhere costs only
 * that. */
static int submit(struct serve *s, struct group_job *job, struct caloris_request *request,
                  struct caloris_err *why)
{
    const struct link_place place =
        request->stands ? link_place(request->stands, job->job.best) : (struct link_place){0, 0};
    job->job.resumed = request->stands;
    job->job.resumed_block = place.block;
    job->job.resumed_passes = place.passes;
    if (request->stands) {
        job->stands = caloris_stand_new(job->job.best, job->job.length);
        for (size_t i = 0; job->stands && i < job->job.best; i++)
            caloris_stand_copy(&job->stands[i], &request->stands[i], job->job.length);
    }
    if (caloris_schedule_submit(s->schedule, request, why) == 0)
        return 0;
    if (!request->stands || why->code == CALORIS_AGAIN)
        return -1;
    caloris_log_about(CALORIS_LOG_WARN, (struct caloris_log_about){.job = job->number},
                      "begins anew: %s", why->text);
    free(request->stands);
    free(job->stands);
    request->stands = job->stands = NULL;
    job->job.resumed = false;
    return caloris_schedule_submit(s->schedule, request, why);
}

static int take_lease(struct serve *s, const Caloris__Wire__Lease *lease, struct caloris_err *err)
{
    struct group_job *job = serve_find_job(s, lease->job);
    if (job)
        return lease_again(s, job, lease, err);
    job = calloc(1, sizeof(*job));
    if (!job)
        return caloris_err_sys(err, "job %" PRIu64, lease->job);
    job->number = lease->job;
    job->taken_ms = serve_now_ms();
    job->lease = (struct group_lease){lease->lease->epoch, lease->lease->counter};
    job->next = s->jobs;
    s->jobs = job;
    s->held++;
    if (s->draining) {
        int rc = group_send_give_back(&s->socket, job, err);
        serve_drop_job(s, job);
        return rc;
    }
    struct caloris_err why;
    struct caloris_job parsed = {0};
    struct caloris_request *request = NULL;
    int rc = 0;
    if (caloris_job_parse_stored((const char *)lease->job_json.data, lease->job_json.len, &parsed,
                                 &why) < 0 ||
        link_prepare(&s->model, &parsed, &job->job, &request, &why) < 0) {
        if (!job->job.id && parsed.id)
            job->job.id = strdup(parsed.id);
        rc = serve_fail_job(s, job, &why, err);
    } else {
        request->owner = job;
        request->follow = lease->canvas;
        request->stand = true;
        resume(s, job, lease, request);
        if (submit(s, job, request, &why) < 0) {
            caloris_request_free(request);
            rc = serve_fail_job(s, job, &why, err);
        }
    }
    caloris_job_free(&parsed);
    return rc;
}

/* The gateway lives another life: what it still wants of what we hold has a new lease, the rest is
 * dropped. */
static int take_welcome(struct serve *s, const Caloris__Wire__GroupWelcome *welcome,
                        struct caloris_err *err)
{
    s->welcome = s->answered = true;
    s->refused_ms = 0;
    s->socket.strangers = 0;
    s->beat_ms = welcome->beat_ms ? welcome->beat_ms : SERVE_BEAT_MS;
    s->lost_ms = welcome->lost_ms ? welcome->lost_ms : SERVE_LOST_MS;
    size_t adopted = 0;
    for (struct group_job *job = s->jobs, *next; job; job = next) {
        const Caloris__Wire__Held *held = NULL;
        next = job->next;
        for (size_t i = 0; i < welcome->n_adopted && !held; i++) {
            if (welcome->adopted[i]->job == job->number)
                held = welcome->adopted[i];
        }
        if (held) {
            adopted++;
            job->lease = (struct group_lease){held->lease->epoch, held->lease->counter};
            if (job->dropped ? group_send_give_back(&s->socket, job, err) < 0
                             : job->finished && serve_send_result(s, job, err) < 0)
                return -1;
            if (!job->dropped && !job->finished && job->stands &&
                group_send_hand_over(&s->socket, &s->who, &s->model, job, err) < 0)
                return -1;
        } else if (job->finished) {
            serve_drop_job(s, job);
        } else {
            job->dropped = true;
            caloris_schedule_cancel(s->schedule, job); /* its event drops it */
        }
    }
    caloris_log(CALORIS_LOG_INFO, "gateway %s knows us as %s; it adopted %zu jobs that we hold",
                s->options->gateway->endpoint, s->who.name, adopted);
    return serve_say_beat(s, err);
}

/* Final, but where the gateway says for how long to ask: whoever has our name may be our
 * predecessor, whose death it has not noticed yet. */
static int take_failure(struct serve *s, const Caloris__Wire__Failure *failure,
                        struct caloris_err *err)
{
    const char *endpoint = s->options->gateway->endpoint;
    const uint64_t now = serve_now_ms();
    if (failure->has_retry_after_ms && !s->refused_ms) {
        s->refused_ms = now;
        caloris_log(CALORIS_LOG_WARN, "gateway %s: %s; asking for %" PRIu64 " s", endpoint,
                    failure->text, (failure->retry_after_ms + 999) / 1000);
    }
    if (failure->has_retry_after_ms && now - s->refused_ms <= failure->retry_after_ms)
        return 0;
    return caloris_err_set(err, caloris_code_from_name(failure->code), "gateway %s: %s", endpoint,
                           failure->text);
}

static bool current(const struct group_job *job, const Caloris__Wire__LeaseId *lease)
{
    return job && job->lease.epoch == lease->epoch && job->lease.counter == lease->counter;
}

static int take_message(struct serve *s, const Caloris__Wire__GatewayToGroup *message,
                        struct caloris_err *err)
{
    struct group_job *job;
    switch (message->body_case) {
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_WELCOME:
        return take_welcome(s, message->welcome, err);
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_FAILURE:
        return take_failure(s, message->failure, err);
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_LEASE:
        return take_lease(s, message->lease, err);
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_TAKEN:
        job = serve_find_job(s, message->taken->job);
        if (current(job, message->taken->lease) && job->finished) {
            serve_drop_job(s, job);
            return serve_say_beat(s, err);
        }
        return 0;
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_CANCEL:
        job = serve_find_job(s, message->cancel->job);
        if (!current(job, message->cancel->lease))
            return 0;
        if (job->finished) {
            serve_drop_job(s, job);
            return 0;
        }
        job->dropped = true;
        caloris_schedule_cancel(s->schedule, job);
        return 0;
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_FOLLOW:
        job = serve_find_job(s, message->follow->lease->job);
        if (current(job, message->follow->lease->lease) && !job->finished)
            caloris_schedule_follow(s->schedule, job, message->follow->canvas);
        return 0;
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_DRAIN:
        s->asked = s->asked || !s->draining;
        return serve_drain(s, message->drain->hand_back, "drained by an administrator", err);
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_HELLO_AGAIN:
        s->welcome = false;
        s->said_ms = 0;
        return 0;
    default:
        return 0; /* a beat, or a newer gateway's word */
    }
}

int serve_take_messages(struct serve *s, struct caloris_err *err)
{
    for (;;) {
        ProtobufCMessage *message = NULL;
        struct caloris_peer peer;
        struct caloris_err why;
        int rc = caloris_wire_receive(s->socket.socket, &peer,
                                      &caloris__wire__gateway_to_group__descriptor, &message, &why);
        if (rc == 0)
            return 0;
        if (rc < 0) {
            caloris_log(CALORIS_LOG_WARN, "gateway %s: %s", s->options->gateway->endpoint,
                        why.text);
            continue;
        }
        s->heard_ms = serve_now_ms();
        rc = take_message(s, (const Caloris__Wire__GatewayToGroup *)message, err);
        protobuf_c_message_free_unpacked(message, NULL);
        if (rc < 0)
            return -1;
    }
}
