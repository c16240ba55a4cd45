/* The start of a shard file: what it says of itself, made and checked. */
#include "worker/model/memory.h"
#include "worker/model/shard.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/size.h"
#include "worker/model/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* All numbers are little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shard files are read as they stand");

static const char magic[8] = "caloris\n";

enum {
    VERSION = 2,               /* 2: outliers */
    ALIGNMENT = 4096,          /* of what ranks read */
    MAX_TABLE_BYTES = 1 << 26, /* far beyond any model within the limits */
    MODEL_TEXT = 256,
};

struct header {
    char magic[8];
    uint32_t version;
    uint32_t check; /* of all from here to the data */
    uint64_t file_bytes;
    uint64_t table_bytes; /* JSON behind this header */
    uint64_t checks;      /* 4-byte checksums behind that */
    char format[16];      /* "int8" */
    char reserved[8];
};
_Static_assert(sizeof(struct header) == 64, "the header has no holes");
enum { CHECKED_FROM = offsetof(struct header, file_bytes) };

/* The model that weights belong to: what config.json says, but for ids. */
static void describe_model(const struct caloris_model_config *c, char text[MODEL_TEXT])
{
    snprintf(text, MODEL_TEXT,
             "%s: %zu layers x %zu, %zu/%zu heads x %zu, FFN %zu, vocabulary %zu%s, norm_eps %.9g, "
             "rope_theta %.17g",
             c->family, c->layers, c->hidden, c->heads, c->kv_heads, c->head_dim, c->ffn, c->vocab,
             c->tied ? " tied" : "", (double)c->norm_eps, c->rope_theta);
}

/* ---- what is where --------------------------------------------------------------------------- */

static size_t along(const struct caloris_piece *piece)
{
    return piece->sliced ? piece->whole_cols : piece->rows;
}

void caloris_shard_unit(const struct caloris_shard_tensor *tensor, size_t i, size_t *rows,
                        size_t *cols)
{
    const struct caloris_piece *piece = tensor->piece;
    const size_t left = along(piece) - i * piece->unit;
    const size_t length = left < piece->unit ? left : piece->unit;
    *rows = piece->sliced ? tensor->unit_rows : length;
    *cols = piece->sliced ? length : tensor->unit_cols;
}

uint64_t caloris_shard_apart_at(const struct caloris_shard_tensor *tensor)
{
    return caloris_size_round_up(tensor->piece->rows * sizeof(float), 64);
}

/* Vectors are all common; matrices are units, behind the scales of all rows and the columns that
 * are apart, where there are any. */
static void lay_out_tensor(struct caloris_shard *shard, const struct caloris_model_config *config,
                           struct caloris_shard_tensor *tensor, uint64_t *offset)
{
    const struct caloris_piece *piece = tensor->piece;
    const bool vector = piece->unit == 0;
    tensor->format = caloris_weights_format(config, piece->role, piece->layer, shard->format,
                                            shard->calibration);
    tensor->outliers = caloris_weights_outliers(config, piece->role, piece->layer, shard->format,
                                                shard->calibration);
    if (vector || caloris_format_scaled(tensor->format))
        tensor->common_bytes = caloris_size_round_up(
            caloris_shard_apart_at(tensor) + tensor->outliers->n * piece->rows * sizeof(uint16_t),
            64);
    if (!vector) {
        tensor->unit_rows = piece->sliced ? piece->rows : piece->unit;
        tensor->unit_cols = piece->sliced ? piece->unit : piece->whole_cols;
        tensor->units = along(piece) / piece->unit + (along(piece) % piece->unit != 0);
        tensor->unit_bytes =
            caloris_unit_bytes(tensor->format, tensor->unit_rows, tensor->unit_cols);
    }
    tensor->offset = *offset;
    tensor->check_first = shard->checks;
    shard->checks += (tensor->common_bytes > 0) + tensor->units;
    /* The limits of config.json keep this far below 2^64 (limits.h). */
    *offset += tensor->common_bytes + tensor->units * tensor->unit_bytes;
}

