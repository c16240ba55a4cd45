/* How a job comes in: whether there is room for it, then to the store. */
#include "coordinator/gateway/broker/submit.h"

#include "base/buf.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/time.h"
#include "proto/jobs.h"

#include <inttypes.h>
#include <sys/statvfs.h>

enum { KEEP_AT_MOST = 8 }; /* the part of the file system that submissions leave free */

/* A job that would not fit into an empty queue never will. */
static int check_bytes(const struct user *user, uint64_t body_bytes, struct caloris_err *err)
{
    char text[CALORIS_SIZE_TEXT], limit[CALORIS_SIZE_TEXT];
    const uint64_t most = user->limits.max_bytes;
    const uint64_t has = user->queued_bytes + user->arriving_bytes;
    if (most == 0 || has + body_bytes <= most)
        return 0;
    caloris_size_text(most, limit);
    if (body_bytes > most)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "max_bytes: the job takes %s in the queue, and user %s may have %s "
                               "there",
                               caloris_size_text(body_bytes, text), user->name, limit);
    return caloris_err_set(err, CALORIS_AGAIN,
                           "max_bytes: user %s has %s of jobs in the queue, and may have %s",
                           user->name, caloris_size_text(has, text), limit);
}

/* A user who has as many jobs here as may be is told to come back; nothing is lost by that. */
static int check_limits(struct caloris_broker *b, const struct user *user,
                        const struct caloris_job *job, uint64_t body_bytes, bool watched,
                        struct caloris_err *err)
{
    if (check_bytes(user, body_bytes, err) < 0)
        return -1;
    /* Whoever was told that it is accepted waits for what happens to it. */
    if (watched && watch_room(b, user, b->n_promises, err) < 0)
        return -1;
    const uint64_t most = user->limits.max_queued;
    if (most > 0 && user->queued + user->arriving >= most)
        return caloris_err_set(err, CALORIS_AGAIN,
                               "max_queued: user %s has %" PRIu64
                               " jobs in the queue, as many as may be",
                               user->name, user->queued + user->arriving);
    return lane_room(b, user, job->model ? job->model : "", job->params.priority, err);
}

/* What submissions may still take of the file system, asked once a turn. Results, cancellations and
 * the progress of jobs may take the rest: what was accepted shall end. */
static void ask_room(struct caloris_broker *b)
{
    struct statvfs fs;
    if (b->room_ms == b->now_ms)
        return;
    b->room_ms = b->now_ms;
    b->room_bytes = UINT64_MAX;
    if (b->options.keep_free_bytes == 0 || statvfs(b->options.state, &fs) < 0)
        return;
    const uint64_t all = fs.f_blocks / KEEP_AT_MOST * fs.f_frsize;
    const uint64_t keep = b->options.keep_free_bytes < all ? b->options.keep_free_bytes : all;
    const uint64_t free = (uint64_t)fs.f_bavail * fs.f_frsize;
    b->room_bytes = free > keep ? free - keep : 0;
}

/* A body is written twice: to the log, and from there to the database. */
static int check_disk(struct caloris_broker *b, size_t body_bytes, struct caloris_err *err)
{
    char text[CALORIS_SIZE_TEXT];
    const uint64_t needed = 2 * (uint64_t)body_bytes;
    ask_room(b);
    if (b->room_bytes < needed)
        return caloris_err_set(err, CALORIS_AGAIN,
                               "the queue's disk is full, but for what --keep-free leaves to "
                               "results; there is room for %s",
                               caloris_size_text(b->room_bytes, text));
    b->room_bytes -= b->room_bytes == UINT64_MAX ? 0 : needed;
    return 0;
}

static uint64_t deadline(int64_t deadline_ms, uint64_t now_ms)
{
    return deadline_ms < 0 ? now_ms + (uint64_t)-deadline_ms : (uint64_t)deadline_ms;
}

static int store_submission(struct caloris_broker *b, struct client *client,
                            const client_request *message, const struct caloris_job *job,
                            struct caloris_err *err)
{
    const Caloris__Wire__Submit *submit = message->submit;
    /* What the job left open stands in the stored one: later versions may have other defaults. */
    struct caloris_buf body = CALORIS_BUF(CALORIS_JOB_MAX_STORED);
    int rc = -1;
    size_t added;
    if (caloris_job_settle((const char *)submit->job_json.data, submit->job_json.len, job, &body,
                           &added, err) < 0)
        goto out;
    const uint64_t now_ms = caloris_time_wall_ms();
    const struct caloris_store_submission submission = {
        .user = client->who->user,
        .key = submit->key.data,
        .key_bytes = submit->key.len,
        .body = body.data,
        .body_bytes = body.size,
        .added_bytes = added,
        .id = job->id,
        .seed = job->params.seed < 0 ? (int64_t)caloris_rng_fresh_seed() : -1,
        .model = job->model,
        .priority = (int32_t)job->params.priority,
        .now_ms = now_ms,
        .deadline_ms = deadline(job->params.deadline_ms, now_ms),
    };
    const bool canvas = submit->has_watch_canvas && submit->watch_canvas;
    struct promise promise = {
        .kind = PROMISE_ACCEPTED,
        .to = TO_CLIENT,
        .peer = client->peer,
        .request = message->request,
        .watch = canvas || (submit->has_watch && submit->watch),
        .canvas = canvas,
        .deadline_ms = submission.deadline_ms,
        .body_bytes = body.size,
    };
    struct user *user = client->user;
    int known = caloris_store_known(b->store, &submission, &promise.job, err);
    if (known < 0 || promise_room(b, err) < 0)
        goto out;
    promise.again = known == 1;
    if (!promise.again) {
        promise.lane = check_limits(b, user, job, body.size, promise.watch, err) < 0 ||
                               check_disk(b, body.size, err) < 0
                           ? NULL
                           : lane_need(b, user, job->model ? job->model : "", job->params.priority,
                                       false, err);
        if (!promise.lane || caloris_store_add(b->store, &submission, &promise.job, err) < 0)
            goto out;
    }
    promise_add(b, &promise);
    rc = 0;
out:
    caloris_buf_free(&body);
    return rc;
}

int submit_take(struct caloris_broker *b, struct client *client, const client_request *message,
                struct caloris_err *err)
{
    const Caloris__Wire__Submit *submit = message->submit;
    struct caloris_job job = {0};
    if (caloris_wire_check_known(&submit->base, err) < 0)
        return -1;
    if (submit->key.len < 1 || submit->key.len > CALORIS_WIRE_MAX_KEY)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "key: %zu bytes; it must be 1 to %d",
                               submit->key.len, CALORIS_WIRE_MAX_KEY);
    if (submit->job_json.len > CALORIS_JOB_MAX_BYTES)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "job_json: %zu bytes; the limit is %d",
                               submit->job_json.len, CALORIS_JOB_MAX_BYTES);
    int rc =
        caloris_job_parse((const char *)submit->job_json.data, submit->job_json.len, &job, err);
    if (rc == 0 && job.params.priority > client->who->max_priority)
        rc = caloris_err_set(err, CALORIS_BAD_REQUEST,
                             "priority: %" PRId64 "; with your key it is %d at most",
                             job.params.priority, client->who->max_priority);
    if (rc == 0)
        rc = store_submission(b, client, message, &job, err);
    caloris_job_free(&job);
    return rc;
}
