/* coordinator/schedule/events.h: the queue of events from the step loop to the coordinator
 * thread. Inside schedule only. */
#ifndef CALORIS_SCHEDULE_EVENTS_H
#define CALORIS_SCHEDULE_EVENTS_H

#include "coordinator/schedule/schedule.h"

#include <pthread.h>

struct caloris_event_queue {
    pthread_mutex_t lock;
    struct caloris_event_node *first, *last;
    int fd; /* eventfd: readable while the queue holds something */
};

int caloris_events_init(struct caloris_event_queue *queue, struct caloris_err *err);
/* Frees what nobody took, with its requests. */
void caloris_events_free(struct caloris_event_queue *queue);

/* Zeroed, with room for n reveals; NULL without memory. Free with caloris_event_free. */
struct caloris_event *caloris_event_new(size_t n_reveals);

/* Never fails; takes event, which caloris_event_new made. */
void caloris_events_push(struct caloris_event_queue *queue, struct caloris_event *event);
struct caloris_event *caloris_events_pop(struct caloris_event_queue *queue, int wait_ms);

#endif
