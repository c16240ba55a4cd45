/* coordinator/link/serve.h (inside link): a group of a gateway, as its coordinator thread knows
 * it. */
#ifndef CALORIS_LINK_SERVE_H
#define CALORIS_LINK_SERVE_H

#include "base/err.h"
#include "base/time.h"
#include "coordinator/link/group.h"
#include "coordinator/link/link.h"
#include "coordinator/link/time_limit.h"

struct caloris_buf;

/* Of a gateway that does not say. */
enum { SERVE_BEAT_MS = 1000, SERVE_LOST_MS = 10000 };

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

static inline uint64_t serve_now_ms(void)
{
    return caloris_time_ns() / 1000000u;
}

/* held.c: the jobs that the group holds. */

struct group_job *serve_find_job(struct serve *s, uint64_t number); /* NULL: not held */
void serve_drop_job(struct serve *s, struct group_job *job);
int serve_send_result(struct serve *s, struct group_job *job, struct caloris_err *err);
/* Results that the gateway has not acknowledged for long: the queue to it may have been full. */
int serve_send_results_again(struct serve *s, struct caloris_err *err);
/* A job has its result: it goes out now, and again after every welcome until the gateway has it on
 * disk. What json holds is taken over. */
int serve_finish_job(struct serve *s, struct group_job *job, struct caloris_buf *json,
                     struct caloris_err *err);
int serve_fail_job(struct serve *s, struct group_job *job, const struct caloris_err *why,
                   struct caloris_err *err);
/* How much room there is beside them. */
int serve_say_beat(struct serve *s, struct caloris_err *err);
/* No jobs any more. Those that are here are done first (hand_back: go back behind this step); then
 * the schedule ends, and the group with it. May be said again, more strongly. */
int serve_drain(struct serve *s, bool hand_back, const char *why, struct caloris_err *err);

/* gateway_words.c: takes in all that the gateway has said. -1: the group cannot go on. */
int serve_take_messages(struct serve *s, struct caloris_err *err);

#endif
