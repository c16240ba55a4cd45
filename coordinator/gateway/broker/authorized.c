#include "coordinator/gateway/broker/authorized.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/size.h"
#include "proto/zpl.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    enum right right;
} rights[] = {
    {"submit", RIGHT_SUBMIT}, {"read-own", RIGHT_READ_OWN}, {"read-all", RIGHT_READ_ALL},
    {"serve", RIGHT_SERVE},   {"admin", RIGHT_ADMIN},
};

enum { RIGHTS = sizeof(rights) / sizeof(rights[0]) };

const char *authorized_rights(unsigned has, char text[AUTHORIZED_RIGHTS_TEXT])
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < RIGHTS; i++) {
        if (has & rights[i].right)
            used += (size_t)snprintf(text + used, AUTHORIZED_RIGHTS_TEXT - used, "%s%s",
                                     used ? " " : "", rights[i].name);
    }
    return used ? text : "nothing";
}

/* ---- one file -------------------------------------------------------------------------------- */

static int take_user(const char *value, void *to, struct caloris_err *err)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@+";
    struct caloris_identity *who = to;
    size_t n = strlen(value);
    if (n < 1 || n > AUTHORIZED_MAX_USER || strspn(value, allowed) != n)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "\"%.80s\" is no name; it is 1 to %d letters, digits, . _ - @ +",
                               value, AUTHORIZED_MAX_USER);
    memcpy(who->user, value, n + 1);
    return 0;
}

static int take_rights(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_identity *who = to;
    who->rights |= RIGHTS_SAID;
    for (const char *at = value; *at;) {
        size_t n = strcspn(at, " ,"), i = 0;
        while (i < RIGHTS && !(strlen(rights[i].name) == n && memcmp(rights[i].name, at, n) == 0))
            i++;
        if (n > 0 && i == RIGHTS)
            return caloris_err_set(err, CALORIS_BAD_CONFIG,
                                   "\"%.*s\" is no right; there are submit, read-own, read-all, "
                                   "serve and admin",
                                   n < 80 ? (int)n : 80, at);
        who->rights |= n > 0 ? (unsigned)rights[i].right : 0;
        at += n + (at[n] != '\0');
    }
    return 0;
}

static int take_number(const char *value, uint64_t most, uint64_t *number, struct caloris_err *err)
{
    char *end;
    errno = 0;
    *number = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end || errno || *number < 1 || *number > most)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "\"%.80s\" is no whole number from 1 to %ju", value,
                               (uintmax_t)most);
    return 0;
}

static int take_queued(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_identity *who = to;
    return take_number(value, INT64_MAX, &who->max_queued, err);
}

static int take_bytes(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_identity *who = to;
    if (caloris_size_parse(value, &who->max_bytes, err) == 0 && who->max_bytes > 0)
        return 0;
    return caloris_err_set(err, CALORIS_BAD_CONFIG, "\"%.80s\" is no size like 512MiB or 8GiB",
                           value);
}

static int take_running(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_identity *who = to;
    return take_number(value, INT64_MAX, &who->max_running, err);
}

static int take_share(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_identity *who = to;
    uint64_t share;
    if (take_number(value, AUTHORIZED_MAX_SHARE, &share, err) < 0)
        return -1;
    who->share = (uint32_t)share;
    return 0;
}

static int take_priority(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_identity *who = to;
    char *end;
    errno = 0;
    const long most = strtol(value, &end, 10);
    if (end == value || *end || errno || most < -AUTHORIZED_MAX_PRIORITY ||
        most > AUTHORIZED_MAX_PRIORITY)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "\"%.80s\" is no whole number from %d to %d", value,
                               -AUTHORIZED_MAX_PRIORITY, AUTHORIZED_MAX_PRIORITY);
    who->max_priority = (int32_t)most;
    return 0;
}

static int take_key(const char *value, void *to, struct caloris_err *err)
{
    struct caloris_identity *who = to;
    return caloris_keys_take(value, who->key, err);
}

static int take_secret(const char *value, void *to, struct caloris_err *err)
{
    (void)value;
    (void)to;
    return caloris_err_set(err, CALORIS_BAD_CONFIG,
                           "a secret key: it stays with its owner, the .pub file belongs here");
}

static const struct caloris_zpl_key names[] = {
    {"metadata/*", false, NULL},
    {"user", false, take_user},
    {"rights", false, take_rights},
    {"limits/max_queued", false, take_queued},
    {"limits/max_bytes", false, take_bytes},
    {"limits/max_running", false, take_running},
    {"limits/share", false, take_share},
    {"limits/max_priority", false, take_priority},
    {"curve/public-key", true, take_key},
    {"curve/secret-key", false, take_secret},
};

