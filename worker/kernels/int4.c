/* INT4: which 4-bit numbers stand best for 16 weights. */
#include "worker/kernels/panels.h"
#include "worker/kernels/round.h"

enum {
    LEVELS = 15, /* the largest u */
    STEPS = 16,
    BEFORE = 1, /* steps tried below and above the one that spans all numbers */
    AFTER = 2,
    PARTS = 4,
};

struct candidate {
    int step, zero;
    float u[RUN]; /* whole numbers */
};

/* The zero that leaves as much of [least, most] out at either end, and the nearest numbers. Returns
 * the sum of squared errors, added in the same order everywhere. */
static float attempt(const float *x, float least, float most, int step, struct candidate *c)
{
    const float inverse = 1 / (float)step;
    const float centre = (float)LEVELS / 2 - (most + least) / 2 * inverse;
    const int32_t zero = caloris_round_int(centre);
    float part[PARTS] = {0};
    c->step = step;
    c->zero = zero < 0 ? 0 : zero > LEVELS ? LEVELS : zero;
    /* Not beyond ±127. */
    const int reach = 127 / step;
    const float low = c->zero > reach ? (float)-reach : (float)-c->zero;
    const float high = LEVELS - c->zero > reach ? (float)reach : (float)(LEVELS - c->zero);
    for (size_t i = 0; i < RUN; i += PARTS) {
        for (size_t j = 0; j < PARTS; j++) {
            float at = (float)caloris_round_int(x[i + j] * inverse);
            at = at < low ? low : at > high ? high : at;
            const float off = at * (float)step - x[i + j];
            c->u[i + j] = at + (float)c->zero;
            part[j] += off * off;
        }
    }
    return (part[0] + part[1]) + (part[2] + part[3]);
}

unsigned char caloris_int4_encode(const float *x, unsigned char *u)
{
    float least = 0, most = 0;
    for (size_t i = 0; i < RUN; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    int spans = (int)((most - least) / LEVELS);
    spans += (float)(spans * LEVELS) < most - least;
    const int first = spans - BEFORE < 1 ? 1 : spans - BEFORE;
    const int last = spans + AFTER > STEPS ? STEPS : spans + AFTER;
    struct candidate tries[2];
    size_t best = 0;
    float best_off = attempt(x, least, most, first, &tries[0]);
    for (int step = first + 1; step <= last; step++) {
        const float off = attempt(x, least, most, step, &tries[1 - best]);
        if (off < best_off) {
            best_off = off;
            best = 1 - best;
        }
    }
    for (size_t i = 0; i < RUN; i++)
        u[i] = (unsigned char)tries[best].u[i];
    return (unsigned char)(tries[best].zero << 4 | (tries[best].step - 1));
}
