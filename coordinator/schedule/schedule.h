/* coordinator/schedule/schedule.h: the step loop of rank 0: which requests share each step, and
 * what becomes of them.
 *
 * Two threads meet here. The coordinator thread (link) submits prepared requests and takes
 * events; the main thread, which owns the engine, runs caloris_schedule_loop: pack a plan,
 * compute, decide, again. Scheduling is per step: a finished request leaves at once and waiting
 * ones enter in the order in which they came; who finds no room may be overtaken by a few. Where a
 * step is full before all running ones are in it, those go first that came first, but nobody is
 * left out for more than some rounds. Between plan and result nothing is allocated; a step of a
 * followed request allocates its event afterwards. See docs/ARCHITECTURE.md, "The step", and
 * docs/DECODING.md.
 */
#ifndef CALORIS_SCHEDULE_H
#define CALORIS_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "coordinator/denoise/denoise.h"
#include "proto/jobs.h"
#include "worker/engine.h"

struct caloris_schedule;

/* A prepared request: ids, no text. Made by the caller with malloc, owned by the schedule from
 * submit to its last event. */
struct caloris_request {
    struct caloris_job_params params; /* all ids and the seed resolved */
    int32_t *canvas; /* [params.best, length], malloc'd: the first is filled by the caller */
    size_t length, prompt;
    bool follow; /* a snapshot when it starts, then an event for every step, of its first candidate
                  * where it has several; then a snapshot of the best one */
    bool stand;  /* an event wherever a candidate stands so that another group could go on */
    struct caloris_stand *stands; /* NULL, or [params.best] where its candidates stand already, for
                                   * canvases of length; free()d with the request */
    void *owner;                  /* the caller's, untouched */
};

/* ---- rows of a step -------------------------------------------------------------------------- */

/* Few rows leave cores waiting for memory, many only make everybody wait: a step is filled up to
 * the smallest count of rows that gets nearly the best rows per second out of the machine. */
enum { CALORIS_ROW_RATES = 17 };
struct caloris_row_rate {
    size_t rows;
    double seconds; /* of a step with so many */
};
struct caloris_row_budget {
    struct caloris_row_rate rates[CALORIS_ROW_RATES];
    size_t n;
    size_t timed; /* the largest count among them */
    size_t most;  /* the largest that the group's limits allow: timed is less where time ran out */
    size_t rows;  /* the budget */
    double seconds;
};

/* Times steps of 1 … 512 rows, some 8 s at most: few counts over the whole range, then more around
 * the budget. Main thread, inside the body, with no canvas admitted. */
int caloris_row_budget_measure(struct caloris_engine *engine, struct caloris_row_budget *budget,
                               struct caloris_err *err);

/* What is to be said of a budget whose timing did not come to the largest steps: a larger one might
 * be better. NULL: it did. Returns text. */
enum { CALORIS_ROW_WARNING = 160 };
const char *caloris_row_budget_warning(const struct caloris_row_budget *budget,
                                       char text[CALORIS_ROW_WARNING]);

/* The smallest count among rates [n] with at least 95 % of the best rows per second. */
size_t caloris_row_budget_of(const struct caloris_row_rate *rates, size_t n);

/* ---- the schedule ---------------------------------------------------------------------------- */

/* Limits come from the engine; the event file descriptor becomes readable when an event waits. Free
 * when the loop has returned. */
struct caloris_schedule *caloris_schedule_new(const struct caloris_engine_facts *facts,
                                              struct caloris_err *err);
void caloris_schedule_free(struct caloris_schedule *schedule);

/* Before the loop: requests are added to a step until it has so many rows. A target, no limit: a
 * request's rows are never split. Without it a step takes all that the engine has room for. */
void caloris_schedule_aim(struct caloris_schedule *schedule, size_t rows);

/* Coordinator thread. 0: taken, an event follows. -1 and err: still the caller's; BAD_REQUEST
 * naming the field: it can never fit here ("progress": its stands are not its own); AGAIN: the
 * schedule is closing. */
