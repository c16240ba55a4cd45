/* Text that is hostile, and text that comes token by token. */
#include "tests/unit/text_support.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct caloris_tokenizer *demo;

static int open_demo(void **state)
{
    (void)state;
    demo = load_tokenizer(source_path("deploy/models/tinycoder"));
    return 0;
}

static int close_demo(void **state)
{
    (void)state;
    caloris_tokenizer_free(demo);
    return 0;
}

/* The nth of a fixed stream of random numbers. */
static uint32_t draw(uint32_t n)
{
    const uint32_t counter[4] = {n, 0, 0, 0}, key[2] = {20, 26};
    uint32_t out[4];
    caloris_rng_philox(counter, key, out);
    return out[0];
}

/* ---- round trips ---- */

static void any_bytes_round_trip(void **state)
{
    (void)state;
    /* What random texts are put together from; NULL: any byte. */
    static const char *const alphabets[][8] = {
        {NULL},
        {"\x80", "\xF0", "\x9F", "\x98", "\xE4", "\xED", "\xA0", "a"},
        {" ", "\n", "\r", "\t", "\xC2\xA0", "\xE3\x80\x80", "x", "\xC2\x85"},
        {"<|", "|>", "mdm_mask", "eot_id", "<|eot_id|>", "<|mdm_mask|>", "<", "\xFF"},
        {"'", "s", "LL", "7", "\xE4\xBD\xA0", "\xF0\x9F\x98\x80", "e\xCC\x81", "!"},
    };
    enum { ALPHABETS = sizeof(alphabets) / sizeof(alphabets[0]), TEXTS = 200, LETTERS = 300 };
    uint32_t n = 0;
    for (size_t a = 0; a < ALPHABETS; a++) {
        for (size_t t = 0; t < TEXTS; t++) {
            struct caloris_buf text = CALORIS_BUF(1 << 16);
            size_t letters = draw(n++) % LETTERS;
            for (size_t i = 0; i < letters; i++) {
                uint32_t number = draw(n++);
                char byte = (char)(number >> 8);
                if (alphabets[a][0])
                    caloris_buf_printf(&text, NULL, "%s", alphabets[a][number % 8]);
                else
                    caloris_buf_append(&text, &byte, 1, NULL);
            }
            check_round_trip(demo, text.data, text.size);
            caloris_buf_free(&text);
        }
    }
}

static void odd_sequences_round_trip(void **state)
{
    (void)state;
    static const char *const hex[] = {
        "\t",         "00\t",       "000000\t",   "80\t",     "bfbfbfbf\t",   "c080\t",
        "eda080\t",   "f4908080\t", "f0\t",       "f09f98\t", "61f09f9862\t", "fffefdfc\t",
        "efbbbf61\t", "e4bd\t",     "61c3\t",     "c361\t",   "efbfbf\t",     "e1a08e20\t",
        "0d0a0d0a\t", "c2850a\t",   "27c5bf61\t", "3c7c80\t",
    };
    for (size_t i = 0; i < sizeof(hex) / sizeof(hex[0]); i++) {
        char text[32];
        size_t n = parse_hex(hex[i], text, sizeof(text));
        check_round_trip(demo, text, n);
    }
}

/* Quadratic work anywhere in the way would run into the test's time limit by far. */
static void long_runs_round_trip(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a", " ", "\n", "'", "\x80", "\xF0\x9F\x98\x80", "1", "<", "<|eot_id|>", "\xCC\x81", "ab ",
    };
    enum { RUN_BYTES = 1 << 20 };
    char *text = malloc(RUN_BYTES);
    assert_non_null(text);
    for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
        size_t width = strlen(units[u]), n = RUN_BYTES / width * width;
        for (size_t i = 0; i < n; i++)
            text[i] = units[u][i % width];
        check_round_trip(demo, text, n);
    }
    /* White space without a line's end, then a letter: \s*[\r\n]+ looks all the way in vain. */
    memset(text, ' ', RUN_BYTES);
    text[RUN_BYTES - 1] = 'x';
    check_round_trip(demo, text, RUN_BYTES);
    free(text);
}

