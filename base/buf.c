#include "base/buf.h"

#include "base/err.h"
#include "base/size.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for n more bytes and the NUL. */
static int reserve(struct caloris_buf *buf, size_t n, struct caloris_err *err)
{
    size_t need;
    if (!caloris_size_add(buf->size, n, &need) || need > buf->max)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "more than %zu bytes", buf->max);
    if (need < buf->capacity)
        return 0;
    size_t capacity = buf->capacity ? buf->capacity : 256;
    while (capacity <= need)
        capacity *= 2;
    char *data = realloc(buf->data, capacity);
    if (!data)
        return caloris_err_sys(err, "growing a buffer to %zu bytes", capacity);
    buf->data = data;
    buf->capacity = capacity;
    return 0;
}

int caloris_buf_append(struct caloris_buf *buf, const void *bytes, size_t n,
                       struct caloris_err *err)
{
    if (reserve(buf, n, err) < 0)
        return -1;
    if (n)
        memcpy(buf->data + buf->size, bytes, n);
    buf->size += n;
    buf->data[buf->size] = '\0';
    return 0;
}

int caloris_buf_printf(struct caloris_buf *buf, struct caloris_err *err, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    int rc = -1;
    if (n < 0)
        caloris_err_set(err, CALORIS_INTERNAL, "cannot format \"%s\"", format);
    else if (reserve(buf, (size_t)n, err) == 0) {
        vsnprintf(buf->data + buf->size, (size_t)n + 1, format, again);
        buf->size += (size_t)n;
        rc = 0;
    }
    va_end(again);
    return rc;
}

void caloris_buf_consume(struct caloris_buf *buf, size_t n)
{
    if (n == 0)
        return;
    memmove(buf->data, buf->data + n, buf->size - n + 1);
    buf->size -= n;
}

void caloris_buf_clear(struct caloris_buf *buf)
{
    buf->size = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

void caloris_buf_free(struct caloris_buf *buf)
{
    if (!buf)
        return;
    free(buf->data);
    *buf = CALORIS_BUF(buf->max);
}
