/* Where jobs stand: the newest word of each group, in memory and, a little older, on disk. */
#include "coordinator/gateway/broker/state.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { SAVE_EVERY_MS = 1000 };

/* Takes bytes [n] over. */
static void put(struct caloris_broker *b, struct live *live, uint8_t *bytes, size_t n,
                uint32_t block)
{
    struct hand_over *to = &live->hand_over;
    b->hand_over_bytes = b->hand_over_bytes - to->n + n;
    free(to->bytes);
    to->bytes = bytes;
    to->n = n;
    to->block = block;
}

static bool fits(const struct caloris_broker *b, const struct live *live, size_t n)
{
    return n > 0 && n <= CALORIS_WIRE_MAX_HAND_OVER &&
           b->hand_over_bytes - live->hand_over.n + n <= BROKER_MAX_HAND_OVERS;
}

void hand_over_take(struct caloris_broker *b, struct live *live,
                    const Caloris__Wire__LeaseHandOver *message)
{
    const size_t n = message->hand_over.len;
    if (message->block > 0 && !live->first_block && !live->resumed)
        figures_first_block(b, live);
    live->first_block |= message->block > 0;
    uint8_t *bytes = fits(b, live, n) ? malloc(n) : NULL;
    if (!bytes)
        return; /* the one before is good, too */
    memcpy(bytes, message->hand_over.data, n);
    put(b, live, bytes, n, message->block);
    b->n_unsaved += !live->hand_over.unsaved;
    live->hand_over.unsaved = true;
}

const struct hand_over *hand_over_for_lease(struct caloris_broker *b, struct live *live)
{
    struct caloris_buf stored = CALORIS_BUF(CALORIS_WIRE_MAX_HAND_OVER);
    struct caloris_err err;
    uint32_t block = 0;
    int rc = 0;
    if (!live->hand_over.bytes)
        rc = caloris_store_read_hand_over(b->store, live->job, &block, &stored, &err);
    if (rc < 0)
        broker_warn(b, "job %" PRIu64 ": %s", live->job, err.text);
    if (rc == 1 && fits(b, live, stored.size)) {
        put(b, live, (uint8_t *)stored.data, stored.size, block);
        stored.data = NULL;
        stored.size = 0;
    }
    caloris_buf_free(&stored);
    return &live->hand_over;
}

void hand_over_drop(struct caloris_broker *b, struct live *live)
{
    b->hand_over_bytes -= live->hand_over.n;
    b->n_unsaved -= live->hand_over.unsaved;
    free(live->hand_over.bytes);
    live->hand_over = (struct hand_over){0};
}

void hand_over_save(struct caloris_broker *b)
{
    struct caloris_err err;
    if (b->n_unsaved == 0 || b->now_ms - b->saved_ms < SAVE_EVERY_MS)
        return;
    b->saved_ms = b->now_ms;
    int rc = 0;
    for (struct table_node *node = table_first(&b->live); node;
         node = table_after(&b->live, node)) {
        struct live *live = TABLE_ENTRY(node, struct live, node);
        struct hand_over *from = &live->hand_over;
        if (!from->unsaved)
            continue;
        if (rc == 0)
            rc = caloris_store_hand_over(b->store, live->job, from->block, from->bytes, from->n,
                                         &err);
        from->unsaved = false; /* if it fails: the next block's is newer */
    }
    b->n_unsaved = 0;
    struct caloris_err why;
    if (caloris_store_commit(b->store, &why) < 0 && rc == 0) {
        rc = -1;
        err = why;
    }
    if (rc < 0)
        broker_warn(b, "progress of running jobs is not on disk: %s", err.text);
}
