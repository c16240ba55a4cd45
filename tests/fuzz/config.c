/* config.json of a model folder. */
#include "base/err.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct caloris_model_config config;
    struct caloris_model_split split;
    struct caloris_err err;

    fuzz_file("config.json", data, size);
    if (caloris_model_config_load(fuzz_folder(), &config, &err) == 0) {
        (void)caloris_model_parameters(&config);
        for (int rank = 0; rank < 5; rank++)
            caloris_model_split(&config, 5, rank, &split);
    }
    return 0;
}