int authorized_read(const char *file, const char *text, size_t n, struct caloris_identity *who,
                    struct caloris_err *err)
{
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
    *who = (struct caloris_identity){.max_priority = AUTHORIZED_MAX_PRIORITY, .share = 1};
    snprintf(who->file, sizeof(who->file), "%.*s", AUTHORIZED_MAX_USER, name);
    if (caloris_zpl_read(file, text, n, names, sizeof(names) / sizeof(names[0]), who, err) < 0)
        return -1;
    char user[AUTHORIZED_MAX_USER + 1];
    size_t length = strlen(who->file);
    bool public = length > 4 && strcmp(who->file + length - 4, ".pub") == 0;
    snprintf(user, sizeof(user), "%.*s", (int)(public ? length - 4 : length), who->file);
    if (!who->user[0] && take_user(user, who, err) < 0)
        return caloris_err_prefix(err, "%s: no user is said, and the file's name", file);
    who->rights =
        who->rights & RIGHTS_SAID ? who->rights & RIGHTS_ALL : RIGHT_SUBMIT | RIGHT_READ_OWN;
    return 0;
}

/* ---- the directory --------------------------------------------------------------------------- */

void authorized_free(struct authorized *set)
{
    free(set->entries);
    *set = (struct authorized){NULL, 0};
}

int authorized_add(struct authorized *set, const struct caloris_identity *who,
                   struct caloris_err *err)
{
    for (size_t i = 0; i < set->n; i++) {
        if (strcmp(set->entries[i].key, who->key) == 0)
            return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: the same key stands in %s",
                                   who->file, set->entries[i].file);
    }
    if (set->n >= AUTHORIZED_MAX_KEYS)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "more than %d keys", AUTHORIZED_MAX_KEYS);
    struct caloris_identity *more = realloc(set->entries, (set->n + 1) * sizeof(*more));
    if (!more)
        return caloris_err_sys(err, "%zu keys", set->n + 1);
    set->entries = more;
    set->entries[set->n++] = *who;
    return 0;
}

static int load_file(const char *dir, const char *name, struct authorized *set,
                     struct caloris_err *err)
{
    char path[PATH_MAX];
    struct caloris_buf text = CALORIS_BUF(CALORIS_ZPL_MAX_BYTES);
    struct caloris_identity who;
    int rc = -1;
    if (caloris_file_join(path, sizeof(path), dir, name, err) < 0)
        return -1;
    if (strlen(name) > AUTHORIZED_MAX_USER)
        caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: a name of more than %d bytes", path,
                        AUTHORIZED_MAX_USER);
    else if (caloris_file_read_guarded(path, 022, &text, err) == 0 &&
             authorized_read(path, text.data, text.size, &who, err) == 0) {
        rc = authorized_add(set, &who, err);
        if (rc < 0)
            caloris_err_prefix(err, "%s", dir);
    }
    caloris_buf_free(&text);
    return rc;
}

static int check_dir(const char *dir, struct caloris_err *err)
{
    struct stat st;
    if (stat(dir, &st) < 0)
        return caloris_err_sys(err, "%s", dir);
    if (!S_ISDIR(st.st_mode))
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is not a directory", dir);
    if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s: others may put keys there; chmod go-w %s, and let it be yours",
                               dir, dir);
    return 0;
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

int authorized_load(const char *dir, struct authorized *set, struct caloris_err *err)
{
    struct authorized read = {NULL, 0};
    struct dirent **entries = NULL;
    int rc = -1, n = 0;
    if (check_dir(dir, err) < 0)
        goto out;
    n = scandir(dir, &entries, not_hidden, alphasort);
    if (n < 0) {
        caloris_err_sys(err, "%s", dir);
        goto out;
    }
    for (int i = 0; i < n; i++) {
        if (load_file(dir, entries[i]->d_name, &read, err) < 0)
            goto out;
    }
    *set = read;
    read = (struct authorized){NULL, 0};
    rc = 0;
out:
    if (rc < 0 && err && err->code == CALORIS_IO)
        err->code = CALORIS_BAD_CONFIG;
    for (int i = 0; i < n; i++)
        free(entries[i]);
    free(entries);
    authorized_free(&read);
    return rc;
}

const struct caloris_identity *authorized_find(const struct authorized *set, const char *key)
{
    const struct caloris_identity *found = NULL;
    char padded[CALORIS_KEY_TEXT + 1] = "";
    snprintf(padded, sizeof(padded), "%s", key);
    for (size_t i = 0; i < set->n; i++)
        found = caloris_keys_equal(set->entries[i].key, padded) ? &set->entries[i] : found;
    return found;
}
