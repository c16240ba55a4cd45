/* The ids that a calibration computes with. */
#include "worker/calibrate.h"

#include "base/err.h"
#include "base/json.h"
#include "base/lines.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OWN_IDS = 256,
    MOST_ROWS = 1 << 13, /* of a file: buffers are of that size */
    LINE_BYTES = 1 << 20,
};

bool caloris_calibrate_wanted(const struct caloris_engine_options *options,
                              const struct caloris_stored *stored)
{
    enum caloris_format format = CALORIS_FORMAT_FP32;
    if (options->weights)
        caloris_format_parse(options->weights, &format, NULL);
    return caloris_format_scaled(format) && !stored->there && !options->synthetic &&
           !(options->calibrate && strcmp(options->calibrate, "none") == 0);
}

static int add_canvas(struct caloris_sample *sample, size_t length, struct caloris_err *err)
{
    int32_t *ids = realloc(sample->ids, (sample->rows + length) * sizeof(*ids));
    if (ids)
        sample->ids = ids;
    uint32_t *lengths = realloc(sample->length, (sample->canvases + 1) * sizeof(*lengths));
    if (lengths)
        sample->length = lengths;
    if (!ids || !lengths)
        return caloris_err_sys(err, "%zu ids to calibrate with", sample->rows + length);
    sample->length[sample->canvases++] = (uint32_t)length;
    sample->rows += length;
    sample->longest = length > sample->longest ? length : sample->longest;
    return 0;
}

static int make_own(const struct caloris_model_config *config, struct caloris_sample *sample,
                    struct caloris_err *err)
{
    const size_t n = config->max_sequence < OWN_IDS ? config->max_sequence : OWN_IDS;
    if (add_canvas(sample, n, err) < 0)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t key[2] = {0, 0}, counter[4] = {i, 0, 0, 0};
        uint32_t random[4];
        caloris_rng_philox(counter, key, random);
        const bool mask = config->mask_id >= 0 && random[0] % 2 == 0;
        sample->ids[i] = mask ? config->mask_id : (int32_t)(random[1] % (uint32_t)config->vocab);
    }
    return 0;
}

/* {"ids": [1, 2, …]} */
static int read_line(const struct caloris_lines *lines, const struct caloris_model_config *config,
                     struct caloris_sample *sample, struct caloris_err *err)
{
    char what[64];
    snprintf(what, sizeof(what), "line %llu", (unsigned long long)lines->number);
    if (lines->cut)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "%s is longer than %d bytes", what,
                               LINE_BYTES);
    json_t *json = caloris_json_parse(lines->text.data, lines->text.size, what, err);
    const json_t *ids = json_object_get(json, "ids");
    const size_t n = json_array_size(ids), first = sample->rows;
    int rc = json ? 0 : -1;
    if (rc == 0 && (n == 0 || n > config->max_sequence || n > MOST_ROWS - first))
        rc = caloris_err_set(err, CALORIS_BAD_CONFIG,
                             "%s: \"ids\" are 1 to %zu ids, of all lines %d at most", what,
                             config->max_sequence, MOST_ROWS);
    if (rc == 0)
        rc = add_canvas(sample, n, err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        const json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || (uint64_t)value >= config->vocab)
            rc = caloris_err_set(err, CALORIS_BAD_CONFIG, "%s: ids[%zu] is no id below %zu", what,
                                 i, config->vocab);
        sample->ids[first + i] = (int32_t)value;
    }
    json_decref(json);
    return rc;
}

static int read_file(const char *path, const struct caloris_model_config *config,
                     struct caloris_sample *sample, struct caloris_err *err)
{
    FILE *file = fopen(path, "rbe");
    if (!file) {
        caloris_err_sys(err, "calibrate: %s", path);
        if (err)
            err->code = CALORIS_BAD_CONFIG;
        return -1;
    }
    struct caloris_lines lines = CALORIS_LINES(file, path, LINE_BYTES);
    int rc;
    while ((rc = caloris_lines_next(&lines, err)) > 0) {
        if (strspn(lines.text.data, " \t\r") == lines.text.size)
            continue;
        if (read_line(&lines, config, sample, err) < 0) {
            rc = -1;
            break;
        }
    }
    if (rc == 0 && sample->rows == 0)
        rc = caloris_err_set(err, CALORIS_BAD_CONFIG, "no line with ids");
    if (rc < 0) {
        caloris_err_prefix(err, "calibrate: %s", path);
        if (err)
            err->code = CALORIS_BAD_CONFIG;
    }
    caloris_lines_free(&lines);
    fclose(file);
    return rc;
}

int caloris_sample_make(const struct caloris_engine_options *options,
                        const struct caloris_model_config *config, struct caloris_sample *sample,
                        struct caloris_err *err)
{
    *sample = (struct caloris_sample){0};
    int rc = options->calibrate ? read_file(options->calibrate, config, sample, err)
                                : make_own(config, sample, err);
    if (rc < 0) {
        caloris_sample_free(sample);
        return -1;
    }
    sample->check = caloris_crc32c(0, sample->ids, sample->rows * sizeof(*sample->ids));
    sample->check =
        caloris_crc32c(sample->check, sample->length, sample->canvases * sizeof(*sample->length));
    return 0;
}

void caloris_sample_free(struct caloris_sample *sample)
{
    free(sample->ids);
    free(sample->length);
    *sample = (struct caloris_sample){0};
}
