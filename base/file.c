#include "base/file.h"

#include "base/buf.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 16, LARGEST_READ = 1 << 30 };

int caloris_file_read_at(int fd, const char *path, void *to, size_t n, uint64_t offset,
                         struct caloris_err *err)
{
    while (n > 0) {
        ssize_t got = pread(fd, to, n < LARGEST_READ ? n : LARGEST_READ, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return caloris_err_sys(err, "%s: reading %zu bytes at %" PRIu64, path, n, offset);
        if (got == 0)
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s ends at byte %" PRIu64 ", %zu bytes short", path, offset, n);
        to = (char *)to + got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

static int read_all(int fd, const char *path, struct caloris_buf *buf, struct caloris_err *err)
{
    int rc = -1;
    char *chunk = malloc(CHUNK_BYTES);
    if (!chunk) {
        caloris_err_sys(err, "%s", path);
        goto out;
    }
    for (;;) {
        ssize_t got = read(fd, chunk, CHUNK_BYTES);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            caloris_err_sys(err, "%s", path);
            goto out;
        }
        if (got == 0)
            break;
        if (caloris_buf_append(buf, chunk, (size_t)got, err) < 0) {
            caloris_err_prefix(err, "%s", path);
            goto out;
        }
    }
    if (!buf->data && caloris_buf_append(buf, "", 0, err) < 0)
        goto out;
    rc = 0;
out:
    free(chunk);
    return rc;
}

int caloris_file_read(const char *path, struct caloris_buf *buf, struct caloris_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return caloris_err_sys(err, "%s", path);
    int rc = read_all(fd, path, buf, err);
    close(fd);
    return rc;
}

static int check_guarded(int fd, const char *path, mode_t forbidden, struct caloris_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return caloris_err_sys(err, "%s", path);
    if (!S_ISREG(st.st_mode))
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is not a regular file", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s belongs to user %ju, not to us (%ju)",
                               path, (uintmax_t)st.st_uid, (uintmax_t)geteuid());
    if ((st.st_mode & forbidden) == 0)
        return 0;
    bool secret = forbidden & 044;
    return caloris_err_set(
        err, CALORIS_BAD_CONFIG, "%s has mode %04o: others may %s it; chmod %s %s", path,
        (unsigned)(st.st_mode & 07777), secret ? "use" : "change", secret ? "600" : "go-w", path);
}

int caloris_file_read_guarded(const char *path, mode_t forbidden, struct caloris_buf *buf,
                              struct caloris_err *err)
{
    /* What is checked is what is read. A pipe nobody writes to would be waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return caloris_err_sys(err, "%s", path);
    int rc = check_guarded(fd, path, forbidden, err);
    if (rc == 0)
        rc = read_all(fd, path, buf, err);
    close(fd);
    return rc;
}

int caloris_file_write_all(int fd, const char *path, const void *bytes, size_t n,
                           struct caloris_err *err)
{
    const char *from = bytes;
    while (n > 0) {
        ssize_t put = write(fd, from, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return caloris_err_sys(err, "%s: writing %zu bytes", path, n);
        from += put;
        n -= (size_t)put;
    }
    return 0;
}

int caloris_file_write(const char *path, const void *bytes, size_t n, mode_t mode,
                       struct caloris_err *err)
{
    char temporary[PATH_MAX];
    int length = snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path);
    if (length < 0 || (size_t)length >= sizeof(temporary))
        return caloris_err_set(err, CALORIS_IO, "path too long: %.100s…", path);
    int fd = mkstemp(temporary);
    if (fd < 0)
        return caloris_err_sys(err, "%s", path);
    int rc = -1;
    if (fchmod(fd, mode) < 0) {
        caloris_err_sys(err, "%s", temporary);
        goto out;
    }
    if (caloris_file_write_all(fd, temporary, bytes, n, err) < 0)
        goto out;
    if (fsync(fd) < 0 || rename(temporary, path) < 0) {
        caloris_err_sys(err, "%s", path);
        goto out;
    }
    rc = 0;
out:
    close(fd);
    if (rc < 0)
        unlink(temporary);
    return rc;
}

int caloris_file_join(char *to, size_t size, const char *dir, const char *name,
                      struct caloris_err *err)
{
    int length = snprintf(to, size, "%s/%s", dir, name);
    if (length < 0 || (size_t)length >= size)
        return caloris_err_set(err, CALORIS_IO, "path too long: %.100s…/%.100s", dir, name);
    return 0;
}

int caloris_file_make_dirs(const char *path, mode_t mode, struct caloris_err *err)
{
    char part[PATH_MAX];
    if (strlen(path) >= sizeof(part))
        return caloris_err_set(err, CALORIS_IO, "path too long: %.100s…", path);
    strcpy(part, path);
    for (char *slash = strchr(part + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = '\0';
        if (mkdir(part, mode) < 0 && errno != EEXIST)
            return caloris_err_sys(err, "making directory %s", part);
        if (!slash)
            return 0;
        *slash = '/';
    }
}

int caloris_file_check_private(const char *path, struct caloris_err *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return caloris_err_sys(err, "%s", path);
    if (!S_ISDIR(st.st_mode))
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is not a directory", path);
    if (st.st_uid != geteuid())
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s belongs to user %ju, not to us (%ju)",
                               path, (uintmax_t)st.st_uid, (uintmax_t)geteuid());
    if (st.st_mode & 077)
        return caloris_err_set(
            err, CALORIS_BAD_CONFIG,
            "%s has mode %04o; it must be 0700, or others could talk to the gateway", path,
            (unsigned)(st.st_mode & 07777));
    return 0;
}
