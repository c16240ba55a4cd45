/* Tokenizer files: arrangements that work, and damage of every kind. */
#include "tests/unit/text_support.h"

#include "base/buf.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

/* A small tokenizer.json: each part may be replaced. "\xC4\xA0" is U+0120, the space of keys. */
struct parts {
    const char *normalizer, *pre_tokenizer, *added, *model_keys, *vocab, *merges, *decoder;
};

#define SP "\xC4\xA0"

static const struct parts usual = {
    .normalizer = "null",
    .pre_tokenizer = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}",
    .added = "[]",
    .model_keys = "\"type\": \"BPE\"",
    .vocab =
        "{\"a\": 0, \"b\": 1, \"c\": 2, \"" SP "\": 3, \"1\": 4, \"ab\": 5, \"abc\": 6, \"bc\": 7,"
        " \"" SP "a\": 8, \"\xC3\x83\": 9, \"\xC2\xA9\": 10, \"\xC3\x83\xC2\xA9\": 11, \"e\": 12,"
        " \"11\": 13, \"aa\": 14, \"aaaa\": 15, \"\xC3\x8C\": 16, \"\xC4\xA3\": 17, \"-\": 18}",
    .merges = "[\"a b\", [\"ab\", \"c\"], \"b c\", \"" SP " a\", \"\xC3\x83 \xC2\xA9\", \"1 1\","
              " \"a a\", \"aa aa\"]",
    .decoder = "{\"type\": \"ByteLevel\"}",
};

static const char *either(const char *a, const char *b)
{
    return a ? a : b;
}

static void write_parts(const struct temp_folder *folder, const struct parts *p)
{
    struct caloris_buf text = CALORIS_BUF(1 << 20);
    caloris_buf_printf(&text, NULL,
                       "{\"normalizer\": %s, \"pre_tokenizer\": %s, \"added_tokens\": %s,"
                       " \"model\": {%s, \"vocab\": %s, \"merges\": %s}, \"decoder\": %s}",
                       either(p->normalizer, usual.normalizer),
                       either(p->pre_tokenizer, usual.pre_tokenizer), either(p->added, usual.added),
                       either(p->model_keys, usual.model_keys), either(p->vocab, usual.vocab),
                       either(p->merges, usual.merges), either(p->decoder, usual.decoder));
    temp_folder_write(folder, "tokenizer.json", text.data);
    caloris_buf_free(&text);
}

#define BYTE_LEVEL  "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}"
#define SEQUENCE(a) "{\"type\": \"Sequence\", \"pretokenizers\": [" a "]}"
#define SPLIT(pattern, behavior, invert)                                                           \
    "{\"type\": \"Split\", \"pattern\": " pattern ", \"behavior\": \"" behavior                    \
    "\", \"invert\": " invert "}"

