/* worker/model/shard.h: packed weights in a file, unit by unit. Inside worker/model only.
 *
 * What is in it, and where, follows from config.json and the format; the file's own table must say
 * the same. A unit is what the split deals at a time: a head, or 16 FFN columns or vocabulary rows;
 * it has a checksum of its own, so that a rank reads and checks its own units and no others.
 * The file byte by byte: docs/MODELS.md, "Shard files".
 */
#ifndef CALORIS_MODEL_SHARD_H
#define CALORIS_MODEL_SHARD_H

#include "worker/model/pieces.h"

#include <limits.h>

struct caloris_shard_tensor {
    char name[CALORIS_TENSOR_NAME];
    const struct caloris_piece *piece; /* the whole tensor */
    enum caloris_format format;        /* of a matrix */
    const struct caloris_outliers *outliers;
    uint64_t offset; /* in the file: the common part, then the units */
    uint64_t
        common_bytes; /* what every rank reads: scales and columns that are apart, or a vector */
    uint64_t unit_bytes;
    size_t units;
    size_t unit_rows, unit_cols; /* of every unit but the last, which may be shorter */
    size_t check_first;          /* of its checksums: the common part's, then the units' */
};

struct caloris_shard {
    char path[PATH_MAX];
    int fd; /* open for reading, or -1 */
    enum caloris_format format;
    struct caloris_calibration *calibration; /* owned */
    struct caloris_pieces whole;             /* as one rank would have it */
    struct caloris_shard_tensor *tensor;
    size_t n_tensors; /* equal to the pieces of any rank, in their order */
    uint32_t *check;  /* CRC-32C */
    size_t checks;
    uint64_t data_start, file_bytes;
};

/* Works out what a file holds for this model; offsets count from the start of the data. check is
 * allocated and zero. The calibration, which may be NULL, is the shard's from now on, whatever
 * happens. Free with caloris_shard_close. */
struct caloris_shard *caloris_shard_lay_out(const char *dir,
                                            const struct caloris_model_config *config,
                                            enum caloris_format format,
                                            struct caloris_calibration *calibration,
                                            struct caloris_err *err);

/* Where the columns that are apart begin in the common part: [n, rows] of bf16. */
uint64_t caloris_shard_apart_at(const struct caloris_shard_tensor *tensor);

/* The file of the folder, its header and table checked against the config. NULL and err. */
struct caloris_shard *caloris_shard_open(const char *dir, const struct caloris_model_config *config,
                                         struct caloris_err *err);

/* The start of the file, header, table and checksums: [data_start] bytes, to free; NULL and err.
 * The first call says where the data start. */
void *caloris_shard_start(struct caloris_shard *shard, const struct caloris_model_config *config,
                          struct caloris_err *err);

/* NULL is fine. */
void caloris_shard_close(struct caloris_shard *shard);

/* Rows and columns of unit i. */
void caloris_shard_unit(const struct caloris_shard_tensor *tensor, size_t i, size_t *rows,
                        size_t *cols);

/* Bytes that a rank with these pieces reads. */
uint64_t caloris_shard_bytes(const struct caloris_shard *shard,
                             const struct caloris_pieces *pieces);

/* Reads them to their places, each checked; weights were reserved and attached. Of the peers, which
 * may be NULL, only loaded is called. */
int caloris_shard_load(const struct caloris_shard *shard, const struct caloris_pieces *pieces,
                       struct caloris_pool *pool, const struct caloris_weights_peers *peers,
                       uint64_t *bytes_read, struct caloris_err *err);

#endif
