/* The jobs that a group holds: what it says of them, and how they go back to the queue. */
#include "coordinator/gateway/broker/held.h"

#include "base/json.h"
#include "base/log.h"
#include "base/time.h"

#include <inttypes.h>
#include <string.h>

/* ---- back to the queue ---- */

void held_release(struct caloris_broker *b, struct live *live)
{
    struct group *group = live->group;
    if (!group)
        return;
    struct live **at = &group->held;
    while (*at != live)
        at = &(*at)->next_held;
    *at = live->next_held;
    group->n_held--;
    b->n_leased--;
    live->lane->user->running--;
    live->lane->refs--;
    live->group = NULL;
    live->lane = NULL;
    live->alone = false;
    live->following = live->progress = live->resumed = live->first_block = false;
    live->told_seq = 0;
}

/* Somebody else shall compute it, before all that came after it in its lane. */
static void requeue(struct caloris_broker *b, struct live *live, struct lane *lane)
{
    held_release(b, live);
    lane_enter(b, lane, live->job);
    watch_tell_state(b, live);
    live_drop_unused(b, live);
}

void held_requeue_all(struct caloris_broker *b, struct group *group)
{
    while (group->held)
        requeue(b, group->held, group->held->lane);
}

/* A job that was alone in its last crash once too often is not tried again. */
static int count_crash(struct caloris_broker *b, const struct live *live, struct caloris_err *err)
{
    struct caloris_store_job job;
    struct caloris_err why;
    struct promise promise = {.to = TO_NOBODY};
    if (caloris_store_count_crash(b->store, live->job, live->alone, err) < 0 ||
        caloris_store_find(b->store, live->job, &job, err) < 0)
        return -1;
    if (!live->alone || job.attempts < b->options.attempts)
        return 0;
    caloris_err_set(&why, CALORIS_DEAD_LETTER,
                    "given up: %u groups were lost while they computed it, %u of them while it was "
                    "their only job",
                    job.crashes, job.attempts);
    caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = job.job}, "of %s: %s",
                      job.user, why.text);
    return end_job(b, &job, CALORIS_STORE_FAILED, &why, &promise, err) < 0 ? -1 : 0;
}

void held_crash(struct caloris_broker *b, struct group *group)
{
    struct caloris_err err;
    struct caloris_store_job job;
    promise_keep(b);
    for (const struct live *live = group->held; live; live = live->next_held) {
        if (count_crash(b, live, &err) < 0)
            caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = live->job}, "%s",
                              err.text);
    }
    promise_keep(b);
    while (group->held) {
        struct live *live = group->held;
        struct lane *lane = NULL; /* from now on perhaps one of those that run alone */
        if (caloris_store_find(b->store, live->job, &job, &err) == 0)
            lane = lane_of(b, &job, &err);
        if (!lane)
            caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = live->job}, "%s",
                              err.text);
        requeue(b, live, lane ? lane : live->lane);
    }
}

/* ---- what the group says ---- */

/* The job if that lease is the group's current one. */
static struct live *current(const struct caloris_broker *b, const struct group *group, uint64_t job,
                            const Caloris__Wire__LeaseId *lease)
{
    struct live *live = live_find(b, job);
    return live && live->group == group && live->lease.epoch == lease->epoch &&
                   live->lease.counter == lease->counter
               ? live
               : NULL;
}

/* What the result says of itself: {"error": {"code": …, "message": …}} or not. */
static void judge(json_t *json, struct caloris_store_end *end, struct caloris_err *why)
{
    end->state = CALORIS_STORE_DONE;
    json_t *error = json_object_get(json, "error");
    if (!error)
        return;
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *text = json_string_value(json_object_get(error, "message"));
    caloris_err_set(why, code ? caloris_code_from_name(code) : CALORIS_INTERNAL, "%s",
                    text ? text : "the group gave no reason");
    end->state = CALORIS_STORE_FAILED;
    end->code = caloris_code_name(why->code);
    end->text = why->text;
}

/* A result of a lease that is no longer good: dropped there, whether it is on disk by now or
 * somebody else is at it. */
static void drop_late(struct caloris_broker *b, struct group *group,
                      const Caloris__Wire__LeaseResult *late)
{
    struct caloris_store_job job;
    bool stored = caloris_store_find(b->store, late->job, &job, NULL) == 0 &&
                  job.state != CALORIS_STORE_QUEUED;
    answer_lease(b, group,
                 stored ? CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_TAKEN
                        : CALORIS__WIRE__GATEWAY_TO_GROUP__BODY_CANCEL,
                 late->job, (struct lease_id){late->lease->epoch, late->lease->counter});
}

/* Those parts of a result that are counted when it is on disk; the rest may be large. */
static json_t *figures_of(const json_t *result)
{
    static const char *const counted[] = {"usage", "forward_passes"};
    json_t *figures = json_object();
    for (size_t i = 0; i < sizeof(counted) / sizeof(*counted); i++)
        json_object_set(figures, counted[i], json_object_get(result, counted[i]));
    return figures;
}