static void arrangements_that_work(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        struct parts parts;
        const char *text;
        enum caloris_text_mode mode;
        const char *ids;
    } cases[] = {
        {"lowest rank first", {0}, "abcbc", CALORIS_TEXT_USER, "6,7"},
        {"leftmost first", {0}, "aaaaaaa", CALORIS_TEXT_USER, "15,14,0"},
        {"a pair that comes twice takes the later rank",
         {.merges = "[\"a b\", \"b c\", \"ab c\", \"a b\"]"},
         "abc",
         CALORIS_TEXT_USER,
         "0,7"},
        {"no pattern: merges cross words", {0}, "b ab", CALORIS_TEXT_USER, "1,3,5"},
        {"use_regex missing: GPT-2's pattern",
         {.pre_tokenizer = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"},
         "a  a11",
         CALORIS_TEXT_USER,
         "0,3,8,13"},
        {"digits one by one",
         {.pre_tokenizer =
              SEQUENCE("{\"type\": \"Digits\", \"individual_digits\": true}, " BYTE_LEVEL)},
         "11a",
         CALORIS_TEXT_USER,
         "4,4,0"},
        {"runs of digits",
         {.pre_tokenizer = SEQUENCE("{\"type\": \"Digits\"}, " BYTE_LEVEL)},
         "11a",
         CALORIS_TEXT_USER,
         "13,0"},
        {"two stages",
         {.pre_tokenizer = SEQUENCE(SPLIT("{\"Regex\": \"[^-]+\"}", "Isolated", "false") ", " SPLIT(
              "{\"String\": \"b\"}", "Isolated", "true") ", " BYTE_LEVEL)},
         "ab-abc",
         CALORIS_TEXT_USER,
         "0,1,18,0,1,2"},
        {"Removed, inverted, loses nothing",
         {.pre_tokenizer =
              SEQUENCE(SPLIT("{\"Regex\": \"ab?\"}", "Removed", "true") ", " BYTE_LEVEL)},
         "abc-",
         CALORIS_TEXT_USER,
         "5,2,18"},
        {"U+180E is no white space",
         {.pre_tokenizer = SEQUENCE(
              SPLIT("{\"Regex\": \"\\\\s+|[^\\\\s]+\"}", "Isolated", "false") ", " BYTE_LEVEL),
          .vocab = "{\"\xC3\xA1\": 0, \"\xC5\x82\": 1, \"\xC4\xB0\": 2, \"a\": 3, \"\xC4\xB0"
                   "a\": 4}",
          .merges = "[\"\xC4\xB0 a\"]"},
         "\xE1\xA0\x8E"
         "a",
         CALORIS_TEXT_USER,
         "0,1,4"},
        {"NFC inside a Sequence",
         {.normalizer = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}]}"},
         "e\xCC\x81",
         CALORIS_TEXT_USER,
         "11"},
        {"no NFC unless asked for", {0}, "e\xCC\x81", CALORIS_TEXT_USER, "12,16,17"},
        {"ignore_merges",
         {.model_keys = "\"ignore_merges\": true", .merges = "[]"},
         "abc",
         CALORIS_TEXT_USER,
         "6"},
        {"a special token is not made by merges, nor as a whole piece",
         {.model_keys = "\"ignore_merges\": true",
          .added = "[{\"id\": 6, \"content\": \"abc\", \"special\": true}]"},
         "abc",
         CALORIS_TEXT_USER,
         "5,2"},
        {"but in a template's words it is",
         {.added = "[{\"id\": 6, \"content\": \"abc\", \"special\": true}]"},
         "abcabc",
         CALORIS_TEXT_MARKUP,
         "6,6"},
        {"the longest added token wins; those not special are found in user text",
         {.added = "[{\"id\": 20, \"content\": \"b\"}, {\"id\": 21, \"content\": \"b1\"},"
                   " {\"id\": 22, \"content\": \"b1c2\"}]"},
         "ab1ca",
         CALORIS_TEXT_USER,
         "0,21,2,0"},
        {"a literal in the vocabulary keeps its id there",
         {.added = "[{\"id\": 40, \"content\": \"bc\"}]"},
         "abc",
         CALORIS_TEXT_USER,
         "0,7"},
        {"lstrip and rstrip",
         {.added = "[{\"id\": 20, \"content\": \"<x>\", \"lstrip\": true, \"rstrip\": true}]"},
         "a  <x> \xC2\xA0\nb",
         CALORIS_TEXT_USER,
         "0,20,1"},
        {"the same around a special one",
         {.added = "[{\"id\": 20, \"content\": \"<x>\", \"lstrip\": true, \"rstrip\": true,"
                   " \"special\": true}]"},
         " a <x> <x>  b ",
         CALORIS_TEXT_MARKUP,
         "8,20,20,1,3"},
        {"single_word",
         {.added = "[{\"id\": 20, \"content\": \"cc\", \"single_word\": true}]"},
         "cc acc cc-cca",
         CALORIS_TEXT_USER,
         "20,8,2,2,3,20,18,2,2,0"},
        {"normalized tokens are found after NFC",
         {.normalizer = "{\"type\": \"NFC\"}",
          .added = "[{\"id\": 20, \"content\": \"\xC3\xA9\xC3\xA9\", \"normalized\": true}]"},
         "ae\xCC\x81"
         "e\xCC\x81",
         CALORIS_TEXT_USER,
         "0,20"},
        {"the others before it",
         {.normalizer = "{\"type\": \"NFC\"}",
          .added = "[{\"id\": 20, \"content\": \"\xC3\xA9\xC3\xA9\", \"normalized\": false}]"},
         "ae\xCC\x81"
         "e\xCC\x81",
         CALORIS_TEXT_USER,
         "0,11,11"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct temp_folder folder = temp_folder_make();
        write_parts(&folder, &cases[i].parts);
        struct caloris_tokenizer *tok = load_tokenizer(folder.path);
        struct caloris_ids found = {0}, expected = parse_ids(cases[i].ids);
        struct caloris_err err = {0};
        if (caloris_tokenizer_encode(tok, cases[i].text, strlen(cases[i].text), cases[i].mode,
                                     &found, &err) < 0)
            fail_msg("%s: %s", cases[i].what, err.text);
        check_ids(cases[i].what, &found, expected.id, expected.count);
        caloris_ids_free(&found);
        caloris_ids_free(&expected);
        caloris_tokenizer_free(tok);
        temp_folder_remove(&folder);
    }
}