struct caloris_shard *caloris_shard_lay_out(const char *dir,
                                            const struct caloris_model_config *config,
                                            enum caloris_format format,
                                            struct caloris_calibration *calibration,
                                            struct caloris_err *err)
{
    struct caloris_model_split split;
    struct caloris_shard *shard = calloc(1, sizeof(*shard));
    if (!shard) {
        caloris_calibration_free(calibration);
        caloris_err_sys(err, "%s", dir);
        return NULL;
    }
    shard->fd = -1;
    shard->format = format;
    shard->calibration = calibration;
    caloris_model_split(config, 1, 0, &split);
    if (caloris_file_join(shard->path, sizeof(shard->path), dir, CALORIS_SHARD_FILE, err) < 0 ||
        caloris_pieces_list(config, &split, config->layers, dir, NULL, &shard->whole, err) < 0)
        goto fail;
    shard->n_tensors = shard->whole.n;
    shard->tensor = calloc(shard->n_tensors, sizeof(*shard->tensor));
    if (!shard->tensor) {
        caloris_err_sys(err, "%s: %zu tensors", shard->path, shard->n_tensors);
        goto fail;
    }
    const struct caloris_family *family = caloris_family_named(config->family, err);
    uint64_t offset = 0;
    for (size_t i = 0; family && i < shard->n_tensors; i++) {
        struct caloris_shard_tensor *tensor = &shard->tensor[i];
        tensor->piece = &shard->whole.piece[i];
        caloris_family_tensor(family, tensor->piece->role, tensor->piece->layer, tensor->name);
        lay_out_tensor(shard, config, tensor, &offset);
    }
    if (!family)
        goto fail;
    shard->file_bytes = offset; /* of data, so far */
    shard->check = calloc(shard->checks, sizeof(*shard->check));
    if (!shard->check) {
        caloris_err_sys(err, "%s: %zu checksums", shard->path, shard->checks);
        goto fail;
    }
    return shard;
fail:
    caloris_shard_close(shard);
    return NULL;
}

/* Moves the data behind a table of that many bytes. */
static void place_data(struct caloris_shard *shard, size_t table_bytes)
{
    shard->data_start = caloris_size_round_up(
        sizeof(struct header) + table_bytes + shard->checks * sizeof(*shard->check), ALIGNMENT);
    for (size_t i = 0; i < shard->n_tensors; i++)
        shard->tensor[i].offset += shard->data_start;
    shard->file_bytes += shard->data_start;
}

void caloris_shard_close(struct caloris_shard *shard)
{
    if (!shard)
        return;
    if (shard->fd >= 0)
        close(shard->fd);
    caloris_pieces_free(&shard->whole);
    caloris_calibration_free(shard->calibration);
    free(shard->tensor);
    free(shard->check);
    free(shard);
}

/* ---- writing --------------------------------------------------------------------------------- */

static json_t *columns_of(const struct caloris_outliers *outliers)
{
    json_t *columns = json_array();
    for (uint32_t i = 0; i < outliers->n; i++)
        json_array_append_new(columns, json_integer(outliers->column[i]));
    return columns;
}

/* Offsets of the table count from the data, so that they do not depend on its length. */
static json_t *table_of(const struct caloris_shard *shard,
                        const struct caloris_model_config *config, uint64_t start)
{
    char model[MODEL_TEXT];
    json_t *tensors = json_array();
    describe_model(config, model);
    for (size_t i = 0; i < shard->n_tensors; i++) {
        const struct caloris_shard_tensor *t = &shard->tensor[i];
        json_t *tensor =
            json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "name", t->name, "weights",
                      caloris_format_name(t->format), "offset", (json_int_t)(t->offset - start),
                      "common_bytes", (json_int_t)t->common_bytes, "units", (json_int_t)t->units,
                      "unit_bytes", (json_int_t)t->unit_bytes);
        if (tensor && t->outliers->n > 0)
            json_object_set_new(tensor, "outliers", columns_of(t->outliers));
        json_array_append_new(tensors, tensor);
    }
    return json_pack("{s:s, s:s, s:o}", "model", model, "weights",
                     caloris_format_name(shard->format), "tensors", tensors);
}

