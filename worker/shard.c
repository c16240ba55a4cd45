/* Packing a model into a shard file: one rank, its pool, no world. */
#include "worker/calibrate.h"
#include "worker/memory.h"

#include "base/err.h"
#include "worker/comm/comm.h"
#include "worker/pool/pool.h"

static int calibrate(const struct caloris_engine_options *options,
                     const struct caloris_model_config *config, struct caloris_pool *pool,
                     const struct caloris_sharding *told, struct caloris_calibration **calibration,
                     struct caloris_err *err)
{
    struct caloris_sample sample = {0};
    struct caloris_comm *comm = caloris_comm_open_self(err);
    bool lost;
    if (comm && caloris_sample_make(options, config, &sample, err) == 0)
        *calibration =
            caloris_calibrate(options->model_dir, config, &sample, comm, pool, told, &lost, err);
    caloris_sample_free(&sample);
    caloris_comm_close(comm);
    return *calibration ? 0 : -1;
}

int caloris_engine_shard(const struct caloris_engine_options *options, const char *out_dir,
                         const struct caloris_sharding *told, struct caloris_err *err)
{
    struct caloris_model_config config;
    struct caloris_stored stored;
    enum caloris_format format;
    caloris_kernels_init();
    if (!options->weights)
        return caloris_err_set(err, CALORIS_USAGE, "the format of a shard file must be said");
    if (caloris_format_parse(options->weights, &format, err) < 0 ||
        caloris_model_config_load(options->model_dir, &config, err) < 0 ||
        caloris_shard_find(options->model_dir, &stored, err) < 0)
        return -1;
    if (stored.there)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s holds a shard file already: only safetensors are sharded",
                               options->model_dir);
    const int threads = options->threads > 0 ? options->threads : caloris_pool_cores(1);
    struct caloris_calibration *calibration = NULL;
    struct caloris_pool *pool = caloris_pool_new(threads, err);
    int rc = pool ? 0 : -1;
    if (rc == 0 && caloris_calibrate_wanted(options, &stored))
        rc = calibrate(options, &config, pool, told, &calibration, err);
    if (rc == 0)
        rc = caloris_shard_write(options->model_dir, &config, format, calibration, pool, out_dir,
                                 told, err);
    caloris_pool_free(pool);
    return rc;
}
