/* coordinator/gateway/broker/submit.h (inside broker): how a job comes in. */
#ifndef CALORIS_BROKER_SUBMIT_H
#define CALORIS_BROKER_SUBMIT_H

#include "coordinator/gateway/broker/requests.h"

/* Stores the job that the client submits, within its user's limits, and promises the answer for
 * when that is on disk. */
int submit_take(struct caloris_broker *b, struct client *client, const client_request *message,
                struct caloris_err *err);

#endif
