#include "coordinator/gateway/store/place.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

/* statfs(2) and the file systems' own headers. FUSE is not here: it is a container's local disk as
 * often as it is something remote. */
static const struct {
    unsigned long magic;
    const char *name;
} network_fs[] = {
    {0x6969, "NFS"},          {0x517B, "SMB"},      {0xFF534D42, "CIFS"},   {0xFE534D42, "SMB2"},
    {0x0BD00BD0, "Lustre"},   {0x47504653, "GPFS"}, {0x19830326, "BeeGFS"}, {0x00C36400, "Ceph"},
    {0x5346414F, "AFS"},      {0x6B414653, "AFS"},  {0x73757245, "Coda"},   {0xAAD7AAEA, "PanFS"},
    {0x20030528, "OrangeFS"}, {0x01021997, "9P"},   {0x01161970, "GFS2"},   {0x7461636F, "OCFS2"},
};

const char *store_network_fs(unsigned long magic)
{
    for (size_t i = 0; i < sizeof(network_fs) / sizeof(*network_fs); i++) {
        if (network_fs[i].magic == magic)
            return network_fs[i].name;
    }
    return NULL;
}

int store_place_prepare(const char *dir, bool network, struct caloris_err *err)
{
    struct statfs fs;
    if (caloris_file_make_dirs(dir, 0700, err) < 0 || caloris_file_check_private(dir, err) < 0)
        return -1;
    if (statfs(dir, &fs) < 0)
        return caloris_err_sys(err, "%s: file system", dir);
    const char *name = store_network_fs((unsigned long)fs.f_type & 0xFFFFFFFFul);
    if (name && !network)
        return caloris_err_set(
            err, CALORIS_BAD_CONFIG,
            "%s is on %s: name a directory on a local disk, or say --state-on-network-fs: slower, "
            "and for one gateway alone",
            dir, name);
    return 0;
}

bool store_place_is_network(const char *dir)
{
    struct statfs fs;
    return statfs(dir, &fs) == 0 && store_network_fs((unsigned long)fs.f_type & 0xFFFFFFFFul);
}

static bool has_owner(const char *dir)
{
    char path[PATH_MAX];
    return caloris_file_join(path, sizeof(path), dir, "owner", NULL) == 0 &&
           access(path, F_OK) == 0;
}

int store_place_lock(const char *dir, bool network, struct caloris_err *err)
{
    char path[PATH_MAX], text[32];
    if (caloris_file_join(path, sizeof(path), dir, "lock", err) < 0)
        return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return caloris_err_sys(err, "%s", path);
    const bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
    /* Somebody has it and says so nowhere else: a gateway without the option, or compact. */
    if (!locked && network && (errno != EWOULDBLOCK || has_owner(dir))) {
        caloris_log(CALORIS_LOG_WARN, "%s: no lock (%s); the file owner says whose it is", path,
                    strerror(errno));
    } else if (!locked) {
        if (errno != EWOULDBLOCK) {
            caloris_err_sys(err, "locking %s", path);
            goto fail;
        }
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        text[n > 0 ? n : 0] = '\0';
        text[strcspn(text, " \n")] = '\0';
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s belongs to another gateway, process %s", dir,
                        text[0] ? text : "unknown");
        goto fail;
    }
    /* Over what is there: a full disk has no room for more. It is only said to whoever is
     * refused. */
    int n = snprintf(text, sizeof(text), "%-20ld\n", (long)getpid());
    if (pwrite(fd, text, (size_t)n, 0) != n && errno != ENOSPC && errno != EDQUOT) {
        caloris_err_sys(err, "writing %s", path);
        goto fail;
    }
    return fd;
fail:
    close(fd);
    return -1;
}

int store_place_sync(const char *dir, struct caloris_err *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return caloris_err_sys(err, "%s", dir);
    int rc = fsync(fd) < 0 ? caloris_err_sys(err, "syncing %s", dir) : 0;
    close(fd);
    return rc;
}
