/* Where the time of a step goes. Off, a lap costs a test. */
#include "worker/nn/nn.h"

#include "base/time.h"

static const char *const names[CALORIS_PHASES] = {
    [CALORIS_PHASE_EMBED] = "embed",
    [CALORIS_PHASE_NORMS] = "norms",
    [CALORIS_PHASE_QKV] = "qkv",
    [CALORIS_PHASE_ATTENTION] = "attention",
    [CALORIS_PHASE_O] = "o",
    [CALORIS_PHASE_GATE_UP] = "gate_up",
    [CALORIS_PHASE_SWIGLU] = "swiglu",
    [CALORIS_PHASE_DOWN] = "down",
    [CALORIS_PHASE_ALLREDUCE] = "allreduce",
    [CALORIS_PHASE_WAIT] = "wait",
    [CALORIS_PHASE_HEAD] = "head",
    [CALORIS_PHASE_REST] = "rest",
};

const char *caloris_phase_name(enum caloris_phase phase)
{
    return names[phase];
}

void caloris_nn_start(struct caloris_nn *nn)
{
    if (nn->profile.on)
        nn->profile.lap_ns = caloris_time_ns();
}

void caloris_nn_lap(struct caloris_nn *nn, enum caloris_phase phase, double operations,
                    double bytes)
{
    struct caloris_nn_profile *profile = &nn->profile;
    if (!profile->on)
        return;
    const uint64_t now = caloris_time_ns();
    struct caloris_phase_cost *cost = &profile->phase[phase];
    cost->seconds += (double)(now - profile->lap_ns) * 1e-9;
    cost->operations += operations;
    cost->bytes += bytes;
    profile->lap_ns = now;
}
