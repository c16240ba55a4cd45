/* Shard files: at every rank count the same logits, bit for bit, as weights packed at load; what is
 * damaged, foreign or of another model is refused on all ranks before anything is served. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/json.h"
#include "tests/tp/logits.h"
#include "tests/unit/model_support.h"
#include "worker/engine.h"
#include "worker/kernels/kernels.h"
#include "worker/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int rank_counts[] = {1, 2, 3, 5, 7};
static const char *const models[] = {"llada", "llada-gqa"};
enum { RANK_COUNTS = sizeof(rank_counts) / sizeof(rank_counts[0]), MODELS = 2 };

/* ---- logits ---------------------------------------------------------------------------------- */

enum { IDS = 24 };

static void run_logits(const char *dir, const char *weights, int ranks, struct logits *l)
{
    const struct caloris_engine_options options = logits_options(dir, weights, ranks);
    int32_t ids[IDS];
    for (int i = 0; i < IDS; i++)
        ids[i] = (i * 37 + 5) % 320; /* the smallest vocabulary of them */
    logits_run(&options, ids, IDS, l);
}

static void logits_are_those_of_weights_packed_at_load(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        char from[MODEL_PATH], dir[MODEL_PATH];
        model_golden(models[m], from);
        for (size_t f = 0; caloris_engine_format(f); f++) {
            const char *weights = caloris_engine_format(f);
            shard_model(from, weights, dir);
            for (int i = 0; i < RANK_COUNTS; i++) {
                struct logits packed, stored;
                run_logits(from, weights, rank_counts[i], &packed);
                run_logits(dir, NULL, rank_counts[i], &stored);
                if (memcmp(packed.to, stored.to, IDS * packed.vocab * sizeof(float)) != 0)
                    fail_msg("%s as %s on %d ranks: other logits", models[m], weights,
                             rank_counts[i]);
                free(packed.to);
                free(stored.to);
            }
            model_remove_dir(dir);
        }
    }
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Ranks read what is planned; together all of the file's data, and what they share more often. */
static void bytes_read_are_those_planned(void **state)
{
    char from[MODEL_PATH], dir[MODEL_PATH];
    (void)state;
    shard_model(model_golden("llada", from), "int8", dir);
    for (int i = 0; i < RANK_COUNTS; i++) {
        struct caloris_engine_options options = logits_options(dir, NULL, rank_counts[i]);
        struct caloris_rank_share shares[7];
        struct caloris_model_facts facts;
        struct caloris_err err = {0};
        struct logits l;
        expect_ok(caloris_engine_plan(&options, &facts, shares, &err), &err);
        assert_string_equal(options.weights, "int8");
        run_logits(dir, NULL, rank_counts[i], &l);
        assert_int_equal(l.bytes_read, shares[0].read_bytes);
        for (int r = 1; r < rank_counts[i]; r++)
            assert_true(shares[r].read_bytes < shares[0].read_bytes + 8192);
        free(l.to);
    }
    model_remove_dir(dir);
}

/* ---- damage ---------------------------------------------------------------------------------- */

enum { HEADER = 64, TABLE_BYTES_AT = 24, CHECK_AT = 12, CHECKED_FROM = 16, VERSION_AT = 8 };

struct file {
    unsigned char *bytes;
    size_t n, data_start;
};

static uint64_t number_at(const struct file *file, size_t at)
{
    uint64_t number;
    memcpy(&number, file->bytes + at, sizeof(number));
    return number;
}

static void read_file(const char *dir, struct file *file)
{
    char path[2 * MODEL_PATH];
    snprintf(path, sizeof(path), "%s/%s", dir, CALORIS_SHARD_FILE);
    FILE *from = fopen(path, "rb");
    assert_non_null(from);
    file->bytes = malloc(1 << 24);
    file->n = fread(file->bytes, 1, 1 << 24, from);
    fclose(from);
    const uint64_t start = HEADER + number_at(file, TABLE_BYTES_AT) + 4 * number_at(file, 32);
    file->data_start = (size_t)(start + 4095) / 4096 * 4096;
}

static void seal(struct file *file)
{
    const uint32_t check =
        caloris_crc32c(0, file->bytes + CHECKED_FROM, file->data_start - CHECKED_FROM);
    memcpy(file->bytes + CHECK_AT, &check, sizeof(check));
}

