/* proto/cluster.h: how to reach a gateway, by name (~/.caloris/NAME) or part by part.
 *
 * The file is JSON of mode 0600: {"endpoint", "groups", "server_key", "public_key", "secret_key"}:
 * where clients and groups dial, the gateway's public key for tcp://, and, from a gateway that
 * gives the key away to whoever can read this file (--token), a pair to dial with. PROTOCOL.md,
 * "Finding a gateway".
 */
#ifndef CALORIS_CLUSTER_H
#define CALORIS_CLUSTER_H

#include "proto/endpoint.h"
#include "proto/keys.h"

struct caloris_err;

/* What a gateway publishes. "" and 0 for what it does not have. */
struct caloris_cluster {
    char clients[CALORIS_ENDPOINT_MAX], groups[CALORIS_ENDPOINT_MAX];
    char server_key[CALORIS_KEY_TEXT + 1];
    struct caloris_keys token;
};

/* A name is 1 to 64 letters, digits, . _ -, not beginning with a point. */
int caloris_cluster_check_name(const char *name, struct caloris_err *err);

/* Writes the file. BAD_CONFIG when a gateway at another endpoint that somebody listens at has the
 * name. */
int caloris_cluster_write(const char *name, const struct caloris_cluster *cluster,
                          struct caloris_err *err);

/* Removes the file if it still names this endpoint of clients. */
void caloris_cluster_remove(const char *name, const char *clients);

/* UNREACHABLE when there is no such file. */
int caloris_cluster_load(const char *name, struct caloris_cluster *cluster,
                         struct caloris_err *err);

/* Where to dial, whom to expect there, as whom. */
struct caloris_address {
    char endpoint[CALORIS_ENDPOINT_MAX];
    char server_key[CALORIS_KEY_TEXT + 1];
    struct caloris_keys keys;
};

/* What a user said of it; all may be NULL. */
struct caloris_wish {
    const char *endpoint;    /* NULL: that of the cluster */
    const char *cluster;     /* NULL: "default" */
    const char *server_key;  /* the gateway's public key or its certificate; NULL: the cluster's */
    const char *certificate; /* NULL: the cluster's token, else the user's own (below) */
    bool group;              /* the groups' endpoint of the cluster is meant */
};

/* Puts it together and checks it: BAD_CONFIG with what is missing, UNREACHABLE where there is no
 * such cluster or directory. */
int caloris_address_find(const struct caloris_wish *wish, struct caloris_address *address,
                         struct caloris_err *err);

/* Where a user's own certificate is: $XDG_CONFIG_HOME/caloris/NAME, ~/.config/caloris/NAME. */
int caloris_address_own(const char *name, char *path, size_t size, struct caloris_err *err);

#endif
