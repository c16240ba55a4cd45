/* tests/unit/golden_decodes.h: the recorded runs of tests/golden/models/NAME/cases.json that our
 * loops must reproduce, in the words of the jobs schema. */
#ifndef GOLDEN_DECODES_H
#define GOLDEN_DECODES_H

#include "proto/jobs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct golden_decode {
    const char *name;
    struct caloris_job_params
        params;              /* early_stop false, quota block: what the reference loops do */
    json_t *job;             /* the same as a job without its prompt; owned */
    int32_t *prompt, *final; /* [n_prompt]; [length]: the canvas at the end */
    size_t n_prompt, length;
    bool holes;   /* the prompt has some */
    double score; /* of the answer; NAN where nobody said it */
    size_t calls;
    json_t *trace; /* per call {"start", "len", "writes": [[position, id], …]}; owned. Instead of
                    * start and len there may be the array "computed" of all positions */
};

struct golden_decodes {
    char dir[4096]; /* of the model */
    json_t *root;
    struct golden_decode *decode;
    size_t count;
};

/* Fails the running test when the file is not as it should be. */
void golden_decodes_load(const char *model, struct golden_decodes *decodes);
void golden_decode_free(struct golden_decode *decode); /* its contents */
void golden_decodes_free(struct golden_decodes *decodes);

/* A job that has no prompt yet through the parser. */
void golden_params(json_t *job, struct caloris_job_params *params);

/* prompt, then masks; malloc'd, [length]. */
int32_t *golden_canvas(const struct golden_decode *decode);

#endif
