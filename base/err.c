#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int client;
    int server;
} codes[CALORIS_CODES] = {
    [CALORIS_OK] = {"ok", 0, 0},
    [CALORIS_USAGE] = {"usage", 2, 2},
    [CALORIS_BAD_CONFIG] = {"bad_config", 2, 2},
    [CALORIS_BAD_MODEL] = {"bad_model", 2, 2},
    [CALORIS_BAD_REQUEST] = {"bad_request", 2, 2},
    [CALORIS_UNREACHABLE] = {"unreachable", 3, 69},
    [CALORIS_REFUSED] = {"refused", 4, 2},
    [CALORIS_NOT_FOUND] = {"not_found", 5, 2},
    [CALORIS_AGAIN] = {"try_again", 75, 75},
    [CALORIS_PEER_LOST] = {"peer_lost", 3, 69},
    [CALORIS_NO_MEMORY] = {"no_memory", 70, 70},
    [CALORIS_IO] = {"io", 70, 70},
    [CALORIS_INTERNAL] = {"internal", 70, 70},
    [CALORIS_CANCELLED] = {"cancelled", 1, 75},
    [CALORIS_EXPIRED] = {"expired", 1, 75},
    [CALORIS_DEAD_LETTER] = {"dead_letter", 1, 70},
};

int caloris_err_set(struct caloris_err *err, enum caloris_code code, const char *format, ...)
{
    if (!err)
        return -1;
    va_list args;
    va_start(args, format);
    err->code = code;
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    return -1;
}

int caloris_err_sys(struct caloris_err *err, const char *format, ...)
{
    int saved = errno;
    if (!err)
        return -1;
    char what[CALORIS_ERR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    caloris_err_set(err, saved == ENOMEM ? CALORIS_NO_MEMORY : CALORIS_IO, "%.*s: %s",
                    CALORIS_ERR_TEXT - 80, what, strerror(saved));
    errno = saved;
    return -1;
}

int caloris_err_prefix(struct caloris_err *err, const char *format, ...)
{
    if (!err)
        return -1;
    char prefix[CALORIS_ERR_TEXT];
    char text[CALORIS_ERR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    memcpy(text, err->text, sizeof(text));
    snprintf(err->text, sizeof(err->text), "%.150s: %.350s", prefix, text);
    return -1;
}

const char *caloris_code_name(enum caloris_code code)
{
    return (unsigned)code < CALORIS_CODES ? codes[code].name : "unknown";
}

enum caloris_code caloris_code_from_name(const char *name)
{
    for (int code = 0; code < CALORIS_CODES; code++) {
        if (strcmp(codes[code].name, name) == 0)
            return (enum caloris_code)code;
    }
    return CALORIS_INTERNAL;
}

int caloris_exit_client(enum caloris_code code)
{
    return (unsigned)code < CALORIS_CODES ? codes[code].client : 70;
}

int caloris_exit_server(enum caloris_code code)
{
    return (unsigned)code < CALORIS_CODES ? codes[code].server : 70;
}
