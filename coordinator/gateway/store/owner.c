#include "coordinator/gateway/store/owner.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SETTLE_MS = 1000,
    LOOK_MS = 500,
    TRY_AGAIN_MS = 500,
    ENTRY_BYTES = 512, /* always: it is written over what was there, on a full disk, too */
    MOST_HOST = 255,
    BOOT_ID = 36,
};

/* Where a process number means something: host names are given twice, to containers above all. */
struct home {
    char boot[BOOT_ID + 1]; /* this run of the machine's kernel; "-": not known */
    uint64_t pid_namespace; /* 0: not known */
};

struct entry {
    char host[MOST_HOST + 1];
    long pid;
    uint64_t instance, count;
    struct home home;
};

static void own_host(char host[MOST_HOST + 1])
{
    if (gethostname(host, MOST_HOST + 1) < 0)
        snprintf(host, MOST_HOST + 1, "unknown");
    host[MOST_HOST] = '\0';
}

static void own_home(struct home *home)
{
    struct caloris_buf text = CALORIS_BUF(MOST_HOST);
    struct stat st;
    *home = (struct home){.boot = "-"};
    if (caloris_file_read("/proc/sys/kernel/random/boot_id", &text, NULL) == 0 && text.data)
        sscanf(text.data, "%36s", home->boot);
    caloris_buf_free(&text);
    if (stat("/proc/self/ns/pid", &st) == 0)
        home->pid_namespace = (uint64_t)st.st_ino;
}

static bool lives_here(const struct entry *entry)
{
    struct home home;
    own_home(&home);
    return home.boot[0] != '-' && home.pid_namespace != 0 &&
           strcmp(home.boot, entry->home.boot) == 0 &&
           home.pid_namespace == entry->home.pid_namespace;
}

/* 1: read; 0: nobody's; -1. A file that says nothing sensible is nobody's. */
static int read_entry(const char *path, struct entry *entry, struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(ENTRY_BYTES);
    int rc = 0;
    *entry = (struct entry){.home.boot = "-"}; /* older versions do not write theirs */
    if (access(path, F_OK) == 0)
        rc = caloris_file_read(path, &text, err) < 0 ? -1 : 1;
    if (rc == 1 &&
        (!text.data || sscanf(text.data, "%255s %ld %" SCNu64 " %" SCNu64 " %36s %" SCNu64,
                              entry->host, &entry->pid, &entry->instance, &entry->count,
                              entry->home.boot, &entry->home.pid_namespace) < 4))
        rc = 0;
    caloris_buf_free(&text);
    return rc;
}

/* In place: a new file under another name takes room, which a full disk does not have. */
static int overwrite(const char *path, const char *text, size_t n, struct caloris_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return caloris_err_sys(err, "%s", path);
    int rc = pwrite(fd, text, n, 0) != (ssize_t)n || fsync(fd) < 0
                 ? caloris_err_sys(err, "writing %s", path)
                 : 0;
    if (close(fd) < 0 && rc == 0) /* where NFS says what it could not write */
        rc = caloris_err_sys(err, "writing %s", path);
    return rc;
}

static int write_entry(struct store_owner *owner, struct caloris_err *err)
{
    char host[MOST_HOST + 1], text[ENTRY_BYTES + 1];
    struct home home;
    own_host(host);
    own_home(&home);
    int n =
        snprintf(text, sizeof(text), "%s %ld %" PRIu64 " %" PRIu64 " %s %" PRIu64, host,
                 (long)getpid(), owner->instance, owner->count + 1, home.boot, home.pid_namespace);
    memset(text + n, ' ', (size_t)(ENTRY_BYTES - n));
    text[ENTRY_BYTES - 1] = '\n';
    if (overwrite(owner->path, text, ENTRY_BYTES, err) < 0)
        return -1;
    owner->count++;
    owner->told_ms = caloris_time_ns() / 1000000u;
    return 0;
}

/* 0: whoever wrote it is gone; -1 and err. A process of this machine is asked for, any other is
 * watched. */
static int await_silence(const char *path, const struct entry *first, struct caloris_err *err)
{
    struct entry now;
    if (lives_here(first) && kill((pid_t)first->pid, 0) < 0 && errno == ESRCH)
        return 0;
    for (int waited = 0; waited < STORE_OWNER_PATIENCE_MS; waited += LOOK_MS) {
        caloris_time_sleep_ms(LOOK_MS);
        int rc = read_entry(path, &now, err);
        if (rc <= 0)
            return rc;
        if (now.instance != first->instance || now.count != first->count)
            return caloris_err_set(err, CALORIS_BAD_CONFIG,
                                   "%s: the directory belongs to another gateway, process %ld on "
                                   "host %s, which is alive",
                                   path, now.pid, now.host);
    }
    return 0;
}

int store_owner_take(struct store_owner *owner, const char *dir, struct caloris_err *err)
{
    struct entry found;
    *owner = (struct store_owner){.instance = 0};
    if (caloris_file_join(owner->path, sizeof(owner->path), dir, "owner", err) < 0)
        return -1;
    int rc = read_entry(owner->path, &found, err);
    if (rc < 0 || (rc == 1 && await_silence(owner->path, &found, err) < 0))
        return -1;
    const bool was_there = rc == 1;
    owner->instance = caloris_rng_fresh_seed() | 1;
    if (write_entry(owner, err) < 0) {
        owner->instance = 0;
        return -1;
    }
    if (was_there)
        caloris_time_sleep_ms(SETTLE_MS); /* two may have waited for the same silence */
    if (read_entry(owner->path, &found, err) == 1 && found.instance == owner->instance)
        return 0;
    owner->instance = 0;
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: another gateway takes the directory",
                           owner->path);
}

static int look_and_tell(struct store_owner *owner, struct caloris_err *err)
{
    struct entry found;
    int rc = read_entry(owner->path, &found, err);
    if (rc == 1 && found.instance != owner->instance)
        return caloris_err_set(err, CALORIS_REFUSED,
                               "%s: process %ld on host %s has taken the directory over",
                               owner->path, found.pid, found.host);
    return rc < 0 ? -1 : write_entry(owner, err);
}

int store_owner_keep(struct store_owner *owner, struct caloris_err *err)
{
    const uint64_t now_ms = caloris_time_ns() / 1000000u;
    struct caloris_err why;
    if (owner->instance == 0 || now_ms - owner->told_ms < STORE_OWNER_EVERY_MS ||
        now_ms - owner->tried_ms < TRY_AGAIN_MS)
        return 0;
    owner->tried_ms = now_ms;
    if (look_and_tell(owner, &why) == 0)
        return 0;
    /* A disk that cannot be written for a moment is no reason to end, as long as nobody can take
     * this one for gone. */
    if (why.code != CALORIS_REFUSED &&
        now_ms - owner->told_ms < STORE_OWNER_PATIENCE_MS - STORE_OWNER_EVERY_MS)
        return 0;
    return caloris_err_set(err, why.code, "%s", why.text);
}

int store_owner_absent(const char *dir, struct caloris_err *err)
{
    char path[PATH_MAX];
    struct entry found;
    if (caloris_file_join(path, sizeof(path), dir, "owner", err) < 0)
        return -1;
    int rc = read_entry(path, &found, err);
    return rc < 0 || (rc == 1 && await_silence(path, &found, err) < 0) ? -1 : rc;
}

void store_owner_leave(struct store_owner *owner)
{
    struct entry found;
    if (owner->instance != 0 && read_entry(owner->path, &found, NULL) == 1 &&
        found.instance == owner->instance)
        unlink(owner->path);
    owner->instance = 0;
}
