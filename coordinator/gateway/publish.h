/* coordinator/gateway/publish.h: ~/.caloris/NAME, by which clients find a gateway.
 *
 * {"endpoint": "ipc:///…/clients.sock"}, mode 0600; proto/PROTOCOL.md, "Finding a gateway".
 */
#ifndef CALORIS_GATEWAY_PUBLISH_H
#define CALORIS_GATEWAY_PUBLISH_H

struct caloris_err;

/* A name is 1 to 64 letters, digits, . _ -, not beginning with a point. */
int publish_check_name(const char *name, struct caloris_err *err);

/* Writes the file. BAD_CONFIG when a gateway at another endpoint that somebody listens at has
 * it. */
int publish_write(const char *name, const char *endpoint, struct caloris_err *err);

/* Removes the file if it still names this endpoint. */
void publish_remove(const char *name, const char *endpoint);

#endif
