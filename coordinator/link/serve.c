/* A group of a gateway: the coordinator thread of rank 0, from dialling in to leaving. What it
 * holds is safe at the gateway; what the gateway loses sight of, this group computes on, keeps, and
 * offers again when the gateway is back. */
#include "coordinator/link/link.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/time.h"
#include "coordinator/link/group.h"
#include "coordinator/link/hand_over.h"
#include "coordinator/link/signals.h"
#include "coordinator/link/time_limit.h"
#include "proto/caloris.pb-c.h"
#include "proto/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum {
    AHEAD = 2,            /* leases per slot, so that a step never waits for the tokenizer */
    HELLO_EVERY_MS = 500, /* until the gateway answers */
    DEFAULT_BEAT_MS = 1000,
    DEFAULT_LOST_MS = 10000,
};

struct serve {
    const struct caloris_serve_options *options;
    const struct caloris_engine *engine;
    struct link_model model;
    struct caloris_schedule *schedule;
    struct group_socket socket;
    struct group_identity who;
    struct group_job *jobs;
    size_t held;
    int signals;
    bool welcome;   /* the gateway knows us */
    bool answered;  /* it did at some time */
    bool draining;  /* takes no more jobs */
    bool abandoned; /* and hands back those it has */
    bool asked;     /* by an administrator, not by whoever gave it the machine */
    bool ended;
    struct link_time_limit time;
    uint64_t beat_ms, lost_ms;
    uint64_t heard_ms, said_ms; /* last word from the gateway, last to it */
    uint64_t refused_ms;        /* when it first refused our name; 0: it did not */
    struct caloris_err err;
    bool failed;
};

static uint64_t now_ms(void)
{
    return caloris_time_ns() / 1000000u;
}

/* ---- jobs held ------------------------------------------------------------------------------- */

static struct group_job *find(struct serve *s, uint64_t number)
{
    struct group_job *job = s->jobs;
    while (job && job->number != number)
        job = job->next;
    return job;
}

static void drop(struct serve *s, struct group_job *job)
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

static int say_beat(struct serve *s, struct caloris_err *err)
{
    const uint32_t room =
        s->draining || s->held >= s->who.capacity ? 0 : s->who.capacity - (uint32_t)s->held;
    s->said_ms = now_ms();
    return group_send_beat(&s->socket, &(struct group_beat){room, s->draining, s->engine}, err);
}

static int send_result(struct serve *s, struct group_job *job, struct caloris_err *err)
{
    job->sent_ms = now_ms();
    return group_send_result(&s->socket, job, err);
}

/* Results that the gateway has not acknowledged for long: the queue to it may have been full. */
static int send_results_again(struct serve *s, struct caloris_err *err)
{
    const uint64_t now = now_ms();
    for (struct group_job *job = s->jobs; job; job = job->next) {
        if (job->finished && now - job->sent_ms > s->lost_ms && send_result(s, job, err) < 0)
            return -1;
    }
    return 0;
}

/* A job has its result: it goes out now, and again after every welcome until the gateway has it on
 * disk. */
static int finish(struct serve *s, struct group_job *job, struct caloris_buf *json,
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
    return s->welcome ? send_result(s, job, err) : 0;
}

static int finish_failed(struct serve *s, struct group_job *job, const struct caloris_err *why,
                         struct caloris_err *err)
{
    struct caloris_buf json = CALORIS_BUF(CALORIS_JOB_MAX_BYTES * 4u);
    int rc =
        link_failure(job->job.id, why, &json, err) < 0 || finish(s, job, &json, err) < 0 ? -1 : 0;
    caloris_buf_free(&json);
    return rc;
}

/* ---- the gateway's words --------------------------------------------------------------------- */

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
    return job->finished ? send_result(s, job, err) : 0;
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

/* No jobs any more. Those that are here are done first (hand_back: go back behind this step); then
 * the schedule ends, and the group with it. May be said again, more strongly. */
static int drain(struct serve *s, bool hand_back, const char *why, struct caloris_err *err)
{
    if (s->abandoned || (s->draining && !hand_back))
        return 0;
    caloris_log(CALORIS_LOG_WARN, "%s: %s %zu jobs%s, then leaving", why,
                hand_back ? "handing" : "finishing", s->held,
                hand_back ? " back behind this step" : "");
    s->draining = true;
    s->abandoned = hand_back;
    caloris_schedule_close(s->schedule, hand_back);
    return s->welcome ? say_beat(s, err) : 0;
}

