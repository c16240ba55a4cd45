#include "coordinator/gateway/store/owner.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/time.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SETTLE_MS = 1000, LOOK_MS = 500, MOST_TEXT = 512, MOST_HOST = 255 };

struct entry {
    char host[MOST_HOST + 1];
    long pid;
    uint64_t instance, count;
};

static void own_host(char host[MOST_HOST + 1])
{
    if (gethostname(host, MOST_HOST + 1) < 0)
        snprintf(host, MOST_HOST + 1, "unknown");
    host[MOST_HOST] = '\0';
}

/* 1: read; 0: nobody's; -1. A file that says nothing sensible is nobody's. */
static int read_entry(const char *path, struct entry *entry, struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(MOST_TEXT);
    int rc = 0;
    if (access(path, F_OK) == 0)
        rc = caloris_file_read(path, &text, err) < 0 ? -1 : 1;
    if (rc == 1 && (!text.data || sscanf(text.data, "%255s %ld %" SCNu64 " %" SCNu64, entry->host,
                                         &entry->pid, &entry->instance, &entry->count) != 4))
        rc = 0;
    caloris_buf_free(&text);
    return rc;
}

static int write_entry(struct store_owner *owner, struct caloris_err *err)
{
    char host[MOST_HOST + 1], text[MOST_TEXT];
    own_host(host);
    int n = snprintf(text, sizeof(text), "%s %ld %" PRIu64 " %" PRIu64 "\n", host, (long)getpid(),
                     owner->instance, ++owner->count);
    owner->told_ms = caloris_time_ns() / 1000000u;
    return caloris_file_write(owner->path, text, (size_t)n, 0600, err);
}

/* 0: whoever wrote it is gone; -1 and err. A process of this host is asked for, any other is
 * watched. */
static int await_silence(const char *path, const struct entry *first, struct caloris_err *err)
{
    char host[MOST_HOST + 1];
    struct entry now;
    own_host(host);
    if (strcmp(first->host, host) == 0 && kill((pid_t)first->pid, 0) < 0 && errno == ESRCH)
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

int store_owner_keep(struct store_owner *owner, struct caloris_err *err)
{
    struct entry found;
    if (owner->instance == 0 ||
        caloris_time_ns() / 1000000u - owner->told_ms < STORE_OWNER_EVERY_MS)
        return 0;
    int rc = read_entry(owner->path, &found, err);
    if (rc == 1 && found.instance != owner->instance)
        return caloris_err_set(err, CALORIS_REFUSED,
                               "%s: process %ld on host %s has taken the directory over",
                               owner->path, found.pid, found.host);
    return rc < 0 ? -1 : write_entry(owner, err);
}

void store_owner_leave(struct store_owner *owner)
{
    struct entry found;
    if (owner->instance != 0 && read_entry(owner->path, &found, NULL) == 1 &&
        found.instance == owner->instance)
        unlink(owner->path);
    owner->instance = 0;
}
