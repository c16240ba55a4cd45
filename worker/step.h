/* worker/step.h (inside worker): canvases of a rank, and a step plan on its way from rank 0 to
 * all. */
#ifndef CALORIS_STEP_H
#define CALORIS_STEP_H

#include "worker/engine.h"
#include "worker/nn/nn.h"

struct caloris_err;

struct caloris_step_limits {
    size_t requests, canvas, rows, kv_tokens;
    size_t vocab;
};

/* A place for one canvas. */
struct caloris_step_slot {
    size_t length; /* 0: free */
    bool cached;
    bool filled; /* cached: every position has been computed */
    size_t kv_first;
};

/* One rank's canvases, and the rows of the step at hand. */
struct caloris_step_state {
    struct caloris_step_limits limits;
    int32_t *canvas;                /* [requests, canvas] */
    struct caloris_step_slot *slot; /* [requests] */
    char *plan;                     /* the packed plan */
    size_t plan_capacity;
    int32_t *ids;                       /* [rows] */
    uint32_t *position;                 /* [rows] */
    uint32_t *kv_row;                   /* [rows] */
    size_t *span_start;                 /* [rows] row of each span's first position */
    struct caloris_nn_canvas *canvases; /* [requests] of the step */
    uint32_t *seen;                     /* [requests] checks that a slot is computed once */
    uint32_t stamp;
    struct caloris_nn_want *wants; /* [rows] */
};

/* Lays the state out from memory on (NULL: measures only); *bytes is what it takes. */
int caloris_step_place(struct caloris_step_state *state, const struct caloris_step_limits *limits,
                       void *memory, uint64_t *bytes, struct caloris_err *err);

/* Rank 0: the rules of engine.h; an error names what breaks which. */
int caloris_step_check(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                       struct caloris_err *err);

/* Into state->plan; returns the bytes. The plan was checked: it fits. */
size_t caloris_step_pack(struct caloris_step_state *state, const struct caloris_step_plan *plan);

/* A view of the packed plan. */
void caloris_step_unpack(const struct caloris_step_state *state, struct caloris_step_plan *plan);

/* Releases, admissions and writes take effect; the rows and wants of the step are laid out. */
void caloris_step_apply(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                        struct caloris_nn_rows *rows);

#endif
