/* client/watches.h: the jobs that a client watches, and a connection that is dialled again with
 * them. Calls of client.h that watch jobs or wait for events stand here, too. */
#ifndef CALORIS_CLIENT_WATCHES_H
#define CALORIS_CLIENT_WATCHES_H

#include "client/client.h"

/* Dials again and watches again what was watched, by deadline_ns. */
int caloris_watches_dial_again(struct caloris_client *client, uint64_t deadline_ns,
                               struct caloris_err *err);

/* USAGE where n more would be too many. */
int caloris_watches_check_room(const struct caloris_client *client, size_t n,
                               struct caloris_err *err);

/* A job that was just accepted, and watched with its canvas by the same word: it waits, and nobody
 * else will say so. */
int caloris_watches_add_accepted(struct caloris_client *client, uint64_t job,
                                 struct caloris_err *err);

/* false: it was not watched. */
bool caloris_watches_forget(struct caloris_client *client, uint64_t job);

#endif
