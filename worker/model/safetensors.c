#include "worker/model/safetensors.h"
#include "worker/model/source.h"

#include "base/err.h"
#include "base/file.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LENGTH_WORD = 8 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

/* Little-endian on every machine. */
static uint64_t length_of(const unsigned char word[LENGTH_WORD])
{
    uint64_t length = 0;
    for (int i = LENGTH_WORD - 1; i >= 0; i--)
        length = length << 8 | word[i];
    return length;
}

/* Opens the file and appends its tensors. */
static int read_header(struct caloris_tensors *tensors, size_t file, struct caloris_err *err)
{
    struct caloris_tensor_file *self = &tensors->files[file];
    uint64_t file_bytes;
    self->fd = caloris_model_open(self->path, &file_bytes, err);
    if (self->fd < 0)
        return -1;
    unsigned char word[LENGTH_WORD];
    if (file_bytes < LENGTH_WORD)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s has %" PRIu64 " bytes: no safetensors file", self->path,
                               file_bytes);
    if (caloris_file_read_at(self->fd, self->path, word, LENGTH_WORD, 0, err) < 0)
        return -1;
    uint64_t n = length_of(word);
    if (n > CALORIS_SAFETENSORS_MAX_HEADER)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: a header of %" PRIu64
                               " bytes is announced, at most %d are read",
                               self->path, n, (int)CALORIS_SAFETENSORS_MAX_HEADER);
    if (n > file_bytes - LENGTH_WORD)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: the header has %" PRIu64
                               " bytes, but the file ends after %" PRIu64 ": it is truncated",
                               self->path, n, file_bytes);
    char *json = malloc((size_t)n + 1);
    if (!json)
        return caloris_err_sys(err, "%s: header of %" PRIu64 " bytes", self->path, n);
    self->header_bytes = LENGTH_WORD + n;
    int rc = caloris_file_read_at(self->fd, self->path, json, (size_t)n, LENGTH_WORD, err);
    if (rc == 0)
        rc = caloris_tensors_parse_header(tensors, file, json, (size_t)n, file_bytes, err);
    free(json);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const struct caloris_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Sorts the table; a tensor that stands in two files is an error. */
static int sort(struct caloris_tensors *tensors, struct caloris_err *err)
{
    if (tensors->n_tensors < 2)
        return 0;
    qsort(tensors->tensors, tensors->n_tensors, sizeof(*tensors->tensors), by_name);
    for (size_t i = 1; i < tensors->n_tensors; i++) {
        const struct caloris_tensor *a = &tensors->tensors[i - 1];
        const struct caloris_tensor *b = &tensors->tensors[i];
        if (strcmp(a->name, b->name) == 0)
            return caloris_err_set(err, CALORIS_BAD_MODEL, "%.150s stands in %.150s and in %.150s",
                                   a->name, tensors->files[a->file].path,
                                   tensors->files[b->file].path);
    }
    return 0;
}

static int add_file(struct caloris_tensors *tensors, const char *dir, const char *name,
                    struct caloris_err *err)
{
    char path[PATH_MAX];
    if (caloris_file_join(path, sizeof(path), dir, name, err) < 0)
        return -1;
    size_t file = tensors->n_files;
    struct caloris_tensor_file *more = realloc(tensors->files, (file + 1) * sizeof(*more));
    if (!more)
        return caloris_err_sys(err, "%s", path);
    tensors->files = more;
    more[file] = (struct caloris_tensor_file){.path = strdup(path), .fd = -1};
    if (!more[file].path)
        return caloris_err_sys(err, "%s", path);
    tensors->n_files++;
    return 0;
}

/* The base name of a file of the table. */
static const char *file_name(const struct caloris_tensors *tensors, size_t file)
{
    return strrchr(tensors->files[file].path, '/') + 1;
}

/* The file with this base name, or n_files. */
static size_t find_file(const struct caloris_tensors *tensors, const char *name)
{
    size_t file = 0;
    while (file < tensors->n_files && strcmp(file_name(tensors, file), name) != 0)
        file++;
    return file;
}

/* A shard stands beside the index: its name is a plain file name. */
static int check_shard_name(const char *index, const char *tensor, const char *name,
                            struct caloris_err *err)
{
    if (!caloris_model_printable(tensor))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: a tensor's name holds a control character", index);
    if (!name || !caloris_model_printable(name))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: %.150s: its file's name is no plain string", index, tensor);
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: %.150s: \"%.100s\" is not the name of a file beside the index",
                               index, tensor, name);
    return 0;
}

