/* Files of a tokenizer, and text through what they make. The first line names the file that the
 * rest stands for; the others are as small as they can be. */
#include <string.h>

#include "base/buf.h"
#include "base/err.h"
#include "coordinator/text/text.h"
#include "tests/fuzz/fuzz.h"

static const struct {
    const char *name, *other; /* OTHER: what it holds while another file is tried; NULL: nothing */
} files[] = {
    {"tokenizer.json", NULL},
    {"vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2}"},
    {"merges.txt", "#version: 0.2\na b\n"},
    {"tokenizer_config.json", "{\"eos_token\": \"b\"}"},
    {"special_tokens_map.json", "{}"},
};
enum { FILES = sizeof files / sizeof files[0] };

static void pass_through(const struct caloris_tokenizer *tokenizer)
{
    static const char text[] = "ab <|x|> \xc3\xa9\xff 12\n\tab";
    static const struct caloris_message message = {"user", text, sizeof text - 1};
    struct caloris_ids ids = {0};
    struct caloris_buf out = {0};
    struct caloris_err err;

    if (caloris_tokenizer_encode(tokenizer, text, sizeof text - 1, CALORIS_TEXT_MARKUP, &ids,
                                 &err) == 0)
        caloris_tokenizer_decode(tokenizer, ids.id, ids.count, true, &out, &err);
    ids.count = 0;
    caloris_tokenizer_render(tokenizer, NULL, &message, 1, NULL, -1, &ids, &err);
    caloris_ids_free(&ids);
    caloris_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
    struct caloris_tokenizer *tokenizer;
    struct caloris_err err;
    bool found;

    if (!end)
        return 0;
    for (int i = 0; i < FILES; i++) {
        size_t n = (size_t)(end - data);

        if (strlen(files[i].name) == n && memcmp(files[i].name, data, n) == 0)
            fuzz_file(files[i].name, end + 1, size - n - 1);
        else if (files[i].other)
            fuzz_file(files[i].name, files[i].other, strlen(files[i].other));
        else
            fuzz_drop(files[i].name);
    }
    tokenizer = caloris_tokenizer_load(fuzz_folder(), &found, &err);
    if (tokenizer)
        pass_through(tokenizer);
    caloris_tokenizer_free(tokenizer);
    return 0;
}