/* Combining marks in long runs: their sorting must not be quadratic, and the length stays. */
static void many_marks_are_normalised(void **state)
{
    (void)state;
    enum { MARKS = 1000000 };
    struct temp_folder folder = temp_folder_make();
    const struct parts parts = {
        .normalizer = "{\"type\": \"NFC\"}",
        .vocab = "{\"\xC3\x8C\": 0, \"\xC4\xAF\": 1, \"\xC4\xB8\": 2, \"a\": 3}",
        .merges = "[]",
    };
    write_parts(&folder, &parts);
    struct caloris_tokenizer *tok = load_tokenizer(folder.path);
    char *text = malloc(2 * MARKS + 1);
    assert_non_null(text);
    text[0] = 'a';
    /* U+030D above and U+0316 below in turn: those below go first. */
    for (size_t i = 0; i < MARKS; i++)
        memcpy(text + 1 + 2 * i, i % 2 ? "\xCC\x96" : "\xCC\x8D", 2);
    struct caloris_ids ids = {0};
    struct caloris_err err = {0};
    if (caloris_tokenizer_encode(tok, text, 2 * MARKS + 1, CALORIS_TEXT_USER, &ids, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(ids.count, 2 * MARKS + 1);
    caloris_ids_free(&ids);
    free(text);
    caloris_tokenizer_free(tok);
    temp_folder_remove(&folder);
}

/* Loading fails with a complaint that names the file. */
static void expect_complaint(const struct temp_folder *folder, const char *file,
                             const char *complaint)
{
    struct caloris_err err = {0};
    bool found = false;
    struct caloris_tokenizer *tok = caloris_tokenizer_load(folder->path, &found, &err);
    if (tok || err.code != CALORIS_BAD_MODEL || !found || !strstr(err.text, file) ||
        !strstr(err.text, complaint))
        fail_msg("expected \"%s: %s\", found %d \"%s\"", file, complaint, err.code, err.text);
    caloris_tokenizer_free(tok);
}

static void damaged_parts_are_named(void **state)
{
    (void)state;
    static const struct {
        struct parts parts;
        const char *complaint;
    } cases[] = {
        {{.model_keys = "\"type\": \"Unigram\""}, "model.type: \"Unigram\" is not supported"},
        {{.model_keys = "\"type\": 3"}, "model.type: \"?\" is not supported"},
        {{.model_keys = "\"dropout\": 0.1"}, "model.dropout: not supported"},
        {{.model_keys = "\"byte_fallback\": true"}, "model.byte_fallback: not supported"},
        {{.model_keys = "\"end_of_word_suffix\": \"</w>\""}, "model.end_of_word_suffix: not supp"},
        {{.model_keys = "\"ignore_merges\": 1"}, "model.ignore_merges: not true or false"},
        {{.vocab = "[]"}, "model.vocab: not an object of tokens and their ids"},
        {{.vocab = "{}"}, "model.vocab: not an object of tokens and their ids"},
        {{.vocab = "{\"a\": \"0\"}"}, "model.vocab: \"a\": its id is not a whole number"},
        {{.vocab = "{\"a\": 0.5}"}, "model.vocab: \"a\": its id is not a whole number"},
        {{.vocab = "{\"a\": -1}"}, "model.vocab: \"a\": id -1 is not in 0 to 2097151"},
        {{.vocab = "{\"a\": 2097152}"}, "model.vocab: \"a\": id 2097152 is not in 0 to 2097151"},
        {{.vocab = "{\"a\": 9223372036854775807}"}, "id 9223372036854775807 is not in 0 to"},
        {{.vocab = "{\"a\": 1, \"b\": 1}"}, "id 1 is taken by \""},
        {{.vocab = "{\"\": 1}"}, "model.vocab: id 1 has an empty token"},
        {{.vocab = "{\"a\": 1, \"a\": 2}"}, "duplicate object key"},
        {{.merges = "null"}, "model.merges: missing, or not an array"},
        {{.merges = "[\"ab\"]"}, "model.merges[0]: \"ab\" is not two tokens with one space"},
        {{.merges = "[\"a  b\"]"}, "model.merges[0]: \"a  b\" is not two tokens with one space"},
        {{.merges = "[\" b\"]"}, "model.merges[0]: \" b\" is not two tokens"},
        {{.merges = "[\"a b\", [\"a\"]]"}, "model.merges[1]: neither"},
        {{.merges = "[[\"a\", 1]]"}, "model.merges[0]: neither"},
        {{.merges = "[7]"}, "model.merges[0]: neither"},
        {{.merges = "[\"a z\"]"}, "model.merges[0]: \"z\" is not in the vocabulary"},
        {{.merges = "[\"a c\"]"}, "model.merges[0]: \"ac\" is not in the vocabulary"},
        {{.added = "{}"}, "added_tokens: not an array"},
        {{.added = "[1]"}, "added_tokens[0].id: missing, or not a whole number"},
        {{.added = "[{\"id\": 30}]"}, "added_tokens[0].content: missing, or not a string"},
        {{.added = "[{\"id\": 30, \"content\": \"\"}]"},
         "added_tokens[0]: id 30 has an empty token"},
        {{.added = "[{\"id\": 4, \"content\": \"<x>\"}]"},
         "added_tokens[0]: \"<x>\": id 4 is taken by \"1\""},
        {{.added = "[{\"id\": 4294967297, \"content\": \"<x>\"}]"}, "id 4294967297 is not in 0 to"},
        {{.added = "[{\"id\": 30, \"content\": \"<x>\", \"special\": \"yes\"}]"},
         "added_tokens[0].special: not true or false"},
        {{.added = "[{\"id\": 0, \"content\": \"a\", \"special\": true}]"},
         "added_tokens[0]: id 0 is the token of the byte 0x61 and cannot be special"},
        {{.normalizer = "{\"type\": \"NFKC\"}"}, "normalizer.type: NFKC is not supported"},
        {{.normalizer = "7"}, "normalizer.type: a value without a type is not supported"},
        {{.normalizer = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"},"
                        " {\"type\": \"Lowercase\"}]}"},
         "normalizer.normalizers[1].type: Lowercase is not supported"},
        {{.normalizer = "{\"type\": \"Sequence\"}"}, "normalizer.normalizers: missing, or not an"},
        {{.pre_tokenizer = "null"}, "pre_tokenizer: without ByteLevel is not supported"},
        {{.pre_tokenizer = "{\"type\": \"Whitespace\"}"}, "pre_tokenizer.type: Whitespace is not"},
        {{.pre_tokenizer = "{\"type\": \"ByteLevel\"}"}, "add_prefix_space: true is not supported"},
        {{.pre_tokenizer = SEQUENCE(BYTE_LEVEL ", " BYTE_LEVEL)},
         "pre_tokenizer.pretokenizers[1]: a second ByteLevel is not supported"},
        {{.pre_tokenizer = SEQUENCE(BYTE_LEVEL ", {\"type\": \"Digits\"}")},
         "pre_tokenizer.pretokenizers[1]: not supported after ByteLevel"},
        {{.pre_tokenizer =
              SEQUENCE(SPLIT("{\"Regex\": \"a\"}", "Removed", "false") ", " BYTE_LEVEL)},
         "pretokenizers[0].behavior: \"Removed\" with invert false is not supported"},
        {{.pre_tokenizer =
              SEQUENCE(SPLIT("{\"Regex\": \"a\"}", "MergedWithNext", "false") ", " BYTE_LEVEL)},
         "pretokenizers[0].behavior: \"MergedWithNext\" with invert false is not supported"},
        {{.pre_tokenizer =
              SEQUENCE(SPLIT("{\"Regex\": \"(\"}", "Isolated", "false") ", " BYTE_LEVEL)},
         "pretokenizers[0]: pattern (: missing closing parenthesis"},
        {{.pre_tokenizer = SEQUENCE(SPLIT("{}", "Isolated", "false") ", " BYTE_LEVEL)},
         "pretokenizers[0].pattern: neither a Regex nor a String"},
        {{.pre_tokenizer = SEQUENCE(SPLIT("{\"String\": \"\"}", "Isolated", "false"))},
         "pretokenizers[0]: a pattern of 0 bytes"},
        {{.pre_tokenizer = SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(BYTE_LEVEL)))))},
         "pretokenizers[0].pretokenizers: nested too deep"},
        {{.decoder = "{\"type\": \"WordPiece\"}"}, "decoder.type: WordPiece is not supported"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct temp_folder folder = temp_folder_make();
        write_parts(&folder, &cases[i].parts);
        expect_complaint(&folder, "tokenizer.json", cases[i].complaint);
        temp_folder_remove(&folder);
    }
}

