#include "model_support.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

void expect_ok(int rc, const struct caloris_err *err)
{
    if (rc != 0)
        fail_msg("%s", err->text);
}

void expect_complaint(int rc, const struct caloris_err *err, enum caloris_code code,
                      const char *complaint)
{
    if (rc == 0)
        fail_msg("accepted; expected: %s", complaint);
    if (!strstr(err->text, complaint) || err->code != code)
        fail_msg("%s: \"%s\"; expected %s: \"%s\"", caloris_code_name(err->code), err->text,
                 caloris_code_name(code), complaint);
}

static void join(char path[MODEL_PATH], const char *dir, const char *name)
{
    int n = snprintf(path, MODEL_PATH, "%s/%s", dir, name);
    assert_true(n > 0 && n < MODEL_PATH);
}

const char *model_golden(const char *name, char path[MODEL_PATH])
{
    const char *root = getenv("CALORIS_SOURCE_DIR");
    assert_non_null(root);
    int n = snprintf(path, MODEL_PATH, "%s/tests/golden/models/%s", root, name);
    assert_true(n > 0 && n < MODEL_PATH);
    return path;
}

void model_make_dir(char path[MODEL_PATH])
{
    const char *tmp = getenv("TMPDIR");
    join(path, tmp ? tmp : "/tmp", "caloris-model-XXXXXX");
    assert_non_null(mkdtemp(path));
}

/* The next file of the directory that is not hidden, or NULL. */
static const char *next_file(DIR *open)
{
    struct dirent *entry;
    while ((entry = readdir(open))) {
        if (entry->d_name[0] != '.')
            return entry->d_name;
    }
    return NULL;
}

void model_remove_dir(const char *path)
{
    DIR *open = opendir(path);
    assert_non_null(open);
    for (const char *name; (name = next_file(open));) {
        char file[MODEL_PATH];
        join(file, path, name);
        assert_int_equal(remove(file), 0);
    }
    closedir(open);
    assert_int_equal(rmdir(path), 0);
}

static char *read_file(const char *dir, const char *name, size_t *n)
{
    char path[MODEL_PATH];
    join(path, dir, name);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    assert_int_equal(fseek(in, 0, SEEK_END), 0);
    *n = (size_t)ftell(in);
    rewind(in);
    char *bytes = malloc(*n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *n, in), *n);
    bytes[*n] = '\0';
    fclose(in);
    return bytes;
}

