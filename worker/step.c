#include "worker/step.h"

#include "base/arena.h"
#include "base/err.h"
#include "base/size.h"

#include <string.h>

enum { PLAN_ALIGNMENT = 8 };

/* What leads a packed plan; the arrays follow in this order, each on a multiple of 8 bytes. */
struct plan_header {
    uint64_t releases, admissions, ids, writes, spans, wants, rules;
};

/* ---- memory ---------------------------------------------------------------------------------- */

/* The largest plan that caloris_step_check lets through: every slot released, admitted, written and
 * computed at once. */
static bool largest_plan(const struct caloris_step_limits *limits, size_t *bytes)
{
    const size_t per_request =
        sizeof(uint32_t) + sizeof(struct caloris_admission) + sizeof(struct caloris_rule);
    const size_t per_cell = sizeof(int32_t) + sizeof(struct caloris_write);
    size_t cells, requests, rows;
    return caloris_size_mul(limits->requests, limits->canvas, &cells) &&
           caloris_size_mul(cells, per_cell, &cells) &&
           caloris_size_mul(limits->requests, per_request, &requests) &&
           caloris_size_mul(limits->rows, sizeof(struct caloris_want) + sizeof(struct caloris_span),
                            &rows) &&
           caloris_size_add(cells, requests, bytes) && caloris_size_add(*bytes, rows, bytes) &&
           caloris_size_add(*bytes, sizeof(struct plan_header) + 7 * PLAN_ALIGNMENT, bytes);
}

int caloris_step_place(struct caloris_step_state *state, const struct caloris_step_limits *limits,
                       void *memory, uint64_t *bytes, struct caloris_err *err)
{
    struct caloris_arena walk = {memory, 0, false};
    memset(state, 0, sizeof(*state));
    state->limits = *limits;
    if (!largest_plan(limits, &state->plan_capacity))
        walk.overflow = true;
    state->canvas = caloris_arena_take(&walk, limits->requests, limits->canvas * sizeof(int32_t));
    state->slot = caloris_arena_take(&walk, limits->requests, sizeof(struct caloris_step_slot));
    state->plan = caloris_arena_take(&walk, state->plan_capacity, 1);
    state->ids = caloris_arena_take(&walk, limits->rows, sizeof(int32_t));
    state->position = caloris_arena_take(&walk, limits->rows, sizeof(uint32_t));
    state->kv_row = caloris_arena_take(&walk, limits->rows, sizeof(uint32_t));
    state->span_start = caloris_arena_take(&walk, limits->rows, sizeof(size_t));
    state->canvases = caloris_arena_take(&walk, limits->requests, sizeof(struct caloris_nn_canvas));
    state->seen = caloris_arena_take(&walk, limits->requests, sizeof(uint32_t));
    state->wants = caloris_arena_take(&walk, limits->rows, sizeof(struct caloris_nn_want));
    *bytes = walk.used;
    return caloris_arena_check(&walk, "canvases", err);
}

/* ---- rules ----------------------------------------------------------------------------------- */

static int bad(struct caloris_err *err, const char *what, size_t index)
{
    return caloris_err_set(err, CALORIS_BAD_REQUEST, "step plan: %s (entry %zu)", what, index);
}

/* A slot that counts more than once in a kind of entry. */
static bool again(struct caloris_step_state *state, uint32_t slot)
{
    if (state->seen[slot] == state->stamp)
        return true;
    state->seen[slot] = state->stamp;
    return false;
}

/* A slot as it will be when the plan's releases and admissions are done. */
static struct caloris_step_slot slot_after(const struct caloris_step_state *state,
                                           const struct caloris_step_plan *plan, uint32_t slot)
{
    for (size_t i = 0; i < plan->n_admissions; i++) {
        const struct caloris_admission *a = &plan->admissions[i];
        if (a->slot == slot)
            return (struct caloris_step_slot){a->length, a->cached, a->forked, a->kv_first};
    }
    for (size_t i = 0; i < plan->n_releases; i++) {
        if (plan->releases[i] == slot)
            return (struct caloris_step_slot){0};
    }
    return state->slot[slot];
}