static int take_lease(struct serve *s, const Caloris__Wire__Lease *lease, struct caloris_err *err)
{
    struct group_job *job = find(s, lease->job);
    if (job)
        return lease_again(s, job, lease, err);
    job = calloc(1, sizeof(*job));
    if (!job)
        return caloris_err_sys(err, "job %" PRIu64, lease->job);
    job->number = lease->job;
    job->taken_ms = now_ms();
    job->lease = (struct group_lease){lease->lease->epoch, lease->lease->counter};
    job->next = s->jobs;
    s->jobs = job;
    s->held++;
    if (s->draining) {
        int rc = group_send_give_back(&s->socket, job, err);
        drop(s, job);
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
        rc = finish_failed(s, job, &why, err);
    } else {
        request->owner = job;
        request->follow = lease->canvas;
        request->stand = true;
        resume(s, job, lease, request);
        if (submit(s, job, request, &why) < 0) {
            caloris_request_free(request);
            rc = finish_failed(s, job, &why, err);
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
    s->beat_ms = welcome->beat_ms ? welcome->beat_ms : DEFAULT_BEAT_MS;
    s->lost_ms = welcome->lost_ms ? welcome->lost_ms : DEFAULT_LOST_MS;
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
                             : job->finished && send_result(s, job, err) < 0)
                return -1;
            if (!job->dropped && !job->finished && job->stands &&
                group_send_hand_over(&s->socket, &s->who, &s->model, job, err) < 0)
                return -1;
        } else if (job->finished) {
            drop(s, job);
        } else {
            job->dropped = true;
            caloris_schedule_cancel(s->schedule, job); /* its event drops it */
        }
    }
    caloris_log(CALORIS_LOG_INFO, "gateway %s knows us as %s; it adopted %zu jobs that we hold",
                s->options->gateway->endpoint, s->who.name, adopted);
    return say_beat(s, err);
}

/* Final, but where the gateway says for how long to ask: whoever has our name may be our
 * predecessor, whose death it has not noticed yet. */
static int take_failure(struct serve *s, const Caloris__Wire__Failure *failure,
                        struct caloris_err *err)
{
    const char *endpoint = s->options->gateway->endpoint;
    const uint64_t now = now_ms();
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
        job = find(s, message->taken->job);
        if (current(job, message->taken->lease) && job->finished) {
            drop(s, job);
            return say_beat(s, err);
        }
        return 0;
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_CANCEL:
        job = find(s, message->cancel->job);
        if (!current(job, message->cancel->lease))
            return 0;
        if (job->finished) {
            drop(s, job);
            return 0;
        }
        job->dropped = true;
        caloris_schedule_cancel(s->schedule, job);
        return 0;
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_FOLLOW:
        job = find(s, message->follow->lease->job);
        if (current(job, message->follow->lease->lease) && !job->finished)
            caloris_schedule_follow(s->schedule, job, message->follow->canvas);
        return 0;
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_DRAIN:
        s->asked = s->asked || !s->draining;
        return drain(s, message->drain->hand_back, "drained by an administrator", err);
    case CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_HELLO_AGAIN:
        s->welcome = false;
        s->said_ms = 0;
        return 0;
    default:
        return 0; /* a beat, or a newer gateway's word */
    }
}

static int take_messages(struct serve *s, struct caloris_err *err)
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
        s->heard_ms = now_ms();
        rc = take_message(s, (const Caloris__Wire__GatewayToGroup *)message, err);
        protobuf_c_message_free_unpacked(message, NULL);
        if (rc < 0)
            return -1;
    }
}

/* ---- the schedule's events ------------------------------------------------------------------- */

static int take_finished(struct serve *s, const struct caloris_event *event,
                         struct caloris_err *err)
{
    struct group_job *job = event->owner;
    struct caloris_buf json = CALORIS_BUF(CALORIS_JOB_MAX_BYTES * 4u);
    struct caloris_err why;
    uint64_t tokens;
    /* A result that cannot be written is this job's fault, and no other's. */
    int rc = link_result(&s->model, &job->job, event, &json, &tokens, &why) < 0
                 ? finish_failed(s, job, &why, err)
                 : finish(s, job, &json, err);
    caloris_buf_free(&json);
    return rc;
}

