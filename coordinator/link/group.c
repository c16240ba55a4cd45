#include "coordinator/link/group.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"
#include "coordinator/link/hand_over.h"
#include "coordinator/link/progress.h"
#include "proto/curve.h"
#include "proto/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    QUEUED_FRAMES = 100000, /* results of a whole group; what does not fit is sent again later */
    LINGER_MS = 2000,       /* a leaving group's last words */
};

int group_dial(struct group_socket *s, const struct caloris_address *gateway,
               struct caloris_err *err)
{
    const int linger = LINGER_MS, frames = QUEUED_FRAMES;
    const int64_t largest = CALORIS_WIRE_MAX_FRAME;
    *s = (struct group_socket){.context = zmq_ctx_new()};
    if (s->context)
        s->socket = zmq_socket(s->context, ZMQ_DEALER);
    if (!s->socket || zmq_setsockopt(s->socket, ZMQ_LINGER, &linger, sizeof(linger)) != 0 ||
        zmq_setsockopt(s->socket, ZMQ_SNDHWM, &frames, sizeof(frames)) != 0 ||
        zmq_setsockopt(s->socket, ZMQ_RCVHWM, &frames, sizeof(frames)) != 0 ||
        zmq_setsockopt(s->socket, ZMQ_MAXMSGSIZE, &largest, sizeof(largest)) != 0) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "gateway %s: %s", gateway->endpoint,
                        zmq_strerror(errno));
        goto fail;
    }
    s->monitor = caloris_curve_watch(s->context, s->socket, "monitor", err);
    if (!s->monitor || caloris_curve_dial(s->socket, gateway, err) < 0)
        goto fail;
    return 0;
fail:
    group_hang_up(s);
    return -1;
}

int group_check_connection(struct group_socket *s, const struct caloris_address *gateway,
                           bool answered, struct caloris_err *err)
{
    enum { ENOUGH = 3 }; /* one may fail because the gateway ended in the middle of it */
    enum caloris_connection_event event;
    while ((event = caloris_curve_next_event(s->monitor)) != CALORIS_CONNECTION_NOTHING) {
        if (event == CALORIS_CONNECTION_REFUSED)
            return caloris_err_set(err, CALORIS_REFUSED,
                                   "gateway %s: the server refused this group's key",
                                   gateway->endpoint);
        if (event != CALORIS_CONNECTION_STRANGER || !gateway->server_key[0] ||
            ++s->strangers != ENOUGH)
            continue;
        caloris_err_set(err, CALORIS_REFUSED,
                        "gateway %s: who listens there does not have the gateway's key %s",
                        gateway->endpoint, gateway->server_key);
        if (!answered)
            return -1;
        caloris_log(CALORIS_LOG_WARN, "%s; dialling on", err->text);
    }
    return 0;
}

void group_hang_up(struct group_socket *s)
{
    if (s->socket) {
        zmq_socket_monitor(s->socket, NULL, 0);
        zmq_close(s->socket);
    }
    if (s->monitor)
        zmq_close(s->monitor);
    if (s->context)
        zmq_ctx_term(s->context);
    *s = (struct group_socket){0};
}

static int send(struct group_socket *s, const Caloris__Wire__GroupToGateway *message,
                struct caloris_err *err)
{
    struct caloris_err why;
    if (caloris_wire_send(s->socket, NULL, &message->base, &why) == 0 ||
        why.code == CALORIS_AGAIN || why.code == CALORIS_UNREACHABLE)
        return 0;
    if (err)
        *err = why;
    return -1;
}

static Caloris__Wire__LeaseId lease_id(const struct group_lease *lease)
{
    Caloris__Wire__LeaseId id = CALORIS__WIRE__LEASE_ID__INIT;
    id.epoch = lease->epoch;
    id.counter = lease->counter;
    return id;
}

