#include "proto/keys.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "proto/zpl.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

int caloris_keys_make(struct caloris_keys *keys, struct caloris_err *err)
{
    if (!zmq_has("curve") || zmq_curve_keypair(keys->public_key, keys->secret_key) != 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "the ZeroMQ library here was built without CURVE: no keys");
    return 0;
}

int caloris_keys_take(const char *text, char key[CALORIS_KEY_TEXT + 1], struct caloris_err *err)
{
    uint8_t bytes[CALORIS_KEY_BYTES];
    size_t n = strlen(text);
    if (n != CALORIS_KEY_TEXT || !zmq_z85_decode(bytes, text))
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%zu characters that are no key; it has %d, of Z85", n,
                               CALORIS_KEY_TEXT);
    memcpy(key, text, CALORIS_KEY_TEXT + 1);
    return 0;
}

void caloris_keys_text(const uint8_t bytes[CALORIS_KEY_BYTES], char key[CALORIS_KEY_TEXT + 1])
{
    zmq_z85_encode(key, bytes, CALORIS_KEY_BYTES);
}

bool caloris_keys_equal(const char a[CALORIS_KEY_TEXT + 1], const char b[CALORIS_KEY_TEXT + 1])
{
    volatile unsigned difference = 0;
    for (size_t i = 0; i <= CALORIS_KEY_TEXT; i++)
        difference |= (unsigned)(unsigned char)a[i] ^ (unsigned)(unsigned char)b[i];
    return difference == 0;
}

/* ---- certificates ---------------------------------------------------------------------------- */

static int take_public(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_keys *keys = to;
    return caloris_keys_take(value, keys->public_key, err);
}

static int take_secret(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_keys *keys = to;
    return caloris_keys_take(value, keys->secret_key, err);
}

static const struct caloris_zpl_key names[] = {
    {"metadata/*", false, NULL},
    {"curve/public-key", true, take_public},
    {"curve/secret-key", true, take_secret},
};

/* All else is no matter for those who want the public key alone. */
static const struct caloris_zpl_key public_names[] = {
    {"metadata/*", false, NULL},
    {"curve/public-key", true, take_public},
    {"curve/secret-key", false, NULL},
};

int caloris_keys_load(const char *path, struct caloris_keys *keys, struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(CALORIS_ZPL_MAX_BYTES);
    struct caloris_keys pair = {0};
    char derived[CALORIS_KEY_TEXT + 1];
    int rc = -1;
    if (caloris_file_read_guarded(path, 077, &text, err) < 0 ||
        caloris_zpl_read(path, text.data, text.size, names, sizeof(names) / sizeof(names[0]), &pair,
                         err) < 0)
        goto out;
    if (zmq_curve_public(derived, pair.secret_key) != 0) {
        caloris_err_set(err, CALORIS_BAD_CONFIG,
                        "the ZeroMQ library here was built without CURVE: no keys");
        goto out;
    }
    if (!caloris_keys_equal(derived, pair.public_key)) {
        caloris_err_set(err, CALORIS_BAD_CONFIG,
                        "%s: curve/public-key does not belong to curve/secret-key", path);
        goto out;
    }
    *keys = pair;
    rc = 0;
out:
    if (rc < 0 && err && err->code == CALORIS_IO)
        err->code = CALORIS_BAD_CONFIG; /* whoever named it should look */
    if (text.data)
        explicit_bzero(text.data, text.size);
    caloris_buf_free(&text);
    explicit_bzero(&pair, sizeof(pair));
    return rc;
}

int caloris_keys_find_public(const char *key_or_path, char key[CALORIS_KEY_TEXT + 1],
                             struct caloris_err *err)
{
    /* A key may look like a path; a file that is there is meant. */
    if (access(key_or_path, F_OK) < 0 && caloris_keys_take(key_or_path, key, NULL) == 0)
        return 0;
    struct caloris_buf text = CALORIS_BUF(CALORIS_ZPL_MAX_BYTES);
    struct caloris_keys keys = {0};
    int rc = caloris_file_read(key_or_path, &text, err);
    if (rc == 0)
        rc = caloris_zpl_read(key_or_path, text.data, text.size, public_names,
                              sizeof(public_names) / sizeof(public_names[0]), &keys, err);
    if (rc == 0)
        memcpy(key, keys.public_key, sizeof(keys.public_key));
    else if (err)
        err->code = CALORIS_BAD_CONFIG;
    explicit_bzero(&keys, sizeof(keys));
    caloris_buf_free(&text);
    return rc;
}

static int write_new(const char *path, const struct caloris_buf *text, mode_t mode,
                     struct caloris_err *err)
{
    if (access(path, F_OK) == 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is there already; it is not replaced",
                               path);
    return caloris_file_write(path, text->data, text->size, mode, err);
}

/* A name with a quote in it would end its value. */
static bool is_quotable(const char *name)
{
    for (const char *c = name; *c; c++) {
        if (*c < ' ' || *c == '"' || *c == 127)
            return false;
    }
    return strlen(name) <= CALORIS_ZPL_MAX_VALUE;
}

int caloris_keys_write(const char *path, const struct caloris_keys *keys, const char *name,
                       struct caloris_err *err)
{
    struct caloris_buf secret = CALORIS_BUF(CALORIS_ZPL_MAX_BYTES);
    struct caloris_buf public = CALORIS_BUF(CALORIS_ZPL_MAX_BYTES);
    char beside[PATH_MAX];
    int rc = -1;
    int n = snprintf(beside, sizeof(beside), "%s.pub", path);
    if (n < 0 || (size_t)n >= sizeof(beside)) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "path too long: %.100s…", path);
        goto out;
    }
    if (!is_quotable(name)) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "name \"%.80s\": no quotes, no control characters",
                        name);
        goto out;
    }
    if (caloris_buf_printf(&public, err,
                           "# Public certificate: whoever has it knows whom they talk to.\n"
                           "metadata\n    name = \"%s\"\ncurve\n    public-key = \"%s\"\n",
                           name, keys->public_key) < 0 ||
        caloris_buf_printf(&secret, err,
                           "# SECRET certificate: it stays with its owner, mode 0600. Others get "
                           "the one in .pub.\n"
                           "metadata\n    name = \"%s\"\n"
                           "curve\n    public-key = \"%s\"\n    secret-key = \"%s\"\n",
                           name, keys->public_key, keys->secret_key) < 0)
        goto out;
    if (access(beside, F_OK) == 0) {
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is there already; it is not replaced", beside);
        goto out;
    }
    if (write_new(path, &secret, 0600, err) < 0 || write_new(beside, &public, 0644, err) < 0)
        goto out;
    rc = 0;
out:
    if (secret.data)
        explicit_bzero(secret.data, secret.size);
    caloris_buf_free(&secret);
    caloris_buf_free(&public);
    return rc;
}
