/* tests/tools/disk_log.h: what a gateway did to the files of its queue, in order, as
 * libdisk_log.so (LD_PRELOAD) writes it down: a header, then the bytes of a write. */
#ifndef CALORIS_TESTS_DISK_LOG_H
#define CALORIS_TESTS_DISK_LOG_H

#include <stdint.h>

#define DISK_LOG_PATH "CALORIS_DISK_LOG" /* the environment variable that names the log */

enum disk_file { DISK_OTHER, DISK_DB, DISK_WAL, DISK_DIRECTORY, DISK_FILES };
enum disk_kind {
    DISK_CREATE,
    DISK_WRITE,    /* length bytes at offset */
    DISK_TRUNCATE, /* to offset bytes */
    DISK_SYNC,     /* has come back */
};

struct disk_record {
    uint64_t time_ns; /* of caloris_time_ns: when it was over */
    uint32_t kind, file;
    uint64_t offset, length;
};

#endif
