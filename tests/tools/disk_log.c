/* A library to be loaded before libc: writes down what SQLite does to queue.db, queue.db-wal and
 * their directory. Syncs are made slower, so that an answer which does not wait for its sync is
 * out long before the sync is over. Good for programs that use a file from one thread at a time. */
#include "tests/tools/disk_log.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 1024, SLOW_NS = 3000000 };
static unsigned char files[MAX_FD]; /* enum disk_file */

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static bool ends_with(const char *path, const char *end)
{
    const size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

static enum disk_file file_of(const char *path)
{
    return ends_with(path, "/queue.db")       ? DISK_DB
           : ends_with(path, "/queue.db-wal") ? DISK_WAL
           : ends_with(path, "/state")        ? DISK_DIRECTORY
                                              : DISK_OTHER;
}

static enum disk_file file_at(int fd)
{
    return fd >= 0 && fd < MAX_FD ? (enum disk_file)files[fd] : DISK_OTHER;
}

/* A test whose log is not whole must not pass: then the program ends here. */
static void note(enum disk_kind kind, enum disk_file file, uint64_t offset, const void *bytes,
                 uint64_t length)
{
    static int log = -1;
    struct timespec now;
    int (*open_file)(const char *, int, ...) = (int (*)(const char *, int, ...))real("open64");
    const char *path = getenv(DISK_LOG_PATH);
    if (log < 0 && path)
        log = open_file(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct disk_record record = {
        .time_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
        .kind = kind,
        .file = file,
        .offset = offset,
        .length = length,
    };
    struct iovec parts[] = {
        {.iov_base = &record, .iov_len = sizeof(record)},
        {.iov_base = (void *)(uintptr_t)bytes, .iov_len = bytes ? length : 0},
    };
    if (writev(log, parts, 2) != (ssize_t)(sizeof(record) + parts[1].iov_len))
        abort();
}

int open64(const char *path, int flags, ...)
{
    int (*open_file)(const char *, int, ...) = (int (*)(const char *, int, ...))real("open64");
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list list;
        va_start(list, flags);
        mode = va_arg(list, mode_t);
        va_end(list);
    }
    const enum disk_file file = file_of(path);
    const bool made = file != DISK_OTHER && (flags & O_CREAT) && access(path, F_OK) < 0;
    int fd = open_file(path, flags, mode);
    if (fd >= 0 && fd < MAX_FD) {
        files[fd] = (unsigned char)file;
        if (made)
            note(DISK_CREATE, file, 0, NULL, 0);
    }
    return fd;
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list list;
        va_start(list, flags);
        mode = va_arg(list, mode_t);
        va_end(list);
    }
    return open64(path, flags, mode);
}

int close(int fd)
{
    int (*close_file)(int) = (int (*)(int))real("close");
    if (fd >= 0 && fd < MAX_FD)
        files[fd] = DISK_OTHER;
    return close_file(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset)
{
    ssize_t (*write_file)(int, const void *, size_t, off64_t) =
        (ssize_t(*)(int, const void *, size_t, off64_t))real("pwrite64");
    ssize_t done = write_file(fd, bytes, n, offset);
    if (done > 0 && file_at(fd) != DISK_OTHER)
        note(DISK_WRITE, file_at(fd), (uint64_t)offset, bytes, (uint64_t)done);
    return done;
}

int ftruncate64(int fd, off64_t size)
{
    int (*truncate_file)(int, off64_t) = (int (*)(int, off64_t))real("ftruncate64");
    int rc = truncate_file(fd, size);
    if (rc == 0 && file_at(fd) != DISK_OTHER)
        note(DISK_TRUNCATE, file_at(fd), (uint64_t)size, NULL, 0);
    return rc;
}

static int sync_file(int fd, const char *name)
{
    int (*sync)(int) = (int (*)(int))real(name);
    const struct timespec slow = {.tv_nsec = SLOW_NS};
    if (file_at(fd) != DISK_OTHER)
        nanosleep(&slow, NULL);
    int rc = sync(fd);
    if (rc == 0 && file_at(fd) != DISK_OTHER)
        note(DISK_SYNC, file_at(fd), 0, NULL, 0);
    return rc;
}

int fdatasync(int fd)
{
    return sync_file(fd, "fdatasync");
}

int fsync(int fd)
{
    return sync_file(fd, "fsync");
}