/* K/V of two canvases must not overlap, nor leave the group's. */
static int check_kept(const struct caloris_step_state *state, const struct caloris_step_plan *plan,
                      size_t index, struct caloris_err *err)
{
    const struct caloris_admission *a = &plan->admissions[index];
    if (a->kv_first > state->limits.kv_tokens || a->length > state->limits.kv_tokens - a->kv_first)
        return bad(err, "admission with K/V beyond what is kept", index);
    for (uint32_t s = 0; s < state->limits.requests; s++) {
        const struct caloris_step_slot other = slot_after(state, plan, s);
        if (s != a->slot && other.length > 0 && other.cached &&
            a->kv_first < other.kv_first + other.length && other.kv_first < a->kv_first + a->length)
            return bad(err, "admission with K/V that another canvas holds", index);
    }
    return 0;
}

/* Whose K/V are copied: there before the plan, and still there behind it. */
static int check_fork(const struct caloris_step_state *state, const struct caloris_step_plan *plan,
                      size_t index, struct caloris_err *err)
{
    const struct caloris_admission *a = &plan->admissions[index];
    if (!a->cached || a->from >= state->limits.requests)
        return bad(err, "fork without K/V", index);
    const struct caloris_step_slot before = state->slot[a->from];
    if (before.length != a->length || !before.cached || !before.filled)
        return bad(err, "fork of a canvas that has no K/V of this length", index);
    for (size_t i = 0; i < plan->n_releases; i++) {
        if (plan->releases[i] == a->from)
            return bad(err, "fork of a canvas that leaves", index);
    }
    return 0;
}

static int check_entries(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                         struct caloris_err *err)
{
    const struct caloris_step_limits *limits = &state->limits;
    state->stamp++;
    for (size_t i = 0; i < plan->n_releases; i++) {
        const uint32_t slot = plan->releases[i];
        if (slot >= limits->requests || state->slot[slot].length == 0 || again(state, slot))
            return bad(err, "release of a slot that holds nothing", i);
    }
    if (plan->n_ids > limits->requests * limits->canvas)
        return bad(err, "more ids than all canvases hold", plan->n_ids);
    for (size_t i = 0; i < plan->n_ids; i++) {
        if (plan->ids[i] < 0 || (size_t)plan->ids[i] >= limits->vocab)
            return bad(err, "id outside the vocabulary", i);
    }
    for (size_t i = 0; i < plan->n_admissions; i++) {
        const struct caloris_admission *a = &plan->admissions[i];
        if (a->slot >= limits->requests ||
            (state->slot[a->slot].length != 0 && state->seen[a->slot] != state->stamp))
            return bad(err, "admission to a slot that is taken", i);
        for (size_t j = 0; j < i; j++) {
            if (plan->admissions[j].slot == a->slot)
                return bad(err, "two admissions to a slot", i);
        }
        if (a->length == 0 || a->length > limits->canvas)
            return bad(err, "admission of a canvas that is empty or too long", i);
        if (a->ids_first > plan->n_ids || a->length > plan->n_ids - a->ids_first)
            return bad(err, "admission beyond the ids", i);
        if ((a->cached && check_kept(state, plan, i, err) < 0) ||
            (a->forked && check_fork(state, plan, i, err) < 0))
            return -1;
    }
    if (plan->n_writes > limits->requests * limits->canvas)
        return bad(err, "more writes than all canvases have positions", plan->n_writes);
    for (size_t i = 0; i < plan->n_writes; i++) {
        const struct caloris_write *w = &plan->writes[i];
        if (w->slot >= limits->requests || w->position >= slot_after(state, plan, w->slot).length)
            return bad(err, "write outside a canvas", i);
        if (w->id < 0 || (size_t)w->id >= limits->vocab)
            return bad(err, "write of an id outside the vocabulary", i);
    }
    return 0;
}

/* The spans of one canvas, from the first on; returns the end of them, 0 for an error. */
static size_t check_canvas(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                           size_t first, size_t *rows, struct caloris_err *err)
{
    const uint32_t slot = plan->spans[first].slot;
    if (slot >= state->limits.requests || again(state, slot)) {
        bad(err, "span of no slot, or of one twice", first);
        return 0;
    }
    const struct caloris_step_slot canvas = slot_after(state, plan, slot);
    size_t next = 0, i = first;
    for (; i < plan->n_spans && plan->spans[i].slot == slot; i++) {
        const struct caloris_span *s = &plan->spans[i];
        if (s->count == 0 || s->first < next || s->first > canvas.length ||
            s->count > canvas.length - s->first) {
            bad(err, "span outside its canvas, or out of order", i);
            return 0;
        }
        next = s->first + s->count;
        *rows += s->count;
    }
    if (*rows != canvas.length && !(canvas.cached && canvas.filled)) {
        bad(err, "spans that are not the whole canvas, of one that has no K/V yet", first);
        return 0;
    }
    return i;
}

