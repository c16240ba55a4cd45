/* coordinator/schedule/tasks.h: requests between submit and their last event. Inside schedule
 * only. */
#ifndef CALORIS_SCHEDULE_TASKS_H
#define CALORIS_SCHEDULE_TASKS_H

#include "coordinator/schedule/events.h"
#include "coordinator/schedule/pack.h"
#include "coordinator/schedule/regions.h"
#include "coordinator/schedule/schedule.h"

/* Everything that a request needs until its end is allocated when it is submitted. */
struct caloris_task {
    struct caloris_member *members; /* [n] its candidates: the loop's alone once it runs */
    size_t n;
    bool shares;    /* the first step of the first one serves all */
    bool forks_due; /* it did, and the others have to be admitted */
    struct caloris_request *request;
    struct caloris_mark *marks;     /* [n, canvas length]: of the members */
    struct caloris_reveal *reveals; /* [n, canvas length + 1]: likewise */
    struct caloris_event *last_event;
    bool cancelled, follow, snapshot_due; /* under the lock */
    uint64_t submitted_ns, started_ns;
    struct caloris_task *next; /* in the waiting line */
    size_t overtaken;          /* by how many that came later */
};

struct caloris_schedule {
    pthread_mutex_t lock;
    pthread_cond_t work; /* something came: a request, a wish, the end */
    struct caloris_task *waiting, **waiting_end;
    struct caloris_task **running; /* [slots]; changed by the loop only, under the lock */
    size_t n_running, n_waiting;
    uint64_t arrivals;
    bool closed, abandoned, ended;

    struct caloris_event_queue events;
    struct caloris_event *ended_event;

    /* The loop's own. */
    size_t slots, max_canvas, max_rows, vocab;
    size_t aim;           /* rows that a step is filled up to */
    bool *slot_taken;     /* [slots] */
    uint32_t *to_release; /* [slots]: left, the workers do not know yet */
    size_t n_to_release;
    struct caloris_member **chosen, **candidates; /* [slots] */
    uint64_t turn;
    double step_s; /* that the last one took */
    bool crowded;  /* requests wait that have no part in this one */
    struct caloris_schedule_figures figures;
    struct caloris_pack pack;
    struct caloris_regions regions;
};

/* Room (room.c): slots and K/V for all candidates of a task, or nothing and false; and back from
 * one of them, which the workers are told with the next plan. */
bool caloris_room_take(struct caloris_schedule *schedule, struct caloris_task *task);
void caloris_room_give(struct caloris_schedule *schedule, struct caloris_member *member);

/* Its answers as they are now, best first, into its last event. */
void caloris_task_rank(struct caloris_task *task);

/* The end of a task that is in no list any more: its last event; frees it. */
void caloris_task_end(struct caloris_schedule *schedule, struct caloris_task *task,
                      enum caloris_event_kind kind);
void caloris_task_free(struct caloris_task *task);

#endif
