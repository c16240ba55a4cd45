/* coordinator/gateway/broker/table.h (inside broker): a hash table of nodes inside the caller's
 * structs. Keys are 64-bit; where a key is a hash, the caller compares what it was made from.
 */
#ifndef CALORIS_BROKER_TABLE_H
#define CALORIS_BROKER_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct caloris_err;

struct table_node {
    uint64_t key;
    struct table_node *next;
};

struct table {
    struct table_node **slots;
    size_t n_slots; /* a power of two; 0: nothing was ever added */
    size_t count;
};

/* The struct around a node. */
#define TABLE_ENTRY(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

int table_add(struct table *table, struct table_node *node, uint64_t key, struct caloris_err *err);
void table_remove(struct table *table, struct table_node *node);

/* The first node with this key, and the next one with the same; NULL: none. */
struct table_node *table_find(const struct table *table, uint64_t key);
struct table_node *table_find_next(const struct table_node *node);

/* For walks: the first node of all; the one after node, which may be removed behind the walk. */
struct table_node *table_first(const struct table *table);
struct table_node *table_after(const struct table *table, const struct table_node *node);

uint64_t table_hash(const void *bytes, size_t n);

void table_free(struct table *table); /* the slots; the nodes are the caller's */

#endif
