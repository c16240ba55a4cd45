/* base/buf.h: bytes that grow, up to a stated maximum (nothing that comes from outside may grow
 * without one). */
#ifndef CALORIS_BUF_H
#define CALORIS_BUF_H

#include <stddef.h>

struct caloris_err;

/* Start with CALORIS_BUF(max). data is NUL-terminated behind size whenever it is not NULL. */
struct caloris_buf {
    char *data;
    size_t size;
    size_t capacity;
    size_t max;
};

#define CALORIS_BUF(max_bytes) ((struct caloris_buf){NULL, 0, 0, (max_bytes)})

int caloris_buf_append(struct caloris_buf *buf, const void *bytes, size_t n,
                       struct caloris_err *err);
int caloris_buf_printf(struct caloris_buf *buf, struct caloris_err *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Drops the first n bytes. */
void caloris_buf_consume(struct caloris_buf *buf, size_t n);

/* size = 0; memory is kept. */
void caloris_buf_clear(struct caloris_buf *buf);

/* Frees the memory; the buffer can be used again. NULL is fine. */
void caloris_buf_free(struct caloris_buf *buf);

#endif
