#include "base/scratch.h"

#include "base/err.h"
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 10, DESCRIPTORS = 16 };

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, DESCRIPTORS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* The directory at path, if it is ours and nobody holds it: its descriptor, locked. Else -1. */
static int lock(const char *path)
{
    struct stat held, named;
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    /* Between open and lock somebody may have removed it. */
    if (fstat(fd, &held) == 0 && held.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
        lstat(path, &named) == 0 && named.st_ino == held.st_ino && named.st_dev == held.st_dev)
        return fd;
    close(fd);
    return -1;
}

/* Those of the prefix whose owner is gone. */
static void sweep(const char *parent, const char *prefix)
{
    DIR *dir = opendir(parent);
    const struct dirent *entry;
    const size_t n = strlen(prefix);
    if (!dir)
        return;
    while ((entry = readdir(dir))) {
        char path[CALORIS_SCRATCH_PATH];
        if (strncmp(entry->d_name, prefix, n) != 0 || entry->d_name[n] != '.' ||
            caloris_file_join(path, sizeof(path), parent, entry->d_name, NULL) < 0)
            continue;
        const int fd = lock(path);
        if (fd < 0)
            continue;
        remove_tree(path);
        close(fd);
    }
    closedir(dir);
}

int caloris_scratch_make(struct caloris_scratch *scratch, const char *parent, const char *prefix,
                         struct caloris_err *err)
{
    char name[NAME_MAX + 1];
    snprintf(name, sizeof(name), "%s.XXXXXX", prefix);
    sweep(parent, prefix);
    for (int i = 0; i < TRIES; i++) {
        if (caloris_file_join(scratch->path, sizeof(scratch->path), parent, name, err) < 0)
            goto fail;
        if (!mkdtemp(scratch->path)) {
            caloris_err_sys(err, "making %s", scratch->path);
            goto fail;
        }
        scratch->lock = lock(scratch->path);
        if (scratch->lock >= 0)
            return 0;
        remove_tree(scratch->path); /* somebody who sweeps was faster than our lock */
    }
    caloris_err_set(err, CALORIS_IO, "%s: no directory there can be locked", parent);
fail:
    scratch->path[0] = '\0';
    return -1;
}

void caloris_scratch_remove(struct caloris_scratch *scratch)
{
    if (!scratch->path[0])
        return;
    remove_tree(scratch->path);
    close(scratch->lock);
    scratch->path[0] = '\0';
}