/* The gateway keeps the newest. Without memory it keeps the one before. */
static int take_stand(struct serve *s, const struct caloris_event *event, struct caloris_err *err)
{
    struct group_job *job = event->owner;
    if (!job->stands && !(job->stands = caloris_stand_new(job->job.best, job->job.length)))
        return 0;
    caloris_stand_copy(&job->stands[event->candidate], event->stand, job->job.length);
    return s->welcome && !job->dropped
               ? group_send_hand_over(&s->socket, &s->who, &s->model, job, err)
               : 0;
}

/* For whoever watches: the job does not depend on it. */
static void tell_progress(struct serve *s, const struct caloris_event *event)
{
    struct group_job *job = event->owner;
    struct caloris_err why;
    if (s->welcome && group_send_progress(&s->socket, &s->model, job, event, &why) < 0)
        caloris_log_about(CALORIS_LOG_WARN, (struct caloris_log_about){.job = job->number},
                          "a step is not shown: %s", why.text);
}

static int take_event(struct serve *s, struct caloris_event *event, struct caloris_err *err)
{
    struct group_job *job = event->owner;
    int rc = 0;
    switch (event->kind) {
    case CALORIS_EVENT_STEP:
    case CALORIS_EVENT_SNAPSHOT:
        tell_progress(s, event);
        return 0;
    case CALORIS_EVENT_STAND:
        return take_stand(s, event, err);
    case CALORIS_EVENT_FINISHED:
        link_time_limit_learn(&s->time, now_ms() - job->taken_ms);
        if (job->dropped)
            drop(s, job);
        else
            rc = take_finished(s, event, err);
        break;
    case CALORIS_EVENT_CANCELLED:
        if (s->draining && !job->dropped)
            rc = group_send_give_back(&s->socket, job, err);
        drop(s, job);
        break;
    case CALORIS_EVENT_ENDED:
        s->ended = true;
        return 0;
    }
    caloris_request_free(event->request);
    event->request = NULL;
    return rc;
}

