/* Who gets in, and what they may do. ZeroMQ asks here about every key that is shown at a keyed
 * socket, before a message of that peer is taken. */
#include "coordinator/gateway/broker/state.h"

#include "base/log.h"
#include "proto/curve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static int load(const struct caloris_broker *b, struct authorized *set, struct caloris_err *err)
{
    *set = (struct authorized){NULL, 0};
    if (b->options.authorized && authorized_load(b->options.authorized, set, err) < 0)
        return -1;
    if (!b->options.token)
        return 0;
    /* Whoever can read a file of ours is us. */
    struct caloris_identity who = b->local;
    snprintf(who.key, sizeof(who.key), "%s", b->options.token);
    snprintf(who.file, sizeof(who.file), "the token");
    if (authorized_add(set, &who, err) == 0)
        return 0;
    authorized_free(set);
    return -1;
}

int admit_open(struct caloris_broker *b, struct caloris_err *err)
{
    b->local = (struct caloris_identity){
        .rights = RIGHTS_ALL, .max_priority = AUTHORIZED_MAX_PRIORITY, .share = 1};
    snprintf(b->local.user, sizeof(b->local.user), "%s", b->options.user);
    if (!b->options.server)
        return 0;
    if (load(b, &b->authorized, err) < 0)
        return -1;
    b->handler = caloris_curve_handler(b->context, err);
    if (!b->handler)
        return -1;
    caloris_log(CALORIS_LOG_INFO, "%zu key%s authorized", b->authorized.n,
                b->authorized.n == 1 ? " is" : "s are");
    return 0;
}

/* Each tells an administrator something, but a flood of them shall not fill a disk. */
static void log_refusal(struct caloris_broker *b, const struct caloris_entry *entry,
                        const char *why)
{
    enum { PER_SECOND = 10 };
    b->figures.keys_refused++;
    if (b->now_ms - b->refusals_ms >= 1000) {
        b->refusals_ms = b->now_ms;
        b->refusals = 0;
    }
    if (++b->refusals <= PER_SECOND)
        caloris_log(CALORIS_LOG_WARN, "%s: key %s refused: %s%s", entry->address, entry->key, why,
                    b->refusals == PER_SECOND ? "; more this second are not told" : "");
}

void admit_take(struct caloris_broker *b)
{
    struct caloris_entry entry;
    for (int i = 0; i < BROKER_BATCH && b->handler; i++) {
        if (caloris_curve_asked(b->handler, &entry) == 0)
            return;
        const struct caloris_identity *who = authorized_find(&b->authorized, entry.key);
        bool serves = strcmp(entry.domain, ADMIT_GROUPS) == 0;
        bool welcome = who && (!serves || who->rights & RIGHT_SERVE);
        if (!welcome)
            log_refusal(b, &entry, who ? "it has no right to serve" : "it is not authorized");
        caloris_curve_answer(b->handler, &entry, welcome);
    }
}

const struct caloris_identity *admit_find(const struct caloris_broker *b,
                                          const struct caloris_peer *peer, bool keyed,
                                          struct caloris_err *err)
{
    const struct caloris_identity *who =
        keyed ? authorized_find(&b->authorized, peer->key) : &b->local;
    if (!who)
        caloris_err_set(err, CALORIS_REFUSED, "the server refused your key");
    return who;
}

int admit_check(const struct caloris_identity *who, unsigned rights, const char *what,
                struct caloris_err *err)
{
    char text[AUTHORIZED_RIGHTS_TEXT], needed[AUTHORIZED_RIGHTS_TEXT];
    if (rights == 0 || who->rights & rights)
        return 0;
    return caloris_err_set(err, CALORIS_REFUSED, "%s needs the right %s; your key has %s", what,
                           authorized_rights(rights & (~rights + 1), needed),
                           authorized_rights(who->rights, text));
}

