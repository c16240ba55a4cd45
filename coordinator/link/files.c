#include "coordinator/link/files.h"

#include "base/err.h"
#include "coordinator/link/link.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int link_no_file(const char *option, const char *path, struct caloris_err *err)
{
    caloris_err_sys(err, "%s %s", option, path);
    if (err)
        err->code = CALORIS_USAGE;
    return -1;
}

static int check_readable(const struct link_files *files, struct stat *st, struct caloris_err *err)
{
    if (strcmp(files->in, "-") == 0) {
        if (fstat(STDIN_FILENO, st) < 0)
            return link_no_file(files->option, "-", err);
        return 0;
    }
    if (stat(files->in, st) < 0 || access(files->in, R_OK) < 0)
        return link_no_file(files->option, files->in, err);
    errno = EISDIR;
    return S_ISDIR(st->st_mode) ? link_no_file(files->option, files->in, err) : 0;
}

/* *there: st is set. */
static int check_writable(const char *option, const char *path, struct stat *st, bool *there,
                          struct caloris_err *err)
{
    char folder[PATH_MAX];
    *there = stat(path, st) == 0;
    if (*there && S_ISDIR(st->st_mode)) {
        errno = EISDIR;
        return link_no_file(option, path, err);
    }
    if (*there)
        return access(path, W_OK) < 0 ? link_no_file(option, path, err) : 0;
    if (errno != ENOENT || snprintf(folder, sizeof(folder), "%s", path) >= (int)sizeof(folder) ||
        access(dirname(folder), W_OK | X_OK) < 0)
        return link_no_file(option, path, err);
    return 0;
}

static bool same(const struct stat *a, const struct stat *b)
{
    return S_ISREG(a->st_mode) && a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

int link_files_check(const struct link_files *files, struct caloris_err *err)
{
    struct stat in, out, trace;
    bool is_out, is_trace;
    if (check_readable(files, &in, err) < 0 ||
        check_writable("--out", files->out, &out, &is_out, err) < 0)
        return -1;
    if (is_out && same(&in, &out))
        return caloris_err_set(err, CALORIS_USAGE, "--out %s is the file the jobs come from",
                               files->out);
    if (!files->trace)
        return 0;
    if (check_writable("--trace", files->trace, &trace, &is_trace, err) < 0)
        return -1;
    if (is_trace && same(&in, &trace))
        return caloris_err_set(err, CALORIS_USAGE, "--trace %s is the file the jobs come from",
                               files->trace);
    if (strcmp(files->trace, files->out) == 0 || (is_trace && is_out && same(&out, &trace)))
        return caloris_err_set(err, CALORIS_USAGE, "--trace %s is the file of the results",
                               files->trace);
    return 0;
}

int link_files_check_empty(const char *path, struct caloris_err *err)
{
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return 0;
    return caloris_err_set(err, CALORIS_USAGE, "%s has results already: --resume goes on with it",
                           path);
}