static int send_held(struct group_socket *s, Caloris__Wire__GroupHello *hello,
                     const struct group_job *held, size_t n, struct caloris_err *err)
{
    struct entry {
        Caloris__Wire__Held held;
        Caloris__Wire__LeaseId lease;
    } *entries = calloc(n ? n : 1, sizeof(*entries));
    Caloris__Wire__Held **list = calloc(n ? n : 1, sizeof(Caloris__Wire__Held *));
    int rc = -1;
    if (!entries || !list) {
        caloris_err_sys(err, "hello with %zu held jobs", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++, held = held->next) {
        caloris__wire__held__init(&entries[i].held);
        entries[i].lease = lease_id(&held->lease);
        entries[i].held.job = held->number;
        entries[i].held.lease = &entries[i].lease;
        list[i] = &entries[i].held;
    }
    hello->held = list;
    hello->n_held = n;
    Caloris__Wire__GroupToGateway message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    message.body_case = CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_HELLO;
    message.hello = hello;
    rc = send(s, &message, err);
out:
    free(entries);
    free(list);
    return rc;
}

int group_send_hello(struct group_socket *s, const struct group_identity *who,
                     const struct group_job *held, struct caloris_err *err)
{
    char agent[] = "caloris-engine " CALORIS_VERSION;
    Caloris__Wire__Hello versions = CALORIS__WIRE__HELLO__INIT;
    versions.version_min = CALORIS_PROTOCOL_OLDEST;
    versions.version_max = CALORIS_PROTOCOL_VERSION;
    versions.agent = agent;
    Caloris__Wire__GroupHello hello = CALORIS__WIRE__GROUP_HELLO__INIT;
    hello.hello = &versions;
    hello.name = (char *)who->name;
    hello.model = (char *)who->model;
    hello.host = (char *)who->host;
    hello.ranks = who->ranks;
    hello.capacity = who->capacity;
    hello.has_instance = 1;
    hello.instance = who->instance;
    size_t n = 0;
    for (const struct group_job *job = held; job; job = job->next)
        n++;
    return send_held(s, &hello, held, n, err);
}

static int send_beat_with(struct group_socket *s, Caloris__Wire__GroupBeat *beat,
                          struct caloris_err *err)
{
    Caloris__Wire__GroupToGateway message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    message.body_case = CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_BEAT;
    message.beat = beat;
    return send(s, &message, err);
}

int group_send_beat(struct group_socket *s, const struct group_beat *what, struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(what->engine);
    const size_t n = (size_t)facts->ranks;
    uint64_t steps_by_rows[CALORIS_METRICS_CLASSES];
    Caloris__Wire__GroupBeat beat = CALORIS__WIRE__GROUP_BEAT__INIT;
    Caloris__Wire__RankFigures *figures = calloc(n, sizeof(*figures));
    Caloris__Wire__RankFigures **list = calloc(n, sizeof(Caloris__Wire__RankFigures *));
    beat.free = what->room;
    beat.has_draining = 1;
    beat.draining = what->draining;
    for (size_t rank = 0; figures && list && rank < n; rank++) {
        struct caloris_rank_figures told = {0};
        caloris_engine_rank_figures(what->engine, (int)rank, &told);
        caloris__wire__rank_figures__init(&figures[rank]);
        figures[rank].compute_s = told.compute_s;
        figures[rank].allreduce_s = told.allreduce_s;
        figures[rank].wait_s = told.wait_s;
        figures[rank].sent_bytes = told.allreduce_bytes;
        figures[rank].steps = told.steps;
        figures[rank].rows = told.rows;
        figures[rank].weight_bytes = facts->shares[rank].weight_bytes;
        figures[rank].kv_bytes = facts->shares[rank].kv_bytes;
        figures[rank].work_bytes = facts->shares[rank].work_bytes;
        figures[rank].has_attention_s = figures[rank].has_mlp_s = figures[rank].has_head_s = 1;
        figures[rank].attention_s = told.attention_s;
        figures[rank].mlp_s = told.mlp_s;
        figures[rank].head_s = told.head_s;
        if (rank == 0) {
            memcpy(steps_by_rows, told.steps_by_rows, sizeof(steps_by_rows));
            figures[rank].n_steps_by_rows = CALORIS_METRICS_CLASSES;
            figures[rank].steps_by_rows = steps_by_rows;
        }
        list[rank] = &figures[rank];
        beat.n_ranks = n;
        beat.ranks = list;
    }
    int rc = send_beat_with(s, &beat, err); /* without memory: without figures */
    free(list);
    free(figures);
    return rc;
}

int group_send_result(struct group_socket *s, const struct group_job *job, struct caloris_err *err)
{
    Caloris__Wire__LeaseId lease = lease_id(&job->lease);
    Caloris__Wire__LeaseResult result = CALORIS__WIRE__LEASE_RESULT__INIT;
    Caloris__Wire__GroupToGateway message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    result.job = job->number;
    result.lease = &lease;
    result.result_json = (ProtobufCBinaryData){job->result_bytes, (uint8_t *)job->result};
    message.body_case = CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_RESULT;
    message.result = &result;
    return send(s, &message, err);
}

int group_send_give_back(struct group_socket *s, const struct group_job *job,
                         struct caloris_err *err)
{
    Caloris__Wire__LeaseId lease = lease_id(&job->lease);
    Caloris__Wire__LeaseRef ref = CALORIS__WIRE__LEASE_REF__INIT;
    Caloris__Wire__GroupToGateway message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    ref.job = job->number;
    ref.lease = &lease;
    message.body_case = CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_GIVE_BACK;
    message.give_back = &ref;
    return send(s, &message, err);
}

int group_send_hand_over(struct group_socket *s, const struct group_identity *who,
                         const struct link_model *model, const struct group_job *job,
                         struct caloris_err *err)
{
    struct caloris_buf bytes = CALORIS_BUF(CALORIS_WIRE_MAX_HAND_OVER);
    struct caloris_err why;
    if (link_hand_over_pack(model, who->model, &job->job, job->stands, &bytes, &why) < 0)
        return 0; /* a help, no duty */
    Caloris__Wire__LeaseId lease = lease_id(&job->lease);
    Caloris__Wire__LeaseHandOver hand_over = CALORIS__WIRE__LEASE_HAND_OVER__INIT;
    Caloris__Wire__GroupToGateway message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    hand_over.job = job->number;
    hand_over.lease = &lease;
    hand_over.block = link_place(job->stands, job->job.best).block;
    hand_over.hand_over = (ProtobufCBinaryData){bytes.size, (uint8_t *)bytes.data};
    message.body_case = CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_HAND_OVER;
    message.hand_over = &hand_over;
    const int rc = send(s, &message, err);
    caloris_buf_free(&bytes);
    return rc;
}

int group_send_leave(struct group_socket *s, struct caloris_err *err)
{
    Caloris__Wire__Nothing nothing = CALORIS__WIRE__NOTHING__INIT;
    Caloris__Wire__GroupToGateway message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    message.body_case = CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_LEAVE;
    message.leave = &nothing;
    return send(s, &message, err);
}

/* ---- progress -------------------------------------------------------------------------------- */

int group_send_progress(struct group_socket *s, const struct link_model *model,
                        struct group_job *job, const struct caloris_event *event,
                        struct caloris_err *err)
{
    struct link_progress *progress = link_progress_new(model, &job->job, event, err);
    if (!progress)
        return -1;
    Caloris__Wire__LeaseId lease = lease_id(&job->lease);
    Caloris__Wire__LeaseProgress lease_progress = CALORIS__WIRE__LEASE_PROGRESS__INIT;
    Caloris__Wire__GroupToGateway message = CALORIS__WIRE__GROUP_TO_GATEWAY__INIT;
    progress->message.seq = ++job->seq;
    lease_progress.job = job->number;
    lease_progress.lease = &lease;
    lease_progress.progress = &progress->message;
    message.body_case = CALORIS__WIRE__GROUP_TO_GATEWAY__BODY_PROGRESS;
    message.progress = &lease_progress;
    int rc = send(s, &message, err);
    link_progress_free(progress);
    return rc;
}
