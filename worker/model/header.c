/* The JSON header of one safetensors file. All that it says is hostile until checked here. */
#include "worker/model/safetensors.h"
#include "worker/model/source.h"

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bits;
} dtypes[] = {
    {"F32", 32},        {"BF16", 16},       {"F16", 16},    {"F64", 64}, {"BOOL", 8},
    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},
    {"F8_E5M2", 8},     {"F8_E4M3", 8},     {"F8_E8M0", 8}, {"I16", 16}, {"U16", 16},
    {"I32", 32},        {"U32", 32},        {"C64", 64},    {"I64", 64}, {"U64", 64},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
};

enum { DTYPES = sizeof(dtypes) / sizeof(dtypes[0]) };

/* What a refusal names: the file, then the tensor. */
#define IN "%s: %.150s: "

/* A non-negative integer. */
static bool as_size(const json_t *value, size_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

const char *caloris_tensor_shape_text(const size_t *shape, size_t dims,
                                      char text[CALORIS_TENSOR_SHAPE_TEXT])
{
    size_t used = 0;
    snprintf(text, CALORIS_TENSOR_SHAPE_TEXT, "scalar");
    for (size_t i = 0; i < dims && used < CALORIS_TENSOR_SHAPE_TEXT; i++) {
        int n = snprintf(text + used, CALORIS_TENSOR_SHAPE_TEXT - used, i == 0 ? "%zu" : " x %zu",
                         shape[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return text;
}

static int parse_shape(struct caloris_tensor *tensor, const json_t *shape, const char *path,
                       struct caloris_err *err)
{
    if (!json_is_array(shape))
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "shape is missing or no list", path,
                               tensor->name);
    tensor->dims = json_array_size(shape);
    if (tensor->dims > CALORIS_SAFETENSORS_MAX_DIMS)
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "%zu dimensions, at most %d are read",
                               path, tensor->name, tensor->dims, (int)CALORIS_SAFETENSORS_MAX_DIMS);
    for (size_t i = 0; i < tensor->dims; i++) {
        if (!as_size(json_array_get(shape, i), &tensor->shape[i]))
            return caloris_err_set(err, CALORIS_BAD_MODEL, IN "shape[%zu] is no size", path,
                                   tensor->name, i);
    }
    return 0;
}

/* bytes = product of shape * bits / 8, which must be whole and fit. */
static int needed_bytes(const struct caloris_tensor *tensor, unsigned bits, const char *path,
                        size_t *bytes, struct caloris_err *err)
{
    size_t count = 1;
    char shape[CALORIS_TENSOR_SHAPE_TEXT];
    caloris_tensor_shape_text(tensor->shape, tensor->dims, shape);
    bool fits = true;
    for (size_t i = 0; i < tensor->dims; i++)
        fits = fits && caloris_size_mul(count, tensor->shape[i], &count);
    if (!fits || !caloris_size_mul(count, bits, &count))
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "%s %s does not fit in 64 bits", path,
                               tensor->name, shape, tensor->dtype);
    if (count % 8 != 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "%s %s is no whole number of bytes", path,
                               tensor->name, shape, tensor->dtype);
    *bytes = count / 8;
    return 0;
}

/* Offsets here count from the end of the header, as they do in the file. */
static int parse_tensor(struct caloris_tensor *tensor, const json_t *json, const char *path,
                        struct caloris_err *err)
{
    const char *dtype = json_string_value(json_object_get(json, "dtype"));
    if (!dtype)
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "dtype is missing or no string", path,
                               tensor->name);
    size_t type = 0;
    while (type < DTYPES && strcmp(dtypes[type].name, dtype) != 0)
        type++;
    if (type == DTYPES)
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "unknown dtype %.40s", path, tensor->name,
                               caloris_model_printable(dtype) ? dtype : "(not printable)");
    tensor->dtype = dtypes[type].name;
    if (parse_shape(tensor, json_object_get(json, "shape"), path, err) < 0)
        return -1;

    const json_t *offsets = json_object_get(json, "data_offsets");
    size_t begin, end, bytes = 0;
    if (json_array_size(offsets) != 2 || !as_size(json_array_get(offsets, 0), &begin) ||
        !as_size(json_array_get(offsets, 1), &end) || end < begin)
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "data_offsets are no range [begin, end]",
                               path, tensor->name);
    if (needed_bytes(tensor, dtypes[type].bits, path, &bytes, err) < 0)
        return -1;
    if (bytes != end - begin) {
        char shape[CALORIS_TENSOR_SHAPE_TEXT];
        caloris_tensor_shape_text(tensor->shape, tensor->dims, shape);
        return caloris_err_set(err, CALORIS_BAD_MODEL, IN "%s %s needs %zu bytes, offsets give %zu",
                               path, tensor->name, shape, tensor->dtype, bytes, end - begin);
    }
    tensor->offset = begin;
    tensor->bytes = bytes;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct caloris_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The tensors must tile [0, data_bytes) without hole or overlap. */
