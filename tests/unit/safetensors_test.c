/* Damaged model folders: each is refused with a line that names the file, the tensor and what is
 * wrong. */
#include "model_support.h"

#include "base/err.h"
#include "worker/model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define Q   "model.transformer.blocks.0.q_proj.weight"
#define WTE "model.transformer.wte.weight"

/* Plans and loads the folder; complaint NULL: both work; else both complain of it. */
static void expect(const char *dir, const char *what, const char *complaint)
{
    struct caloris_err err = {0};
    struct caloris_model_config config;
    struct caloris_model_split split;
    uint64_t memory, read;
    struct caloris_weights weights;
    if (caloris_model_config_load(dir, &config, &err) < 0)
        fail_msg("%s: %s", what, err.text);
    for (int n = 1; n <= 2; n++) {
        caloris_model_split(&config, n, n - 1, &split);
        for (int loading = 0; loading < 2; loading++) {
            int rc = loading ? caloris_weights_load(dir, &config, &split, CALORIS_FORMAT_FP32, NULL,
                                                    NULL, NULL, &weights, &err)
                             : caloris_weights_plan(dir, &config, &split, CALORIS_FORMAT_FP32, NULL,
                                                    &memory, &read, &err);
            if (!complaint && rc < 0)
                fail_msg("%s: %s", what, err.text);
            if (complaint && rc == 0)
                fail_msg("%s: accepted; expected: %s", what, complaint);
            if (complaint && (err.code != CALORIS_BAD_MODEL || !strstr(err.text, complaint)))
                fail_msg("%s: %s: \"%s\"; expected: \"%s\"", what, caloris_code_name(err.code),
                         err.text, complaint);
            if (loading)
                caloris_weights_free(&weights); /* also after a failure */
        }
    }
}

/* ---- tensors that do not fit the config ----------------------------------------------------- */

static void nothing(struct model_spec *spec)
{
    (void)spec;
}

static void missing(struct model_spec *spec)
{
    *model_spec_find(spec, Q) = spec->tensor[--spec->n];
}

static void unknown(struct model_spec *spec)
{
    spec->tensor[spec->n] = spec->tensor[1];
    strcpy(spec->tensor[spec->n++].name, "model.transformer.blocks.0.q_proj.bias");
}

static void layer_too_many(struct model_spec *spec)
{
    spec->tensor[spec->n] = spec->tensor[1];
    strcpy(spec->tensor[spec->n++].name, "model.transformer.blocks.1.attn_norm.weight");
}

static void wrong_shape(struct model_spec *spec)
{
    model_spec_find(spec, Q)->shape[0] = 4;
}

static void turned(struct model_spec *spec)
{
    struct model_tensor_spec *tensor = model_spec_find(spec, WTE);
    tensor->shape[0] = 8;
    tensor->shape[1] = 32;
}

static void flat(struct model_spec *spec)
{
    struct model_tensor_spec *tensor = model_spec_find(spec, Q);
    tensor->dims = 1;
    tensor->shape[0] = 64;
}

static void scalar(struct model_spec *spec)
{
    model_spec_find(spec, "model.transformer.ln_f.weight")->dims = 0;
}

static void integers(struct model_spec *spec)
{
    strcpy(model_spec_find(spec, Q)->dtype, "I32");
}

static void unknown_dtype(struct model_spec *spec)
{
    strcpy(model_spec_find(spec, Q)->dtype, "F7");
}

static void short_data(struct model_spec *spec)
{
    model_spec_find(spec, Q)->bytes = 126;
}

static void in_two_files(struct model_spec *spec)
{
    for (size_t i = 0; i < spec->n; i++)
        strcpy(spec->tensor[i].file, i % 2 ? "a.safetensors" : "b.safetensors");
}

/* The first of two entries for one name loses its place in the index. */
static void twice(struct model_spec *spec)
{
    in_two_files(spec);
    spec->tensor[spec->n] = spec->tensor[2];
    strcpy(spec->tensor[spec->n++].file, "a.safetensors");
}

