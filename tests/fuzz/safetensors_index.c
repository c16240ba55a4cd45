/* model.safetensors.index.json beside one good file of one tensor, "w" [2] in fp32. */
#include <string.h>

#include "base/err.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char header[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    static int made;
    struct caloris_err err;

    if (!made) {
        char file[8 + sizeof header - 1 + 8] = {sizeof header - 1};

        memcpy(file + 8, header, sizeof header - 1);
        fuzz_file("a.safetensors", file, sizeof file);
        made = 1;
    }
    fuzz_file("model.safetensors.index.json", data, size);
    caloris_tensors_close(caloris_tensors_open(fuzz_folder(), &err));
    return 0;
}