/* Whether position lies in the span. */
static bool covers(const struct caloris_step_plan *plan, uint32_t span, uint32_t position)
{
    return span < plan->n_spans && position >= plan->spans[span].first &&
           position - plan->spans[span].first < plan->spans[span].count;
}

static int check_work(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                      struct caloris_err *err)
{
    const struct caloris_step_limits *limits = &state->limits;
    size_t rows = 0;
    state->stamp++;
    if (plan->n_spans > limits->rows)
        return bad(err, "more spans than a step has rows", plan->n_spans);
    for (size_t i = 0; i < plan->n_spans;) {
        size_t of_canvas = 0;
        const size_t end = check_canvas(state, plan, i, &of_canvas, err);
        if (end == 0)
            return -1;
        i = end;
        rows += of_canvas;
        if (rows > limits->rows)
            return bad(err, "more rows than a step has", i - 1);
    }
    if (plan->n_rules > limits->requests)
        return bad(err, "more rules than requests", plan->n_rules);
    for (size_t i = 0; i < plan->n_rules; i++) {
        const struct caloris_rule *r = &plan->rules[i];
        if (r->specials > CALORIS_MAX_SPECIAL || r->probes > CALORIS_MAX_PROBES || r->best < 1 ||
            caloris_rule_candidates(r) > CALORIS_MAX_BEST)
            return bad(err, "rule out of range", i);
    }
    if (plan->n_wants > limits->rows)
        return bad(err, "more wanted rows than a step has", plan->n_wants);
    size_t wanted = plan->n_wants; /* and their partners */
    for (size_t i = 0; i < plan->n_wants; i++) {
        const struct caloris_want *w = &plan->wants[i];
        wanted += w->partner != CALORIS_NO_PARTNER;
        if (wanted > limits->rows)
            return bad(err, "more wanted rows and partners than a step has rows", i);
        if (!covers(plan, w->span, w->position) || w->rule >= plan->n_rules)
            return bad(err, "wanted row outside its span", i);
        if (w->partner != CALORIS_NO_PARTNER && !covers(plan, w->partner, w->position))
            return bad(err, "partner row outside its span", i);
    }
    return 0;
}

int caloris_step_check(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                       struct caloris_err *err)
{
    if (check_entries(state, plan, err) < 0)
        return -1;
    return check_work(state, plan, err);
}

/* ---- packing --------------------------------------------------------------------------------- */

static void put(char *to, size_t *at, const void *from, size_t count, size_t element)
{
    if (count)
        memcpy(to + *at, from, count * element);
    *at += caloris_size_round_up(count * element, PLAN_ALIGNMENT);
}

size_t caloris_step_pack(struct caloris_step_state *state, const struct caloris_step_plan *plan)
{
    const struct plan_header header = {plan->n_releases, plan->n_admissions, plan->n_ids,
                                       plan->n_writes,   plan->n_spans,      plan->n_wants,
                                       plan->n_rules};
    size_t at = 0;
    put(state->plan, &at, &header, 1, sizeof(header));
    put(state->plan, &at, plan->releases, plan->n_releases, sizeof(*plan->releases));
    put(state->plan, &at, plan->admissions, plan->n_admissions, sizeof(*plan->admissions));
    put(state->plan, &at, plan->ids, plan->n_ids, sizeof(*plan->ids));
    put(state->plan, &at, plan->writes, plan->n_writes, sizeof(*plan->writes));
    put(state->plan, &at, plan->spans, plan->n_spans, sizeof(*plan->spans));
    put(state->plan, &at, plan->wants, plan->n_wants, sizeof(*plan->wants));
    put(state->plan, &at, plan->rules, plan->n_rules, sizeof(*plan->rules));
    return at;
}

static const void *view(const char *from, size_t *at, uint64_t count, size_t element)
{
    const void *array = from + *at;
    *at += caloris_size_round_up((size_t)count * element, PLAN_ALIGNMENT);
    return array;
}