/* Damages are of the whole file in memory; what they leave is written. */
static void flip_magic(struct file *f)
{
    f->bytes[3] ^= 0x20;
}
static void newer_version(struct file *f)
{
    f->bytes[VERSION_AT] = 3;
}
static void flip_table(struct file *f)
{
    f->bytes[HEADER + 40] ^= 1;
}
static void flip_checksum(struct file *f)
{
    f->bytes[HEADER + number_at(f, TABLE_BYTES_AT) + 2] ^= 1;
}
static void flip_padding(struct file *f)
{
    f->bytes[f->data_start - 1] ^= 1;
}
static void flip_first_unit(struct file *f)
{
    f->bytes[f->data_start + 5] ^= 0x10;
}
static void flip_last_byte(struct file *f)
{
    f->bytes[f->n - 1] ^= 1;
}
static void
flip_scale(struct file *f) /* of the head: behind 20 units of the table, the last norm */
{
    f->bytes[f->data_start + 20 * 3072 + 192 + 7] ^= 1;
}
static void huge_table(struct file *f)
{
    memset(f->bytes + TABLE_BYTES_AT, 0xff, 8);
}
static void many_checks(struct file *f)
{
    memset(f->bytes + 32, 0x7f, 8);
}
static void one_check_less(struct file *f)
{
    f->bytes[32]--;
    seal(f);
}
static void unknown_format(struct file *f)
{
    memcpy(f->bytes + 40, "int3", 4);
    seal(f);
}
static void other_unit_size(struct file *f)
{
    char *at = memmem(f->bytes, f->data_start, "\"unit_bytes\":3072", 17);
    assert_non_null(at);
    memcpy(at, "\"unit_bytes\":9072", 17);
    seal(f);
}
static void other_offset(struct file *f)
{
    char *at = memmem(f->bytes, f->data_start, "\"offset\":61440", 14);
    assert_non_null(at);
    memcpy(at, "\"offset\":41440", 14);
    seal(f);
}
static void no_json(struct file *f)
{
    f->bytes[HEADER] = '[';
    seal(f);
}
static void cut_a_byte(struct file *f)
{
    f->n--;
}
static void cut_in_header(struct file *f)
{
    f->n = 40;
}
static void cut_all(struct file *f)
{
    f->n = 0;
}
static void cut_and_lie(struct file *f)
{
    f->n -= 4096;
    const uint64_t n = f->n;
    memcpy(f->bytes + 16, &n, sizeof(n));
    seal(f);
}
static void append(struct file *f)
{
    memset(f->bytes + f->n, 0, 64);
    f->n += 64;
}

struct damage {
    void (*damage)(struct file *file);
    const char *complaint;
};
static const struct damage damages[] = {
    {flip_magic, "caloris.shard is no shard file"},
    {newer_version, "caloris.shard is a shard file of version 3, this program reads version 2"},
    {flip_table, "caloris.shard: header and table, bytes 16 to"},
    {flip_checksum, "caloris.shard: header and table, bytes 16 to"},
    {flip_padding, "caloris.shard: header and table, bytes 16 to"},
    {flip_first_unit, "model.transformer.wte.weight, unit 0 of 20, 3072 bytes at byte 8192: check"},
    {flip_last_byte, "model.transformer.blocks.2.ff_out.weight, unit 5 of 6, 768 bytes at byte "},
    {flip_scale, "model.transformer.ff_out.weight, scales, 1280 bytes at byte 69824: checksum"},
    {huge_table, "which the file cannot hold"},
    {many_checks, "which the file cannot hold"},
    {one_check_less, "checksums and "},
    {unknown_format, "names weights that are unknown"},
    {other_unit_size, "the table has another model.transformer.wte.weight than config.json wants"},
    {other_offset, "the table has another model.transformer.ln_f.weight than config.json wants"},
    {no_json, "caloris.shard"},
    {cut_a_byte, "it is truncated or damaged"},
    {cut_in_header, "caloris.shard has 40 bytes: no shard file"},
    {cut_all, "caloris.shard has 0 bytes: no shard file"},
    {cut_and_lie, "config.json wants "},
    {append, "it is truncated or damaged"},
};

static int no_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    (void)engine;
    (void)arg;
    (void)err;
    return 0;
}

static void expect_refused(const char *dir, const char *weights, enum caloris_code code,
                           const char *complaint)
{
    for (int i = 0; i < RANK_COUNTS; i++) {
        const struct caloris_engine_options options = logits_options(dir, weights, rank_counts[i]);
        struct caloris_err err = {0};
        const int rc = caloris_engine_run(&options, no_body, NULL, NULL, &err);
        expect_complaint(rc, &err, code, complaint);
        assert_int_equal(caloris_exit_server(err.code), 2);
    }
}