static void too_long_a_text_is_refused(void **state)
{
    (void)state;
    size_t n = ((size_t)8 << 20) + 1;
    char *text = calloc(n, 1);
    struct caloris_ids ids = {0};
    struct caloris_err err = {0};
    assert_non_null(text);
    assert_int_equal(caloris_tokenizer_encode(demo, text, n, CALORIS_TEXT_USER, &ids, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_REQUEST);
    assert_string_equal(err.text, "text: more than 8388608 bytes");
    assert_int_equal(ids.count, 0);
    caloris_ids_free(&ids);
    free(text);
}

static void decoding_skips_what_is_no_token(void **state)
{
    (void)state;
    const int32_t ids[] = {-1, 64, 511, 512, INT32_MAX, INT32_MIN, 65};
    struct caloris_buf text = CALORIS_BUF(100);
    assert_int_equal(caloris_tokenizer_decode(demo, ids, 7, false, &text, NULL), 0);
    assert_string_equal(text.data, "ab");
    caloris_buf_clear(&text);
    assert_int_equal(caloris_tokenizer_decode(demo, ids, 7, true, &text, NULL), 0);
    assert_string_equal(text.data, "a<|mdm_mask|>b");
    caloris_buf_free(&text);
}

/* ---- streaming ---- */

/* The tokens of single bytes. */
static struct caloris_ids byte_tokens(const char *bytes, size_t n)
{
    struct caloris_ids ids = {0};
    for (size_t i = 0; i < n; i++) {
        struct caloris_ids one = {0};
        assert_int_equal(
            caloris_tokenizer_encode(demo, bytes + i, 1, CALORIS_TEXT_USER, &one, NULL), 0);
        assert_int_equal(one.count, 1);
        caloris_ids_append(&ids, one.id[0], NULL);
        caloris_ids_free(&one);
    }
    return ids;
}

/* jansson takes valid UTF-8 only. */
static bool is_utf8(const struct caloris_buf *text)
{
    json_t *string = json_stringn(text->data ? text->data : "", text->size);
    json_decref(string);
    return string != NULL;
}

/* Pushes ids; after each push the text is valid. */
static void stream(struct caloris_detokenizer *detokenizer, const struct caloris_ids *ids,
                   struct caloris_buf *text)
{
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = text->size;
        assert_int_equal(caloris_detokenizer_push(detokenizer, ids->id[i], text, NULL), 0);
        struct caloris_buf fresh = {text->data + before, text->size - before, 0, 0};
        assert_true(is_utf8(&fresh));
    }
    assert_int_equal(caloris_detokenizer_finish(detokenizer, text, NULL), 0);
    assert_true(is_utf8(text));
}

static void characters_come_whole_or_not_at_all(void **state)
{
    (void)state;
    /* Bytes, and what Python's bytes.decode("utf-8", "replace") makes of them. */
    static const struct {
        const char *bytes, *shown;
    } cases[] = {
        {"f09f9880\t", "f09f9880\t"},
        {"f09f98\t", "efbfbd\t"},
        {"f09f\t", "efbfbd\t"},
        {"f0\t", "efbfbd\t"},
        {"80\t", "efbfbd\t"},
        {"8080\t", "efbfbdefbfbd\t"},
        {"c080\t", "efbfbdefbfbd\t"},
        {"e08080\t", "efbfbdefbfbdefbfbd\t"},
        {"eda080\t", "efbfbdefbfbdefbfbd\t"},
        {"f4908080\t", "efbfbdefbfbdefbfbdefbfbd\t"},
        {"f8888080\t", "efbfbdefbfbdefbfbdefbfbd\t"},
        {"c3\t", "efbfbd\t"},
        {"c328\t", "efbfbd28\t"},
        {"e282\t", "efbfbd\t"},
        {"e28228\t", "efbfbd28\t"},
        {"e282e282ac\t", "efbfbde282ac\t"},
        {"f09f61\t", "efbfbd61\t"},
        {"f0808080\t", "efbfbdefbfbdefbfbdefbfbd\t"},
        {"61ff62\t", "61efbfbd62\t"},
        {"efbfbd\t", "efbfbd\t"},
        {"00\t", "00\t"},
        {"e4bda0e5a5bd\t", "e4bda0e5a5bd\t"},
        {"f09f98f09f9880\t", "efbfbdf09f9880\t"},
        {"edbfbf\t", "efbfbdefbfbdefbfbd\t"},
        {"eda0bdedb880\t", "efbfbdefbfbdefbfbdefbfbdefbfbdefbfbd\t"},
    };
    struct caloris_detokenizer *detokenizer = caloris_detokenizer_new(demo, NULL);
    assert_non_null(detokenizer);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char bytes[64], shown[64];
        size_t n = parse_hex(cases[i].bytes, bytes, sizeof(bytes));
        size_t m = parse_hex(cases[i].shown, shown, sizeof(shown));
        struct caloris_ids ids = byte_tokens(bytes, n);
        struct caloris_buf text = CALORIS_BUF(1000);
        stream(detokenizer, &ids, &text);
        if (text.size != m || memcmp(text.data, shown, m) != 0)
            fail_msg("%s: %zu bytes instead of %zu", cases[i].bytes, text.size, m);
        caloris_buf_free(&text);
        caloris_ids_free(&ids);
    }
    caloris_detokenizer_free(detokenizer);
}