void *caloris_shard_start(struct caloris_shard *shard, const struct caloris_model_config *config,
                          struct caloris_err *err)
{
    json_t *table = table_of(shard, config, shard->data_start);
    char *text = table ? json_dumps(table, JSON_COMPACT) : NULL;
    char *start = NULL;
    json_decref(table);
    if (text && shard->data_start == 0)
        place_data(shard, strlen(text));
    if (text)
        start = calloc(1, shard->data_start);
    if (!start) {
        free(text);
        caloris_err_sys(err, "%s: header", shard->path);
        return NULL;
    }
    struct header header = {
        .version = VERSION,
        .file_bytes = shard->file_bytes,
        .table_bytes = strlen(text),
        .checks = shard->checks,
    };
    memcpy(header.magic, magic, sizeof(magic));
    snprintf(header.format, sizeof(header.format), "%s", caloris_format_name(shard->format));
    memcpy(start, &header, sizeof(header));
    memcpy(start + sizeof(header), text, header.table_bytes);
    memcpy(start + sizeof(header) + header.table_bytes, shard->check,
           shard->checks * sizeof(*shard->check));
    header.check =
        caloris_crc32c(0, start + CHECKED_FROM, (size_t)shard->data_start - CHECKED_FROM);
    memcpy(start, &header, sizeof(header));
    free(text);
    return start;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The header, as far as it speaks for itself; `fd` is open. */
static int read_header(int fd, const char *path, uint64_t size, struct header *header,
                       enum caloris_format *format, struct caloris_err *err)
{
    if (size < sizeof(*header))
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s has %" PRIu64 " bytes: no shard file",
                               path, size);
    if (caloris_file_read_at(fd, path, header, sizeof(*header), 0, err) < 0)
        return -1;
    if (memcmp(header->magic, magic, sizeof(magic)) != 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "%s is no shard file", path);
    if (header->version != VERSION)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s is a shard file of version %" PRIu32
                               ", this program reads version %d: shard the model again",
                               path, header->version, VERSION);
    if (header->file_bytes != size)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s has %" PRIu64 " bytes, its header says %" PRIu64
                               ": it is truncated or damaged",
                               path, size, header->file_bytes);
    header->format[sizeof(header->format) - 1] = '\0';
    if (!caloris_model_printable(header->format) ||
        caloris_format_parse(header->format, format, NULL) < 0)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: the header at byte 0 names weights that are unknown", path);
    return 0;
}

int caloris_shard_find(const char *dir, struct caloris_stored *stored, struct caloris_err *err)
{
    char path[PATH_MAX];
    struct header header;
    uint64_t size;
    *stored = (struct caloris_stored){0};
    if (caloris_file_join(path, sizeof(path), dir, CALORIS_SHARD_FILE, err) < 0)
        return -1;
    if (access(path, F_OK) < 0)
        return 0;
    int fd = caloris_model_open(path, &size, err);
    if (fd < 0)
        return -1;
    int rc = read_header(fd, path, size, &header, &stored->format, err);
    close(fd);
    stored->there = rc == 0;
    stored->check = header.check;
    return rc;
}

