/* coordinator/plan/plan.h: verbs about a model and a machine before anything is served: `caloris
 * plan`, `caloris doctor`, `caloris shard`.
 */
#ifndef CALORIS_PLAN_H
#define CALORIS_PLAN_H

#include <stdbool.h>
#include <stdio.h>

#include "worker/engine.h"

struct caloris_err;
struct caloris_schedule_figures;

/* The split of a model over ranks, bytes per rank in each weight format and the balance to expect:
 * a table, or one JSON object. */
int caloris_plan_print(struct caloris_engine_options *options, bool json, FILE *to,
                       struct caloris_err *err);

/* One line for the log of a starting group: "2 ranks: weights 20.5 MiB, K/V 1.0 MiB, work 9.1 MiB
 * per rank at most". */
void caloris_plan_line(const struct caloris_engine_facts *facts, char *text, size_t size);

/* `caloris shard`: writes a model folder whose weights are packed as options->weights says, and
 * prints the relative error of each matrix; progress to stderr when it takes long. SIGINT and
 * SIGTERM end it with CALORIS_CANCELLED. */
int caloris_shard_run(const struct caloris_engine_options *options, const char *out_dir, FILE *to,
                      struct caloris_err *err);

/* Where the time of the steps so far went: a table of phases and ranks, or one JSON object in a
 * line. figures: how the schedule packed them; NULL: it did not. Rank 0's main thread, inside the
 * body. */
int caloris_plan_profile(struct caloris_engine *engine,
                         const struct caloris_schedule_figures *figures, bool json, FILE *to,
                         struct caloris_err *err);

/* Checks of this machine: cores and binding, BLAS core, MPI, the model: one line each with ok,
 * warning or error; *errors counts. */
struct caloris_doctor {
    const char *model_dir;
    bool json;
    FILE *to;
    int errors;
};
/* Body of caloris_engine_run. */
int caloris_doctor_body(struct caloris_engine *engine, void *arg, struct caloris_err *err);

#endif
