/* tests/unit/model_support.h: model folders for tests: golden ones, copies to damage, and an
 * independent reader of tensors. */
#ifndef CALORIS_TEST_MODEL_SUPPORT_H
#define CALORIS_TEST_MODEL_SUPPORT_H

#include "base/err.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum { MODEL_PATH = 512 };

/* Fails the test with the error's text. */
void expect_ok(int rc, const struct caloris_err *err);

/* Fails the test unless rc is -1 with this code, and complaint is part of the text. */
void expect_complaint(int rc, const struct caloris_err *err, enum caloris_code code,
                      const char *complaint);

/* tests/golden/models/NAME. Returns path. */
const char *model_golden(const char *name, char path[MODEL_PATH]);

/* A new empty directory; model_remove_dir deletes it with the files in it. */
void model_make_dir(char path[MODEL_PATH]);
void model_remove_dir(const char *path);

/* Copies config.json and the safetensors files. */
void model_copy(const char *from, const char *to);

void model_write(const char *dir, const char *name, const void *bytes, size_t n);
void model_write_json(const char *dir, const char *name, const json_t *json);
json_t *model_read_json(const char *dir, const char *name);

/* The whole tensor in fp32 (count numbers), from whichever file of the folder has it. Free it. */
float *model_tensor(const char *dir, const char *name, size_t count);

/* Writes it back, where it stands as F32 in a copy of a folder. */
void model_change_tensor(const char *dir, const char *name, const float *numbers, size_t count);

/* Σ (8 + header) over the safetensors files, plus the index: what is read besides tensors. */
uint64_t model_header_bytes(const char *dir);

/* Writes a safetensors file: the header's text, then n data bytes: 2-byte words counting up, F16
 * numbers of known value. */
void model_write_safetensors(const char *dir, const char *name, const char *header, size_t n);

/* ---- a little model to damage: 1 layer, hidden 8, 2 heads, 1 KV head, ffn 24, vocabulary 32 -- */

struct model_tensor_spec {
    char name[80];
    char dtype[8];
    size_t dims, shape[2];
    size_t bytes; /* of the data; SIZE_MAX: what dtype and shape need */
    char file[64];
};

enum { MODEL_SPECS = 12, MODEL_SPECS_MAX = 16 };

struct model_spec {
    struct model_tensor_spec tensor[MODEL_SPECS_MAX];
    size_t n;
    size_t vocab, ffn; /* of config.json; changing them changes no tensor */
};

void model_spec_little(struct model_spec *spec);
struct model_tensor_spec *model_spec_find(struct model_spec *spec, const char *name);

/* config.json of the little model and its tensors, in the files that they name; the index too
 * when that is not only model.safetensors. */
void model_spec_write(const struct model_spec *spec, const char *dir);

#endif
