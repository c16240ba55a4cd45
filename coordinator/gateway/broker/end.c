/* How jobs end that no group finished: cancelled, expired, given up. When all are forgotten. */
#include "coordinator/gateway/broker/state.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/time.h"

#include <inttypes.h>

enum {
    TRY_AGAIN_MS = 1000,  /* what the disk refused */
    FORGET_AT_ONCE = 100, /* so that a turn stays short */
    FORGET_EVERY_MS = 10000,
};

int end_job(struct caloris_broker *b, const struct caloris_store_job *job,
            enum caloris_store_state state, const struct caloris_err *why, struct promise *promise,
            struct caloris_err *err)
{
    const struct caloris_job_result result = {.id = job->id[0] ? job->id : NULL, .error = why};
    const struct live *live = live_find(b, job->job);
    struct caloris_buf json = CALORIS_BUF(CALORIS_JOB_MAX_BYTES);
    struct caloris_store_end end = {
        .state = state,
        .started_ms = live && live->group ? live->started_ms : 0,
        .finished_ms = caloris_time_wall_ms(),
        .code = caloris_code_name(why->code),
        .text = why->text,
    };
    promise->kind = PROMISE_ENDED;
    promise->state = state;
    promise->job = job->job;
    promise->body_bytes = job->body_bytes;
    promise->submitted_ms = job->submitted_ms;
    promise->lane = live && live->group ? live->lane : lane_of(b, job, err);
    int rc = -1;
    if (promise->lane && caloris_job_result_write(&result, &json, err) == 0 &&
        promise_room(b, err) == 0) {
        end.result = json.data;
        end.result_bytes = json.size;
        rc = caloris_store_finish(b->store, job->job, &end, err);
    }
    if (rc == 0)
        promise_add(b, promise);
    caloris_buf_free(&json);
    return rc;
}

/* ---- deadlines ---- */

static int expire(struct caloris_broker *b, uint64_t number, struct caloris_err *err)
{
    char when[CALORIS_TIME_TEXT];
    struct caloris_store_job job;
    struct caloris_err why;
    struct promise promise = {.to = TO_NOBODY};
    if (caloris_store_find(b->store, number, &job, err) < 0)
        return -1;
    caloris_err_set(&why, CALORIS_EXPIRED, "not finished by its deadline, %s",
                    caloris_time_text(job.deadline_ms, when));
    return end_job(b, &job, CALORIS_STORE_EXPIRED, &why, &promise, err) < 0 ? -1 : 0;
}

void end_expired(struct caloris_broker *b)
{
    struct caloris_err err;
    const uint64_t wall_ms = caloris_time_wall_ms();
    if (wall_ms < b->next_deadline_ms)
        return;
    uint64_t job;
    int rc = 1;
    promise_keep(b);
    for (int i = 0; i < BROKER_BATCH && rc == 1; i++) {
        rc = caloris_store_next_deadline(b->store, &job, &b->next_deadline_ms, &err);
        if (rc == 1 && b->next_deadline_ms > wall_ms)
            break;
        if (rc == 1 && expire(b, job, &err) < 0)
            rc = -1;
    }
    if (rc == 0)
        b->next_deadline_ms = UINT64_MAX;
    if (rc < 0)
        broker_warn(b, "deadlines: %s", err.text);
    if (promise_keep(b) < 0 || rc < 0)
        b->next_deadline_ms = wall_ms + TRY_AGAIN_MS;
}

uint64_t end_next_ms(const struct caloris_broker *b, uint64_t max_ms)
{
    const uint64_t wall_ms = caloris_time_wall_ms();
    if (b->next_deadline_ms >= wall_ms + max_ms)
        return max_ms;
    return b->next_deadline_ms > wall_ms ? b->next_deadline_ms - wall_ms : 0;
}

/* ---- how long results are kept ---- */

void end_keeping(struct caloris_broker *b)
{
    struct caloris_err err;
    const uint64_t wall_ms = caloris_time_wall_ms();
    if (b->options.keep_ms == 0 || b->now_ms < b->forget_ms || wall_ms < b->options.keep_ms)
        return;
    promise_keep(b); /* a transaction of its own, so that it breaks nobody's promise */
    int n = caloris_store_forget(b->store, wall_ms - b->options.keep_ms, FORGET_AT_ONCE, &err);
    if (n < 0)
        broker_warn(b, "removing old results: %s", err.text);
    if (promise_keep(b) == 0 && n > 0)
        b->counts.finished -= (uint64_t)n;
    if (n < FORGET_AT_ONCE)
        b->forget_ms = b->now_ms + FORGET_EVERY_MS;
}
