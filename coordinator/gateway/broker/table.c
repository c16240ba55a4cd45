#include "coordinator/gateway/broker/table.h"

#include "base/err.h"

#include <stdlib.h>

enum { FIRST_SLOTS = 64 };

/* Job numbers are dense and hashes are hashes: a multiplication spreads both. */
static size_t slot_of(const struct table *table, uint64_t key)
{
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> 32) & (table->n_slots - 1);
}

static int grow(struct table *table, struct caloris_err *err)
{
    struct table bigger = {NULL, table->n_slots ? table->n_slots * 2 : FIRST_SLOTS, table->count};
    bigger.slots = calloc(bigger.n_slots, sizeof(*bigger.slots));
    if (!bigger.slots)
        return caloris_err_sys(err, "table of %zu slots", bigger.n_slots);
    for (size_t i = 0; i < table->n_slots; i++) {
        for (struct table_node *node = table->slots[i], *next; node; node = next) {
            next = node->next;
            struct table_node **slot = &bigger.slots[slot_of(&bigger, node->key)];
            node->next = *slot;
            *slot = node;
        }
    }
    free(table->slots);
    *table = bigger;
    return 0;
}

int table_add(struct table *table, struct table_node *node, uint64_t key, struct caloris_err *err)
{
    if (table->count >= table->n_slots && grow(table, err) < 0)
        return -1;
    struct table_node **slot = &table->slots[slot_of(table, key)];
    node->key = key;
    node->next = *slot;
    *slot = node;
    table->count++;
    return 0;
}

void table_remove(struct table *table, struct table_node *node)
{
    struct table_node **at = &table->slots[slot_of(table, node->key)];
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    table->count--;
}

static struct table_node *with_key(struct table_node *node, uint64_t key)
{
    while (node && node->key != key)
        node = node->next;
    return node;
}

struct table_node *table_find(const struct table *table, uint64_t key)
{
    return table->n_slots ? with_key(table->slots[slot_of(table, key)], key) : NULL;
}

struct table_node *table_find_next(const struct table_node *node)
{
    return with_key(node->next, node->key);
}

static struct table_node *first_from(const struct table *table, size_t slot)
{
    while (slot < table->n_slots && !table->slots[slot])
        slot++;
    return slot < table->n_slots ? table->slots[slot] : NULL;
}

struct table_node *table_first(const struct table *table)
{
    return first_from(table, 0);
}

struct table_node *table_after(const struct table *table, const struct table_node *node)
{
    return node->next ? node->next : first_from(table, slot_of(table, node->key) + 1);
}

/* FNV-1a, 64 bits. Keys are routing ids that our own sockets made up. */
uint64_t table_hash(const void *bytes, size_t n)
{
    const unsigned char *at = bytes;
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

void table_free(struct table *table)
{
    free(table->slots);
    *table = (struct table){NULL, 0, 0};
}
