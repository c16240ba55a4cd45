/* A group of a gateway: the coordinator thread of rank 0, from dialling in to leaving. What it
 * holds is safe at the gateway; what the gateway loses sight of, this group computes on, keeps, and
 * offers again when the gateway is back. */
#include "coordinator/link/serve.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/rng.h"
#include "coordinator/link/signals.h"
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
};

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
                 ? serve_fail_job(s, job, &why, err)
                 : serve_finish_job(s, job, &json, err);
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
        link_time_limit_learn(&s->time, serve_now_ms() - job->taken_ms);
        if (job->dropped)
            serve_drop_job(s, job);
        else
            rc = take_finished(s, event, err);
        break;
    case CALORIS_EVENT_CANCELLED:
        if (s->draining && !job->dropped)
            rc = group_send_give_back(&s->socket, job, err);
        serve_drop_job(s, job);
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
        if (serve_drain(s, true, strsignal(signal), err) < 0)
            return -1;
    }
    return 0;
}

static int mind_the_end(struct serve *s, struct caloris_err *err)
{
    const enum link_time time = link_time_limit_ask(&s->time, caloris_time_wall_ms());
    if (time == LINK_TIME_ENOUGH)
        return 0;
    return serve_drain(s, time == LINK_TIME_OVER, "the allocation ends", err);
}

/* Hello until we are known, beats from then on; a gateway that stays silent is greeted anew. */
static int keep_touch(struct serve *s, struct caloris_err *err)
{
    const uint64_t now = serve_now_ms();
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
    return serve_say_beat(s, err) < 0 || serve_send_results_again(s, err) < 0 ? -1 : 0;
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
            serve_take_messages(s, err) < 0 ||
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
            serve_drop_job(s, job);
        }
        return group_send_leave(&s->socket, err);
    }
    return 0;
}

static void *coordinator_thread(void *arg)
{
    struct serve *s = arg;
    s->heard_ms = serve_now_ms();
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
        .beat_ms = SERVE_BEAT_MS,
        .lost_ms = SERVE_LOST_MS,
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
        serve_drop_job(&s, s.jobs);
    link_signals_close(s.signals);
    group_hang_up(&s.socket);
    caloris_schedule_free(s.schedule);
    link_model_free(&s.model);
    return rc;
}