static void expect_damages_found(const char *dir, const struct file *whole,
                                 const struct damage *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct file odd = *whole;
        odd.bytes = malloc(whole->n + 64);
        memcpy(odd.bytes, whole->bytes, whole->n);
        cases[i].damage(&odd);
        model_write(dir, CALORIS_SHARD_FILE, odd.bytes, odd.n);
        free(odd.bytes);
        expect_refused(dir, NULL, CALORIS_BAD_MODEL, cases[i].complaint);
    }
}

static void damaged_files_are_refused(void **state)
{
    char from[MODEL_PATH], dir[MODEL_PATH];
    struct file whole;
    (void)state;
    shard_model(model_golden("llada", from), "int8", dir);
    read_file(dir, &whole);
    expect_damages_found(dir, &whole, damages, sizeof(damages) / sizeof(damages[0]));
    model_write(dir, CALORIS_SHARD_FILE, whole.bytes, whole.n);
    struct logits l;
    run_logits(dir, "int8", 3, &l); /* whole again */
    free(l.to);
    free(whole.bytes);
    model_remove_dir(dir);
}

static void outlier_beyond(struct file *f)
{
    char *at = memmem(f->bytes, f->data_start, "\"outliers\":[", 12);
    assert_non_null(at);
    at[12 + strcspn(at + 12, ",]") - 3] = '9'; /* of 768 columns */
    seal(f);
}
static void outliers_descend(struct file *f)
{
    char *at = memmem(f->bytes, f->data_start, "\"outliers\":[", 12);
    assert_non_null(at);
    memset(strchr(at, ',') + 1, ' ', 2); /* of three digits */
    seal(f);
}
static void no_outliers(struct file *f)
{
    char *at = memmem(f->bytes, f->data_start, "\"outliers\":[", 12);
    assert_non_null(at);
    at[1] = 'O';
    seal(f);
}

/* The demo model has some. */
static void damaged_outliers_are_refused(void **state)
{
    static const struct damage cases[] = {
        {outlier_beyond, "outliers are no ascending columns of 768"},
        {outliers_descend, "outliers are no ascending columns of 768"},
        {no_outliers, "the table has another model.transformer.blocks.0.ff_out.weight"},
    };
    char dir[MODEL_PATH], from[MODEL_PATH];
    struct file whole;
    (void)state;
    snprintf(from, sizeof(from), "%s/deploy/models/tinycoder", getenv("CALORIS_SOURCE_DIR"));
    shard_model(from, "int8", dir);
    read_file(dir, &whole);
    expect_damages_found(dir, &whole, cases, sizeof(cases) / sizeof(cases[0]));
    free(whole.bytes);
    model_remove_dir(dir);
}

/* Wherever a bit flips, it is found. */
static void any_flipped_bit_is_found(void **state)
{
    char from[MODEL_PATH], dir[MODEL_PATH];
    struct file file;
    (void)state;
    shard_model(model_golden("llada-gqa", from), "bf16", dir);
    read_file(dir, &file);
    for (size_t at = 1; at < file.n; at += file.n / 211) {
        const struct caloris_engine_options options = logits_options(dir, NULL, 2);
        struct caloris_err err = {0};
        file.bytes[at] ^= (unsigned char)(1 << at % 8);
        model_write(dir, CALORIS_SHARD_FILE, file.bytes, file.n);
        file.bytes[at] ^= (unsigned char)(1 << at % 8);
        if (caloris_engine_run(&options, no_body, NULL, NULL, &err) == 0)
            fail_msg("bit %zu of byte %zu flipped: loaded", at % 8, at);
        assert_int_equal(err.code, CALORIS_BAD_MODEL);
    }
    free(file.bytes);
    model_remove_dir(dir);
}

/* ---- what does not go together --------------------------------------------------------------- */