static int check_tiling(struct caloris_tensor *tensors, size_t n, const char *path,
                        uint64_t header_bytes, uint64_t file_bytes, struct caloris_err *err)
{
    if (n > 1)
        qsort(tensors, n, sizeof(*tensors), by_offset);
    const uint64_t data_bytes = file_bytes - header_bytes;
    uint64_t cursor = 0;
    const char *before = "the header";
    for (size_t i = 0; i < n; i++) {
        const struct caloris_tensor *tensor = &tensors[i];
        if (tensor->offset > cursor && tensor->offset > data_bytes)
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   IN "begins at data byte %" PRIu64 ", the file holds %" PRIu64,
                                   path, tensor->name, tensor->offset, data_bytes);
        if (tensor->offset < cursor)
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   IN "begins at data byte %" PRIu64
                                      ", overlapping %.100s, which ends at %" PRIu64,
                                   path, tensor->name, tensor->offset, before, cursor);
        if (tensor->offset > cursor)
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   IN "begins at data byte %" PRIu64
                                      ", leaving a hole behind %.100s, which ends at %" PRIu64,
                                   path, tensor->name, tensor->offset, before, cursor);
        cursor += tensor->bytes;
        before = tensor->name;
    }
    if (cursor != data_bytes)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: the header promises %" PRIu64
                               " bytes of tensors up to %.100s, the file holds %" PRIu64 "%s",
                               path, cursor, before, data_bytes,
                               data_bytes < cursor ? ": it is truncated"
                                                   : ": bytes of no tensor follow");
    return 0;
}

static int check_metadata(const json_t *metadata, const char *path, struct caloris_err *err)
{
    if (!json_is_object(metadata))
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: __metadata__ is no object", path);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value)
    {
        if (!json_is_string(value))
            return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: __metadata__: %.100s is no string",
                                   path, caloris_model_printable(key) ? key : "(not printable)");
    }
    return 0;
}

/* A zeroed tensor with this name at the end of the table, or NULL. */
static struct caloris_tensor *append(struct caloris_tensors *tensors, const char *name,
                                     struct caloris_err *err)
{
    if (tensors->n_tensors == tensors->capacity) {
        size_t capacity = tensors->capacity ? 2 * tensors->capacity : 64;
        struct caloris_tensor *more = realloc(tensors->tensors, capacity * sizeof(*more));
        if (!more) {
            caloris_err_sys(err, "table of %zu tensors", capacity);
            return NULL;
        }
        tensors->tensors = more;
        tensors->capacity = capacity;
    }
    struct caloris_tensor *tensor = &tensors->tensors[tensors->n_tensors];
    memset(tensor, 0, sizeof(*tensor));
    tensor->name = strdup(name);
    if (!tensor->name) {
        caloris_err_sys(err, "table of tensors");
        return NULL;
    }
    tensors->n_tensors++;
    return tensor;
}

static int parse_object(struct caloris_tensors *tensors, size_t file, json_t *header,
                        struct caloris_err *err)
{
    const char *path = tensors->files[file].path;
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) {
            if (check_metadata(value, path, err) < 0)
                return -1;
            continue;
        }
        if (!caloris_model_printable(name))
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: a tensor's name holds a control character", path);
        if (!json_is_object(value))
            return caloris_err_set(err, CALORIS_BAD_MODEL, IN "is described by no object", path,
                                   name);
        struct caloris_tensor *tensor = append(tensors, name, err);
        if (!tensor)
            return -1;
        tensor->file = file;
        if (parse_tensor(tensor, value, path, err) < 0)
            return -1;
    }
    return 0;
}

int caloris_tensors_parse_header(struct caloris_tensors *tensors, size_t file, const char *json,
                                 size_t n, uint64_t file_bytes, struct caloris_err *err)
{
    const char *path = tensors->files[file].path;
    uint64_t header_bytes = tensors->files[file].header_bytes;
    size_t first = tensors->n_tensors;
    json_t *header = caloris_json_parse(json, n, path, err);
    if (!header) {
        if (err)
            err->code = CALORIS_BAD_MODEL;
        return caloris_err_prefix(err, "safetensors header");
    }
    int rc = -1;
    if (!json_is_object(header)) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s: the header is no JSON object", path);
        goto out;
    }
    if (parse_object(tensors, file, header, err) < 0)
        goto out;
    size_t count = tensors->n_tensors - first;
    struct caloris_tensor *mine = count > 0 ? tensors->tensors + first : NULL;
    if (check_tiling(mine, count, path, header_bytes, file_bytes, err) < 0)
        goto out;
    for (size_t i = 0; i < count; i++)
        mine[i].offset += header_bytes;
    rc = 0;
out:
    json_decref(header);
    return rc;
}
