/* Which clients are here: how they come, and how it is found that they went. */
#include "coordinator/gateway/broker/requests.h"

#include <stdlib.h>
#include <string.h>

enum { PROBE_AFTER_MS = 30000, PROBE_EVERY_MS = 10000 };

struct client *clients_find(const struct caloris_broker *b, const struct caloris_peer *peer)
{
    struct table_node *node = table_find(&b->clients, table_hash(peer->id, peer->size));
    for (; node; node = table_find_next(node)) {
        struct client *client = TABLE_ENTRY(node, struct client, node);
        if (client->peer.size == peer->size && memcmp(client->peer.id, peer->id, peer->size) == 0)
            return client;
    }
    return NULL;
}

bool clients_have_room(const struct client *client)
{
    return atomic_load(&client->user->sending) < BROKER_MAX_SENDING;
}

static void forget(struct caloris_broker *b, struct client *client)
{
    watch_remove_all(b, client);
    client->user->clients--;
    table_remove(&b->clients, &client->node);
    free(client);
}

void clients_expel(struct caloris_broker *b, struct client *client)
{
    struct caloris_err why;
    caloris_err_set(&why, CALORIS_REFUSED, "the server refuses your key from now on");
    answer_failure(b, &client->peer, 0, &why);
    forget(b, client);
}

void clients_watch(struct caloris_broker *b, const struct caloris_peer *peer, uint64_t job,
                   bool canvas)
{
    struct client *client = clients_find(b, peer);
    const struct watch_seen nothing = {.seq = 0};
    struct caloris_err why;
    if (client && watch_add(b, client, job, canvas, &nothing, &why) < 0)
        broker_warn(b, "%s", why.text);
}

void clients_forget_all(struct caloris_broker *b)
{
    struct table_node *node;
    while ((node = table_first(&b->clients)) != NULL)
        forget(b, TABLE_ENTRY(node, struct client, node));
}

void clients_gone(struct caloris_broker *b, const struct caloris_peer *peer)
{
    struct client *client = clients_find(b, peer);
    if (client)
        client->gone = b->some_gone = true;
}

void clients_forgive(struct caloris_broker *b, uint64_t ms)
{
    for (struct table_node *node = table_first(&b->clients); node;
         node = table_after(&b->clients, node))
        TABLE_ENTRY(node, struct client, node)->heard_ms += ms;
}

/* ZeroMQ does not tell that a client went away, but refuses to send to one that did. */
void clients_probe(struct caloris_broker *b)
{
    const bool due = b->now_ms - b->probed_ms >= PROBE_EVERY_MS;
    if (!due && !b->some_gone)
        return;
    b->probed_ms = due ? b->now_ms : b->probed_ms;
    b->some_gone = false; /* forgetting one may find another */
    for (struct table_node *node = table_first(&b->clients), *next; node; node = next) {
        next = table_after(&b->clients, node);
        struct client *client = TABLE_ENTRY(node, struct client, node);
        if (due && !client->gone && b->now_ms - client->heard_ms >= PROBE_AFTER_MS)
            answer_probe(b, &client->peer);
        if (client->gone)
            forget(b, client);
    }
}

static int take_hello(struct caloris_broker *b, const struct caloris_peer *peer,
                      const client_request *message, struct caloris_err *err)
{
    const Caloris__Wire__Hello *hello = message->hello;
    uint32_t version = caloris_wire_version(hello->version_min, hello->version_max, err);
    if (version == 0)
        return -1;
    const struct caloris_identity *who = admit_find(b, peer, b->clients_keyed, err);
    if (!who)
        return -1;
    struct client *client = clients_find(b, peer);
    if (!client) {
        if (b->clients.count >= BROKER_MAX_CLIENTS)
            return caloris_err_set(err, CALORIS_AGAIN, "%d clients are here; that is the limit",
                                   BROKER_MAX_CLIENTS);
        struct user *user = user_need(b, who->user, err);
        if (!user)
            return -1;
        if (user->clients >= BROKER_MAX_USER_CLIENTS)
            return caloris_err_set(err, CALORIS_AGAIN,
                                   "user %s has %d clients here; that is the limit", user->name,
                                   BROKER_MAX_USER_CLIENTS);
        client = calloc(1, sizeof(*client));
        if (!client ||
            table_add(&b->clients, &client->node, table_hash(peer->id, peer->size), err) < 0) {
            free(client);
            return caloris_err_set(err, CALORIS_NO_MEMORY, "no memory for another client");
        }
        client->peer = *peer;
        client->who = who;
        client->user = user;
        user->clients++;
    }
    client->heard_ms = b->now_ms;
    char agent[] = "caloris-gateway " CALORIS_VERSION;
    to_client answer = CALORIS__WIRE__GATEWAY_TO_CLIENT__INIT;
    Caloris__Wire__Welcome welcome = CALORIS__WIRE__WELCOME__INIT;
    welcome.version = version;
    welcome.boot_epoch = caloris_store_epoch(b->store);
    welcome.agent = agent;
    answer.request = message->request;
    answer.body_case = CALORIS__WIRE__GATEWAY_TO_CLIENT__BODY_WELCOME;
    answer.welcome = &welcome;
    answer_client(b, peer, &answer);
    return 0;
}

static int take(struct caloris_broker *b, const struct caloris_peer *peer,
                const client_request *message, struct caloris_err *err)
{
    if (message->body_case == CALORIS__WIRE__CLIENT_TO_GATEWAY__BODY_HELLO)
        return take_hello(b, peer, message, err);
    struct client *client = clients_find(b, peer);
    if (!client)
        return caloris_err_set(err, CALORIS_PEER_LOST, "this gateway does not know you: say hello");
    client->heard_ms = b->now_ms;
    return request_take(b, client, message, err);
}

void clients_take(struct caloris_broker *b, const struct caloris_peer *peer,
                  const client_request *message)
{
    struct caloris_err why;
    if (take(b, peer, message, &why) < 0)
        answer_failure(b, peer, message->request, &why);
}
