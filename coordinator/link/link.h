/* coordinator/link/link.h: where jobs come in and results go out: the coordinator thread of rank 0.
 *
 * Two ways in, one path behind them: a job (proto/jobs.h) is prepared (text -> ids -> canvas, ids
 * and seed resolved), goes to the schedule, comes back as an event, and becomes a result.
 * Tokenizing, detokenizing and all traffic run here, beside the compute on the main thread.
 */
#ifndef CALORIS_LINK_H
#define CALORIS_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/engine.h"

struct caloris_address;
struct caloris_err;
struct caloris_schedule_figures;

/* Offline: jobs from a JSONL file, whole result lines appended to another as they finish, progress
 * on a terminal's stderr. */
struct caloris_offline_options {
    const char *model_dir;
    const char *jobs;  /* "-": stdin */
    const char *out;   /* must not be jobs */
    size_t row_budget; /* rows that a step is filled up to */
    const char *trace; /* every step of every job goes there (docs/TRACE.md); NULL: nowhere */
    bool resume;       /* skip jobs whose id stands in out; drop a torn last line */
    struct caloris_schedule_figures *figures; /* of its steps, in the end; NULL: not wanted */
};
/* Its files, before anything is loaded, on the host of rank 0: USAGE for what cannot be read or
 * written, and for results that are there without resume. */
int caloris_offline_check(const struct caloris_offline_options *options, struct caloris_err *err);
/* What it did, for the closing line and the exit code. */
struct caloris_offline_report {
    uint64_t jobs, done, failed, skipped;
    uint64_t tokens, forward_passes;
    double seconds;
};
/* Body of caloris_engine_run: arg is a struct caloris_offline. */
struct caloris_offline {
    struct caloris_offline_options options;
    struct caloris_offline_report report;
};
int caloris_offline_body(struct caloris_engine *engine, void *arg, struct caloris_err *err);

/* Serving: a group of a gateway, until it is told to leave (SIGUSR1, SIGTERM, SIGINT; the gateway;
 * the end of its time) or the gateway stays away for redial_ms. 0: an administrator drained it.
 * AGAIN: it was a signal or the end of its time, and work may have been handed back. */
struct caloris_serve_options {
    const char *model_dir;
    const struct caloris_address *gateway; /* its endpoint for groups; proto/cluster.h */
    const char *name;                      /* of this group; NULL: host and process */
    size_t row_budget;                     /* rows that a step is filled up to */
    uint64_t redial_ms;                    /* how long a lost gateway is redialled: 10 minutes */
    uint64_t end_ms;        /* since 1970: when this allocation ends; 0: it does not */
    uint64_t end_margin_ms; /* before that, everything is handed back */
    struct caloris_schedule_figures *figures; /* of its steps, in the end; NULL: not wanted */
};
int caloris_serve_body(struct caloris_engine *engine, void *arg, struct caloris_err *err);

/* Raw logits, fp32 little-endian, rows x vocabulary, of every line {"ids": […]} of a file, one
 * after another into another:
 * what numeric checks hold against third parties. */
struct caloris_logits {
    const char *in;  /* "-": stdin */
    const char *out; /* replaced */
    uint64_t inputs, rows;
};
int caloris_logits_check(const struct caloris_logits *logits,
                         struct caloris_err *err); /* likewise */
int caloris_logits_body(struct caloris_engine *engine, void *arg, struct caloris_err *err);

#endif
