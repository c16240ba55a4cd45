/* worker/model/safetensors.h: which tensors a model folder holds, and where. Inside worker/model
 * only.
 *
 * Reads the headers of model.safetensors, or of every file that model.safetensors.index.json
 * names, and checks all that can be checked without reading a tensor. Layout and checks:
 * docs/MODELS.md, "safetensors".
 */
#ifndef CALORIS_MODEL_SAFETENSORS_H
#define CALORIS_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

/* Stated maxima of what is parsed. */
enum {
    CALORIS_SAFETENSORS_MAX_HEADER = 100000000, /* bytes; the format's own */
    CALORIS_SAFETENSORS_MAX_INDEX = 1 << 26,    /* bytes */
    CALORIS_SAFETENSORS_MAX_SHARDS = 4096,
    CALORIS_SAFETENSORS_MAX_DIMS = 8,
};

struct caloris_tensor {
    char *name;
    size_t file;       /* index into files */
    const char *dtype; /* as the file says: "BF16" */
    size_t dims;
    size_t shape[CALORIS_SAFETENSORS_MAX_DIMS]; /* row-major */
    uint64_t offset;                            /* from the start of the file */
    uint64_t bytes;
};

struct caloris_tensor_file {
    char *path;
    int fd;
    uint64_t header_bytes; /* the length word and the JSON */
};

struct caloris_tensors {
    struct caloris_tensor_file *files;
    size_t n_files;
    struct caloris_tensor *tensors; /* by name */
    size_t n_tensors;
    size_t capacity;
};

/* NULL and err on failure. Files stay open until caloris_tensors_close. */
struct caloris_tensors *caloris_tensors_open(const char *dir, struct caloris_err *err);

/* The tensor with this name, or NULL. */
const struct caloris_tensor *caloris_tensors_find(const struct caloris_tensors *tensors,
                                                  const char *name);

/* NULL is fine. */
void caloris_tensors_close(struct caloris_tensors *tensors);

enum { CALORIS_TENSOR_SHAPE_TEXT = 120 };

/* "48 x 96", or "scalar". Returns text. */
const char *caloris_tensor_shape_text(const size_t *shape, size_t dims,
                                      char text[CALORIS_TENSOR_SHAPE_TEXT]);

/* ---- of one header, for safetensors.c
 * ---------------------------------------------------------------------------- */

/* Appends the tensors of one file, whose data starts at header_bytes and ends at file_bytes. */
int caloris_tensors_parse_header(struct caloris_tensors *tensors, size_t file, const char *json,
                                 size_t n, uint64_t file_bytes, struct caloris_err *err);

#endif