void model_write(const char *dir, const char *name, const void *bytes, size_t n)
{
    char path[MODEL_PATH];
    join(path, dir, name);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

static int is_safetensors(const char *name)
{
    size_t n = strlen(name);
    return n > 12 && strcmp(name + n - 12, ".safetensors") == 0;
}

void model_copy(const char *from, const char *to)
{
    DIR *open = opendir(from);
    assert_non_null(open);
    for (const char *name; (name = next_file(open));) {
        if (strcmp(name, "config.json") != 0 && !strstr(name, ".safetensors"))
            continue;
        size_t n;
        char *bytes = read_file(from, name, &n);
        model_write(to, name, bytes, n);
        free(bytes);
    }
    closedir(open);
}

void model_write_json(const char *dir, const char *name, const json_t *json)
{
    char *text = json_dumps(json, 0);
    assert_non_null(text);
    model_write(dir, name, text, strlen(text));
    free(text);
}

json_t *model_read_json(const char *dir, const char *name)
{
    size_t n;
    char *text = read_file(dir, name, &n);
    json_t *json = json_loadb(text, n, 0, NULL);
    assert_non_null(json);
    free(text);
    return json;
}

static uint64_t header_length(const char *bytes)
{
    uint64_t n;
    memcpy(&n, bytes, sizeof(n));
    return n;
}

/* By the book: sign, exponent, fraction (IEEE 754-2008, binary16). */
static float half(uint16_t bits)
{
    int exponent = bits >> 10 & 31;
    float fraction = (float)(bits & 1023) / 1024;
    float value = exponent == 0 ? ldexpf(fraction, -14) : ldexpf(1 + fraction, exponent - 15);
    return bits >> 15 ? -value : value;
}

static float number_at(const char *bytes, const char *dtype, size_t i)
{
    float value;
    uint16_t word;
    if (strcmp(dtype, "F32") == 0) {
        memcpy(&value, bytes + 4 * i, sizeof(value));
        return value;
    }
    memcpy(&word, bytes + 2 * i, sizeof(word));
    if (strcmp(dtype, "F16") == 0)
        return half(word);
    assert_string_equal(dtype, "BF16");
    uint32_t bits = (uint32_t)word << 16;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* The tensor when this file has it, else NULL. */
static float *tensor_of_file(const char *bytes, const char *name, size_t count)
{
    uint64_t n = header_length(bytes);
    json_t *header = json_loadb(bytes + 8, n, 0, NULL);
    assert_non_null(header);
    float *out = NULL;
    json_t *tensor = json_object_get(header, name);
    if (tensor) {
        json_t *begin = json_array_get(json_object_get(tensor, "data_offsets"), 0);
        const char *data = bytes + 8 + n + json_integer_value(begin);
        out = malloc(count * sizeof(*out));
        assert_non_null(out);
        for (size_t i = 0; i < count; i++)
            out[i] = number_at(data, json_string_value(json_object_get(tensor, "dtype")), i);
    }
    json_decref(header);
    return out;
}

float *model_tensor(const char *dir, const char *name, size_t count)
{
    float *out = NULL;
    DIR *open = opendir(dir);
    assert_non_null(open);
    for (const char *file; !out && (file = next_file(open));) {
        if (!is_safetensors(file))
            continue;
        size_t n;
        char *bytes = read_file(dir, file, &n);
        out = tensor_of_file(bytes, name, count);
        free(bytes);
    }
    closedir(open);
    assert_non_null(out);
    return out;
}

/* The tensor's header entry, or NULL; *json to free. */
static const json_t *entry_of(const char *bytes, const char *name, json_t **json)
{
    *json = json_loadb(bytes + 8, header_length(bytes), 0, NULL);
    assert_non_null(*json);
    return json_object_get(*json, name);
}

void model_change_tensor(const char *dir, const char *name, const float *numbers, size_t count)
{
    bool found = false;
    DIR *open = opendir(dir);
    assert_non_null(open);
    for (const char *file; !found && (file = next_file(open));) {
        if (!is_safetensors(file))
            continue;
        size_t n;
        json_t *json;
        char *bytes = read_file(dir, file, &n);
        const json_t *entry = entry_of(bytes, name, &json);
        if (entry) {
            const json_t *first = json_array_get(json_object_get(entry, "data_offsets"), 0);
            assert_string_equal(json_string_value(json_object_get(entry, "dtype")), "F32");
            memcpy(bytes + 8 + header_length(bytes) + json_integer_value(first), numbers,
                   count * sizeof(*numbers));
            model_write(dir, file, bytes, n);
            found = true;
        }
        json_decref(json);
        free(bytes);
    }
    closedir(open);
    assert_true(found);
}

uint64_t model_header_bytes(const char *dir)
{
    uint64_t total = 0;
    DIR *open = opendir(dir);
    assert_non_null(open);
    for (const char *file; (file = next_file(open));) {
        if (!strstr(file, ".safetensors"))
            continue;
        size_t n;
        char *bytes = read_file(dir, file, &n);
        total += is_safetensors(file) ? 8 + header_length(bytes) : n;
        free(bytes);
    }
    closedir(open);
    return total;
}

void model_write_safetensors(const char *dir, const char *name, const char *header, size_t n)
{
    uint64_t length = strlen(header);
    char *bytes = calloc(1, 8 + length + n);
    assert_non_null(bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i + 1 < n; i += 2) {
        uint16_t word = (uint16_t)(0x3000 + i / 2 % 0x1000);
        memcpy(bytes + 8 + length + i, &word, 2);
    }
    model_write(dir, name, bytes, 8 + length + n);
    free(bytes);
}

void model_spec_little(struct model_spec *spec)
{
#define BLOCK "model.transformer.blocks.0."
    static const struct model_tensor_spec tensors[MODEL_SPECS] = {
        {"model.transformer.wte.weight", "F16", 2, {32, 8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "attn_norm.weight", "F16", 1, {8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "q_proj.weight", "F16", 2, {8, 8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "k_proj.weight", "F16", 2, {4, 8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "v_proj.weight", "F16", 2, {4, 8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "attn_out.weight", "F16", 2, {8, 8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "ff_norm.weight", "F16", 1, {8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "ff_proj.weight", "F16", 2, {24, 8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "up_proj.weight", "F16", 2, {24, 8}, SIZE_MAX, "model.safetensors"},
        {BLOCK "ff_out.weight", "F16", 2, {8, 24}, SIZE_MAX, "model.safetensors"},
        {"model.transformer.ln_f.weight", "F16", 1, {8}, SIZE_MAX, "model.safetensors"},
        {"model.transformer.ff_out.weight", "F16", 2, {32, 8}, SIZE_MAX, "model.safetensors"},
    };
#undef BLOCK
    memset(spec, 0, sizeof(*spec));
    memcpy(spec->tensor, tensors, sizeof(tensors));
    spec->n = MODEL_SPECS;
    spec->vocab = 32;
    spec->ffn = 24;
}

struct model_tensor_spec *model_spec_find(struct model_spec *spec, const char *name)
{
    for (size_t i = 0; i < spec->n; i++) {
        if (strcmp(spec->tensor[i].name, name) == 0)
            return &spec->tensor[i];
    }
    fail_msg("the little model has no %s", name);
    return NULL;
}

static size_t bytes_of(const struct model_tensor_spec *tensor)
{
    if (tensor->bytes != SIZE_MAX)
        return tensor->bytes;
    size_t bytes = strcmp(tensor->dtype, "F32") == 0 || strcmp(tensor->dtype, "I32") == 0 ? 4 : 2;
    for (size_t i = 0; i < tensor->dims; i++)
        bytes *= tensor->shape[i];
    return bytes;
}

/* Writes all tensors of this file. */
static void write_one_file(const struct model_spec *spec, const char *file, const char *dir)
{
    json_t *header = json_object();
    size_t end = 0;
    for (size_t i = 0; i < spec->n; i++) {
        const struct model_tensor_spec *tensor = &spec->tensor[i];
        if (strcmp(tensor->file, file) != 0)
            continue;
        json_t *shape = json_array();
        for (size_t k = 0; k < tensor->dims; k++)
            json_array_append_new(shape, json_integer((json_int_t)tensor->shape[k]));
        size_t begin = end;
        end += bytes_of(tensor);
        json_object_set_new(header, tensor->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", tensor->dtype, "shape",
                                      shape, "data_offsets", (json_int_t)begin, (json_int_t)end));
    }
    char *text = json_dumps(header, 0);
    model_write_safetensors(dir, file, text, end);
    free(text);
    json_decref(header);
}

void model_spec_write(const struct model_spec *spec, const char *dir)
{
    char golden[MODEL_PATH];
    json_t *config = model_read_json(model_golden("llada", golden), "config.json");
    int vocab = (int)spec->vocab;
    int ffn = (int)spec->ffn;
    json_t *little =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "d_model", 8, "n_layers", 1,
                  "n_heads", 2, "n_kv_heads", 1, "mlp_hidden_size", ffn, "vocab_size", vocab,
                  "embedding_size", vocab, "mask_token_id", 31, "eos_token_id", 30);
    json_object_update(config, little);
    model_write_json(dir, "config.json", config);
    json_decref(config);
    json_decref(little);

    json_t *map = json_object();
    int sharded = 0;
    for (size_t i = 0; i < spec->n; i++) {
        json_object_set_new(map, spec->tensor[i].name, json_string(spec->tensor[i].file));
        sharded |= strcmp(spec->tensor[i].file, "model.safetensors") != 0;
        write_one_file(spec, spec->tensor[i].file, dir);
    }
    json_t *index = json_pack("{s:o}", "weight_map", map);
    if (sharded)
        model_write_json(dir, "model.safetensors.index.json", index);
    json_decref(index);
}
