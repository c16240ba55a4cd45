/* Many submissions at a time: sent together, answered together. */
#include "client/client.h"
#include "client/connection.h"
#include "client/watches.h"

#include "base/err.h"
#include "proto/wire.h"

enum { AT_A_TIME = 32 }; /* fewer than wait in a connection (PROTOCOL.md, "Limits") */

static int send_one(struct caloris_client *client, struct caloris_submission *one,
                    struct caloris_err *err)
{
    Caloris__Wire__ClientToGateway message = CALORIS__WIRE__CLIENT_TO_GATEWAY__INIT;
    Caloris__Wire__Submit submit = CALORIS__WIRE__SUBMIT__INIT;
    submit.key = (ProtobufCBinaryData){one->key_bytes, (uint8_t *)(uintptr_t)one->key};
    submit.job_json = (ProtobufCBinaryData){one->bytes, (uint8_t *)(uintptr_t)one->json};
    submit.has_watch = submit.watch = 1;
    message.request = one->request = ++client->request;
    message.body_case = CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_SUBMIT;
    message.submit = &submit;
    return caloris_wire_send(client->socket, NULL, &message.base, err);
}

static struct caloris_submission *find_request(struct caloris_submission *all, size_t n,
                                               uint64_t request)
{
    for (size_t i = 0; i < n; i++) {
        if (!all[i].answered && all[i].request == request)
            return &all[i];
    }
    return NULL;
}

/* 0, or -1: the gateway does not know us any more. */
static int take_failure(struct caloris_submission *one, const Caloris__Wire__Failure *failure,
                        struct caloris_err *err)
{
    const enum caloris_code code = caloris_code_from_name(failure->code);
    if (code == CALORIS_PEER_LOST)
        return caloris_err_set(err, code, "%s", failure->text);
    one->answered = true;
    one->retry_after_ms = failure->has_retry_after_ms ? failure->retry_after_ms : 0;
    caloris_err_set(&one->why, code, "%s", failure->text);
    return 0;
}

/* Watched from the start, unless it was known before: then that has to be said. */
static void take_accepted(struct caloris_client *client, struct caloris_submission *one,
                          const Caloris__Wire__Accepted *accepted, bool *known)
{
    one->answered = one->accepted = true;
    one->job = accepted->job;
    *known |= accepted->again;
    if (!accepted->again)
        client->watches[client->n_watches++] = (struct watch){.job = one->job};
    else
        one->request = 0;
}

/* What came belongs to the queue of events, or answers one of all [n]. */
static int take(struct caloris_client *client, struct caloris_submission *all, size_t n,
                caloris_answer *message, bool *known, struct caloris_err *err)
{
    int rc = 0;
    if (message->body_case == CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_EVENT)
        return caloris_connection_queue(client, message, err);
    struct caloris_submission *one = find_request(all, n, message->request);
    if (one && message->body_case == CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_ACCEPTED)
        take_accepted(client, one, message->accepted, known);
    else if (one && message->body_case == CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_FAILURE)
        rc = take_failure(one, message->failure, err);
    caloris_answer_free(message);
    return rc;
}

static size_t count_open(const struct caloris_submission *all, size_t n)
{
    size_t open = 0;
    for (size_t i = 0; i < n; i++)
        open += !all[i].answered;
    return open;
}

/* Those of all [n] that are not answered yet: sends them and waits for their answers. */
static int exchange(struct caloris_client *client, struct caloris_submission *all, size_t n,
                    bool *known, struct caloris_err *err)
{
    const uint64_t deadline_ns = caloris_connection_deadline(client->options.timeout_ms);
    for (size_t i = 0; i < n; i++) {
        if (!all[i].answered && send_one(client, &all[i], err) < 0)
            return -1;
    }
    while (count_open(all, n) > 0) {
        caloris_answer *message = NULL;
        int got = caloris_connection_receive(client, deadline_ns, &message, err);
        if (got == 0)
            return caloris_err_set(err, CALORIS_PEER_LOST, "%s: no answer", client->endpoint);
        if (got < 0 || take(client, all, n, message, known, err) < 0)
            return -1;
    }
    return 0;
}

static int submit_some(struct caloris_client *client, struct caloris_submission *some, size_t n,
                       struct caloris_err *err)
{
    const uint64_t deadline_ns = caloris_connection_deadline(client->options.patience_ms);
    struct caloris_err why = {0};
    bool known = false;
    while (!client->socket || exchange(client, some, n, &known, &why) < 0) {
        if (client->socket && why.code != CALORIS_PEER_LOST && why.code != CALORIS_AGAIN)
            return caloris_err_set(err, why.code, "%s", why.text);
        if (caloris_watches_dial_again(client, deadline_ns, err) < 0)
            return -1;
    }
    for (size_t i = 0; known && i < n; i++) {
        if (some[i].accepted && some[i].request == 0 &&
            caloris_client_watch(client, some[i].job, false, err) < 0)
            return -1;
    }
    return 0;
}

int caloris_client_submit_all(struct caloris_client *client, struct caloris_submission *all,
                              size_t n, struct caloris_err *err)
{
    if (caloris_watches_check_room(client, n, err) < 0)
        return -1;
    for (size_t i = 0; i < n; i += AT_A_TIME) {
        if (submit_some(client, all + i, n - i < AT_A_TIME ? n - i : AT_A_TIME, err) < 0)
            return -1;
    }
    return 0;
}
