/* tests/tp/logits.h: the logits of one canvas from the whole engine, and how far two are apart. */
#ifndef CALORIS_TESTS_LOGITS_H
#define CALORIS_TESTS_LOGITS_H

#include "worker/engine.h"

#include <stddef.h>
#include <stdint.h>

struct logits {
    const int32_t *ids;
    size_t n, vocab, row;
    float *to; /* [n, vocab]; free() */
    uint64_t bytes_read;
    size_t outlier_columns, outlier_matrices;
};

/* Ranks that are threads, of one compute thread each. weights may be NULL. */
struct caloris_engine_options logits_options(const char *dir, const char *weights, int ranks);

/* dir [MODEL_PATH]: a new folder with the model packed in a shard file, for model_remove_dir. */
void shard_model(const char *from, const char *weights, char *dir);

/* Runs an engine for them; the test fails when it does. */
void logits_run(const struct caloris_engine_options *options, const int32_t *ids, size_t n,
                struct logits *l);

struct deviation {
    double square, worst;
    size_t n;
};
void deviate(struct deviation *d, double a, double b);
double deviation_rms(const struct deviation *d);

#endif
