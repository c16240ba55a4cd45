#include "coordinator/schedule/events.h"

#include "base/err.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct caloris_event_node {
    struct caloris_event event; /* first: a pointer to it is one to the node */
    struct caloris_event_node *next;
};

int caloris_events_init(struct caloris_event_queue *queue, struct caloris_err *err)
{
    queue->first = queue->last = NULL;
    queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->fd < 0)
        return caloris_err_sys(err, "making an event descriptor");
    pthread_mutex_init(&queue->lock, NULL);
    return 0;
}

void caloris_events_free(struct caloris_event_queue *queue)
{
    if (queue->fd < 0)
        return;
    for (struct caloris_event *event; (event = caloris_events_pop(queue, 0));) {
        caloris_request_free(event->request);
        caloris_event_free(event);
    }
    close(queue->fd);
    pthread_mutex_destroy(&queue->lock);
}

struct caloris_event *caloris_event_new(size_t n_reveals)
{
    struct caloris_event_node *node = calloc(1, sizeof(*node));
    if (!node || n_reveals == 0)
        return node ? &node->event : NULL;
    node->event.reveals = calloc(n_reveals, sizeof(*node->event.reveals));
    if (!node->event.reveals) {
        free(node);
        return NULL;
    }
    node->event.n_reveals = n_reveals;
    return &node->event;
}

void caloris_event_free(struct caloris_event *event)
{
    if (!event)
        return;
    free(event->reveals);
    free(event->answers);
    free(event->stand);
    free((struct caloris_event_node *)event);
}

void caloris_events_push(struct caloris_event_queue *queue, struct caloris_event *event)
{
    struct caloris_event_node *node = (struct caloris_event_node *)event;
    node->next = NULL;
    pthread_mutex_lock(&queue->lock);
    const bool was_empty = !queue->first;
    if (was_empty)
        queue->first = node;
    else
        queue->last->next = node;
    queue->last = node;
    if (was_empty)
        eventfd_write(queue->fd, 1);
    pthread_mutex_unlock(&queue->lock);
}

struct caloris_event *caloris_events_pop(struct caloris_event_queue *queue, int wait_ms)
{
    if (wait_ms != 0) {
        struct pollfd readable = {.fd = queue->fd, .events = POLLIN};
        poll(&readable, 1, wait_ms); /* cut short by a signal: the caller comes again */
    }
    pthread_mutex_lock(&queue->lock);
    struct caloris_event_node *node = queue->first;
    if (node) {
        queue->first = node->next;
        if (!queue->first) {
            eventfd_t count;
            eventfd_read(queue->fd, &count);
        }
    }
    pthread_mutex_unlock(&queue->lock);
    return node ? &node->event : NULL;
}
