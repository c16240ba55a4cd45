/* Which inputs of which products are multiplied apart. */
#include "worker/model/model.h"

#include "base/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    TIMES_MEDIAN = 8, /* an input that gets larger is an outlier: it costs the others 3 of 7 bits */
    ONE_IN = 64,      /* columns that may be apart: more would cost as much as BF16 saves */
    AT_LEAST = 4,     /* of a small model, too */
};

struct caloris_calibration *caloris_calibration_new(size_t layers, struct caloris_err *err)
{
    struct caloris_calibration *calibration = calloc(1, sizeof(*calibration));
    if (calibration) {
        calibration->layers = layers;
        calibration->of =
            calloc(layers * CALORIS_LAYER_PRODUCTS + 1, sizeof(struct caloris_outliers));
    }
    if (calibration && calibration->of)
        return calibration;
    caloris_err_sys(err, "calibration of %zu layers", layers);
    free(calibration);
    return NULL;
}

void caloris_calibration_free(struct caloris_calibration *calibration)
{
    if (!calibration)
        return;
    for (size_t i = 0; i <= calibration->layers * CALORIS_LAYER_PRODUCTS; i++)
        free(calibration->of[i].column);
    free(calibration->of);
    free(calibration);
}

struct caloris_outliers *caloris_calibration_at(const struct caloris_calibration *calibration,
                                                enum caloris_product product, size_t layer)
{
    if (product == CALORIS_PRODUCT_HEAD)
        return &calibration->of[calibration->layers * CALORIS_LAYER_PRODUCTS];
    return &calibration->of[layer * CALORIS_LAYER_PRODUCTS + product];
}

const struct caloris_outliers *caloris_calibration_of(const struct caloris_calibration *calibration,
                                                      enum caloris_product product, size_t layer)
{
    static const struct caloris_outliers none;
    return calibration && product != CALORIS_NO_PRODUCT
               ? caloris_calibration_at(calibration, product, layer)
               : &none;
}

size_t caloris_outliers_most(size_t in)
{
    const size_t share = in / ONE_IN > AT_LEAST ? in / ONE_IN : AT_LEAST;
    return share < CALORIS_OUTLIERS_MOST ? share : CALORIS_OUTLIERS_MOST;
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Of what is a number: weights that hold something else are told when they are loaded. */
static int median(const float *max, size_t in, float *middle, struct caloris_err *err)
{
    float *sorted = malloc((in + 1) * sizeof(*sorted));
    if (!sorted)
        return caloris_err_sys(err, "median of %zu columns", in);
    for (size_t i = 0; i < in; i++)
        sorted[i] = isfinite(max[i]) ? max[i] : 0;
    qsort(sorted, in, sizeof(*sorted), ascending);
    *middle = in > 0 ? sorted[in / 2] : 0;
    free(sorted);
    return 0;
}

int caloris_calibration_choose(struct caloris_calibration *calibration,
                               enum caloris_product product, size_t layer, const float *max,
                               size_t in, struct caloris_err *err)
{
    struct caloris_outliers *of = caloris_calibration_at(calibration, product, layer);
    const size_t most = caloris_outliers_most(in);
    float middle = 0;
    size_t n = 0;
    if (median(max, in, &middle, err) < 0)
        return -1;
    for (size_t i = 0; i < in; i++)
        n += max[i] > TIMES_MEDIAN * middle;
    of->whole = n > most || 2 * n > in;
    if (n == 0 || of->whole)
        return 0;
    of->column = malloc(n * sizeof(*of->column));
    if (!of->column)
        return caloris_err_sys(err, "%zu outlier columns", n);
    for (size_t i = 0; i < in; i++) {
        if (max[i] > TIMES_MEDIAN * middle)
            of->column[of->n++] = (uint32_t)i;
    }
    return 0;
}
