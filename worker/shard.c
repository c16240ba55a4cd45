/* Packing a model into a shard file: one rank, its pool, no world. */
#include "worker/memory.h"

#include "base/err.h"
#include "worker/pool/pool.h"

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
    struct caloris_pool *pool = caloris_pool_new(threads, err);
    if (!pool)
        return -1;
    int rc = caloris_shard_write(options->model_dir, &config, format, pool, out_dir, told, err);
    caloris_pool_free(pool);
    return rc;
}
