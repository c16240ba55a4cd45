#include "worker/model/source.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int caloris_model_open(const char *path, uint64_t *size, struct caloris_err *err)
{
    /* Not blocking: a FIFO in place of a file must not hang the rank. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int reason = errno;
        caloris_err_sys(err, "%s", path);
        bool lasting = reason == ENOENT || reason == ENOTDIR || reason == EACCES || reason == ELOOP;
        if (err && lasting)
            err->code = CALORIS_BAD_MODEL;
        return -1;
    }
    struct stat st;
    if (fstat(fd, &st) < 0) {
        caloris_err_sys(err, "%s", path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s is not a regular file", path);
        goto fail;
    }
    *size = (uint64_t)st.st_size;
    return fd;
fail:
    close(fd);
    return -1;
}

json_t *caloris_model_json(const char *path, size_t max, struct caloris_err *err)
{
    uint64_t size;
    int fd = caloris_model_open(path, &size, err);
    if (fd < 0)
        return NULL;
    json_t *object = NULL;
    char *text = NULL;
    if (size > max) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s has %" PRIu64 " bytes, at most %zu are read",
                        path, size, max);
        goto out;
    }
    text = malloc((size_t)size + 1);
    if (!text) {
        caloris_err_sys(err, "%s", path);
        goto out;
    }
    if (caloris_file_read_at(fd, path, text, (size_t)size, 0, err) < 0)
        goto out;
    object = caloris_json_parse(text, (size_t)size, path, err);
    if (!object) {
        if (err)
            err->code = CALORIS_BAD_MODEL;
        goto out;
    }
    if (!json_is_object(object)) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s does not hold a JSON object", path);
        json_decref(object);
        object = NULL;
    }
out:
    free(text);
    close(fd);
    return object;
}

bool caloris_model_printable(const char *name)
{
    for (const char *c = name; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return false;
    }
    return true;
}