/* 0, or 1 when the job had ended. */
static int finish(struct caloris_broker *b, const struct live *live,
                  const Caloris__Wire__LeaseResult *result, json_t *json, struct promise *promise,
                  struct caloris_err *err)
{
    struct caloris_err why;
    struct caloris_store_job job;
    if (caloris_store_find(b->store, live->job, &job, err) < 0)
        return -1;
    struct caloris_store_end end = {
        .started_ms = live->started_ms,
        .finished_ms = caloris_time_wall_ms(),
        .result = result->result_json.data,
        .result_bytes = result->result_json.len,
    };
    judge(json, &end, &why);
    int rc = caloris_store_finish(b->store, live->job, &end, err);
    if (rc == 0) {
        promise->kind = PROMISE_ENDED;
        promise->job = live->job;
        promise->lane = live->lane;
        promise->body_bytes = job.body_bytes;
        promise->submitted_ms = job.submitted_ms;
        promise->state = end.state;
        promise->figures = figures_of(json);
        promise_add(b, promise);
    }
    return rc;
}

/* The same for a result that is none. Nobody else would make a better one of it, and a group that
 * is not told "taken" would keep it, and its place, for ever. */
static int finish_unreadable(struct caloris_broker *b, const struct live *live,
                             struct caloris_err *why, struct promise *promise,
                             struct caloris_err *err)
{
    struct caloris_store_job job;
    char *quote = strstr(why->text, " near '"); /* answers do not belong into logs */
    if (quote)
        *quote = '\0';
    why->code = CALORIS_INTERNAL;
    caloris_err_prefix(why, "group %s", live->group->name);
    caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.job = live->job}, "%s",
                      why->text);
    if (caloris_store_find(b->store, live->job, &job, err) < 0)
        return -1;
    return job.state == CALORIS_STORE_QUEUED
               ? end_job(b, &job, CALORIS_STORE_FAILED, why, promise, err)
               : 1;
}

/* NULL and why: it is none. */
static json_t *parse_result(const ProtobufCBinaryData *bytes, struct caloris_err *why)
{
    /* 64 answers of any length and some figures; the bytes have a limit of their own. */
    static const struct caloris_json_limits limits = {
        .values = CALORIS_WIRE_MAX_FRAME, .containers = 64 * CALORIS_JOB_MAX_BEST, .depth = 16};
    const char *text = (const char *)bytes->data;
    if (caloris_json_check(text, bytes->len, &limits, "result", why) < 0)
        return NULL;
    json_t *json = caloris_json_parse(text, bytes->len, "result", why);
    if (!json || json_is_object(json))
        return json;
    caloris_err_set(why, CALORIS_INTERNAL, "result: not a JSON object");
    json_decref(json);
    return NULL;
}

int held_take_result(struct caloris_broker *b, struct group *group, const group_message *message,
                     struct caloris_err *err)
{
    const Caloris__Wire__LeaseResult *result = message->result;
    struct live *live = current(b, group, result->job, result->lease);
    if (!live) {
        promise_keep(b);
        drop_late(b, group, result);
        return 0;
    }
    struct caloris_err why;
    struct promise promise = {.to = TO_GROUP, .peer = group->peer, .lease = live->lease};
    json_t *json = parse_result(&result->result_json, &why);
    int rc = promise_room(b, err);
    if (rc == 0)
        rc = json ? finish(b, live, result, json, &promise, err)
                  : finish_unreadable(b, live, &why, &promise, err);
    if (rc == 1) { /* said twice in one turn */
        promise.kind = PROMISE_TAKEN;
        promise.job = live->job;
        promise.lane = NULL;
        promise_add(b, &promise);
    }
    if (rc >= 0)
        group->free += !group->draining && group->free < group->capacity;
    json_decref(json);
    return rc < 0 ? -1 : 0;
}

int held_take_progress(struct caloris_broker *b, struct group *group, const group_message *message,
                       struct caloris_err *err)
{
    (void)err;
    struct live *live = current(b, group, message->progress->job, message->progress->lease);
    if (live)
        watch_tell_progress(b, live, message->progress->progress);
    return 0;
}

int held_take_hand_over(struct caloris_broker *b, struct group *group, const group_message *message,
                        struct caloris_err *err)
{
    (void)err;
    struct live *live = current(b, group, message->hand_over->job, message->hand_over->lease);
    if (live)
        hand_over_take(b, live, message->hand_over);
    return 0;
}

int held_take_give_back(struct caloris_broker *b, struct group *group, const group_message *message,
                        struct caloris_err *err)
{
    (void)err;
    promise_keep(b);
    struct live *live = current(b, group, message->give_back->job, message->give_back->lease);
    if (live)
        requeue(b, live, live->lane);
    return 0;
}
