/* coordinator/link/group.h (inside link): what a group says to its gateway and hears from it
 * (proto/PROTOCOL.md). */
#ifndef CALORIS_LINK_GROUP_H
#define CALORIS_LINK_GROUP_H

#include "coordinator/link/job.h"
#include "proto/cluster.h"

#include <stdint.h>

struct group_lease {
    uint64_t epoch, counter;
};

/* A job of the gateway that this group computes, or whose result it keeps until the gateway has it
 * on disk. */
struct group_job {
    struct link_job job;
    uint64_t number;
    struct group_lease lease;
    bool finished;
    bool dropped; /* the gateway wants it no more: it goes when the schedule lets go of it */
    char *result; /* finished: the JSON */
    size_t result_bytes;
    uint64_t taken_ms;            /* when it came */
    uint64_t sent_ms;             /* when the result was last sent */
    uint64_t seq;                 /* of the last progress sent */
    struct caloris_stand *stands; /* [job.best] where its candidates stand; NULL: nowhere yet */
    struct group_job *next;
};

/* A DEALER socket dialled to the gateway's endpoint for groups. */
struct group_socket {
    void *context, *socket;
    void *monitor;      /* what becomes of its connection (proto/curve.h) */
    unsigned strangers; /* handshakes that failed since the last welcome */
};
int group_dial(struct group_socket *socket, const struct caloris_address *gateway,
               struct caloris_err *err);
/* REFUSED: the gateway refused our key, or (where it has never answered) what answers is not our
 * gateway. */
int group_check_connection(struct group_socket *socket, const struct caloris_address *gateway,
                           bool answered, struct caloris_err *err);
void group_hang_up(struct group_socket *socket);

/* Messages. A send that finds the queue full or nobody there is no error: the beat will tell. */
struct group_identity {
    const char *name, *model, *host;
    uint32_t ranks, capacity;
    uint64_t instance; /* drawn at start */
};
int group_send_hello(struct group_socket *socket, const struct group_identity *who,
                     const struct group_job *held, struct caloris_err *err);
struct group_beat {
    uint32_t room;
    bool draining;
    const struct caloris_engine *engine; /* whose ranks' figures go along */
};
int group_send_beat(struct group_socket *socket, const struct group_beat *what,
                    struct caloris_err *err);
int group_send_result(struct group_socket *socket, const struct group_job *job,
                      struct caloris_err *err);
int group_send_give_back(struct group_socket *socket, const struct group_job *job,
                         struct caloris_err *err);
/* Where the job stands. */
int group_send_hand_over(struct group_socket *socket, const struct group_identity *who,
                         const struct link_model *model, const struct group_job *job,
                         struct caloris_err *err);
int group_send_leave(struct group_socket *socket, struct caloris_err *err);
/* The cells of a STEP or SNAPSHOT event. */
int group_send_progress(struct group_socket *socket, const struct link_model *model,
                        struct group_job *job, const struct caloris_event *event,
                        struct caloris_err *err);

#endif
