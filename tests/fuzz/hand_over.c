/* Where a job stands, as another group said it: a HandOver message, held against a job and, if it
 * has its shape, against the job's loop. */
#include <stdlib.h>

#include "base/err.h"
#include "coordinator/denoise/denoise.h"
#include "coordinator/link/hand_over.h"
#include "tests/fuzz/fuzz.h"

enum { BEST = 2, LENGTH = 8, PROMPT = 2, MASK = 9 };

static void go_on(const struct caloris_stand *stand)
{
    struct caloris_denoise denoise;
    struct caloris_job_params params;
    struct caloris_mark marks[LENGTH];
    int32_t canvas[LENGTH] = {5, MASK, MASK, MASK, MASK, MASK, MASK, MASK};
    uint32_t positions[LENGTH];
    struct caloris_err err;

    caloris_job_params_preset(&params, CALORIS_PRESET_EXACT);
    params.gen_length = LENGTH - PROMPT;
    params.block_length = 2;
    params.mask_id = MASK;
    params.early_stop = false;
    if (caloris_denoise_start(&denoise, &params, canvas, marks, LENGTH, PROMPT, &err) < 0)
        __builtin_trap();
    if (caloris_denoise_check_stand(&denoise, stand, &err) < 0)
        return;
    caloris_denoise_resume(&denoise, stand);
    if (!denoise.done && caloris_denoise_wanted(&denoise, positions) > LENGTH)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct caloris_engine_facts facts = {.format = "fp32"};
    static const struct link_model model = {.facts = &facts};
    static const struct link_job job = {.length = LENGTH, .best = BEST};
    struct caloris_err err;
    struct caloris_stand *stands = link_hand_over_unpack(&model, "m", &job, data, size, &err);

    for (size_t i = 0; stands && i < BEST; i++) {
        if (stands[i].step > 0)
            go_on(&stands[i]);
    }
    free(stands);
    return 0;
}