static void damaged_files_are_named(void **state)
{
    (void)state;
    static const char merges[] = "#version: 0.2\na b\n";
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2}";
    /* Contents of files that are there, and which of them is complained about. */
    static const struct {
        const char *tokenizer, *vocab, *merges, *config, *map, *file, *complaint;
    } cases[] = {
        {"", 0, 0, 0, 0, "tokenizer.json", ":1:"},
        {"[]", 0, 0, 0, 0, "tokenizer.json", "not an object"},
        {"{}", 0, 0, 0, 0, "tokenizer.json", "model: missing, or not an object"},
        {"{\"model\": \"\xFF\"}", 0, 0, 0, 0, "tokenizer.json", ":1:"},
        {0, vocab, 0, 0, 0, "merges.txt", "No such file"},
        {0, "{", merges, 0, 0, "vocab.json", ":1:"},
        {0, "{\"a\": true}", merges, 0, 0, "vocab.json",
         "vocab.json: \"a\": its id is not a whole number"},
        {0, "{}", merges, 0, 0, "vocab.json", "vocab.json: not an object of tokens and their ids"},
        {0, "{\"a\": -5}", merges, 0, 0, "vocab.json", "\"a\": id -5 is not in 0"},
        {0, vocab, "a b\n\nab\n", 0, 0, "merges.txt", "line 3: \"ab\" is not two tokens"},
        {0, vocab, "a b\na x\n", 0, 0, "merges.txt", "line 2: \"x\" is not in the vocabulary"},
        {0, vocab, merges, "[", 0, "tokenizer_config.json", ":1:"},
        {0, vocab, merges, "3", 0, "tokenizer_config.json", ":1:"},
        {0, vocab, merges, "{\"added_tokens_decoder\": []}", 0, "tokenizer_config.json",
         "added_tokens_decoder: not an object"},
        {0, vocab, merges, "{\"added_tokens_decoder\": {\"x\": {}}}", 0, "tokenizer_config.json",
         "added_tokens_decoder.x: not an id"},
        {0, vocab, merges, "{\"added_tokens_decoder\": {\"3\": {\"content\": 1}}}", 0,
         "tokenizer_config.json", "added_tokens_decoder.3.content: missing, or not a string"},
        {0, vocab, merges,
         "{\"added_tokens_decoder\": {\"99999999999999999999\": {\"content\": "
         "\"x\"}}}",
         0, "tokenizer_config.json", "is not in 0 to"},
        {0, vocab, merges, "{\"added_tokens_decoder\": {\"1\": {\"content\": \"x\"}}}", 0,
         "tokenizer_config.json", "\"x\": id 1 is taken by \"b\""},
        {0, vocab, merges, "{\"eos_token\": \"a\"}", 0, "tokenizer_config.json",
         "eos_token: id 0 is the token of the byte 0x61 and cannot be special"},
        {0, vocab, merges, "{\"add_prefix_space\": true}", 0, "tokenizer_config.json",
         "add_prefix_space: true is not supported"},
        {0, vocab, merges, 0, "{\"mask_token\": {\"content\": \"b\"}}", "special_tokens_map.json",
         "mask_token: id 1 is the token of the byte 0x62"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct temp_folder folder = temp_folder_make();
        const struct {
            const char *name, *text;
        } files[] = {
            {"tokenizer.json", cases[i].tokenizer},    {"vocab.json", cases[i].vocab},
            {"merges.txt", cases[i].merges},           {"tokenizer_config.json", cases[i].config},
            {"special_tokens_map.json", cases[i].map},
        };
        for (size_t f = 0; f < sizeof(files) / sizeof(files[0]); f++)
            if (files[f].text)
                temp_folder_write(&folder, files[f].name, files[f].text);
        expect_complaint(&folder, cases[i].file, cases[i].complaint);
        temp_folder_remove(&folder);
    }
}

