#include "coordinator/gateway/broker/state.h"

#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

enum { WARN_EVERY_MS = 1000, RETRY_AFTER_MS = 1000 };

void broker_warn(struct caloris_broker *b, const char *format, ...)
{
    char text[CALORIS_ERR_TEXT];
    if (b->warned_ms && b->now_ms - b->warned_ms < WARN_EVERY_MS)
        return;
    b->warned_ms = b->now_ms;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    caloris_log(CALORIS_LOG_WARN, "%s", text);
}

int answer_client(struct caloris_broker *b, const struct caloris_peer *peer, to_client *message)
{
    struct caloris_err err;
    const struct client *client = clients_find(b, peer);
    if (caloris_wire_send_counted(b->clients_socket, peer, &message->base,
                                  client ? &client->user->sending : NULL, &err) == 0)
        return 0;
    if (err.code == CALORIS_UNREACHABLE)
        clients_gone(b, peer);
    else if (err.code != CALORIS_AGAIN)
        broker_warn(b, "to a client: %s", err.text);
    return -1;
}

int answer_probe(struct caloris_broker *b, const struct caloris_peer *peer)
{
    to_client message = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_PONG;
    message.pong = &nothing;
    return answer_client(b, peer, &message);
}

void answer_failure(struct caloris_broker *b, const struct caloris_peer *peer, uint64_t request,
                    const struct caloris_err *why)
{
    to_client message = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Failure failure = CALORIS__WIRE__FAILURE__INIT;
    char text[CALORIS_ERR_TEXT], code[32];
    snprintf(text, sizeof(text), "%s", why->text);
    snprintf(code, sizeof(code), "%s", caloris_code_name(why->code));
    failure.code = code;
    failure.text = text;
    failure.has_retry_after_ms = why->code == CALORIS_AGAIN;
    failure.retry_after_ms = RETRY_AFTER_MS;
    message.request = request;
    message.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_FAILURE;
    message.failure = &failure;
    answer_client(b, peer, &message);
}

int answer_group(struct caloris_broker *b, struct group *group, to_group *message)
{
    struct caloris_err err;
    if (caloris_wire_send(b->groups_socket, &group->peer, &message->base, &err) == 0) {
        group->told_ms = b->now_ms;
        return 0;
    }
    if (err.code == CALORIS_UNREACHABLE) {
        if (!group->cut_off)
            caloris_log(CALORIS_LOG_WARN, "group %s hung up", group->name);
        group->cut_off = true;
    } else if (err.code == CALORIS_AGAIN) {
        group->free = 0; /* until it has read what waits for it and beats again */
    } else {
        broker_warn(b, "to group %s: %s", group->name, err.text);
    }
    return -1;
}

void answer_lease(struct caloris_broker *b, struct group *group, group_word word, uint64_t job,
                  struct lease_id lease)
{
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    Caloris__Wire__LeaseRef reference = CALORIS__WIRE__LEASE_REF__INIT;
    to_group message = CALORIS__WIRE__GATEWAY_TO_GROUP__INIT;
    id.epoch = lease.epoch;
    id.counter = lease.counter;
    reference.job = job;
    reference.lease = &id;
    message.body_case = word;
    message.taken = &reference; /* a union: the same place as cancel */
    answer_group(b, group, &message);
}

void answer_status(struct status_message *message, const struct live *live)
{
    struct caloris_store_job *job = &message->job;
    Caloris__Wire__JobStatus *status = &message->status;
    caloris__wire__job_status__init(status);
    bool leased = live && live->group;
    bool final = job->state != CALORIS_STORE_QUEUED;
    status->job = job->job;
    status->id = job->id[0] ? job->id : NULL;
    status->state =
        !final && leased ? CALORIS__WIRE__JOB_STATE__RUNNING : (Caloris__Wire__JobState)job->state;
    status->has_submitted_ms = true;
    status->submitted_ms = job->submitted_ms;
    status->started_ms = final ? job->started_ms : leased ? live->started_ms : 0;
    status->has_started_ms = status->started_ms > 0;
    status->has_finished_ms = final;
    status->finished_ms = job->finished_ms;
    status->has_crashes = true;
    status->crashes = job->crashes;
    status->has_attempts = true;
    status->attempts = job->attempts;
    status->user = job->user;
    status->model = job->model[0] ? job->model : NULL;
    status->has_priority = true;
    status->priority = job->priority;
    status->has_deadline_ms = job->deadline_ms > 0;
    status->deadline_ms = job->deadline_ms;
    if (!final && leased) {
        status->group = live->group->name;
        status->has_step = status->has_masks_left = live->progress;
        status->step = live->step;
        status->masks_left = live->masks_left;
        status->has_resumed_block = live->resumed;
        status->resumed_block = live->resumed_block;
    }
    if (!final && live && live->hand_over.bytes) {
        status->has_block = true;
        status->block = live->hand_over.block;
    }
    if (job->code[0]) {
        caloris__wire__failure__init(&message->failure);
        message->failure.code = job->code;
        message->failure.text = job->text;
        status->failure = &message->failure;
    }
}
