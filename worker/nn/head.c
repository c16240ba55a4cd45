#include "worker/nn/head.h"

#include "worker/kernels/kernels.h"
#include "worker/nn/nn.h"
#include "worker/pool/pool.h"

#include <math.h>
#include <string.h>

/* The part of a summary that covers some ids: largest logit, Σ exp(x - max) and Σ (x - max) exp(x -
 * max) over the others. One id that has the maximum counts 1 and is left out of rest, or a rest of
 * 1e-9 would drown in it. */
struct sums {
    double max, rest, moment;
};

static const struct sums no_sums = {-INFINITY, 0, 0};

/* a and b over disjoint ids. */
static struct sums join(struct sums a, struct sums b)
{
    if (b.max > a.max || isnan(b.max)) {
        struct sums swap = a;
        a = b;
        b = swap;
    }
    if (b.max == -INFINITY)
        return a;
    const double shift = b.max - a.max, scale = exp(shift);
    a.rest += (1 + b.rest) * scale;
    a.moment += (b.moment + shift * (1 + b.rest)) * scale;
    return a;
}

/* Better candidate: larger score, then lower id. */
static bool better(double score, int32_t id, const struct caloris_candidate *than)
{
    return score > than->score || (score == than->score && id < than->id);
}

/* best [size] is sorted; the newcomer goes to its place if it has one. */
static void offer(struct caloris_candidate *best, uint32_t *found, size_t size, int32_t id,
                  float logit, double score)
{
    if (*found == size && !better(score, id, &best[size - 1]))
        return;
    size_t at = *found < size ? (*found)++ : size - 1;
    while (at > 0 && better(score, id, &best[at - 1])) {
        best[at] = best[at - 1];
        at--;
    }
    best[at] = (struct caloris_candidate){.id = id, .logit = logit, .score = score};
}

/* ---- one row of a tile ----------------------------------------------------------------------- */

struct tile_row {
    const float *logits; /* [n], of ids first … first + n */
    int32_t first;
    size_t n;
    uint32_t position;
    const struct caloris_rule *rule;
    struct caloris_summary *summary;
    struct caloris_candidate *best; /* [rule->best], then the likeliest */
};

/* The special ids with this flag that lie in the tile, as ascending indices; how many. */
static size_t specials_in(const struct tile_row *row, uint32_t flag, size_t at[CALORIS_MAX_SPECIAL])
{
    size_t count = 0;
    for (uint32_t i = 0; i < row->rule->specials; i++) {
        const struct caloris_special *special = &row->rule->special[i];
        if (!(special->flags & flag) || special->id < row->first ||
            (size_t)(special->id - row->first) >= row->n)
            continue;
        size_t index = (size_t)(special->id - row->first), place = count;
        while (place > 0 && at[place - 1] > index)
            place--;
        if (place > 0 && at[place - 1] == index)
            continue;
        memmove(at + place + 1, at + place, (count - place) * sizeof(at[0]));
        at[place] = index;
        count++;
    }
    return count;
}

static struct sums sums_of_run(const float *logits, size_t n)
{
    if (n == 0)
        return no_sums;
    size_t top = caloris_argmax(logits, n);
    const float max = logits[top];
    if (max == -INFINITY)
        return no_sums;
    struct sums sums = {max, 0, 0};
    caloris_exp_sums(logits, top, max, &sums.rest, &sums.moment);
    caloris_exp_sums(logits + top + 1, n - top - 1, max, &sums.rest, &sums.moment);
    return sums;
}

static void add_sums(const struct tile_row *row)
{
    size_t skip[CALORIS_MAX_SPECIAL];
    const size_t skips = specials_in(row, CALORIS_NO_SUM, skip);
    struct sums sums = {row->summary->max, row->summary->rest, row->summary->moment};
    size_t from = 0;
    for (size_t i = 0; i <= skips; i++) {
        const size_t to = i < skips ? skip[i] : row->n;
        sums = join(sums, sums_of_run(row->logits + from, to - from));
        from = to + 1;
    }
    row->summary->max = sums.max;
    row->summary->rest = sums.rest;
    row->summary->moment = sums.moment;
}

