/* proto/zpl.h: small settings files in ZPL (ZeroMQ RFC 4), the form of ZeroMQ's certificates.
 *
 *   # A comment.
 *   rights = "submit read-own"
 *   curve
 *       public-key = "…"
 *
 * Read strictly: a level is four spaces, every name is known and stands once, a value has an end.
 * Errors name file and line. Nothing is allocated.
 */
#ifndef CALORIS_ZPL_H
#define CALORIS_ZPL_H

#include <stdbool.h>
#include <stddef.h>

struct caloris_err;

enum {
    CALORIS_ZPL_MAX_BYTES = 16 << 10, /* of a file */
    CALORIS_ZPL_MAX_VALUE = 512,      /* bytes of a value */
    CALORIS_ZPL_MAX_KEYS = 32,        /* in a table */
};

/* One line of a table: a name that may stand in the file. */
struct caloris_zpl_key {
    const char *path; /* "curve/public-key"; one that ends in a star: whatever stands there */
    bool required;
    /* Takes the value into the caller's struct; -1 and err (without file and line). NULL: it is
     * ignored. */
    int (*take)(const char *value, void *to, struct caloris_err *err);
};

/* Reads text [n], giving each value to its line of keys [n_keys]. file names it in errors, which
 * are BAD_CONFIG. What was taken before an error stays in to. */
int caloris_zpl_read(const char *file, const char *text, size_t n,
                     const struct caloris_zpl_key *keys, size_t n_keys, void *to,
                     struct caloris_err *err);

#endif
