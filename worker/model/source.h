/* worker/model/source.h: opening the files of a model folder. Inside worker/model only. */
#ifndef CALORIS_MODEL_SOURCE_H
#define CALORIS_MODEL_SOURCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_err;

/* Opens a regular file for reading: its descriptor and size, or -1. A file that is not there or
 * may not be read is CALORIS_BAD_MODEL: starting again would not help. */
int caloris_model_open(const char *path, uint64_t *size, struct caloris_err *err);

/* The JSON object in path, at most max bytes long, or NULL. Free with json_decref. */
json_t *caloris_model_json(const char *path, size_t max, struct caloris_err *err);

/* Whether a name from a file may stand in a message: no control characters. */
bool caloris_model_printable(const char *name);

#endif
