/* The start of a shard file, header, table and checksums, for one small model. The checksum over it
 * is put right, else nothing else would ever be looked at; the rest of the file is holes. */
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/model.h"
#include "worker/model/shard.h"

static const char config_json[] =
    "{\"model_type\": \"llada\", \"d_model\": 16, \"n_layers\": 1, \"n_heads\": 2, "
    "\"n_kv_heads\": 2, \"mlp_hidden_size\": 16, \"vocab_size\": 32, "
    "\"embedding_size\": 32, \"max_sequence_length\": 64, \"rms_norm_eps\": 1e-05, "
    "\"rope_theta\": 10000.0, \"weight_tying\": false, \"block_type\": \"llama\", "
    "\"layer_norm_type\": \"rms\", \"activation_type\": \"silu\", \"rope\": true, "
    "\"include_bias\": false, \"include_qkv_bias\": false, \"alibi\": false, "
    "\"layer_norm_with_affine\": true, \"attention_layer_norm\": false, "
    "\"rope_full_precision\": true, \"scale_logits\": false, "
    "\"input_emb_norm\": false, \"bias_for_layer_norm\": false, "
    "\"block_group_size\": 1, \"init_device\": \"meta\"}";

enum { CHECK_AT = 12, SIZE_AT = 16, PAGE = 4096, MOST = 1 << 20 };

/* The bytes of the file that the checksum is over: up to where the data start. */
static void put_right(uint8_t *bytes, size_t start, uint64_t file_bytes)
{
    uint32_t check;
    memcpy(bytes + SIZE_AT, &file_bytes, sizeof file_bytes);
    check = caloris_crc32c(0, bytes + SIZE_AT, start - SIZE_AT);
    memcpy(bytes + CHECK_AT, &check, sizeof check);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[2 * 65536];
    struct caloris_model_config config;
    struct caloris_stored stored;
    struct caloris_shard *shard;
    struct caloris_err err;
    uint64_t file_bytes = 0;

    fuzz_file("config.json", config_json, sizeof config_json - 1);
    if (caloris_model_config_load(fuzz_folder(), &config, &err) < 0)
        __builtin_trap();
    if (size >= 24 && size <= sizeof bytes - PAGE) {
        size_t start = (size + PAGE - 1) / PAGE * PAGE;
        memset(bytes, 0, start);
        memcpy(bytes, data, size);
        memcpy(&file_bytes, bytes + SIZE_AT, sizeof file_bytes);
        file_bytes = file_bytes < start ? start : file_bytes > MOST ? MOST : file_bytes;
        put_right(bytes, start, file_bytes);
        const char *path = fuzz_file(CALORIS_SHARD_FILE, bytes, start);
        if (truncate(path, (off_t)file_bytes) < 0)
            __builtin_trap();
    } else {
        fuzz_file(CALORIS_SHARD_FILE, data, size);
    }
    caloris_shard_find(fuzz_folder(), &stored, &err);
    shard = caloris_shard_open(fuzz_folder(), &config, &err);
    for (size_t i = 0; shard && i < shard->n_tensors; i++) {
        const struct caloris_shard_tensor *tensor = &shard->tensor[i];
        size_t rows, cols;

        if (tensor->offset + tensor->common_bytes + tensor->units * tensor->unit_bytes >
            shard->file_bytes)
            __builtin_trap();
        for (size_t unit = 0; unit < tensor->units; unit++)
            caloris_shard_unit(tensor, unit, &rows, &cols);
    }
    caloris_shard_close(shard);
    return 0;
}
