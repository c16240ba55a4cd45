/* `--profile`: what every rank did in each phase of its steps. */
#include "coordinator/plan/plan.h"

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"
#include "coordinator/schedule/schedule.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

static double seconds_of(const struct caloris_rank_profile *rank)
{
    double sum = 0;
    for (int phase = 0; phase < CALORIS_PHASES; phase++)
        sum += rank->phase[phase].seconds;
    return sum;
}

/* A phase over the ranks: the mean of its costs, their share of all seconds, and how far the
 * slowest rank is above the mean. */
struct mean {
    struct caloris_phase_cost cost;
    double share, imbalance;
};

static struct mean mean_of(enum caloris_phase phase, const struct caloris_rank_profile *ranks,
                           int n)
{
    struct mean mean = {.imbalance = 1};
    double slowest = 0, all = 0;
    for (int rank = 0; rank < n; rank++) {
        const struct caloris_phase_cost *cost = &ranks[rank].phase[phase];
        mean.cost.seconds += cost->seconds / n;
        mean.cost.operations += cost->operations / n;
        mean.cost.bytes += cost->bytes / n;
        slowest = cost->seconds > slowest ? cost->seconds : slowest;
        all += seconds_of(&ranks[rank]) / n;
    }
    mean.share = all > 0 ? mean.cost.seconds / all : 0;
    if (mean.cost.seconds > 0)
        mean.imbalance = slowest / mean.cost.seconds;
    return mean;
}

/* Of the rank's own seconds. */
static double share_of(enum caloris_phase phase, const struct caloris_rank_profile *rank)
{
    const double own = seconds_of(rank);
    return own > 0 ? rank->phase[phase].seconds / own : 0;
}

static double giga_per_second(double what, double seconds)
{
    return seconds > 0 ? what / seconds * 1e-9 : 0;
}

