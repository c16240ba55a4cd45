/* coordinator/gateway/broker/requests.h (inside broker): what a client asks for. */
#ifndef CALORIS_BROKER_REQUESTS_H
#define CALORIS_BROKER_REQUESTS_H

#include "coordinator/gateway/broker/state.h"

typedef Caloris__Wire__ClientToGateway client_request;

/* Anything but hello, of a client that has said it: 0 when it is answered or promised; -1 and err
 * to be answered. */
int request_take(struct caloris_broker *b, struct client *client, const client_request *message,
                 struct caloris_err *err);

#endif
