/* Files for parsers that open what they read. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/scratch.h"
#include "tests/fuzz/fuzz.h"

static struct caloris_scratch folder;

static void drop_folder(void)
{
    caloris_scratch_remove(&folder);
}

const char *fuzz_folder(void)
{
    struct caloris_err err;

    if (!folder.path[0]) {
        if (caloris_scratch_make(&folder, "/dev/shm", "caloris-fuzz", &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
        atexit(drop_folder);
    }
    return folder.path;
}

static const char *path_of(const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    return path;
}

void fuzz_drop(const char *name)
{
    unlink(path_of(name));
}

const char *fuzz_file(const char *name, const void *data, size_t size)
{
    const char *path = path_of(name);
    int fd;

    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
        perror(path);
        exit(1);
    }
    close(fd);
    return path;
}
