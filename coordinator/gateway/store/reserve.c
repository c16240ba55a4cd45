#include "coordinator/gateway/store/reserve.h"

#include "base/err.h"
#include "base/file.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* The index is 32 KiB, and a life takes two or three pages of 4 KiB at the log's end: room for some
 * starts one after the other. */
enum { WHOLE_BYTES = 256 << 10, PIECE_BYTES = 4 << 10, TRY_EVERY_MS = 10000 };

int store_reserve_use(struct store_reserve *reserve, const char *dir, struct caloris_err *err)
{
    if (caloris_file_join(reserve->path, sizeof(reserve->path), dir, "reserve", err) < 0)
        return -1;
    if (unlink(reserve->path) < 0 && errno != ENOENT)
        return caloris_err_sys(err, "removing %s", reserve->path);
    return 0;
}

void store_reserve_make(struct store_reserve *reserve)
{
    reserve->tried_ms = caloris_time_ns() / 1000000u;
    int fd = open(reserve->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    int bytes = WHOLE_BYTES;
    while (posix_fallocate(fd, 0, bytes) != 0 && bytes > PIECE_BYTES)
        bytes -= PIECE_BYTES;
    reserve->whole = bytes == WHOLE_BYTES;
    close(fd);
}

void store_reserve_mend(struct store_reserve *reserve)
{
    if (!reserve->whole && caloris_time_ns() / 1000000u - reserve->tried_ms >= TRY_EVERY_MS)
        store_reserve_make(reserve);
}
