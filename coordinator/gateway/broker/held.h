/* coordinator/gateway/broker/held.h (inside broker): the jobs that a group holds, by its leases. */
#ifndef CALORIS_BROKER_HELD_H
#define CALORIS_BROKER_HELD_H

#include "coordinator/gateway/broker/state.h"

/* The job is nobody's from now on. */
void held_release(struct caloris_broker *b, struct live *live);

/* All that the group holds goes back to the queue. */
void held_requeue_all(struct caloris_broker *b, struct group *group);
/* The same; every one of these jobs counts a crash: one that kills its groups shall be known by
 * that. */
void held_crash(struct caloris_broker *b, struct group *group);

/* What a group says of a job; of one that it holds no more, nothing comes but an answer. -1 and
 * err: it could not be taken. */
typedef Caloris__Wire__GroupToGateway group_message;
int held_take_result(struct caloris_broker *b, struct group *group, const group_message *message,
                     struct caloris_err *err);
int held_take_progress(struct caloris_broker *b, struct group *group, const group_message *message,
                       struct caloris_err *err);
int held_take_hand_over(struct caloris_broker *b, struct group *group, const group_message *message,
                        struct caloris_err *err);
int held_take_give_back(struct caloris_broker *b, struct group *group, const group_message *message,
                        struct caloris_err *err);

#endif
