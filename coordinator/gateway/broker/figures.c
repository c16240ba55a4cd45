#include "coordinator/gateway/broker/state.h"

#include "base/buf.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double seconds[] = {0.01, 0.05, 0.1, 0.25, 0.5, 1,   2.5,  5,
                                 10,   30,   60,  120,  300, 600, 1800, 3600};
static const double ratios[] = {0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

void figures_open(struct figures *figures)
{
    const struct caloris_histogram times = {.bounds = seconds, .n = COUNT(seconds)};
    *figures = (struct figures){
        .wait_s = times,
        .request_s = times,
        .first_block_s = times,
        .tokens_per_step = {.bounds = ratios, .n = COUNT(ratios)},
    };
}

/* Of one job: more than any can have is a lie, and would spoil the sum of all. */
static uint64_t number(const json_t *object, const char *name)
{
    const json_int_t value = json_integer_value(json_object_get(object, name));
    return value > 0 && value <= UINT32_MAX ? (uint64_t)value : 0;
}

/* Clocks may be set back: no time is negative. */
static double since(uint64_t from_ms, uint64_t to_ms)
{
    return to_ms > from_ms ? (double)(to_ms - from_ms) / 1000 : 0;
}

void figures_done(struct caloris_broker *b, const struct live *live, uint64_t submitted_ms,
                  json_t *result)
{
    struct figures *f = &b->figures;
    const json_t *usage = json_object_get(result, "usage");
    const uint64_t tokens = number(usage, "completion_tokens");
    const uint64_t steps = number(result, "forward_passes");
    caloris_histogram_add(&f->wait_s, since(submitted_ms, live->started_ms));
    caloris_histogram_add(&f->request_s, since(submitted_ms, caloris_time_wall_ms()));
    f->tokens += tokens;
    f->prompt_tokens += number(usage, "prompt_tokens");
    f->steps += steps;
    if (steps > 0)
        caloris_histogram_add(&f->tokens_per_step, (double)tokens / (double)steps);
}

void figures_first_block(struct caloris_broker *b, const struct live *live)
{
    caloris_histogram_add(&b->figures.first_block_s,
                          since(live->started_ms, caloris_time_wall_ms()));
}

/* What a metric can tell exactly; sums of some of them fit into 64 bits. */
static uint64_t count(uint64_t told)
{
    const uint64_t most = 1ull << 53;
    return told < most ? told : most;
}

/* No number, and infinite ones, would be no JSON. */
static double time_s(double told)
{
    return told >= 0 && told <= 1e12 ? told : 0;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Another version may have fewer classes, or more; its last one has no upper end either. */
static void take_classes(const Caloris__Wire__RankFigures *from, struct rank_figures *to)
{
    const size_t last = CALORIS_METRICS_CLASSES - 1;
    for (size_t i = 0; i < from->n_steps_by_rows; i++) {
        const size_t at = i + 1 < from->n_steps_by_rows ? least(i, last) : last;
        to->steps_by_rows[at] = count(to->steps_by_rows[at] + count(from->steps_by_rows[i]));
    }
}

void figures_of_group(struct group *group, const Caloris__Wire__GroupBeat *beat)
{
    const size_t n = least(beat->n_ranks, least(group->ranks, FIGURES_RANKS));
    if (n != group->n_ranks_told) {
        free(group->ranks_told);
        group->ranks_told = calloc(n ? n : 1, sizeof(*group->ranks_told));
        group->n_ranks_told = group->ranks_told ? n : 0;
    }
    for (size_t i = 0; i < group->n_ranks_told; i++) {
        const Caloris__Wire__RankFigures *from = beat->ranks[i];
        struct rank_figures *to = &group->ranks_told[i];
        *to = (struct rank_figures){
            .compute_s = time_s(from->compute_s),
            .allreduce_s = time_s(from->allreduce_s),
            .wait_s = time_s(from->wait_s),
            .attention_s = time_s(from->attention_s),
            .mlp_s = time_s(from->mlp_s),
            .head_s = time_s(from->head_s),
            .steps = count(from->steps),
            .rows = count(from->rows),
            .sent_bytes = count(from->sent_bytes),
            .weight_bytes = count(from->weight_bytes),
            .kv_bytes = count(from->kv_bytes),
            .work_bytes = count(from->work_bytes),
        };
        take_classes(from, to);
    }
}

/* ---- text ------------------------------------------------------------------------------------ */

typedef double (*of_gateway)(const struct caloris_broker *b);
typedef double (*of_group)(const struct caloris_broker *b, const struct group *group);
typedef double (*of_rank)(const struct rank_figures *rank);

static double waiting(const struct caloris_broker *b)
{
    return (double)(b->counts.queued - b->n_leased);
}
static double running(const struct caloris_broker *b)
{
    return (double)b->n_leased;
}
static double finished(const struct caloris_broker *b)
{
    return (double)b->counts.finished;
}
static double n_groups(const struct caloris_broker *b)
{
    return (double)b->n_groups;
}
static double n_clients(const struct caloris_broker *b)
{
    return (double)b->clients.count;
}
static double accepted(const struct caloris_broker *b)
{
    return (double)b->figures.accepted;
}
static double tokens(const struct caloris_broker *b)
{
    return (double)b->figures.tokens;
}
static double prompt_tokens(const struct caloris_broker *b)
{
    return (double)b->figures.prompt_tokens;
}
static double steps(const struct caloris_broker *b)
{
    return (double)b->figures.steps;
}
static double groups_lost(const struct caloris_broker *b)
{
    return (double)b->figures.groups_lost;
}
static double engine_restarts(const struct caloris_broker *b)
{
    return (double)b->figures.engine_restarts;
}
static double keys_refused(const struct caloris_broker *b)
{
    return (double)b->figures.keys_refused;
}

static const struct {
    const char *name, *type, *help;
    of_gateway value;
} gateway_figures[] = {
    {"caloris_queued_jobs", "gauge", "Jobs that wait for a group.", waiting},
    {"caloris_running_jobs", "gauge", "Jobs that are leased to a group.", running},
    {"caloris_groups", "gauge", "Groups that are connected.", n_groups},
    {"caloris_clients", "gauge", "Clients that are connected.", n_clients},
    {"caloris_accepted_jobs_total", "counter", "Jobs accepted.", accepted},
    {"caloris_generated_tokens_total", "counter", "Tokens generated, in jobs that are done.",
     tokens},
    {"caloris_prompt_tokens_total", "counter", "Prompt tokens of jobs that are done.",
     prompt_tokens},
    {"caloris_denoise_steps_total", "counter", "Forward passes of jobs that are done.", steps},
    {"caloris_groups_lost_total", "counter", "Groups that were lost without a word.", groups_lost},
    {"caloris_engine_restarts_total", "counter",
     "Groups that came back under their name as another process, without having left.",
     engine_restarts},
    {"caloris_auth_failures_total", "counter", "Connections refused for their key.", keys_refused},
};

static double group_running(const struct caloris_broker *b, const struct group *group)
{
    (void)b;
    return group->n_held;
}
static double group_capacity(const struct caloris_broker *b, const struct group *group)
{
    (void)b;
    return group->capacity;
}
static double group_ranks(const struct caloris_broker *b, const struct group *group)
{
    return groups_state(b, group) == CALORIS__WIRE__GROUP_STATE__SILENT ? 0 : group->ranks;
}
static double group_steps(const struct caloris_broker *b, const struct group *group)
{
    (void)b;
    return group->n_ranks_told ? (double)group->ranks_told[0].steps : 0;
}
static double group_rows(const struct caloris_broker *b, const struct group *group)
{
    (void)b;
    return group->n_ranks_told ? (double)group->ranks_told[0].rows : 0;
}

static const struct {
    const char *name, *type, *help;
    of_group value;
} group_figures[] = {
    {"caloris_group_running_jobs", "gauge", "Jobs that the group holds.", group_running},
    {"caloris_group_capacity_jobs", "gauge", "Jobs that the group holds at most.", group_capacity},
    {"caloris_ranks_ready", "gauge", "Ranks of the group; 0 while it is silent.", group_ranks},
    {"caloris_group_steps_total", "counter", "Steps of the group, each for a batch of jobs.",
     group_steps},
    {"caloris_group_rows_total", "counter", "Rows in these steps: the batch size is their ratio.",
     group_rows},
};

static double attention_s(const struct rank_figures *rank)
{
    return rank->attention_s;
}
static double mlp_s(const struct rank_figures *rank)
{
    return rank->mlp_s;
}
static double head_s(const struct rank_figures *rank)
{
    return rank->head_s;
}
/* Embedding, what norms are not made on the way, plan and summaries. */
static double other_s(const struct rank_figures *rank)
{
    const double other = rank->compute_s - rank->attention_s - rank->mlp_s - rank->head_s;
    return other > 0 ? other : 0;
}
static double allreduce_s(const struct rank_figures *rank)
{
    return rank->allreduce_s;
}
static double wait_s(const struct rank_figures *rank)
{
    return rank->wait_s;
}
static double sent_bytes(const struct rank_figures *rank)
{
    return (double)rank->sent_bytes;
}
static double weight_bytes(const struct rank_figures *rank)
{
    return (double)rank->weight_bytes;
}
static double kv_bytes(const struct rank_figures *rank)
{
    return (double)rank->kv_bytes;
}
static double work_bytes(const struct rank_figures *rank)
{
    return (double)rank->work_bytes;
}

/* Consecutive lines of a name are one family. */
static const struct {
    const char *name, *type, *help;
    struct caloris_metrics_label label; /* or none */
    of_rank value;
} rank_figures[] = {
#define FORWARD                                                                                    \
    "caloris_forward_seconds_total", "counter", "Time in steps outside of all-reduces, by phase."
#define MEMORY "caloris_rank_memory_bytes", "gauge", "Memory of a rank."
    {FORWARD, {"phase", "attention"}, attention_s},
    {FORWARD, {"phase", "mlp"}, mlp_s},
    {FORWARD, {"phase", "head"}, head_s},
    {FORWARD, {"phase", "other"}, other_s},
    {"caloris_allreduce_seconds_total",
     "counter",
     "Time in all-reduces, moving and summing.",
     {NULL, NULL},
     allreduce_s},
    {"caloris_allreduce_wait_seconds_total",
     "counter",
     "Time in all-reduces, waiting for later ranks.",
     {NULL, NULL},
     wait_s},
    {"caloris_allreduce_bytes_total",
     "counter",
     "Bytes sent in all-reduces.",
     {NULL, NULL},
     sent_bytes},
    {MEMORY, {"kind", "weights"}, weight_bytes},
    {MEMORY, {"kind", "kv"}, kv_bytes},
    {MEMORY, {"kind", "work"}, work_bytes},
#undef FORWARD
#undef MEMORY
};

static int write_gateway(const struct caloris_broker *b, struct caloris_buf *text,
                         struct caloris_err *err)
{
    for (size_t i = 0; i < COUNT(gateway_figures); i++) {
        if (caloris_metrics_head(text, gateway_figures[i].name, gateway_figures[i].type,
                                 gateway_figures[i].help, err) < 0 ||
            caloris_metrics_value(text, gateway_figures[i].name, NULL, gateway_figures[i].value(b),
                                  err) < 0)
            return -1;
    }
    return 0;
}

/* What is in the queue, as opposed to what went through it. */
static int write_jobs(const struct caloris_broker *b, struct caloris_buf *text,
                      struct caloris_err *err)
{
    static const struct {
        const char *name;
        of_gateway value;
    } states[] = {{"queued", waiting}, {"running", running}, {"finished", finished}};
    static const char name[] = "caloris_jobs";
    if (caloris_metrics_head(text, name, "gauge", "Jobs in the queue, by state.", err) < 0)
        return -1;
    for (size_t i = 0; i < COUNT(states); i++) {
        const struct caloris_metrics_label labels[] = {{"state", states[i].name}, {NULL, NULL}};
        if (caloris_metrics_value(text, name, labels, states[i].value(b), err) < 0)
            return -1;
    }
    return 0;
}

static int write_states(const struct caloris_broker *b, struct caloris_buf *text,
                        struct caloris_err *err)
{
    static const struct {
        enum caloris_store_state state;
        const char *name;
    } states[] = {
        {CALORIS_STORE_DONE, "done"},
        {CALORIS_STORE_FAILED, "failed"},
        {CALORIS_STORE_CANCELLED, "cancelled"},
        {CALORIS_STORE_EXPIRED, "expired"},
    };
    static const char name[] = "caloris_jobs_total";
    if (caloris_metrics_head(text, name, "counter", "Jobs that have ended, by how.", err) < 0)
        return -1;
    for (size_t i = 0; i < COUNT(states); i++) {
        const struct caloris_metrics_label labels[] = {{"state", states[i].name}, {NULL, NULL}};
        if (caloris_metrics_value(text, name, labels, (double)b->figures.ended[states[i].state],
                                  err) < 0)
            return -1;
    }
    return 0;
}

static int write_groups(const struct caloris_broker *b, struct caloris_buf *text,
                        struct caloris_err *err)
{
    for (size_t i = 0; i < COUNT(group_figures); i++) {
        if (caloris_metrics_head(text, group_figures[i].name, group_figures[i].type,
                                 group_figures[i].help, err) < 0)
            return -1;
        for (const struct group *group = b->groups; group; group = group->next) {
            const struct caloris_metrics_label labels[] = {
                {"group", group->name}, {"model_name", group->model}, {NULL, NULL}};
            if (caloris_metrics_value(text, group_figures[i].name, labels,
                                      group_figures[i].value(b, group), err) < 0)
                return -1;
        }
    }
    return 0;
}

/* Rows of each step, as a histogram of each group. */
static int write_batches(const struct caloris_broker *b, struct caloris_buf *text,
                         struct caloris_err *err)
{
    static const char help[] = "Rows of a step, of all the jobs that share it.";
    if (caloris_metrics_head(text, "caloris_batch_rows", "histogram", help, err) < 0)
        return -1;
    for (const struct group *group = b->groups; group; group = group->next) {
        uint64_t below = 0;
        for (size_t i = 0; group->n_ranks_told > 0 && i < CALORIS_METRICS_CLASSES; i++) {
            char most[24] = "+Inf";
            if (i + 1 < CALORIS_METRICS_CLASSES)
                snprintf(most, sizeof(most), "%u", 1u << i);
            const struct caloris_metrics_label labels[] = {
                {"group", group->name}, {"model_name", group->model}, {"le", most}, {NULL, NULL}};
            below += group->ranks_told[0].steps_by_rows[i];
            if (caloris_metrics_value(text, "caloris_batch_rows_bucket", labels, (double)below,
                                      err) < 0)
                return -1;
        }
        const struct caloris_metrics_label labels[] = {
            {"group", group->name}, {"model_name", group->model}, {NULL, NULL}};
        if (caloris_metrics_value(text, "caloris_batch_rows_sum", labels, group_rows(b, group),
                                  err) < 0 ||
            caloris_metrics_value(text, "caloris_batch_rows_count", labels, (double)below, err) < 0)
            return -1;
    }
    return 0;
}

static int write_ranks(const struct caloris_broker *b, size_t which, struct caloris_buf *text,
                       struct caloris_err *err)
{
    for (const struct group *group = b->groups; group; group = group->next) {
        for (size_t rank = 0; rank < group->n_ranks_told; rank++) {
            char text_of_rank[24];
            snprintf(text_of_rank, sizeof(text_of_rank), "%zu", rank);
            const struct caloris_metrics_label labels[] = {{"group", group->name},
                                                           {"rank", text_of_rank},
                                                           rank_figures[which].label,
                                                           {NULL, NULL}};
            if (caloris_metrics_value(text, rank_figures[which].name, labels,
                                      rank_figures[which].value(&group->ranks_told[rank]), err) < 0)
                return -1;
        }
    }
    return 0;
}

int figures_write(const struct caloris_broker *b, struct caloris_buf *text, struct caloris_err *err)
{
    static const struct caloris_metrics_label build[] = {{"version", CALORIS_VERSION},
                                                         {NULL, NULL}};
    const struct figures *f = &b->figures;
    if (caloris_metrics_head(text, "caloris_build_info", "gauge", "The gateway's version.", err) <
            0 ||
        caloris_metrics_value(text, "caloris_build_info", build, 1, err) < 0 ||
        write_gateway(b, text, err) < 0 || write_jobs(b, text, err) < 0 ||
        write_states(b, text, err) < 0 ||
        caloris_metrics_histogram(text, "caloris_queue_wait_seconds",
                                  "From accepted to leased for the last time, of jobs with a "
                                  "result.",
                                  &f->wait_s, err) < 0 ||
        caloris_metrics_histogram(text, "caloris_request_duration_seconds",
                                  "From accepted to its result.", &f->request_s, err) < 0 ||
        caloris_metrics_histogram(text, "caloris_time_to_first_block_seconds",
                                  "From leased to the end of the first block.", &f->first_block_s,
                                  err) < 0 ||
        caloris_metrics_histogram(text, "caloris_tokens_per_step",
                                  "Generated tokens for each forward pass of a job.",
                                  &f->tokens_per_step, err) < 0 ||
        write_groups(b, text, err) < 0 || write_batches(b, text, err) < 0)
        return -1;
    for (size_t i = 0; i < COUNT(rank_figures); i++) {
        const bool again = i > 0 && strcmp(rank_figures[i].name, rank_figures[i - 1].name) == 0;
        if ((!again && caloris_metrics_head(text, rank_figures[i].name, rank_figures[i].type,
                                            rank_figures[i].help, err) < 0) ||
            write_ranks(b, i, text, err) < 0)
            return -1;
    }
    return 0;
}
