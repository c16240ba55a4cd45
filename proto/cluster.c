#include "proto/cluster.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_NAME = 64, MAX_FILE = 4096 };

int caloris_cluster_check_name(const char *name, struct caloris_err *err)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    if (n < 1 || n > MAX_NAME || name[0] == '.' || strspn(name, allowed) != n)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "name \"%.80s\": a name is 1 to %d letters, digits, . _ -", name,
                               MAX_NAME);
    return 0;
}

static int path_of(const char *name, char dir[PATH_MAX], char path[PATH_MAX],
                   struct caloris_err *err)
{
    const char *home = getenv("HOME");
    if (caloris_cluster_check_name(name, err) < 0)
        return -1;
    if (!home || !*home)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "name %s: HOME is not set, so ~/.caloris cannot be found", name);
    if (caloris_file_join(dir, PATH_MAX, home, ".caloris", err) < 0)
        return -1;
    return caloris_file_join(path, PATH_MAX, dir, name, err);
}

/* ---- the file -------------------------------------------------------------------------------- */

static int take_text(const json_t *file, const char *key, char *to, size_t size,
                     struct caloris_err *err)
{
    const json_t *value = json_object_get(file, key);
    const char *text = json_string_value(value);
    if (value && (!text || strlen(text) >= size))
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "\"%s\" is no text of less than %zu bytes",
                               key, size);
    snprintf(to, size, "%s", text ? text : "");
    return 0;
}

static int take_key(const json_t *file, const char *key, char to[CALORIS_KEY_TEXT + 1],
                    struct caloris_err *err)
{
    char checked[CALORIS_KEY_TEXT + 1];
    if (take_text(file, key, to, CALORIS_KEY_TEXT + 1, err) < 0)
        return -1;
    if (*to && caloris_keys_take(to, checked, err) < 0)
        return caloris_err_prefix(err, "\"%s\"", key);
    return 0;
}

static int take_all(const json_t *file, struct caloris_cluster *cluster, struct caloris_err *err)
{
    if (take_text(file, "endpoint", cluster->clients, sizeof(cluster->clients), err) < 0 ||
        take_text(file, "groups", cluster->groups, sizeof(cluster->groups), err) < 0 ||
        take_key(file, "server_key", cluster->server_key, err) < 0 ||
        take_key(file, "public_key", cluster->token.public_key, err) < 0 ||
        take_key(file, "secret_key", cluster->token.secret_key, err) < 0)
        return -1;
    if (!cluster->clients[0])
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "no \"endpoint\"");
    return 0;
}

static int load(const char *path, struct caloris_cluster *cluster, struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(MAX_FILE);
    json_t *file = NULL;
    int rc = -1;
    if (caloris_file_read_guarded(path, 077, &text, err) == 0)
        file = caloris_json_parse(text.data, text.size, path, err);
    if (file && take_all(file, cluster, err) < 0)
        caloris_err_prefix(err, "%s", path);
    else if (file)
        rc = 0;
    if (rc < 0 && err && err->code == CALORIS_BAD_REQUEST)
        err->code = CALORIS_BAD_CONFIG;
    json_decref(file);
    if (text.data)
        explicit_bzero(text.data, text.size);
    caloris_buf_free(&text);
    return rc;
}

int caloris_cluster_load(const char *name, struct caloris_cluster *cluster, struct caloris_err *err)
{
    char dir[PATH_MAX], path[PATH_MAX];
    *cluster = (struct caloris_cluster){0};
    if (path_of(name, dir, path, err) < 0)
        return -1;
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return caloris_err_set(err, CALORIS_UNREACHABLE,
                               "cluster %s: %s is not there; \"caloris up\" starts one, --endpoint "
                               "or CALORIS_ENDPOINT name another",
                               name, path);
    return load(path, cluster, err);
}

