/* `--profile`: what every rank did in each phase of its steps. */
#include "coordinator/plan/plan.h"

#include "base/err.h"
#include "base/size.h"

#include <inttypes.h>
#include <stdlib.h>

static double seconds_of(const struct caloris_rank_profile *rank)
{
    double sum = 0;
    for (int phase = 0; phase < CALORIS_PHASES; phase++)
        sum += rank->phase[phase].seconds;
    return sum;
}

/* share: of all seconds of that rank, or of all ranks. A rate of nothing is left out. */
static void print_cost(const struct caloris_phase_cost *cost, double share, FILE *to)
{
    fprintf(to, "  %10.3f  %5.1f %%", cost->seconds, 100 * share);
    for (int i = 0; i < 2; i++) {
        const double what = i == 0 ? cost->operations : cost->bytes;
        if (what > 0 && cost->seconds > 0)
            fprintf(to, "  %9.2f", what / cost->seconds * 1e-9);
        else
            fprintf(to, "  %9s", "-");
    }
}

/* A phase: the mean over the ranks and how far the slowest is above it, then each rank. */
static void print_phase(enum caloris_phase phase, const struct caloris_rank_profile *ranks, int n,
                        FILE *to)
{
    struct caloris_phase_cost mean = {0};
    double slowest = 0, all = 0;
    for (int rank = 0; rank < n; rank++) {
        const struct caloris_phase_cost *cost = &ranks[rank].phase[phase];
        mean.seconds += cost->seconds / n;
        mean.operations += cost->operations / n;
        mean.bytes += cost->bytes / n;
        slowest = cost->seconds > slowest ? cost->seconds : slowest;
        all += seconds_of(&ranks[rank]) / n;
    }
    fprintf(to, "%-10s  %4s", caloris_phase_name(phase), n == 1 ? "0" : "mean");
    print_cost(&mean, all > 0 ? mean.seconds / all : 0, to);
    fprintf(to, "  %9.3f\n", mean.seconds > 0 ? slowest / mean.seconds : 1);
    for (int rank = 0; n > 1 && rank < n; rank++) {
        const double own = seconds_of(&ranks[rank]);
        fprintf(to, "%-10s  %4d", "", rank);
        print_cost(&ranks[rank].phase[phase], own > 0 ? ranks[rank].phase[phase].seconds / own : 0,
                   to);
        fputc('\n', to);
    }
}

int caloris_plan_profile(struct caloris_engine *engine, FILE *to, struct caloris_err *err)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    const int n = facts->ranks;
    uint64_t reduced = 0;
    char text[CALORIS_SIZE_TEXT];
    struct caloris_rank_profile *ranks = calloc((size_t)n, sizeof(*ranks));
    if (!ranks)
        return caloris_err_sys(err, "profile of %d ranks", n);
    int rc = caloris_engine_profile(engine, ranks, err);
    if (rc == 0) {
        fprintf(to, "%-10s  %4s  %10s  %7s  %9s  %9s  %9s\n", "phase", "rank", "seconds", "share",
                "GFLOP/s", "GB/s", "imbalance");
        for (int phase = 0; phase < CALORIS_PHASES; phase++)
            print_phase((enum caloris_phase)phase, ranks, n, to);
        for (int rank = 0; rank < n; rank++)
            reduced += ranks[rank].counters.allreduce_bytes;
        fprintf(to,
                "%s weights; %" PRIu64 " steps, %" PRIu64 " rows, %" PRIu64
                " head rows; %s sent in all-reduces by all ranks\n",
                facts->format, ranks[0].counters.steps, ranks[0].counters.rows,
                ranks[0].counters.head_rows, caloris_size_text(reduced, text));
    }
    free(ranks);
    return rc;
}
