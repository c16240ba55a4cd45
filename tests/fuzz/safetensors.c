/* The header of model.safetensors; the tensors' bytes may be missing. */
#include "base/err.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct caloris_tensors *tensors;
    struct caloris_err err;
    char text[CALORIS_TENSOR_SHAPE_TEXT];

    fuzz_file("model.safetensors", data, size);
    tensors = caloris_tensors_open(fuzz_folder(), &err);
    for (size_t i = 0; tensors && i < tensors->n_tensors; i++) {
        const struct caloris_tensor *t = &tensors->tensors[i];

        if (t->offset + t->bytes > size || caloris_tensors_find(tensors, t->name) == NULL)
            __builtin_trap();
        caloris_tensor_shape_text(t->shape, t->dims, text);
    }
    caloris_tensors_close(tensors);
    return 0;
}
