#include "coordinator/schedule/pack.h"

#include "base/err.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

size_t caloris_member_rows(const struct caloris_member *member)
{
    return caloris_denoise_count_rows(&member->denoise) *
           (member->partner == CALORIS_NO_SLOT ? 1 : 2);
}

size_t caloris_member_wants(const struct caloris_denoise *denoise, size_t n)
{
    return n * caloris_denoise_wanted(denoise, NULL) * (denoise->params.cfg_scale > 0 ? 2 : 1);
}

/* What its next step takes of a step's room. */
static size_t room_of(const struct caloris_member *member)
{
    const size_t rows = caloris_member_rows(member);
    if (member->n_followers == 0)
        return rows;
    const size_t wants = caloris_member_wants(&member->denoise, 1 + member->n_followers);
    return rows > wants ? rows : wants;
}

/* ---- turns ----------------------------------------------------------------------------------- */

enum { PATIENCE_ROUNDS = 4 };

static bool came_before(const struct caloris_member *a, const struct caloris_member *b)
{
    return a->arrival < b->arrival;
}

static bool goes_before(const struct caloris_member *a, const struct caloris_member *b)
{
    if (a->overdue != b->overdue)
        return a->overdue;
    return a->overdue && a->served != b->served ? a->served < b->served : came_before(a, b);
}

/* Insertion sort: a world holds tens of requests, mostly in order. */
static void sort(struct caloris_member **members, size_t n,
                 bool (*before)(const struct caloris_member *, const struct caloris_member *))
{
    for (size_t i = 1; i < n; i++) {
        struct caloris_member *moved = members[i];
        size_t at = i;
        for (; at > 0 && before(moved, members[at - 1]); at--)
            members[at] = members[at - 1];
        members[at] = moved;
    }
}

size_t caloris_pack_choose(struct caloris_member *const *members, size_t n, uint64_t rows,
                           size_t aim, size_t max_rows, struct caloris_member **chosen)
{
    if (n == 0)
        return 0;
    uint64_t round = 0;
    for (size_t i = 0; i < n; i++)
        round += room_of(members[i]);
    for (size_t i = 0; i < n; i++) {
        chosen[i] = members[i];
        chosen[i]->overdue = rows - chosen[i]->served >= PATIENCE_ROUNDS * round ||
                             chosen[i]->left_out >= CALORIS_PATIENCE_STEPS;
        chosen[i]->left_out++;
    }
    sort(chosen, n, goes_before);
    size_t left = max_rows, count = 0;
    for (size_t i = 0; i < n && (i == 0 || max_rows - left < aim); i++) {
        const size_t room = room_of(chosen[i]);
        if (room > left)
            continue;
        left -= room;
        chosen[i]->left_out = 0;
        chosen[count++] = chosen[i];
    }
    sort(chosen, count, came_before);
    return count;
}

/* ---- buffers --------------------------------------------------------------------------------- */

static void *make(size_t count, size_t each)
{
    size_t bytes;
    if (!caloris_size_mul(count, each, &bytes))
        return NULL;
    return malloc(bytes > 0 ? bytes : 1);
}

int caloris_pack_init(struct caloris_pack *pack, size_t slots, size_t canvas, size_t rows,
                      struct caloris_err *err)
{
    size_t cells;
    *pack = (struct caloris_pack){.slots = slots, .canvas = canvas, .rows = rows};
    if (!caloris_size_mul(slots, canvas, &cells))
        return caloris_err_set(err, CALORIS_NO_MEMORY, "%zu canvases of %zu tokens", slots, canvas);
    pack->parts = make(slots, sizeof(*pack->parts));
    pack->releases = make(slots, sizeof(*pack->releases));
    pack->admissions = make(slots, sizeof(*pack->admissions));
    pack->ids = make(cells, sizeof(*pack->ids));
    pack->writes = make(cells, sizeof(*pack->writes));
    pack->spans = make(rows, sizeof(*pack->spans)); /* none is empty */
    pack->wants = make(rows, sizeof(*pack->wants));
    pack->rules = make(slots, sizeof(*pack->rules));
    pack->positions = make(rows, sizeof(*pack->positions));
    pack->ranges = make(canvas / 2 + 1, sizeof(*pack->ranges));
    pack->scratch = malloc(caloris_denoise_scratch_bytes(canvas));
    if (pack->parts && pack->releases && pack->admissions && pack->ids && pack->writes &&
        pack->spans && pack->wants && pack->rules && pack->positions && pack->ranges &&
        pack->scratch)
        return 0;
    caloris_pack_free(pack);
    return caloris_err_set(err, CALORIS_NO_MEMORY,
                           "no memory for step plans of %zu canvases of %zu tokens", slots, canvas);
}

void caloris_pack_free(struct caloris_pack *pack)
{
    free(pack->parts);
    free(pack->releases);
    free(pack->admissions);
    free(pack->ids);
    free(pack->writes);
    free(pack->spans);
    free(pack->wants);
    free(pack->rules);
    free(pack->positions);
    free(pack->ranges);
    free(pack->scratch);
    *pack = (struct caloris_pack){0};
}

/* ---- the plan -------------------------------------------------------------------------------- */

void caloris_pack_begin(struct caloris_pack *pack)
{
    pack->n_parts = 0;
    pack->plan = (struct caloris_step_plan){
        .releases = pack->releases,
        .admissions = pack->admissions,
        .ids = pack->ids,
        .writes = pack->writes,
        .spans = pack->spans,
        .wants = pack->wants,
        .rules = pack->rules,
    };
}

