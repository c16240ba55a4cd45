#include "coordinator/gateway/publish.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "proto/wire.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_NAME = 64, MAX_FILE = 4096 };

int publish_check_name(const char *name, struct caloris_err *err)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    if (n < 1 || n > MAX_NAME || name[0] == '.' || strspn(name, allowed) != n)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "name \"%.80s\": it must be 1 to %d letters, digits, . _ -", name,
                               MAX_NAME);
    return 0;
}

static int path_of(const char *name, char path[PATH_MAX], struct caloris_err *err)
{
    char dir[PATH_MAX];
    const char *home = getenv("HOME");
    if (!home || !*home)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "name %s: HOME is not set, so ~/.caloris cannot be found", name);
    if (caloris_file_join(dir, sizeof(dir), home, ".caloris", err) < 0 ||
        caloris_file_make_dirs(dir, 0700, err) < 0)
        return -1;
    return caloris_file_join(path, PATH_MAX, dir, name, err);
}

/* The endpoint in the file, or NULL when there is no good file. Free with json_decref(*file). */
static const char *read_endpoint(const char *path, json_t **file)
{
    *file = caloris_json_load(path, MAX_FILE, NULL);
    return json_string_value(json_object_get(*file, "endpoint"));
}

int publish_write(const char *name, const char *endpoint, struct caloris_err *err)
{
    char path[PATH_MAX], line[MAX_FILE];
    json_t *before = NULL, *file = NULL;
    char *text = NULL;
    int rc = -1;
    if (path_of(name, path, err) < 0)
        return -1;
    const char *other = read_endpoint(path, &before);
    if (other && strcmp(other, endpoint) != 0 && caloris_wire_check_endpoint(other, NULL) == 0 &&
        caloris_wire_endpoint_in_use(other)) {
        caloris_err_set(err, CALORIS_BAD_CONFIG,
                        "name %s: the gateway at %s has it; --name gives this one another", name,
                        other);
        goto out;
    }
    file = json_pack("{s:s}", "endpoint", endpoint);
    text = file ? json_dumps(file, 0) : NULL;
    if (!text) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: the endpoint is no UTF-8 text", path);
        goto out;
    }
    int n = snprintf(line, sizeof(line), "%s\n", text);
    rc = caloris_file_write(path, line, (size_t)n, 0600, err);
out:
    free(text);
    json_decref(file);
    json_decref(before);
    return rc;
}

void publish_remove(const char *name, const char *endpoint)
{
    char path[PATH_MAX];
    json_t *file = NULL;
    if (path_of(name, path, NULL) < 0)
        return;
    const char *there = read_endpoint(path, &file);
    if (there && strcmp(there, endpoint) == 0)
        unlink(path);
    json_decref(file);
}