/* Of the first of the user's keys, by file name; what it leaves open is as the gateway has it. */
struct caloris_user_limits admit_limits(const struct caloris_broker *b, const char *user)
{
    struct caloris_user_limits limits = b->options.limits;
    for (size_t i = 0; i < b->authorized.n; i++) {
        const struct caloris_identity *who = &b->authorized.entries[i];
        if (strcmp(who->user, user) != 0)
            continue;
        if (who->max_queued)
            limits.max_queued = who->max_queued;
        if (who->max_bytes)
            limits.max_bytes = who->max_bytes;
        if (who->max_running)
            limits.max_running = who->max_running;
        limits.share = who->share;
        break;
    }
    return limits;
}

/* ---- SIGHUP ---------------------------------------------------------------------------------- */

static bool same(const struct caloris_identity *a, const struct caloris_identity *b)
{
    return strcmp(a->user, b->user) == 0 && a->rights == b->rights;
}

static bool same_limits(const struct caloris_identity *a, const struct caloris_identity *b)
{
    return a->max_queued == b->max_queued && a->max_bytes == b->max_bytes &&
           a->max_running == b->max_running && a->share == b->share &&
           a->max_priority == b->max_priority;
}

/* The entry of set for the same key; public keys, read from files, are no secret here. */
static const struct caloris_identity *find_key(const struct authorized *set, const char *key)
{
    for (size_t i = 0; i < set->n; i++) {
        if (strcmp(set->entries[i].key, key) == 0)
            return &set->entries[i];
    }
    return NULL;
}

static void log_entry(const char *what, const struct caloris_identity *who)
{
    char text[AUTHORIZED_RIGHTS_TEXT];
    caloris_log(CALORIS_LOG_INFO, "keys: %s %s: user %s, %s", who->file, what, who->user,
                authorized_rights(who->rights, text));
}

/* What is said of the differences; how many there are. */
static size_t log_changes(const struct authorized *before, const struct authorized *after)
{
    size_t changes = 0;
    for (size_t i = 0; i < before->n; i++) {
        const struct caloris_identity *old = &before->entries[i], *new = find_key(after, old->key);
        if (new &&same(old, new) && same_limits(old, new))
            continue;
        log_entry(!new             ? "removed"
                  : same(old, new) ? "has other limits"
                                   : "changed",
                  new ? new : old);
        changes++;
    }
    for (size_t i = 0; i < after->n; i++) {
        if (find_key(before, after->entries[i].key))
            continue;
        log_entry("added", &after->entries[i]);
        changes++;
    }
    return changes;
}

/* Who is here with a key that is gone or means something else leaves; all others have a new
 * entry. */
static void move(struct caloris_broker *b, const struct authorized *after)
{
    for (struct table_node *node = table_first(&b->clients), *next; node; node = next) {
        next = table_after(&b->clients, node);
        struct client *client = TABLE_ENTRY(node, struct client, node);
        if (client->who == &b->local)
            continue;
        const struct caloris_identity *new = find_key(after, client->who->key);
        if (new &&same(client->who, new))
            client->who = new;
        else
            clients_expel(b, client);
    }
    for (struct group *group = b->groups, *next; group; group = next) {
        next = group->next;
        if (group->who == &b->local)
            continue;
        const struct caloris_identity *new = find_key(after, group->who->key);
        if (new &&new->rights & RIGHT_SERVE)
            group->who = new;
        else
            groups_expel(b, group);
    }
}

void admit_reload(struct caloris_broker *b)
{
    struct authorized after;
    struct caloris_err err;
    if (!b->options.server) {
        caloris_log(CALORIS_LOG_INFO, "no keys are used here: nothing to read again");
        return;
    }
    if (load(b, &after, &err) < 0) {
        caloris_log(CALORIS_LOG_ERROR, "the keys stay as they were: %s", err.text);
        return;
    }
    size_t changes = log_changes(&b->authorized, &after);
    move(b, &after);
    authorized_free(&b->authorized);
    b->authorized = after;
    users_limit(b);
    caloris_log(CALORIS_LOG_INFO, "keys read again: %zu authorized, %zu changes", b->authorized.n,
                changes);
}

void admit_close(struct caloris_broker *b)
{
    if (b->handler)
        zmq_close(b->handler);
    authorized_free(&b->authorized);
}