static void an_emoji_appears_with_its_last_byte(void **state)
{
    (void)state;
    struct caloris_ids ids = byte_tokens("\xF0\x9F\x98\x80", 4);
    struct caloris_detokenizer *detokenizer = caloris_detokenizer_new(demo, NULL);
    struct caloris_buf text = CALORIS_BUF(100);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(text.size, 0);
        assert_int_equal(caloris_detokenizer_push(detokenizer, ids.id[i], &text, NULL), 0);
        /* Specials and ids without a token are not shown and do not tear the character. */
        assert_int_equal(caloris_detokenizer_push(detokenizer, 511, &text, NULL), 0);
        assert_int_equal(caloris_detokenizer_push(detokenizer, 9999, &text, NULL), 0);
    }
    assert_string_equal(text.data, "\xF0\x9F\x98\x80");
    caloris_buf_free(&text);
    caloris_ids_free(&ids);
    caloris_detokenizer_free(detokenizer);
}

/* Any ids stream to valid text; when the whole is valid, to exactly that. */
static void random_ids_stream_to_valid_text(void **state)
{
    (void)state;
    struct caloris_detokenizer *detokenizer = caloris_detokenizer_new(demo, NULL);
    enum { SEQUENCES = 500, IDS = 40 };
    size_t same = 0;
    uint32_t n = 0;
    for (size_t s = 0; s < SEQUENCES; s++) {
        struct caloris_ids ids = {0};
        struct caloris_buf text = CALORIS_BUF(1 << 16), whole = CALORIS_BUF(1 << 16);
        for (size_t i = 0; i < IDS; i++)
            caloris_ids_append(&ids, (int32_t)(draw(n++) % (s % 2 ? 520 : 94)), NULL);
        stream(detokenizer, &ids, &text);
        assert_int_equal(caloris_tokenizer_decode(demo, ids.id, ids.count, false, &whole, NULL), 0);
        if (is_utf8(&whole)) {
            assert_int_equal(text.size, whole.size);
            assert_memory_equal(text.data, whole.data, whole.size);
            same++;
        }
        caloris_buf_free(&text);
        caloris_buf_free(&whole);
        caloris_ids_free(&ids);
    }
    assert_true(same >= SEQUENCES / 2);
    caloris_detokenizer_free(detokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_bytes_round_trip),
        cmocka_unit_test(odd_sequences_round_trip),
        cmocka_unit_test(long_runs_round_trip),
        cmocka_unit_test(too_long_a_text_is_refused),
        cmocka_unit_test(decoding_skips_what_is_no_token),
        cmocka_unit_test(characters_come_whole_or_not_at_all),
        cmocka_unit_test(an_emoji_appears_with_its_last_byte),
        cmocka_unit_test(random_ids_stream_to_valid_text),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