/* Gumbel-max: the id of the largest logit + T g is a draw from softmax(logits / T).   arXiv
 * 1611.01144 */
static double score_of(const struct tile_row *row, size_t i)
{
    double score = row->logits[i];
    if (row->rule->temperature > 0)
        score += row->rule->temperature * caloris_noise_gumbel(&row->rule->noise, row->position,
                                                               (uint32_t)row->first + (uint32_t)i);
    return score;
}

static void choose_run(const struct tile_row *row, size_t from, size_t to)
{
    const uint32_t size = row->rule->best;
    if (from >= to)
        return;
    if (size == 1 && row->rule->temperature <= 0 && !row->rule->likeliest) {
        size_t top = from + caloris_argmax(row->logits + from, to - from);
        offer(row->best, &row->summary->found, 1, row->first + (int32_t)top, row->logits[top],
              row->logits[top]);
        return;
    }
    for (size_t i = from; i < to; i++) {
        uint32_t likeliest = row->summary->found; /* there are as many of them as of the best */
        offer(row->best, &row->summary->found, size, row->first + (int32_t)i, row->logits[i],
              score_of(row, i));
        if (row->rule->likeliest)
            offer(row->best + size, &likeliest, size, row->first + (int32_t)i, row->logits[i],
                  row->logits[i]);
    }
}

static void summarise(const struct tile_row *row)
{
    add_sums(row);
    size_t skip[CALORIS_MAX_SPECIAL];
    const size_t skips = specials_in(row, CALORIS_NO_CHOICE, skip);
    size_t from = 0;
    for (size_t i = 0; i <= skips; i++) {
        choose_run(row, from, i < skips ? skip[i] : row->n);
        from = i < skips ? skip[i] + 1 : row->n;
    }
    for (uint32_t i = 0; i < row->rule->probes; i++) {
        const int32_t id = row->rule->probe[i];
        if (id >= row->first && (size_t)(id - row->first) < row->n)
            row->summary->probe[i] = row->logits[id - row->first];
    }
}

/* ---- all wanted rows, tile by tile ----------------------------------------------------------- */

struct head_task {
    struct caloris_nn *nn;
    const struct caloris_nn_want *wants;
    const struct caloris_rule *rules;
    const uint32_t
        *head_row; /* of each want in this block: its row of the tile; the partner's is the next */
    size_t best;
    size_t want_first;         /* of this block */
    size_t vocab_first, vocab; /* of this tile, within the rank's slice */
};

static void summarise_want(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct head_task *task = arg;
    struct caloris_nn *nn = task->nn;
    const size_t w = task->want_first + index;
    const struct caloris_nn_want *want = &task->wants[w];
    const struct caloris_rule *rule = &task->rules[want->rule];
    float *logits = nn->tile + (size_t)task->head_row[index] * HEAD_TILE_VOCAB;
    if (want->partner != CALORIS_NO_PARTNER)
        caloris_guide(logits, logits + HEAD_TILE_VOCAB, rule->guidance, task->vocab);
    struct tile_row row = {
        .logits = logits,
        .first = (int32_t)(nn->split.vocab_first + task->vocab_first),
        .n = task->vocab,
        .position = want->position,
        .rule = rule,
        .summary = &nn->summaries[w],
        .best = nn->best + w * task->best,
    };
    summarise(&row);
}

/* Wants [first, …) that fill one tile's rows, their rows of x normed into nn->n from row 0 on;
 * returns the end. */
static size_t gather_block(struct caloris_nn *nn, const struct caloris_nn_want *wants, size_t first,
                           size_t n, uint32_t head_row[HEAD_TILE_ROWS], size_t *rows)
{
    const size_t d = nn->config->hidden;
    size_t used = 0, w = first;
    for (; w < n; w++) {
        const bool pair = wants[w].partner != CALORIS_NO_PARTNER;
        if (used + (pair ? 2 : 1) > HEAD_TILE_ROWS)
            break;
        head_row[w - first] = (uint32_t)used;
        memcpy(nn->n + used++ * d, nn->x + (size_t)wants[w].row * d, d * sizeof(float));
        if (pair)
            memcpy(nn->n + used++ * d, nn->x + (size_t)wants[w].partner * d, d * sizeof(float));
    }
    caloris_rmsnorm(nn->pool, nn->n, nn->weights->final_norm, nn->config->norm_eps, used, d, nn->n);
    *rows = used;
    return w;
}

