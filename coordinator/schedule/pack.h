/* coordinator/schedule/pack.h: from the running requests to one step plan, and from its result
 * to their next writes. No thread, no queue, no clock; buffers are made once. Inside schedule
 * only. */
#ifndef CALORIS_SCHEDULE_PACK_H
#define CALORIS_SCHEDULE_PACK_H

#include "coordinator/denoise/denoise.h"
#include "worker/engine.h"

#include <stddef.h>
#include <stdint.h>

struct caloris_err;

enum { CALORIS_NO_SLOT = UINT32_MAX };

/* One candidate of a request that holds slots. Under guidance partner is the slot of its
 * unconditional canvas. With a cache each of its canvases keeps its K/V from kv_first (kv_partner)
 * on. Candidates of one prompt start from the same canvas: the first step of one serves its
 * followers, too. They differ in their noise only, and enter as forks of it afterwards. */
struct caloris_member {
    struct caloris_denoise denoise;
    uint32_t slot, partner;
    uint32_t kv_first, kv_partner;
    bool admitted;                    /* the workers know it */
    struct caloris_member *followers; /* [n_followers]: whom its next step serves as well */
    size_t n_followers;
    uint64_t rows;                  /* computed so far */
    uint32_t passes;                /* forward passes so far; a shared one is its leader's */
    size_t step_rows;               /* of its last step */
    bool refresh;                   /* its last step made the K/V of all rows anew */
    struct caloris_reveal *reveals; /* [canvas length]: decided by its last step, not sent yet */
    size_t n_reveals;
    uint64_t arrival;   /* how many came before it */
    uint64_t last_turn; /* the step that it last had part in */
    uint64_t served;    /* rows of all steps before that one, or before it was let in */
    size_t left_out;    /* steps since then that it had no part in */
    bool overdue;       /* for caloris_pack_choose */
};

/* Rows that its next step computes: all or none of them. */
size_t caloris_member_rows(const struct caloris_member *member);

/* Rows whose logits a first step wants for n candidates: they must fit in a step, too. */
size_t caloris_member_wants(const struct caloris_denoise *denoise, size_t n);

/* Who of members [n] has part in the next step, into chosen [n]: who came first goes first, until
 * they have aim rows; whoever does not fit in max_rows is passed over, and smaller ones may fill
 * what is left. So few run at a time, and they are soon done. But nobody starves: who was left out
 * for four rounds (the rows of all members, four times, have been computed since; rows: of all
 * steps so far), or for CALORIS_PATIENCE_STEPS steps, goes before the others, the longest wait
 * first. Returns how many; chosen is by arrival. */
enum { CALORIS_PATIENCE_STEPS = 32 };
size_t caloris_pack_choose(struct caloris_member *const *members, size_t n, uint64_t rows,
                           size_t aim, size_t max_rows, struct caloris_member **chosen);

/* The part that one member has in a plan. */
struct caloris_part {
    struct caloris_member *member;
    size_t first_want, wants;
};

struct caloris_pack {
    struct caloris_step_plan plan; /* of the arrays below */
    struct caloris_part *parts;
    size_t n_parts;

    size_t slots, canvas, rows;
    uint32_t *releases;
    struct caloris_admission *admissions;
    int32_t *ids;
    struct caloris_write *writes;
    struct caloris_span *spans;
    struct caloris_want *wants;
    struct caloris_rule *rules;
    uint32_t *positions;          /* of wants */
    struct caloris_range *ranges; /* of one member's step */
    void *scratch;
};

/* Room for slots canvases of at most canvas tokens, rows rows a step. */
int caloris_pack_init(struct caloris_pack *pack, size_t slots, size_t canvas, size_t rows,
                      struct caloris_err *err);
void caloris_pack_free(struct caloris_pack *pack);

/* An empty plan, to which the calls below add. A slot is released at most once, and admitted to
 * at most once. */
void caloris_pack_begin(struct caloris_pack *pack);
void caloris_pack_release(struct caloris_pack *pack, uint32_t slot);
void caloris_pack_admit(struct caloris_pack *pack, const struct caloris_member *member);
/* As a fork of lead, whose first step served member, too. */
void caloris_pack_fork(struct caloris_pack *pack, const struct caloris_member *member,
                       const struct caloris_member *lead);
/* One step of a member, its outstanding reveals sent before; serves its followers and forgets
 * them. */
void caloris_pack_step(struct caloris_pack *pack, struct caloris_member *member);

/* After the step: part's decision is applied to its member's canvas and stands in its reveals. */
void caloris_pack_decide(struct caloris_pack *pack, const struct caloris_part *part,
                         const struct caloris_step_result *result);

#endif