static int take_events(struct serve *s, struct caloris_err *err)
{
    struct caloris_event *event;
    while ((event = caloris_schedule_next_event(s->schedule, 0)) != NULL) {
        int rc = take_event(s, event, err);
        caloris_event_free(event);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static int take_signals(struct serve *s, struct caloris_err *err)
{
    int signal;
    while ((signal = link_signals_next(s->signals)) != 0) {
        s->asked = false;
        if (drain(s, true, strsignal(signal), err) < 0)
            return -1;
    }
    return 0;
}

static int mind_the_end(struct serve *s, struct caloris_err *err)
{
    const enum link_time time = link_time_limit_ask(&s->time, caloris_time_wall_ms());
    if (time == LINK_TIME_ENOUGH)
        return 0;
    return drain(s, time == LINK_TIME_OVER, "the allocation ends", err);
}

/* Hello until we are known, beats from then on; a gateway that stays silent is greeted anew. */
static int keep_touch(struct serve *s, struct caloris_err *err)
{
    const uint64_t now = now_ms();
    if (s->welcome && now - s->heard_ms > s->lost_ms) {
        caloris_log(CALORIS_LOG_WARN,
                    "gateway %s is silent; redialling for %" PRIu64 " s, computing on",
                    s->options->gateway->endpoint, s->options->redial_ms / 1000);
        s->welcome = false;
    }
    if (!s->welcome && now - s->heard_ms > s->options->redial_ms)
        return caloris_err_set(err, CALORIS_PEER_LOST, "gateway %s: no answer for %" PRIu64 " s",
                               s->options->gateway->endpoint, s->options->redial_ms / 1000);
    if (!s->welcome) {
        if (now - s->said_ms < HELLO_EVERY_MS)
            return 0;
        s->said_ms = now;
        return group_send_hello(&s->socket, &s->who, s->jobs, err);
    }
    if (now - s->said_ms < s->beat_ms)
        return 0;
    return say_beat(s, err) < 0 || send_results_again(s, err) < 0 ? -1 : 0;
}

static int coordinate(struct serve *s, struct caloris_err *err)
{
    zmq_pollitem_t items[] = {
        {.socket = s->socket.socket, .events = ZMQ_POLLIN},
        {.fd = caloris_schedule_event_fd(s->schedule), .events = ZMQ_POLLIN},
        {.fd = s->signals, .events = ZMQ_POLLIN},
    };
    while (!s->ended) {
        const long wait = (long)(s->welcome ? s->beat_ms : HELLO_EVERY_MS) / 2;
        if (zmq_poll(items, 3, wait) < 0 && errno != EINTR)
            return caloris_err_set(err, CALORIS_INTERNAL, "poll: %s", zmq_strerror(errno));
        if (take_signals(s, err) < 0 || mind_the_end(s, err) < 0 || take_events(s, err) < 0 ||
            take_messages(s, err) < 0 ||
            group_check_connection(&s->socket, s->options->gateway, s->answered, err) < 0 ||
            keep_touch(s, err) < 0)
            return -1;
    }
    if (s->draining) {
        /* Finished, but not yet taken: if it is lost now, somebody else does it again. */
        while (s->jobs) {
            struct group_job *job = s->jobs;
            if (group_send_result(&s->socket, job, err) < 0)
                return -1;
            drop(s, job);
        }
        return group_send_leave(&s->socket, err);
    }
    return 0;
}

static void *coordinator_thread(void *arg)
{
    struct serve *s = arg;
    s->heard_ms = now_ms();
    if (coordinate(s, &s->err) < 0)
        s->failed = true;
    caloris_schedule_close(s->schedule, true);
    return NULL;
}

/* Requests that no event handed to the thread any more. */
static void drop_events(struct serve *s)
{
    struct caloris_event *event;
    while ((event = caloris_schedule_next_event(s->schedule, 0)) != NULL) {
        if (event->kind == CALORIS_EVENT_FINISHED || event->kind == CALORIS_EVENT_CANCELLED) {
            caloris_request_free(event->request);
            event->request = NULL;
        }
        caloris_event_free(event);
    }
}

/* Leases that the gateway may give us: no more than it would let any group have. */
static uint32_t capacity(size_t max_requests)
{
    return max_requests < CALORIS_WIRE_MAX_CAPACITY / AHEAD ? (uint32_t)(AHEAD * max_requests)
                                                            : CALORIS_WIRE_MAX_CAPACITY;
}

int caloris_serve_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    const struct caloris_serve_options *options = arg;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct serve s = {
        .options = options,
        .engine = engine,
        .signals = -1,
        .beat_ms = DEFAULT_BEAT_MS,
        .lost_ms = DEFAULT_LOST_MS,
        .time = {.end_ms = options->end_ms, .margin_ms = options->end_margin_ms},
    };
    char host[256], name[300], model[256];
    int rc = -1;
    gethostname(host, sizeof(host));
    host[sizeof(host) - 1] = '\0';
    snprintf(name, sizeof(name), "%s-%d", host, (int)getpid());
    snprintf(model, sizeof(model), "%s", link_model_name(options->model_dir));
    s.who = (struct group_identity){
        .name = options->name ? options->name : name,
        .model = model,
        .host = host,
        .ranks = (uint32_t)facts->ranks,
        .capacity = capacity(facts->max_requests),
        .instance = caloris_rng_fresh_seed(),
    };
    if (link_model_load(&s.model, options->model_dir, facts, err) < 0)
        goto out;
    s.schedule = caloris_schedule_new(facts, err);
    if (!s.schedule || group_dial(&s.socket, options->gateway, err) < 0)
        goto out;
    caloris_schedule_aim(s.schedule, options->row_budget);
    s.signals = link_signals_open(err);
    if (s.signals < 0)
        goto out;
    pthread_t thread;
    errno = pthread_create(&thread, NULL, coordinator_thread, &s);
    if (errno) {
        caloris_err_sys(err, "coordinator thread");
        goto out;
    }
    rc = caloris_schedule_loop(s.schedule, engine, err);
    pthread_join(thread, NULL);
    if (options->figures)
        caloris_schedule_figures(s.schedule, options->figures);
    drop_events(&s);
    if (rc == 0 && s.failed) {
        *err = s.err;
        rc = -1;
    }
    if (rc == 0 && s.draining && !s.asked)
        rc = caloris_err_set(err, CALORIS_AGAIN, "drained: everything was handed back");
out:
    while (s.jobs)
        drop(&s, s.jobs);
    link_signals_close(s.signals);
    group_hang_up(&s.socket);
    caloris_schedule_free(s.schedule);
    link_model_free(&s.model);
    return rc;
}
