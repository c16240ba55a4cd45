#include "worker/model/limits.h"
#include "worker/model/model.h"

#include "base/size.h"

enum { UNIT = CALORIS_SPLIT_UNIT };

/* The last unit may be shorter, and its owner gets less. */
static void deal_units(size_t total, size_t ranks, size_t rank, size_t *first, size_t *count)
{
    size_t first_unit, units;
    caloris_size_deal((total + UNIT - 1) / UNIT, ranks, rank, &first_unit, &units);
    size_t begin = first_unit * UNIT;
    size_t end = begin + units * UNIT;
    *first = begin < total ? begin : total;
    *count = (end < total ? end : total) - *first;
}

void caloris_model_split(const struct caloris_model_config *config, int ranks, int rank,
                         struct caloris_model_split *split)
{
    size_t n = (size_t)ranks;
    size_t me = (size_t)rank;
    caloris_size_deal(config->heads, n, me, &split->head_first, &split->heads);

    /* Consecutive query heads share a KV head. */
    size_t sharing = config->heads / config->kv_heads;
    split->kv_head_first = split->head_first / sharing;
    split->kv_heads = 0;
    if (split->heads > 0) {
        size_t last = (split->head_first + split->heads - 1) / sharing;
        split->kv_heads = last - split->kv_head_first + 1;
    }
    deal_units(config->ffn, n, me, &split->ffn_first, &split->ffn);
    deal_units(config->vocab, n, me, &split->vocab_first, &split->vocab);
}