static void a_folder_without_a_tokenizer_is_told_apart(void **state)
{
    (void)state;
    struct temp_folder folder = temp_folder_make();
    struct caloris_err err = {0};
    bool found = true;
    temp_folder_write(&folder, "config.json", "{}");
    assert_null(caloris_tokenizer_load(folder.path, &found, &err));
    assert_false(found);
    assert_non_null(strstr(err.text, folder.path));
    assert_null(caloris_tokenizer_load(folder.path, NULL, NULL));
    temp_folder_remove(&folder);
}

/* Roles come from the configuration, the map, and literals in use, in this order. */
static void roles_are_found(void **state)
{
    (void)state;
    static const char added[] =
        "[{\"id\": 20, \"content\": \"<s>\"}, {\"id\": 21, \"content\": \"</s>\", \"special\": "
        "true},"
        " {\"id\": 22, \"content\": \"<|im_end|>\"}, {\"id\": 23, \"content\": \"<M>\"},"
        " {\"id\": 24, \"content\": \"<|x_Mask_y|>\"}, {\"id\": 25, \"content\": \"<think>\"}]";
    static const struct {
        const char *added, *config, *map;
        int32_t bos, eos, eot, mask;
    } cases[] = {
        {added, "{}", "{}", -1, -1, 22, 23},
        {added, "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"}}", "{}", 20, 21,
         22, 23},
        {added, "{\"mask_token\": \"<|x_Mask_y|>\", \"eos_token\": null}",
         "{\"eos_token\": \"</s>\", \"mask_token\": \"<s>\"}", -1, 21, 22, 24},
        {added, "{\"eos_token\": \"<nowhere>\"}", "{}", -1, -1, 22, 23},
        /* "no limit" of Hugging Face: 10^30 */
        {added, "{\"model_max_length\": 1000000000000000019884624838656}", "{}", -1, -1, 22, 23},
        {"[{\"id\": 24, \"content\": \"<|x_Mask_y|>\"}]", "{}", "{}", -1, -1, -1, 24},
        {"[{\"id\": 24, \"content\": \"<mask_0>\"}, {\"id\": 25, \"content\": \"<mask_1>\"}]", "{}",
         "{}", -1, -1, -1, -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct temp_folder folder = temp_folder_make();
        write_parts(&folder, &(struct parts){.added = cases[i].added});
        temp_folder_write(&folder, "tokenizer_config.json", cases[i].config);
        temp_folder_write(&folder, "special_tokens_map.json", cases[i].map);
        struct caloris_tokenizer *tok = load_tokenizer(folder.path);
        assert_int_equal(caloris_tokenizer_bos_id(tok), cases[i].bos);
        assert_int_equal(caloris_tokenizer_eos_id(tok), cases[i].eos);
        assert_int_equal(caloris_tokenizer_eot_id(tok), cases[i].eot);
        assert_int_equal(caloris_tokenizer_mask_id(tok), cases[i].mask);
        if (cases[i].mask >= 0)
            assert_true(caloris_tokenizer_is_special(tok, cases[i].mask));
        assert_false(caloris_tokenizer_is_special(tok, 25));
        caloris_tokenizer_free(tok);
        temp_folder_remove(&folder);
    }
}