int caloris_cluster_write(const char *name, const struct caloris_cluster *cluster,
                          struct caloris_err *err)
{
    char dir[PATH_MAX], path[PATH_MAX], line[MAX_FILE];
    struct caloris_cluster before = {0};
    json_t *file = NULL;
    char *text = NULL;
    int rc = -1;
    if (path_of(name, dir, path, err) < 0 || caloris_file_make_dirs(dir, 0700, err) < 0)
        return -1;
    if (load(path, &before, NULL) == 0 && strcmp(before.clients, cluster->clients) != 0 &&
        caloris_endpoint_check(before.clients, NULL) == 0 &&
        caloris_endpoint_in_use(before.clients)) {
        caloris_err_set(err, CALORIS_BAD_CONFIG,
                        "name %s: the gateway at %s has it; --name gives this one another", name,
                        before.clients);
        goto out;
    }
    const struct caloris_keys *token = &cluster->token;
    const char *key = cluster->server_key[0] ? cluster->server_key : NULL;
    bool given = token->secret_key[0];
    file =
        json_pack("{s:s, s:s, s:s*, s:s*, s:s*}", "endpoint", cluster->clients, "groups",
                  cluster->groups, "server_key", key, "public_key",
                  given ? token->public_key : NULL, "secret_key", given ? token->secret_key : NULL);
    text = file ? json_dumps(file, 0) : NULL;
    if (!text) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: an endpoint is no UTF-8 text", path);
        goto out;
    }
    int n = snprintf(line, sizeof(line), "%s\n", text);
    rc = caloris_file_write(path, line, (size_t)n, 0600, err);
out:
    free(text);
    json_decref(file);
    return rc;
}

void caloris_cluster_remove(const char *name, const char *clients)
{
    char dir[PATH_MAX], path[PATH_MAX];
    struct caloris_cluster there;
    if (path_of(name, dir, path, NULL) == 0 && load(path, &there, NULL) == 0 &&
        strcmp(there.clients, clients) == 0)
        unlink(path);
}

/* ---- an address ------------------------------------------------------------------------------ */

int caloris_address_own(const char *name, char *path, size_t size, struct caloris_err *err)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n;
    if (xdg && xdg[0] == '/')
        n = snprintf(path, size, "%s/caloris/%s", xdg, name);
    else if (home && home[0] == '/')
        n = snprintf(path, size, "%s/.config/caloris/%s", home, name);
    else
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "neither XDG_CONFIG_HOME nor HOME is set: no place for keys");
    if (n < 0 || (size_t)n >= size)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "the path of ~/.config is too long");
    return 0;
}

static int find_keys(const struct caloris_wish *wish, const struct caloris_cluster *cluster,
                     struct caloris_address *address, struct caloris_err *err)
{
    char own[PATH_MAX];
    if (wish->server_key) {
        if (caloris_keys_find_public(wish->server_key, address->server_key, err) < 0)
            return caloris_err_prefix(err, "the gateway's key");
    } else {
        memcpy(address->server_key, cluster->server_key, sizeof(cluster->server_key));
    }
    if (!address->server_key[0])
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s: a TCP address needs keys: --server-key says the gateway's",
                               address->endpoint);
    if (wish->certificate)
        return caloris_keys_load(wish->certificate, &address->keys, err);
    if (cluster->token.secret_key[0]) {
        address->keys = cluster->token;
        return 0;
    }
    if (caloris_address_own("key", own, sizeof(own), err) < 0)
        return -1;
    if (access(own, F_OK) < 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s: a TCP address needs keys: there is no %s (\"caloris keygen\" "
                               "makes it), and no --certificate was said",
                               address->endpoint, own);
    return caloris_keys_load(own, &address->keys, err);
}

int caloris_address_find(const struct caloris_wish *wish, struct caloris_address *address,
                         struct caloris_err *err)
{
    struct caloris_cluster cluster = {0};
    const char *name = wish->cluster ? wish->cluster : "default";
    *address = (struct caloris_address){0};
    if (!wish->endpoint && caloris_cluster_load(name, &cluster, err) < 0)
        return -1;
    const char *endpoint = wish->endpoint ? wish->endpoint
                           : wish->group  ? cluster.groups
                                          : cluster.clients;
    int n = snprintf(address->endpoint, sizeof(address->endpoint), "%s", endpoint);
    if (n < 0 || (size_t)n >= sizeof(address->endpoint))
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "an endpoint of more than %zu bytes",
                               sizeof(address->endpoint) - 1);
    if (n == 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "cluster %s: its file says no endpoint of %s", name,
                               wish->group ? "groups" : "clients");
    struct caloris_err why = {0};
    if (caloris_endpoint_check(endpoint, &why) < 0)
        /* A directory that cannot be looked at is no mistake of the caller's: nobody serves
         * there. */
        return caloris_err_set(err, why.code == CALORIS_IO ? CALORIS_UNREACHABLE : why.code, "%s",
                               why.text);
    return caloris_endpoint_needs_keys(endpoint) ? find_keys(wish, &cluster, address, err) : 0;
}