static uint64_t bytes_reduced(const struct caloris_rank_profile *ranks, int n)
{
    uint64_t sum = 0;
    for (int rank = 0; rank < n; rank++)
        sum += ranks[rank].counters.allreduce_bytes;
    return sum;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* A rate of nothing is left out. */
static void print_cost(const struct caloris_phase_cost *cost, double share, FILE *to)
{
    fprintf(to, "  %10.3f  %5.1f %%", cost->seconds, 100 * share);
    for (int i = 0; i < 2; i++) {
        const double rate = giga_per_second(i == 0 ? cost->operations : cost->bytes, cost->seconds);
        if (rate > 0)
            fprintf(to, "  %9.2f", rate);
        else
            fprintf(to, "  %9s", "-");
    }
}

static void print_phase(enum caloris_phase phase, const struct caloris_rank_profile *ranks, int n,
                        FILE *to)
{
    const struct mean mean = mean_of(phase, ranks, n);
    fprintf(to, "%-10s  %4s", caloris_phase_name(phase), n == 1 ? "0" : "mean");
    print_cost(&mean.cost, mean.share, to);
    fprintf(to, "  %9.3f\n", mean.imbalance);
    for (int rank = 0; n > 1 && rank < n; rank++) {
        fprintf(to, "%-10s  %4d", "", rank);
        print_cost(&ranks[rank].phase[phase], share_of(phase, &ranks[rank]), to);
        fputc('\n', to);
    }
}

static void print_table(const struct caloris_engine_facts *facts,
                        const struct caloris_rank_profile *ranks, FILE *to)
{
    char text[CALORIS_SIZE_TEXT];
    fprintf(to, "%-10s  %4s  %10s  %7s  %9s  %9s  %9s\n", "phase", "rank", "seconds", "share",
            "GFLOP/s", "GB/s", "imbalance");
    for (int phase = 0; phase < CALORIS_PHASES; phase++)
        print_phase((enum caloris_phase)phase, ranks, facts->ranks, to);
    fprintf(to,
            "%s weights; %" PRIu64 " steps, %" PRIu64 " rows, %" PRIu64
            " head rows; %s sent in all-reduces by all ranks\n",
            facts->format, ranks[0].counters.steps, ranks[0].counters.rows,
            ranks[0].counters.head_rows,
            caloris_size_text(bytes_reduced(ranks, facts->ranks), text));
}

static double part_of(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* While nobody waited a step is as full as it can be. */
static double fill_of(const struct caloris_schedule_figures *figures)
{
    return figures->crowded_steps > 0 ? figures->crowded_fill / (double)figures->crowded_steps : 1;
}

static void print_figures(const struct caloris_schedule_figures *figures, FILE *to)
{
    fprintf(to, "%.1f rows a step; ", part_of((double)figures->rows, (double)figures->steps));
    if (figures->crowded_steps > 0)
        fprintf(to,
                "in %" PRIu64 " steps requests waited: those were filled to %.0f %% of the row "
                "budget; ",
                figures->crowded_steps, 100 * fill_of(figures));
    else
        fprintf(to, "no request waited for room; ");
    fprintf(to, "packing and deciding took %.3f s, %.2f %% of the steps' time\n", figures->own_s,
            100 * part_of(figures->own_s, figures->step_s));
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *json_of_cost(const struct caloris_phase_cost *cost, double share)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "seconds", cost->seconds, "share", share,
                     "operations", cost->operations, "bytes", cost->bytes, "gflops",
                     giga_per_second(cost->operations, cost->seconds), "gbs",
                     giga_per_second(cost->bytes, cost->seconds));
}

static json_t *json_of_phase(enum caloris_phase phase, const struct caloris_rank_profile *ranks,
                             int n)
{
    const struct mean mean = mean_of(phase, ranks, n);
    json_t *each = json_array();
    for (int rank = 0; rank < n; rank++)
        json_array_append_new(
            each, json_of_cost(&ranks[rank].phase[phase], share_of(phase, &ranks[rank])));
    return json_pack("{s:s, s:o, s:f, s:o}", "phase", caloris_phase_name(phase), "mean",
                     json_of_cost(&mean.cost, mean.share), "imbalance", mean.imbalance, "ranks",
                     each);
}

static json_t *json_of_figures(const struct caloris_schedule_figures *figures)
{
    return json_pack("{s:I, s:I, s:f, s:f, s:I, s:f}", "steps", (json_int_t)figures->steps, "rows",
                     (json_int_t)figures->rows, "step_seconds", figures->step_s, "own_seconds",
                     figures->own_s, "crowded_steps", (json_int_t)figures->crowded_steps,
                     "crowded_fill", fill_of(figures));
}

static int print_json(const struct caloris_engine_facts *facts,
                      const struct caloris_rank_profile *ranks,
                      const struct caloris_schedule_figures *figures, FILE *to,
                      struct caloris_err *err)
{
    const struct caloris_engine_counters *counters = &ranks[0].counters;
    json_t *phases = json_array();
    for (int phase = 0; phase < CALORIS_PHASES; phase++)
        json_array_append_new(phases,
                              json_of_phase((enum caloris_phase)phase, ranks, facts->ranks));
    json_t *all =
        json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:o}", "weights", facts->format,
                  "kernels", facts->kernels, "ranks", facts->ranks, "threads", facts->threads,
                  "steps", (json_int_t)counters->steps, "rows", (json_int_t)counters->rows,
                  "head_rows", (json_int_t)counters->head_rows, "allreduce_bytes",
                  (json_int_t)bytes_reduced(ranks, facts->ranks), "phases", phases);
    if (all && figures)
        json_object_set_new(all, "schedule", json_of_figures(figures));
    const int rc = all && json_dumpf(all, to, JSON_COMPACT | CALORIS_JSON_DIGITS) == 0 &&
                           fputc('\n', to) != EOF
                       ? 0
                       : caloris_err_set(err, CALORIS_NO_MEMORY, "the profile was not written");
    json_decref(all);
    return rc;
}

int caloris_plan_profile(struct caloris_engine *engine,
                         const struct caloris_schedule_figures *figures, bool json, FILE *to,
                         struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct caloris_rank_profile *ranks = calloc((size_t)facts->ranks, sizeof(*ranks));
    if (!ranks)
        return caloris_err_sys(err, "profile of %d ranks", facts->ranks);
    int rc = caloris_engine_profile(engine, ranks, err);
    if (rc == 0 && json)
        rc = print_json(facts, ranks, figures, to, err);
    else if (rc == 0)
        print_table(facts, ranks, to);
    if (rc == 0 && !json && figures)
        print_figures(figures, to);
    free(ranks);
    return rc;
}