static const struct {
    const char *what;
    void (*damage)(struct model_spec *spec);
    const char *complaint; /* NULL: fine */
} tensor_cases[] = {
    {"F16, one file", nothing, NULL},
    {"two files", in_two_files, NULL},
    {"missing tensor", missing, ": tensor " Q " is missing"},
    {"unknown tensor", unknown,
     "/model.safetensors: unknown tensor model.transformer.blocks.0.q_proj.bias"},
    {"a layer too many", layer_too_many,
     "/model.safetensors: unknown tensor model.transformer.blocks.1.attn_norm.weight"},
    {"wrong shape", wrong_shape,
     "/model.safetensors: " Q ": shape is 4 x 8, config.json wants 8 x 8"},
    {"turned", turned, "/model.safetensors: " WTE ": shape is 8 x 32, config.json wants 32 x 8"},
    {"flat", flat, Q ": shape is 64, config.json wants 8 x 8"},
    {"scalar", scalar, "model.transformer.ln_f.weight: shape is scalar, config.json wants 8"},
    {"wrong dtype", integers, Q ": dtype I32 is not supported, F32, BF16 and F16 are"},
    {"unknown dtype", unknown_dtype, "/model.safetensors: " Q ": unknown dtype F7"},
    {"short data", short_data, Q ": 8 x 8 F16 needs 128 bytes, offsets give 126"},
    {"in two files", twice, Q " stands in "},
};

static void test_tensors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(tensor_cases) / sizeof(tensor_cases[0]); i++) {
        char dir[MODEL_PATH];
        struct model_spec spec;
        model_make_dir(dir);
        model_spec_little(&spec);
        tensor_cases[i].damage(&spec);
        model_spec_write(&spec, dir);
        expect(dir, tensor_cases[i].what, tensor_cases[i].complaint);
        model_remove_dir(dir);
    }
}

/* ---- headers -------------------------------------------------------------------------------- */

/* What a header that passes all checks of its own comes to: it is not this model. */
#define SOUND ": tensor " WTE " is missing"

static const struct {
    const char *header;
    size_t data_bytes;
    const char *complaint;
} header_cases[] = {
    {"{}", 0, SOUND},
    {"  {} \n ", 0, SOUND},
    {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, SOUND},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8, SOUND},
    {"{\"w\":{\"dtype\":\"U8\",\"shape\":[0,9],\"data_offsets\":[0,0]}}", 0, SOUND},
    {"{\"w\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, SOUND},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}",
     8, SOUND},

    {"", 0, "/model.safetensors:"},
    {"[]", 0, "/model.safetensors: the header is no JSON object"},
    {"{\"w\":", 0, "/model.safetensors:1:"},
    {"{} x", 0, "/model.safetensors:1:"},
    {"{\"__metadata__\":[]}", 0, "/model.safetensors: __metadata__ is no object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "/model.safetensors: __metadata__: a is no string"},
    {"{\"w\":{},\"w\":{}}", 0, "duplicate object key"},
    {"{\"w\":7}", 0, "/model.safetensors: w: is described by no object"},
    {"{\"w\\n\":{}}", 0, "/model.safetensors: a tensor's name holds a control character"},
    {"{\"w\":{}}", 0, "/model.safetensors: w: dtype is missing or no string"},
    {"{\"w\":{\"dtype\":\"F7\"}}", 0, "/model.safetensors: w: unknown dtype F7"},
    {"{\"w\":{\"dtype\":\"F32\"}}", 0, "w: shape is missing or no list"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
     "w: shape[0] is no size"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1,1.0],\"data_offsets\":[0,4]}}", 4,
     "w: shape[1] is no size"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
     "w: 9 dimensions, at most 8 are read"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "w: data_offsets are no range [begin, end]"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8,
     "w: data_offsets are no range [begin, end]"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
     "w: data_offsets are no range [begin, end]"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4,
     "w: data_offsets are no range [begin, end]"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,12]}}", 12,
     "w: 2 x 2 F32 needs 16 bytes, offsets give 12"},
    {"{\"w\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2,
     "w: 3 F4 is no whole number of bytes"},

    /* products that wrap around: to 0, and to just the right number of bytes */
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "w: 4294967296 x 4294967296 F32 does not fit in 64 bits"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[576460752303423489],\"data_offsets\":[0,4]}}", 4,
     "w: 576460752303423489 F32 does not fit in 64 bits"},
    {"{\"w\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":[0,0]}}", 0,
     "w: 9223372036854775807 U8 does not fit in 64 bits"},
    {"{\"w\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,0]}}", 0,
     "w: shape[0] is no size"},

    /* tiles */
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
     "w: begins at data byte 4, leaving a hole behind the header, which ends at 0"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4000000000,4000000004]}}", 8,
     "w: begins at data byte 4000000000, the file holds 8"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
     16, "b: begins at data byte 12, leaving a hole behind a, which ends at 8"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
     12, "b: begins at data byte 4, overlapping a, which ends at 8"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
     8, "begins at data byte 0, overlapping "},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 15,
     "/model.safetensors: the header promises 16 bytes of tensors up to w, the file holds 15: "
     "it is truncated"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 17,
     "/model.safetensors: the header promises 16 bytes of tensors up to w, the file holds 17: "
     "bytes of no tensor follow"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1073741824],\"data_offsets\":[0,4294967296]}}", 4,
     "the header promises 4294967296 bytes of tensors up to w, the file holds 4"},
    {"{}", 1, "/model.safetensors: the header promises 0 bytes"},
};

