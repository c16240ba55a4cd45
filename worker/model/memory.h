/* worker/model/memory.h: the one stretch of memory that holds a rank's weights. Inside
 * worker/model only. */
#ifndef CALORIS_MODEL_MEMORY_H
#define CALORIS_MODEL_MEMORY_H

#include "worker/model/family.h"
#include "worker/model/model.h"

/* How the matrix that this tensor goes to stands in memory: not always as asked for. A vector:
 * FP32. */
enum caloris_format caloris_weights_format(const struct caloris_model_config *config,
                                           enum caloris_role role, size_t layer,
                                           enum caloris_format format,
                                           const struct caloris_calibration *calibration);

/* Of the matrix that this tensor goes to: none where it does not stand in a scaled format. */
const struct caloris_outliers *
caloris_weights_outliers(const struct caloris_model_config *config, enum caloris_role role,
                         size_t layer, enum caloris_format format,
                         const struct caloris_calibration *calibration);

/* Bytes for `distinct` layers of weights and the table of all layers; SIZE_MAX when that does
 * not fit or a matrix is too long for the format. A multiple of the page size. */
size_t caloris_weights_bytes(const struct caloris_model_config *config,
                             const struct caloris_model_split *split, enum caloris_format format,
                             const struct caloris_calibration *calibration, size_t distinct);

/* Says that caloris_weights_bytes was SIZE_MAX; -1. */
int caloris_weights_too_large(enum caloris_format format, struct caloris_err *err);

/* Reserves exactly these bytes and lays everything over them; layer i shares the weights of
 * layer i % distinct. Contents are zero. Free with caloris_weights_free. */
int caloris_weights_reserve(const struct caloris_model_config *config,
                            const struct caloris_model_split *split, enum caloris_format format,
                            const struct caloris_calibration *calibration, size_t distinct,
                            struct caloris_weights *weights, struct caloris_err *err);

#endif
