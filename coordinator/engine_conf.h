/* coordinator/engine_conf.h: what caloris-engine can be told: by flags, in the environment, in the
 * configuration (base/conf.h). */
#ifndef CALORIS_ENGINE_CONF_H
#define CALORIS_ENGINE_CONF_H

#include "base/conf.h"

#include <stdbool.h>
#include <stdint.h>

struct caloris_err;

enum engine_verb { VERB_RUN, VERB_PLAN, VERB_DOCTOR, VERB_SHARD };

struct engine_values {
    char *model, *gateway, *cluster, *server_key, *certificate, *jobs, *out, *logits, *trace, *name;
    char *isa, *calibrate;
    bool resume, json, profile;
    int64_t comm, log_level, log_format, weights;
    int64_t ranks, threads, max_requests, max_canvas, max_step_rows, kv_tokens, row_budget;
    uint64_t redial_ms, silent_ms, stands_ms, end_margin_ms;
    int64_t end_s;
};

extern const struct caloris_program engine_program;

/* The verb, if there is one, and for shard the folder, are no options: taken out of argv. */
enum engine_verb engine_take_verb(int *argc, char ***argv, char **operand);

/* Whether the values go together, and with verb; else USAGE. */
int engine_check_usage(const struct engine_values *v, enum engine_verb verb,
                       struct caloris_err *err);

/* As a group of a gateway. */
bool engine_serves(const struct engine_values *v);

#endif