static void test_headers(void **state)
{
    (void)state;
    char dir[MODEL_PATH];
    struct model_spec spec;
    model_make_dir(dir);
    model_spec_little(&spec);
    model_spec_write(&spec, dir);
    for (size_t i = 0; i < sizeof(header_cases) / sizeof(header_cases[0]); i++) {
        model_write_safetensors(dir, "model.safetensors", header_cases[i].header,
                                header_cases[i].data_bytes);
        expect(dir, header_cases[i].header, header_cases[i].complaint);
    }
    model_remove_dir(dir);
}

/* The first bytes of the file, and what follows them up to its length. */
static void test_lengths(void **state)
{
    (void)state;
    static const struct {
        uint64_t announced;
        size_t file_bytes;
        const char *complaint;
    } cases[] = {
        {0, 0, "/model.safetensors has 0 bytes: no safetensors file"},
        {0, 7, "/model.safetensors has 7 bytes: no safetensors file"},
        {1, 8,
         "/model.safetensors: the header has 1 bytes, but the file ends after 8: it is truncated"},
        {100000000, 16, "the header has 100000000 bytes, but the file ends after 16"},
        {100000001, 16, "a header of 100000001 bytes is announced, at most 100000000 are read"},
        {UINT64_MAX, 16, "a header of 18446744073709551615 bytes is announced"},
        {UINT64_MAX - 7, 16, "a header of 18446744073709551608 bytes is announced"},
    };
    char dir[MODEL_PATH];
    struct model_spec spec;
    model_make_dir(dir);
    model_spec_little(&spec);
    model_spec_write(&spec, dir);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char bytes[16] = {0};
        memcpy(bytes, &cases[i].announced, 8);
        model_write(dir, "model.safetensors", bytes, cases[i].file_bytes);
        expect(dir, cases[i].complaint, cases[i].complaint);
    }
    model_remove_dir(dir);
}

/* A sound file cut at any byte is refused, whatever the cut goes through. */
static void test_cut_anywhere(void **state)
{
    (void)state;
    char dir[MODEL_PATH], path[MODEL_PATH + 32];
    struct model_spec spec;
    struct stat st;
    model_make_dir(dir);
    model_spec_little(&spec);
    model_spec_write(&spec, dir);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    assert_int_equal(stat(path, &st), 0);
    for (off_t n = st.st_size - 1; n >= 0; n -= n > 64 ? 61 : 1) {
        assert_int_equal(truncate(path, n), 0);
        expect(dir, "cut", "/model.safetensors");
    }
    model_remove_dir(dir);
}

/* ---- the index ------------------------------------------------------------------------------ */

