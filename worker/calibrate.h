/* worker/calibrate.h (inside worker): a forward pass over sample ids, for what it shows of the
 * inputs of products. */
#ifndef CALORIS_CALIBRATE_H
#define CALORIS_CALIBRATE_H

#include "worker/engine.h"
#include "worker/model/model.h"

struct caloris_comm;
struct caloris_err;
struct caloris_pool;

struct caloris_sample {
    int32_t *ids;     /* [rows] of all canvases, one behind the other */
    uint32_t *length; /* [canvases] */
    size_t canvases, rows, longest;
    uint32_t check; /* two samples with the same one are the same */
};

/* Whether these options want a calibration: INT8 or INT4 made from safetensors. */
bool caloris_calibrate_wanted(const struct caloris_engine_options *options,
                              const struct caloris_stored *stored);

/* The ids that the options name: a file's, or 256 pseudo-random ones, half of them masks. Free with
 * caloris_sample_free. */
int caloris_sample_make(const struct caloris_engine_options *options,
                        const struct caloris_model_config *config, struct caloris_sample *sample,
                        struct caloris_err *err);
void caloris_sample_free(struct caloris_sample *sample);

/* In FP32, a layer at a time, on all ranks of comm, with the folder's safetensors. Collective; ends
 * on all ranks alike: NULL and err. *lost: a collective failed, the world is gone. told, or NULL:
 * its progress is called behind each layer, and ends it by -1. Free with
 * caloris_calibration_free. */
struct caloris_calibration *caloris_calibrate(const char *dir,
                                              const struct caloris_model_config *config,
                                              const struct caloris_sample *sample,
                                              struct caloris_comm *comm, struct caloris_pool *pool,
                                              const struct caloris_sharding *told, bool *lost,
                                              struct caloris_err *err);

#endif