int caloris_schedule_submit(struct caloris_schedule *schedule, struct caloris_request *request,
                            struct caloris_err *err);
/* Cancel or follow whichever request has this owner; unknown ones are ignored. A cancelled one
 * comes back as CANCELLED, or as FINISHED when its last step was faster. */
void caloris_schedule_cancel(struct caloris_schedule *schedule, const void *owner);
void caloris_schedule_follow(struct caloris_schedule *schedule, const void *owner, bool follow);

/* Finish what runs and waits, then end the loop. abandon: end it after the current step; the rest
 * comes back as CANCELLED events. */
void caloris_schedule_close(struct caloris_schedule *schedule, bool abandon);

enum caloris_event_kind {
    CALORIS_EVENT_STEP,     /* of a followed request: what was revealed */
    CALORIS_EVENT_SNAPSHOT, /* following began: the whole canvas */
    CALORIS_EVENT_STAND, /* of a request that asked for it: another group could go on from here */
    CALORIS_EVENT_FINISHED,  /* request is the receiver's again, canvas complete */
    CALORIS_EVENT_CANCELLED, /* likewise, unfinished */
    CALORIS_EVENT_ENDED,     /* the loop has returned; nothing follows; error set if it failed */
};

/* One candidate of a request, finished. */
struct caloris_answer {
    uint32_t candidate;
    const int32_t *canvas; /* [length] of the request */
    double score;          /* caloris_denoise_score */
    uint32_t steps, masks_left;
};

struct caloris_event {
    enum caloris_event_kind kind;
    void *owner;
    struct caloris_request *request; /* FINISHED, CANCELLED: free with caloris_request_free */
    /* Forward passes so far; of several candidates those of all, one for the step that they
     * shared; STEP and SNAPSHOT tell of the first candidate alone. */
    uint32_t step;
    uint64_t rows;       /* STEP: computed in it; FINISHED, CANCELLED: over all of them */
    double step_s;       /* STEP: that it took, with all that shared it */
    bool refresh;        /* STEP: it made the K/V of all rows anew */
    uint32_t masks_left; /* at FINISHED: 0 but for quota "block" with holes */
    struct caloris_answer *answers; /* FINISHED: [params.best] best first */
    size_t n_answers;
    uint32_t candidate;          /* STAND: of the request, counted from 0 */
    struct caloris_stand *stand; /* STAND: where it stands; of canvases of the request's length */
    struct caloris_reveal
        *reveals; /* STEP: [n]; SNAPSHOT: every position, id = mask where masked */
    size_t n_reveals;
    double wait_s, denoise_s; /* FINISHED: from submit to its first step; from there to its last */
    struct caloris_err error; /* ENDED: code CALORIS_OK or why */
};

int caloris_schedule_event_fd(const struct caloris_schedule *schedule);
/* The next event, or NULL when none came within wait_ms (0: at once, negative: no limit) or a
 * signal came. Free with caloris_event_free; its request is freed apart. */
struct caloris_event *caloris_schedule_next_event(struct caloris_schedule *schedule, int wait_ms);
void caloris_event_free(struct caloris_event *event);
void caloris_request_free(struct caloris_request *request);

/* Requests that wait or run. */
size_t caloris_schedule_load(const struct caloris_schedule *schedule);

/* What the steps so far were like: how full, and what the main thread spent on them besides. */
struct caloris_schedule_figures {
    uint64_t steps, rows;
    double step_s;          /* in the engine */
    double own_s;           /* packing plans, deciding what is revealed */
    uint64_t crowded_steps; /* while requests waited, for room or for a part in the step */
    double crowded_fill;    /* the sum over them of min(rows, aim) / aim */
};
/* Main thread; also when the loop has returned. */
void caloris_schedule_figures(const struct caloris_schedule *schedule,
                              struct caloris_schedule_figures *figures);

/* Main thread of rank 0: until closed. -1 and err when a step failed (the world is lost); requests
 * that it held come back as CANCELLED all the same. */
int caloris_schedule_loop(struct caloris_schedule *schedule, struct caloris_engine *engine,
                          struct caloris_err *err);

#endif