/* Header, table and checksums, whole: [*data_start] bytes, to free. */
static char *read_start(int fd, const char *path, const struct header *header, size_t *data_start,
                        struct caloris_err *err)
{
    size_t check_bytes, bytes;
    if (header->table_bytes > MAX_TABLE_BYTES ||
        !caloris_size_mul(header->checks, sizeof(uint32_t), &check_bytes) ||
        !caloris_size_add(sizeof(*header) + header->table_bytes, check_bytes, &bytes) ||
        bytes > header->file_bytes ||
        (*data_start = caloris_size_round_up(bytes, ALIGNMENT)) > header->file_bytes) {
        caloris_err_set(err, CALORIS_BAD_MODEL,
                        "%s: the header at byte 0 promises a table of %" PRIu64
                        " bytes and %" PRIu64 " checksums, which the file cannot hold",
                        path, header->table_bytes, header->checks);
        return NULL;
    }
    char *start = malloc(*data_start + 1);
    if (!start) {
        caloris_err_sys(err, "%s: a table of %zu bytes", path, *data_start);
        return NULL;
    }
    if (caloris_file_read_at(fd, path, start, *data_start, 0, err) < 0)
        goto fail;
    const uint32_t check = caloris_crc32c(0, start + CHECKED_FROM, *data_start - CHECKED_FROM);
    if (check == header->check)
        return start;
    caloris_err_set(err, CALORIS_BAD_MODEL,
                    "%s: header and table, bytes %d to %zu: checksum %08" PRIx32
                    ", should be %08" PRIx32 ": the file is damaged",
                    path, CHECKED_FROM, *data_start, check, header->check);
fail:
    free(start);
    return NULL;
}

/* What the table says of one product's outliers. What is odd about it otherwise shows when the
 * table is compared. */
static int read_outliers(const json_t *tensor, bool scaled, size_t in,
                         struct caloris_outliers *outliers, const char *path,
                         struct caloris_err *err)
{
    const char *weights = json_string_value(json_object_get(tensor, "weights"));
    const json_t *columns = json_object_get(tensor, "outliers");
    const size_t n = json_array_size(columns);
    json_int_t last = -1;
    outliers->whole =
        scaled && weights && strcmp(weights, caloris_format_name(CALORIS_FORMAT_BF16)) == 0;
    if (n == 0 || outliers->column)
        return 0;
    if (!scaled || outliers->whole || n > caloris_outliers_most(in))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: the table has %zu outliers of %zu columns", path, n, in);
    outliers->column = calloc(n, sizeof(*outliers->column));
    if (!outliers->column)
        return caloris_err_sys(err, "%s: %zu outliers", path, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *column = json_array_get(columns, i);
        const json_int_t at = json_integer_value(column);
        if (!json_is_integer(column) || at <= last || (uint64_t)at >= in)
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: the table's outliers are no ascending columns of %zu", path,
                                   in);
        outliers->column[outliers->n++] = (uint32_t)at;
        last = at;
    }
    return 0;
}

/* What a table, found in a file, says of outliers; NULL and err. */
static struct caloris_calibration *read_calibration(const json_t *found, const char *path,
                                                    const struct caloris_model_config *config,
                                                    enum caloris_format format,
                                                    struct caloris_err *err)
{
    const json_t *tensors = json_object_get(found, "tensors");
    struct caloris_model_split split;
    struct caloris_pieces whole = {0};
    struct caloris_calibration *calibration = caloris_calibration_new(config->layers, err);
    caloris_model_split(config, 1, 0, &split);
    int rc = calibration
                 ? caloris_pieces_list(config, &split, config->layers, path, NULL, &whole, err)
                 : -1;
    for (size_t i = 0; rc == 0 && i < whole.n; i++) {
        const struct caloris_piece *piece = &whole.piece[i];
        const enum caloris_product product = caloris_role_product(piece->role);
        if (product != CALORIS_NO_PRODUCT)
            rc = read_outliers(
                json_array_get(tensors, i), caloris_format_scaled(format), piece->whole_cols,
                caloris_calibration_at(calibration, product, piece->layer), path, err);
    }
    caloris_pieces_free(&whole);
    if (rc == 0)
        return calibration;
    caloris_calibration_free(calibration);
    return NULL;
}

