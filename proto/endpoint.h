/* proto/endpoint.h: addresses that this project listens at and dials.
 *
 *   ipc:///dir/file.sock    dir is ours, of mode 0700: the file system says who gets in
 *   tcp://host:port         keys say who gets in (proto/curve.h); port * is one that is free
 */
#ifndef CALORIS_ENDPOINT_H
#define CALORIS_ENDPOINT_H

#include <stdbool.h>

struct caloris_err;

enum { CALORIS_ENDPOINT_MAX = 256 }; /* bytes with the NUL; a socket's path ends at 107 */

/* BAD_CONFIG for what is neither, for a path that others may enter or that is too long, a host or
 * a port that is none. */
int caloris_endpoint_check(const char *endpoint, struct caloris_err *err);

/* Whether connections to it carry keys. */
bool caloris_endpoint_needs_keys(const char *endpoint);

/* Whether somebody listens at a checked endpoint. At an ipc one ZeroMQ would take the socket file
 * from them. */
bool caloris_endpoint_in_use(const char *endpoint);

/* What others dial to reach one that is bound: * and 0.0.0.0 become this host's name. */
int caloris_endpoint_publish(const char *bound, char endpoint[CALORIS_ENDPOINT_MAX],
                             struct caloris_err *err);

#endif
