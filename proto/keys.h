/* proto/keys.h: CURVE keys and the certificates that hold them.
 *
 * A key is 32 bytes, written as 40 characters of Z85. A certificate is a ZPL file as CZMQ writes
 * it: metadata, curve/public-key and, in the owner's own, curve/secret-key. A file with a secret
 * key must have mode 0600.
 */
#ifndef CALORIS_KEYS_H
#define CALORIS_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

enum { CALORIS_KEY_BYTES = 32, CALORIS_KEY_TEXT = 40 };

struct caloris_keys {
    char public_key[CALORIS_KEY_TEXT + 1];
    char secret_key[CALORIS_KEY_TEXT + 1]; /* "": not known */
};

/* A new pair. BAD_CONFIG where ZeroMQ was built without CURVE. */
int caloris_keys_make(struct caloris_keys *keys, struct caloris_err *err);

/* Writes path (both keys, mode 0600) and path.pub (the public one). A file that is there already
 * is an error: a key that is replaced by mistake is lost. name: who it is of, for the reader. */
int caloris_keys_write(const char *path, const struct caloris_keys *keys, const char *name,
                       struct caloris_err *err);

/* Both keys of a certificate. BAD_CONFIG, with file and line: not 0600, damaged, no secret key,
 * keys that do not belong together. */
int caloris_keys_load(const char *path, struct caloris_keys *keys, struct caloris_err *err);

/* A public key, said as itself or as the path of a certificate. */
int caloris_keys_find_public(const char *key_or_path, char key[CALORIS_KEY_TEXT + 1],
                             struct caloris_err *err);

/* Copies 40 characters of Z85; BAD_CONFIG for what is no key. */
int caloris_keys_take(const char *text, char key[CALORIS_KEY_TEXT + 1], struct caloris_err *err);

/* 32 bytes as text. */
void caloris_keys_text(const uint8_t bytes[CALORIS_KEY_BYTES], char key[CALORIS_KEY_TEXT + 1]);

/* Takes the same time wherever the two differ. */
bool caloris_keys_equal(const char a[CALORIS_KEY_TEXT + 1], const char b[CALORIS_KEY_TEXT + 1]);

#endif