/* Adds every file that the weight_map names, each once. */
static int add_shards(struct caloris_tensors *tensors, const char *dir, const char *index,
                      json_t *map, struct caloris_err *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (check_shard_name(index, tensor, name, err) < 0)
            return -1;
        if (find_file(tensors, name) < tensors->n_files)
            continue;
        if (tensors->n_files == CALORIS_SAFETENSORS_MAX_SHARDS)
            return caloris_err_set(err, CALORIS_BAD_MODEL, "%s names more than %d files", index,
                                   (int)CALORIS_SAFETENSORS_MAX_SHARDS);
        if (add_file(tensors, dir, name, err) < 0)
            return -1;
        if (read_header(tensors, tensors->n_files - 1, err) < 0)
            return caloris_err_prefix(err, "%s", index);
    }
    return 0;
}

/* Index and files must tell the same: every tensor stands in the file that the index names, and
 * in no other. */
static int check_index(const struct caloris_tensors *tensors, const char *index, json_t *map,
                       struct caloris_err *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value)
    {
        const char *promised = json_string_value(value);
        const struct caloris_tensor *tensor = caloris_tensors_find(tensors, name);
        if (!tensor)
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: %.150s is promised in %.100s, which does not hold it",
                                   index, name, promised);
        if (strcmp(file_name(tensors, tensor->file), promised) != 0)
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: %.150s is promised in %.100s, but stands in %.100s", index,
                                   name, promised, file_name(tensors, tensor->file));
    }
    for (size_t i = 0; i < tensors->n_tensors; i++) {
        const struct caloris_tensor *tensor = &tensors->tensors[i];
        if (!json_object_get(map, tensor->name))
            return caloris_err_set(err, CALORIS_BAD_MODEL, "%s: %.150s is not in the index %s",
                                   tensors->files[tensor->file].path, tensor->name, index_name);
    }
    return 0;
}

static int open_sharded(struct caloris_tensors *tensors, const char *dir, const char *path,
                        struct caloris_err *err)
{
    json_t *index = caloris_model_json(path, CALORIS_SAFETENSORS_MAX_INDEX, err);
    if (!index)
        return -1;
    int rc = -1;
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) {
        caloris_err_set(err, CALORIS_BAD_MODEL, "%s: weight_map is missing or no object", path);
        goto out;
    }
    if (add_shards(tensors, dir, path, map, err) < 0 || sort(tensors, err) < 0)
        goto out;
    rc = check_index(tensors, path, map, err);
out:
    json_decref(index);
    return rc;
}

static int open_single(struct caloris_tensors *tensors, const char *dir, struct caloris_err *err)
{
    if (add_file(tensors, dir, single_name, err) < 0 || read_header(tensors, 0, err) < 0)
        return -1;
    return sort(tensors, err);
}

struct caloris_tensors *caloris_tensors_open(const char *dir, struct caloris_err *err)
{
    char single[PATH_MAX], index[PATH_MAX];
    struct caloris_tensors *tensors = calloc(1, sizeof(*tensors));
    if (!tensors) {
        caloris_err_sys(err, "%s: table of tensors", dir);
        goto fail;
    }
    if (caloris_file_join(single, sizeof(single), dir, single_name, err) < 0 ||
        caloris_file_join(index, sizeof(index), dir, index_name, err) < 0)
        goto fail;
    /* As transformers does: the single file goes first where both are there. */
    bool sharded = access(single, F_OK) < 0 && access(index, F_OK) == 0;
    int rc = sharded ? open_sharded(tensors, dir, index, err) : open_single(tensors, dir, err);
    if (rc < 0)
        goto fail;
    return tensors;
fail:
    caloris_tensors_close(tensors);
    return NULL;
}

const struct caloris_tensor *caloris_tensors_find(const struct caloris_tensors *tensors,
                                                  const char *name)
{
    size_t low = 0, high = tensors->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, tensors->tensors[middle].name);
        if (order == 0)
            return &tensors->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void caloris_tensors_close(struct caloris_tensors *tensors)
{
    if (!tensors)
        return;
    for (size_t i = 0; i < tensors->n_tensors; i++)
        free(tensors->tensors[i].name);
    for (size_t i = 0; i < tensors->n_files; i++) {
        if (tensors->files[i].fd >= 0)
            close(tensors->files[i].fd);
        free(tensors->files[i].path);
    }
    free(tensors->tensors);
    free(tensors->files);
    free(tensors);
}