/* What the table says against what follows from config.json. */
static int compare_tables(const struct caloris_shard *shard, json_t *found, json_t *wanted,
                          struct caloris_err *err)
{
    const char *models[2] = {json_string_value(json_object_get(found, "model")),
                             json_string_value(json_object_get(wanted, "model"))};
    if (!models[0] || !caloris_model_printable(models[0]) || strcmp(models[0], models[1]) != 0)
        return caloris_err_set(
            err, CALORIS_BAD_MODEL, "%s was made for %.200s; config.json has %.200s", shard->path,
            models[0] && caloris_model_printable(models[0]) ? models[0] : "no model", models[1]);
    const json_t *tensors[2] = {json_object_get(found, "tensors"),
                                json_object_get(wanted, "tensors")};
    for (size_t i = 0; i < shard->n_tensors; i++) {
        if (!json_equal(json_array_get(tensors[0], i), json_array_get(tensors[1], i)))
            return caloris_err_set(err, CALORIS_BAD_MODEL,
                                   "%s: the table has another %s than config.json wants",
                                   shard->path, shard->tensor[i].name);
    }
    if (!json_equal(found, wanted))
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s: the table holds more than config.json wants", shard->path);
    return 0;
}

static int check_start(struct caloris_shard *shard, const struct caloris_model_config *config,
                       const struct header *header, json_t *found, const char *start,
                       size_t data_start, struct caloris_err *err)
{
    json_t *wanted = table_of(shard, config, 0);
    int rc = wanted ? compare_tables(shard, found, wanted, err)
                    : caloris_err_sys(err, "%s: table", shard->path);
    json_decref(wanted);
    if (rc < 0)
        return -1;
    place_data(shard, (size_t)header->table_bytes);
    if (header->checks != shard->checks || data_start != shard->data_start ||
        header->file_bytes != shard->file_bytes)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "%s has %" PRIu64 " checksums and %" PRIu64
                               " bytes, config.json wants %zu and %" PRIu64,
                               shard->path, header->checks, header->file_bytes, shard->checks,
                               shard->file_bytes);
    memcpy(shard->check, start + sizeof(*header) + header->table_bytes,
           shard->checks * sizeof(*shard->check));
    return 0;
}

/* The shard of a file whose start was read. */
static struct caloris_shard *open_table(const char *dir, const char *path,
                                        const struct caloris_model_config *config,
                                        enum caloris_format format, const struct header *header,
                                        const char *start, size_t data_start,
                                        struct caloris_err *err)
{
    json_t *found =
        caloris_json_parse(start + sizeof(*header), (size_t)header->table_bytes, path, err);
    if (!found) {
        if (err)
            err->code = CALORIS_BAD_MODEL;
        return NULL;
    }
    struct caloris_calibration *calibration = read_calibration(found, path, config, format, err);
    struct caloris_shard *shard =
        calibration ? caloris_shard_lay_out(dir, config, format, calibration, err) : NULL;
    if (shard && check_start(shard, config, header, found, start, data_start, err) < 0) {
        caloris_shard_close(shard);
        shard = NULL;
    }
    json_decref(found);
    return shard;
}

struct caloris_shard *caloris_shard_open(const char *dir, const struct caloris_model_config *config,
                                         struct caloris_err *err)
{
    char path[PATH_MAX];
    struct caloris_shard *shard = NULL;
    struct header header;
    enum caloris_format format;
    char *start = NULL;
    uint64_t size;
    size_t data_start;
    if (caloris_file_join(path, sizeof(path), dir, CALORIS_SHARD_FILE, err) < 0)
        return NULL;
    int fd = caloris_model_open(path, &size, err);
    if (fd < 0)
        return NULL;
    int rc = read_header(fd, path, size, &header, &format, err);
    if (rc == 0 && !(start = read_start(fd, path, &header, &data_start, err)))
        rc = -1;
    if (rc == 0)
        shard = open_table(dir, path, config, format, &header, start, data_start, err);
    free(start);
    if (shard)
        shard->fd = fd;
    else
        close(fd);
    return shard;
}