void caloris_step_unpack(const struct caloris_step_state *state, struct caloris_step_plan *plan)
{
    struct plan_header header;
    size_t at = 0;
    memcpy(&header, view(state->plan, &at, 1, sizeof(header)), sizeof(header));
    *plan = (struct caloris_step_plan){0};
    plan->n_releases = header.releases;
    plan->n_admissions = header.admissions;
    plan->n_ids = header.ids;
    plan->n_writes = header.writes;
    plan->n_spans = header.spans;
    plan->n_wants = header.wants;
    plan->n_rules = header.rules;
    plan->releases = view(state->plan, &at, header.releases, sizeof(*plan->releases));
    plan->admissions = view(state->plan, &at, header.admissions, sizeof(*plan->admissions));
    plan->ids = view(state->plan, &at, header.ids, sizeof(*plan->ids));
    plan->writes = view(state->plan, &at, header.writes, sizeof(*plan->writes));
    plan->spans = view(state->plan, &at, header.spans, sizeof(*plan->spans));
    plan->wants = view(state->plan, &at, header.wants, sizeof(*plan->wants));
    plan->rules = view(state->plan, &at, header.rules, sizeof(*plan->rules));
}

/* ---- effect ---------------------------------------------------------------------------------- */

/* Rows of the spans, and the canvases that they belong to; returns how many rows. */
static size_t lay_out_rows(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                           size_t *canvases)
{
    size_t row = 0;
    struct caloris_nn_canvas *canvas = NULL;
    *canvases = 0;
    for (size_t i = 0; i < plan->n_spans; i++) {
        const struct caloris_span *span = &plan->spans[i];
        const struct caloris_step_slot *slot = &state->slot[span->slot];
        if (i == 0 || plan->spans[i - 1].slot != span->slot) {
            canvas = &state->canvases[(*canvases)++];
            *canvas = (struct caloris_nn_canvas){0, slot->length, slot->cached, slot->kv_first};
        }
        memcpy(state->ids + row, state->canvas + span->slot * state->limits.canvas + span->first,
               span->count * sizeof(int32_t));
        for (uint32_t p = 0; p < span->count; p++) {
            state->position[row + p] = span->first + p;
            state->kv_row[row + p] =
                slot->cached ? (uint32_t)slot->kv_first + span->first + p : CALORIS_NN_NOT_KEPT;
        }
        state->span_start[i] = row;
        canvas->rows += span->count;
        row += span->count;
    }
    return row;
}

/* The row of a position of a span. */
static uint32_t row_of(const struct caloris_step_state *state, const struct caloris_step_plan *plan,
                       uint32_t span, uint32_t position)
{
    return (uint32_t)state->span_start[span] + position - plan->spans[span].first;
}

void caloris_step_apply(struct caloris_step_state *state, const struct caloris_step_plan *plan,
                        struct caloris_nn_rows *rows)
{
    const size_t stride = state->limits.canvas;
    for (size_t i = 0; i < plan->n_releases; i++)
        state->slot[plan->releases[i]] = (struct caloris_step_slot){0};
    for (size_t i = 0; i < plan->n_admissions; i++) {
        const struct caloris_admission *a = &plan->admissions[i];
        memcpy(state->canvas + a->slot * stride, plan->ids + a->ids_first,
               a->length * sizeof(int32_t));
        state->slot[a->slot] =
            (struct caloris_step_slot){a->length, a->cached, a->forked, a->kv_first};
    }
    for (size_t i = 0; i < plan->n_writes; i++)
        state->canvas[plan->writes[i].slot * stride + plan->writes[i].position] =
            plan->writes[i].id;

    *rows = (struct caloris_nn_rows){
        .ids = state->ids,
        .position = state->position,
        .kv_row = state->kv_row,
        .canvas = state->canvases,
    };
    rows->rows = lay_out_rows(state, plan, &rows->canvases);
    for (size_t i = 0; i < plan->n_spans; i++)
        state->slot[plan->spans[i].slot].filled =
            true; /* the check saw to it that the first step is whole */
    for (size_t i = 0; i < plan->n_wants; i++) {
        const struct caloris_want *want = &plan->wants[i];
        state->wants[i] = (struct caloris_nn_want){
            .row = row_of(state, plan, want->span, want->position),
            .partner = want->partner == CALORIS_NO_PARTNER
                           ? CALORIS_NO_PARTNER
                           : row_of(state, plan, want->partner, want->position),
            .position = want->position,
            .rule = want->rule,
        };
    }
}