/* The chat template is told by its signs, wherever the folder keeps it. */
static void templates_are_detected(void **state)
{
    (void)state;
#define LLADA                                                                                      \
    "<|start_header_id|> role <|end_header_id|> content | trim <|eot_id|> bos_token "              \
    "add_generation_prompt"
    static const struct {
        const char *config, *jinja, *name;
    } cases[] = {
        {"{}", NULL, NULL},
        {"{\"chat_template\": \"" LLADA "\"}", NULL, "llada"},
        {"{\"chat_template\": \"" LLADA " date_string\"}", NULL, NULL},
        {"{\"chat_template\": \"<|im_start|>\"}", NULL, NULL},
        {"{\"chat_template\": \"<|im_start|>\"}", LLADA, "llada"},
        {"{\"chat_template\": \"" LLADA "\"}", "{{ messages }}", NULL},
        {"{\"chat_template\": [{\"name\": \"rag\", \"template\": \"\"},"
         " {\"name\": \"default\", \"template\": \"" LLADA "\"}]}",
         NULL, "llada"},
        {"{\"chat_template\": 7}", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct temp_folder folder = temp_folder_make();
        write_parts(&folder, &usual);
        temp_folder_write(&folder, "tokenizer_config.json", cases[i].config);
        if (cases[i].jinja)
            temp_folder_write(&folder, "chat_template.jinja", cases[i].jinja);
        struct caloris_tokenizer *tok = load_tokenizer(folder.path);
        const char *name = caloris_tokenizer_template(tok);
        assert_string_equal(name ? name : "none", cases[i].name ? cases[i].name : "none");
        caloris_tokenizer_free(tok);
        temp_folder_remove(&folder);
    }
}

static void what_the_model_cannot_encode_is_an_error(void **state)
{
    (void)state;
    struct temp_folder folder = temp_folder_make();
    /* A pattern that backtracks without end, and a byte without a token. */
    write_parts(&folder, &(struct parts){.pre_tokenizer =
                                             SEQUENCE(SPLIT("{\"Regex\": \"(a+)+$\"}", "Isolated",
                                                            "false") ", " BYTE_LEVEL)});
    struct caloris_tokenizer *tok = load_tokenizer(folder.path);
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
         "the model's split pattern gave up at byte 0"},
        {"abz", "the model's vocabulary has no token for the byte 0x7A"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_ids ids = {0};
        struct caloris_err err = {0};
        assert_int_equal(caloris_tokenizer_encode(tok, cases[i].text, strlen(cases[i].text),
                                                  CALORIS_TEXT_USER, &ids, &err),
                         -1);
        if (!strstr(err.text, cases[i].complaint))
            fail_msg("expected \"%s\", found \"%s\"", cases[i].complaint, err.text);
        assert_int_equal(ids.count, 0);
        caloris_ids_free(&ids);
    }
    caloris_tokenizer_free(tok);
    temp_folder_remove(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrangements_that_work),
        cmocka_unit_test(many_marks_are_normalised),
        cmocka_unit_test(damaged_parts_are_named),
        cmocka_unit_test(damaged_files_are_named),
        cmocka_unit_test(a_folder_without_a_tokenizer_is_told_apart),
        cmocka_unit_test(roles_are_found),
        cmocka_unit_test(templates_are_detected),
        cmocka_unit_test(what_the_model_cannot_encode_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
