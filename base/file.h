/* base/file.h: whole files, with a maximum; directories; files that appear whole or not at all. */
#ifndef CALORIS_FILE_H
#define CALORIS_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct caloris_buf;
struct caloris_err;

/* n bytes at offset, all or nothing. Errors name path, the offset and how many bytes are missing
 * (CALORIS_BAD_MODEL when the file ends early: models are what is read this way). */
int caloris_file_read_at(int fd, const char *path, void *to, size_t n, uint64_t offset,
                         struct caloris_err *err);

/* The whole file into buf; longer than buf->max is an error. */
int caloris_file_read(const char *path, struct caloris_buf *buf, struct caloris_err *err);

/* The same, of a file of ours (or of root) that has none of the permission bits in forbidden: 077
 * for secrets, 022 for what others may not change. Else BAD_CONFIG, and the chmod that helps. */
int caloris_file_read_guarded(const char *path, mode_t forbidden, struct caloris_buf *buf,
                              struct caloris_err *err);

/* Writes path by way of a temporary file and rename, with this mode: readers see the old or the new
 * one. */
int caloris_file_write(const char *path, const void *bytes, size_t n, mode_t mode,
                       struct caloris_err *err);

/* All n bytes to fd. */
int caloris_file_write_all(int fd, const char *path, const void *bytes, size_t n,
                           struct caloris_err *err);

/* dir and name joined into to [size]; too long is an error. */
int caloris_file_join(char *to, size_t size, const char *dir, const char *name,
                      struct caloris_err *err);

/* Makes the directory and its parents, with this mode for those made; one that is there is fine. */
int caloris_file_make_dirs(const char *path, mode_t mode, struct caloris_err *err);

/* An error unless path is a directory of ours that nobody else may enter (mode 0700). */
int caloris_file_check_private(const char *path, struct caloris_err *err);

#endif