void caloris_nn_head(struct caloris_nn *nn, const struct caloris_nn_want *wants, size_t n,
                     const struct caloris_rule *rules, size_t best, uint64_t *head_rows)
{
    const size_t v = nn->split.vocab;
    for (size_t w = 0; w < n; w++) {
        nn->summaries[w] = (struct caloris_summary){.max = -INFINITY};
        for (size_t i = 0; i < CALORIS_MAX_PROBES; i++)
            nn->summaries[w].probe[i] = -INFINITY;
    }
    uint32_t head_row[HEAD_TILE_ROWS];
    for (size_t first = 0; first < n;) {
        size_t rows;
        const size_t end = gather_block(nn, wants, first, n, head_row, &rows);
        *head_rows += rows;
        for (size_t at = 0; at < v; at += HEAD_TILE_VOCAB) {
            const size_t count = v - at < HEAD_TILE_VOCAB ? v - at : HEAD_TILE_VOCAB;
            const struct caloris_matrix part = caloris_matrix_rows(&nn->weights->head, at, count);
            struct caloris_apart apart = nn->weights->head_apart;
            if (apart.n > 0)
                apart.matrix = caloris_matrix_rows(&apart.matrix, at, count);
            caloris_nn_multiply(nn, CALORIS_PHASE_HEAD, &part, &apart, nn->n, rows, nn->tile,
                                HEAD_TILE_VOCAB);
            struct head_task task = {nn, wants, rules, head_row, best, first, at, count};
            caloris_pool_run(nn->pool, end - first, summarise_want, &task);
            caloris_nn_lap(nn, CALORIS_PHASE_HEAD, 0, 0);
        }
        first = end;
    }
}

void caloris_nn_logits(struct caloris_nn *nn, size_t first, size_t n, float *to)
{
    const size_t d = nn->config->hidden;
    caloris_rmsnorm(nn->pool, nn->x + first * d, nn->weights->final_norm, nn->config->norm_eps, n,
                    d, nn->n);
    caloris_nn_multiply(nn, CALORIS_PHASE_HEAD, &nn->weights->head, &nn->weights->head_apart, nn->n,
                        n, to, nn->split.vocab);
}

size_t caloris_nn_tile_floats(void)
{
    return (size_t)HEAD_TILE_ROWS * HEAD_TILE_VOCAB;
}

void caloris_nn_merge(const struct caloris_summary *from, size_t stride,
                      const struct caloris_candidate *best_from, size_t best_stride, int ranks,
                      const struct caloris_rule *rule, struct caloris_summary *to,
                      struct caloris_candidate *to_best)
{
    struct sums sums = no_sums;
    uint32_t found = 0;
    for (size_t i = 0; i < CALORIS_MAX_PROBES; i++)
        to->probe[i] = -INFINITY;
    for (int rank = 0; rank < ranks; rank++) {
        const struct caloris_summary *part = from + (size_t)rank * stride;
        const struct caloris_candidate *candidate = best_from + (size_t)rank * best_stride;
        sums = join(sums, (struct sums){part->max, part->rest, part->moment});
        for (uint32_t i = 0; i < part->found; i++) {
            uint32_t likeliest = found;
            offer(to_best, &found, rule->best, candidate[i].id, candidate[i].logit,
                  candidate[i].score);
            if (!rule->likeliest)
                continue;
            const struct caloris_candidate *other = &candidate[rule->best + i];
            offer(to_best + rule->best, &likeliest, rule->best, other->id, other->logit,
                  other->score);
        }
        for (uint32_t i = 0; i < rule->probes; i++) {
            if (part->probe[i] > to->probe[i])
                to->probe[i] = part->probe[i];
        }
    }
    to->max = sums.max;
    to->rest = sums.rest;
    to->moment = sums.moment;
    to->found = found;
}
