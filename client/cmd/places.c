/* Where things are: the programs that came with this one, the demo model. */
#include "client/cmd/cmd.h"

#include "base/file.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of the running program. */
static int own_dir(char dir[PATH_MAX], struct caloris_err *err)
{
    ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
    if (n < 0)
        return caloris_err_sys(err, "/proc/self/exe");
    dir[n] = '\0';
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = '\0';
    return 0;
}

static int find_in_path(const char *name, char *to, size_t size, struct caloris_err *err)
{
    const char *path = getenv("PATH");
    for (const char *at = path; at && *at;) {
        size_t n = strcspn(at, ":");
        char dir[PATH_MAX];
        snprintf(dir, sizeof(dir), "%.*s", (int)n, at);
        if (n > 0 && n < sizeof(dir) && caloris_file_join(to, size, dir, name, NULL) == 0 &&
            access(to, X_OK) == 0)
            return 0;
        at += n + (at[n] == ':');
    }
    return caloris_err_set(err, CALORIS_USAGE, "%s: not in PATH", name);
}

int cmd_find_program(const char *name, char *to, size_t size, struct caloris_err *err)
{
    char dir[PATH_MAX];
    bool ours = strncmp(name, "caloris-", 8) == 0;
    if (own_dir(dir, err) < 0)
        return -1;
    if (ours && caloris_file_join(to, size, dir, name, NULL) == 0 && access(to, X_OK) == 0)
        return 0;
    if (find_in_path(name, to, size, NULL) == 0)
        return 0;
    return caloris_err_set(err, CALORIS_USAGE, "%s is neither in %s nor in PATH", name, dir);
}

int cmd_find_demo_model(char *to, size_t size, struct caloris_err *err)
{
    char dir[PATH_MAX], config[PATH_MAX + 16];
    if (own_dir(dir, err) < 0)
        return -1;
    const char *const places[][2] = {
        {dir, "../share/caloris/models/tinycoder"},
        {CALORIS_SOURCE_MODELS, "tinycoder"},
    };
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char path[PATH_MAX];
        if (caloris_file_join(path, sizeof(path), places[i][0], places[i][1], NULL) < 0)
            continue;
        snprintf(config, sizeof(config), "%s/config.json", path);
        char *whole = access(config, R_OK) == 0 ? realpath(path, NULL) : NULL;
        if (!whole)
            continue;
        int n = snprintf(to, size, "%s", whole);
        free(whole);
        if (n > 0 && (size_t)n < size)
            return 0;
    }
    return caloris_err_set(err, CALORIS_USAGE,
                           "the demo model is neither in %s/%s nor in %s/%s; name one with --model",
                           places[0][0], places[0][1], places[1][0], places[1][1]);
}
