/* Clusters by name: one small JSON file each in ~/.caloris, {"endpoint": "ipc:///…"}, written by
 * their gateways. */
#include "client/client.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE = 4096 };

static int cluster_path(const char *name, char path[PATH_MAX], struct caloris_err *err)
{
    const char *home = getenv("HOME");
    size_t n = strlen(name);
    bool good = n > 0 && n <= CALORIS_CLIENT_MAX_NAME && name[0] != '.';
    for (size_t i = 0; i < n && good; i++)
        good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
    if (!good)
        return caloris_err_set(err, CALORIS_USAGE,
                               "cluster \"%.80s\": a name is 1 to %d letters, digits, . _ -", name,
                               CALORIS_CLIENT_MAX_NAME);
    if (!home || !*home)
        return caloris_err_set(err, CALORIS_USAGE,
                               "cluster %s: HOME is not set; say --endpoint instead", name);
    char dir[PATH_MAX];
    if (caloris_file_join(dir, sizeof(dir), home, ".caloris", err) < 0)
        return -1;
    return caloris_file_join(path, PATH_MAX, dir, name, err);
}

int caloris_cluster_find(const char *name, char endpoint[CALORIS_CLIENT_MAX_ENDPOINT],
                         struct caloris_err *err)
{
    char path[PATH_MAX];
    int rc = -1;
    json_t *file = NULL;
    name = name ? name : "default";
    if (cluster_path(name, path, err) < 0)
        return -1;
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return caloris_err_set(err, CALORIS_UNREACHABLE,
                               "cluster %s: %s is not there; \"caloris up\" starts one, --endpoint "
                               "or CALORIS_ENDPOINT name another",
                               name, path);
    file = caloris_json_load(path, MAX_FILE, err);
    if (!file)
        goto out;
    const char *text = json_string_value(json_object_get(file, "endpoint"));
    if (!text || strlen(text) >= CALORIS_CLIENT_MAX_ENDPOINT) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: no \"endpoint\" of less than %d bytes", path,
                        CALORIS_CLIENT_MAX_ENDPOINT);
        goto out;
    }
    snprintf(endpoint, CALORIS_CLIENT_MAX_ENDPOINT, "%s", text);
    rc = 0;
out:
    json_decref(file);
    return rc;
}