/* One entry of the weight_map is replaced (JSON text; NULL: dropped), or the whole index. */
static const struct {
    const char *tensor, *value;
    const char *index;
    const char *complaint;
} index_cases[] = {
    {Q, "\"b.safetensors\"", NULL, NULL},
    {Q, NULL, NULL, "/b.safetensors: " Q " is not in the index model.safetensors.index.json"},
    {Q, "\"a.safetensors\"", NULL,
     ".index.json: " Q " is promised in a.safetensors, but stands in b.safetensors"},
    {"ghost", "\"a.safetensors\"", NULL,
     ".index.json: ghost is promised in a.safetensors, which does not hold it"},
    {Q, "\"c.safetensors\"", NULL, "/c.safetensors: No such file or directory"},
    {Q, "\"../b.safetensors\"", NULL,
     Q ": \"../b.safetensors\" is not the name of a file beside the index"},
    {Q, "\"/etc/passwd\"", NULL, "\"/etc/passwd\" is not the name of a file beside the index"},
    {Q, "\"..\"", NULL, "\"..\" is not the name of a file beside the index"},
    {Q, "\"\"", NULL, "\"\" is not the name of a file beside the index"},
    {Q, "7", NULL, Q ": its file's name is no plain string"},
    {Q, "\"b\\u0007\"", NULL, Q ": its file's name is no plain string"},
    {"a\\b\n", "\"a.safetensors\"", NULL, ".index.json: a tensor's name holds a control character"},
    {NULL, NULL, "{\"weight_map\":{}}", SOUND},
    {NULL, NULL, "{\"weight_map\":[]}", ".index.json: weight_map is missing or no object"},
    {NULL, NULL, "{}", ".index.json: weight_map is missing or no object"},
    {NULL, NULL, "[]", ".index.json does not hold a JSON object"},
    {NULL, NULL, "{", ".index.json:1:"},
};

static void test_index(void **state)
{
    (void)state;
    static const char index_name[] = "model.safetensors.index.json";
    char dir[MODEL_PATH];
    struct model_spec spec;
    model_make_dir(dir);
    model_spec_little(&spec);
    in_two_files(&spec); /* tensor 2, Q, goes to b */
    for (size_t i = 0; i < sizeof(index_cases) / sizeof(index_cases[0]); i++) {
        model_spec_write(&spec, dir);
        json_t *index = model_read_json(dir, index_name);
        json_t *map = json_object_get(index, "weight_map");
        if (index_cases[i].index) {
            model_write(dir, index_name, index_cases[i].index, strlen(index_cases[i].index));
        } else {
            json_object_del(map, index_cases[i].tensor);
            if (index_cases[i].value)
                json_object_set_new(map, index_cases[i].tensor,
                                    json_loads(index_cases[i].value, JSON_DECODE_ANY, NULL));
            model_write_json(dir, index_name, index);
        }
        json_decref(index);
        expect(dir, index_cases[i].complaint ? index_cases[i].complaint : "sound index",
               index_cases[i].complaint);
    }
    model_remove_dir(dir);
}

/* ---- files that are no files ---------------------------------------------------------------- */

static void test_no_files(void **state)
{
    (void)state;
    char dir[MODEL_PATH], path[MODEL_PATH + 32];
    struct model_spec spec;
    model_make_dir(dir);
    model_spec_little(&spec);
    model_spec_write(&spec, dir);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    assert_int_equal(remove(path), 0);
    expect(dir, "no file", "/model.safetensors: No such file or directory");
    assert_int_equal(mkfifo(path, 0600), 0);
    expect(dir, "a FIFO", "/model.safetensors is not a regular file");
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    expect(dir, "a directory", "/model.safetensors is not a regular file");
    assert_int_equal(remove(path), 0);
    assert_int_equal(symlink("model.safetensors", path), 0);
    expect(dir, "a link to itself", "/model.safetensors: ");
    assert_int_equal(remove(path), 0);
    model_spec_write(&spec, dir);
    if (geteuid() != 0) {
        assert_int_equal(chmod(path, 0), 0);
        expect(dir, "not readable", "/model.safetensors: Permission denied");
    }
    model_remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors), cmocka_unit_test(test_headers),
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_index),   cmocka_unit_test(test_no_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