static void another_format_or_model_is_refused(void **state)
{
    char from[MODEL_PATH], dir[MODEL_PATH], text[2 * MODEL_PATH];
    struct caloris_err err = {0};
    const struct caloris_sharding silent = {0};
    (void)state;
    shard_model(model_golden("llada", from), "int8", dir);
    snprintf(text, sizeof(text), "weights as bf16: %s/caloris.shard holds them as int8", dir);
    expect_refused(dir, "bf16", CALORIS_BAD_CONFIG, text);

    struct caloris_engine_options options = logits_options(dir, "bf16", 1);
    expect_complaint(caloris_engine_shard(&options, "/nowhere", &silent, &err), &err,
                     CALORIS_BAD_MODEL, "holds a shard file already");
    options = logits_options(from, "int8", 1);
    expect_complaint(caloris_engine_shard(&options, "/nowhere", &silent, &err), &err, CALORIS_IO,
                     "/nowhere/caloris.shard");

    json_t *config = model_read_json(dir, "config.json");
    json_object_set_new(config, "rope_theta", json_real(10000));
    model_write_json(dir, "config.json", config);
    expect_refused(dir, NULL, CALORIS_BAD_MODEL, "rope_theta 500000; config.json has llada: 3");
    json_object_set_new(config, "mlp_hidden_size", json_integer(104));
    model_write_json(dir, "config.json", config);
    expect_refused(dir, NULL, CALORIS_BAD_MODEL, "FFN 88, ");
    json_decref(config);
    model_remove_dir(dir);
}

/* A run that is stopped leaves nothing behind, and the file that was there is still whole. */
static int stop_late(void *arg, uint64_t done, uint64_t all, struct caloris_err *err)
{
    (void)arg;
    return done < all / 2 ? 0 : caloris_err_set(err, CALORIS_CANCELLED, "enough");
}

static void a_file_appears_whole_or_not_at_all(void **state)
{
    char from[MODEL_PATH], dir[MODEL_PATH], command[2 * MODEL_PATH];
    struct caloris_err err = {0};
    const struct caloris_sharding told = {.progress = stop_late};
    struct file before, after;
    (void)state;
    shard_model(model_golden("llada", from), "int8", dir);
    read_file(dir, &before);
    const struct caloris_engine_options options = logits_options(from, "bf16", 1);
    expect_complaint(caloris_engine_shard(&options, dir, &told, &err), &err, CALORIS_CANCELLED,
                     "enough");
    read_file(dir, &after);
    assert_int_equal(before.n, after.n);
    assert_memory_equal(before.bytes, after.bytes, before.n);
    snprintf(command, sizeof(command), "test \"$(ls -A %s | wc -l)\" = 2", dir);
    assert_int_equal(system(command), 0);
    free(before.bytes);
    free(after.bytes);
    model_remove_dir(dir);
}

struct seen {
    size_t matrices, vectors;
    double worst;
};

static int see(void *arg, const struct caloris_sharded_tensor *tensor, struct caloris_err *err)
{
    struct seen *seen = arg;
    (void)err;
    if (!tensor->format) {
        seen->vectors++;
        return 0;
    }
    seen->matrices++;
    assert_true(tensor->rows > 0 && tensor->cols > 0 && tensor->relative_error >= 0);
    seen->worst = tensor->relative_error > seen->worst ? tensor->relative_error : seen->worst;
    return 0;
}

/* Rounding to 8 bits of mantissa is off by 2^-9 of a number at most, and by about 0.4 of that in
 * the mean; to ±127 of the largest of a row, by 1 / (2 · 127 √3) of it; int4: KERNELS.md. */
static void relative_errors_are_those_of_the_formats(void **state)
{
    static const struct {
        const char *weights;
        double least, most;
    } cases[] = {
        {"fp32", 0, 0}, {"bf16", 1e-3, 2.3e-3}, {"int8", 3e-3, 1.2e-2}, {"int4", 4e-2, 1e-1}};
    char from[MODEL_PATH];
    (void)state;
    model_golden("llada", from);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char dir[MODEL_PATH];
        struct seen seen = {0};
        struct caloris_err err = {0};
        const struct caloris_sharding told = {.tensor = see, .arg = &seen};
        const struct caloris_engine_options options = logits_options(from, cases[i].weights, 1);
        model_make_dir(dir);
        expect_ok(caloris_engine_shard(&options, dir, &told, &err), &err);
        assert_int_equal(seen.matrices, 3 * 7 + 2);
        assert_int_equal(seen.vectors, 3 * 2 + 1);
        printf("%s: worst relative error %.2e\n", cases[i].weights, seen.worst);
        assert_true(seen.worst >= cases[i].least && seen.worst <= cases[i].most);
        model_remove_dir(dir);
    }
}

int main(void)
{
    caloris_kernels_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_weights_packed_at_load),
        cmocka_unit_test(bytes_read_are_those_planned),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(damaged_outliers_are_refused),
        cmocka_unit_test(any_flipped_bit_is_found),
        cmocka_unit_test(another_format_or_model_is_refused),
        cmocka_unit_test(a_file_appears_whole_or_not_at_all),
        cmocka_unit_test(relative_errors_are_those_of_the_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
