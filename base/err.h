/* base/err.h: why a call failed, in one line that a reader can act on without the source.
 *
 * Functions return 0 or -1 (constructors: a pointer or NULL) and fill a struct caloris_err that the
 * caller may leave NULL. The text says what was being done, to what, and what was found. The codes
 * are few; one table maps them to exit codes and to the names used on the wire and in results.
 */
#ifndef CALORIS_ERR_H
#define CALORIS_ERR_H

#include <stdarg.h>

enum caloris_code {
    CALORIS_OK = 0,
    CALORIS_USAGE,       /* the command line */
    CALORIS_BAD_CONFIG,  /* a configuration file or environment variable */
    CALORIS_BAD_MODEL,   /* a model folder: missing, damaged, unsupported */
    CALORIS_BAD_REQUEST, /* a job, message or input line; it fails alone */
    CALORIS_UNREACHABLE, /* nobody answers at an endpoint */
    CALORIS_REFUSED,     /* the other side refuses this key or version */
    CALORIS_NOT_FOUND,   /* no such job */
    CALORIS_AGAIN,       /* try again later */
    CALORIS_PEER_LOST,   /* a rank or the gateway went away */
    CALORIS_NO_MEMORY,
    CALORIS_IO,       /* the operating system refused */
    CALORIS_INTERNAL, /* a bug of ours */
    CALORIS_CANCELLED,
    CALORIS_EXPIRED,     /* the job's deadline passed */
    CALORIS_DEAD_LETTER, /* the job took its groups down with it, alone and again and again */
    CALORIS_CODES
};

enum { CALORIS_ERR_TEXT = 512 };

struct caloris_err {
    enum caloris_code code;
    char text[CALORIS_ERR_TEXT];
};

/* Fills err (may be NULL) and returns -1, so that a failing line is one statement. */
int caloris_err_set(struct caloris_err *err, enum caloris_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, with ": " and the text of errno appended; ENOMEM becomes CALORIS_NO_MEMORY, all else
 * CALORIS_IO. */
int caloris_err_sys(struct caloris_err *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before the text that is there (the caller's context: a file, a rank, a job).
 * Returns -1. */
int caloris_err_prefix(struct caloris_err *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "bad_model", "try_again" …: the word used in results and on the wire. */
const char *caloris_code_name(enum caloris_code code);

/* The code with this name, or CALORIS_INTERNAL. */
enum caloris_code caloris_code_from_name(const char *name);

/* Exit codes of the client and of engine and gateway: docs/ARCHITECTURE.md, "Exit codes". */
int caloris_exit_client(enum caloris_code code);
int caloris_exit_server(enum caloris_code code);

#endif
