/* coordinator/gateway/broker/figures.h (inside broker): what there is to measure. Counted since the
 * gateway's start; what groups count themselves comes with their beats. */
#ifndef CALORIS_BROKER_FIGURES_H
#define CALORIS_BROKER_FIGURES_H

#include "base/metrics.h"
#include "proto/caloris.pb-c.h"

#include <jansson.h>
#include <stdint.h>

struct caloris_broker;
struct caloris_buf;
struct group;
struct live;

enum {
    FIGURES_STATES = 8,
    FIGURES_RANKS = 1024, /* of a group, at most: what it says must not crowd out the others' */
};

struct figures {
    struct caloris_histogram wait_s, request_s, first_block_s, tokens_per_step;
    uint64_t ended[FIGURES_STATES]; /* by enum caloris_store_state */
    uint64_t tokens, prompt_tokens, steps;
    uint64_t groups_lost, engine_restarts, keys_refused, accepted;
};

/* Of one rank, by its group's last beat. */
struct rank_figures {
    double compute_s, allreduce_s, wait_s;
    double attention_s, mlp_s, head_s; /* parts of compute_s */
    uint64_t steps, rows, sent_bytes, weight_bytes, kv_bytes, work_bytes;
    uint64_t steps_by_rows[CALORIS_METRICS_CLASSES]; /* rank 0's */
};

void figures_open(struct figures *figures);
/* A job has its result; submitted_ms: since 1970. */
void figures_done(struct caloris_broker *b, const struct live *live, uint64_t submitted_ms,
                  json_t *result);
/* A running job has left its first block behind. */
void figures_first_block(struct caloris_broker *b, const struct live *live);
/* A group's beat came. What it tells is taken as far as a counter can be that. */
void figures_of_group(struct group *group, const Caloris__Wire__GroupBeat *beat);
/* All of them, as Prometheus reads them. */
int figures_write(const struct caloris_broker *b, struct caloris_buf *text,
                  struct caloris_err *err);

#endif