void caloris_pack_release(struct caloris_pack *pack, uint32_t slot)
{
    pack->releases[pack->plan.n_releases++] = slot;
}

static int32_t *add_admission(struct caloris_pack *pack, const struct caloris_admission *admission,
                              const struct caloris_denoise *denoise)
{
    struct caloris_step_plan *plan = &pack->plan;
    int32_t *ids = pack->ids + plan->n_ids;
    struct caloris_admission *to = &pack->admissions[plan->n_admissions++];
    *to = *admission;
    to->length = (uint32_t)denoise->length;
    to->ids_first = (uint32_t)plan->n_ids;
    to->cached = denoise->params.cache != CALORIS_CACHE_NONE;
    to->forked = to->forked && to->cached;
    memcpy(ids, denoise->canvas, denoise->length * sizeof(*ids));
    plan->n_ids += denoise->length;
    return ids;
}

/* lead: NULL, or whom it forks. */
static void admit(struct caloris_pack *pack, const struct caloris_member *member,
                  const struct caloris_member *lead)
{
    const struct caloris_denoise *denoise = &member->denoise;
    struct caloris_admission admission = {
        .slot = member->slot,
        .kv_first = member->kv_first,
        .forked = lead,
        .from = lead ? lead->slot : 0,
    };
    add_admission(pack, &admission, denoise);
    if (member->partner == CALORIS_NO_SLOT)
        return;
    /* The unconditional canvas: the prompt masked, but for what its holes got, which stands in
     * both. */
    admission.slot = member->partner;
    admission.kv_first = member->kv_partner;
    admission.from = lead ? lead->partner : 0;
    int32_t *ids = add_admission(pack, &admission, denoise);
    for (size_t i = 0; i < denoise->prompt; i++) {
        if (denoise->marks[i].step == 0)
            ids[i] = denoise->params.mask_id;
    }
}

void caloris_pack_admit(struct caloris_pack *pack, const struct caloris_member *member)
{
    admit(pack, member, NULL);
}

void caloris_pack_fork(struct caloris_pack *pack, const struct caloris_member *member,
                       const struct caloris_member *lead)
{
    admit(pack, member, lead);
}

static void add_writes(struct caloris_pack *pack, const struct caloris_member *member,
                       uint32_t slot)
{
    for (size_t i = 0; i < member->n_reveals; i++)
        pack->writes[pack->plan.n_writes++] = (struct caloris_write){
            .slot = slot,
            .position = member->reveals[i].position,
            .id = member->reveals[i].id,
        };
}

/* The ranges of a canvas; the first one's index. */
static uint32_t add_spans(struct caloris_pack *pack, uint32_t slot, size_t ranges)
{
    const uint32_t first = (uint32_t)pack->plan.n_spans;
    for (size_t i = 0; i < ranges; i++)
        pack->spans[pack->plan.n_spans++] = (struct caloris_span){
            .slot = slot, .first = pack->ranges[i].first, .count = pack->ranges[i].count};
    return first;
}

/* What one member wants of these spans, whose ranges are pack->ranges. */
static void add_part(struct caloris_pack *pack, struct caloris_member *member, uint32_t span,
                     uint32_t partner)
{
    struct caloris_step_plan *plan = &pack->plan;
    const bool guided = partner != CALORIS_NO_PARTNER;
    const uint32_t rule = (uint32_t)plan->n_rules++;
    caloris_denoise_rule(&member->denoise, &pack->rules[rule]);

    struct caloris_part *part = &pack->parts[pack->n_parts++];
    *part = (struct caloris_part){.member = member, .first_want = plan->n_wants};
    part->wants = caloris_denoise_wanted(&member->denoise, pack->positions + part->first_want);
    uint32_t range = 0; /* both ascend */
    for (size_t i = 0; i < part->wants; i++) {
        const uint32_t position = pack->positions[part->first_want + i];
        while (position - pack->ranges[range].first >= pack->ranges[range].count)
            range++;
        pack->wants[plan->n_wants++] = (struct caloris_want){
            .span = span + range,
            .position = position,
            .partner = guided ? partner + range : CALORIS_NO_PARTNER,
            .rule = rule,
        };
    }
}

void caloris_pack_step(struct caloris_pack *pack, struct caloris_member *member)
{
    const bool guided = member->partner != CALORIS_NO_SLOT;
    add_writes(pack, member, member->slot);
    if (guided)
        add_writes(pack, member, member->partner);
    member->n_reveals = 0;

    const size_t ranges = caloris_denoise_rows(&member->denoise, pack->ranges);
    const uint32_t span = add_spans(pack, member->slot, ranges);
    const uint32_t partner = guided ? add_spans(pack, member->partner, ranges) : CALORIS_NO_PARTNER;
    member->step_rows = caloris_member_rows(member);
    member->rows += member->step_rows;
    member->refresh = member->denoise.params.cache != CALORIS_CACHE_NONE &&
                      caloris_denoise_is_full(&member->denoise);
    member->passes++;
    add_part(pack, member, span, partner);
    for (size_t i = 0; i < member->n_followers; i++)
        add_part(pack, &member->followers[i], span, partner);
    member->n_followers = 0;
}

void caloris_pack_decide(struct caloris_pack *pack, const struct caloris_part *part,
                         const struct caloris_step_result *result)
{
    struct caloris_member *member = part->member;
    const size_t first = part->first_want;
    const size_t n =
        caloris_denoise_decide(&member->denoise, pack->positions + first, result->summaries + first,
                               result->candidates + first * result->best, part->wants, result->best,
                               member->reveals, pack->scratch);
    member->n_reveals = caloris_denoise_apply(&member->denoise, member->reveals, n);
}
