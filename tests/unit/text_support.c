#include "tests/unit/text_support.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"

#include <ctype.h>
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATH_BYTES = 1024, PATHS = 4 };

const char *source_path(const char *name)
{
    static char path[PATHS][PATH_BYTES];
    static size_t next;
    char *to = path[next++ % PATHS];
    const char *root = getenv("CALORIS_SOURCE_DIR");
    snprintf(to, PATH_BYTES, "%s/%s", root ? root : ".", name);
    return to;
}

struct caloris_tokenizer *load_tokenizer(const char *dir)
{
    struct caloris_err err = {0};
    bool found = false;
    struct caloris_tokenizer *tok = caloris_tokenizer_load(dir, &found, &err);
    if (!tok)
        fail_msg("%s", err.text);
    assert_true(found);
    return tok;
}

void check_ids(const char *what, const struct caloris_ids *found, const int32_t *expected,
               size_t count)
{
    if (found->count == count && memcmp(found->id, expected, count * sizeof(*expected)) == 0)
        return;
    print_message("%s\n  expected", what);
    for (size_t i = 0; i < count; i++)
        print_message(" %d", expected[i]);
    print_message("\n  found   ");
    for (size_t i = 0; i < found->count; i++)
        print_message(" %d", found->id[i]);
    fail_msg("other ids");
}

struct caloris_ids parse_ids(const char *list)
{
    struct caloris_ids ids = {0};
    while (*list >= '0' && *list <= '9') {
        char *end;
        assert_int_equal(caloris_ids_append(&ids, (int32_t)strtol(list, &end, 10), NULL), 0);
        list = *end == ',' ? end + 1 : end;
    }
    assert_true(*list == '\0' || *list == '\n');
    return ids;
}

size_t parse_hex(const char *hex, char *bytes, size_t size)
{
    size_t n = 0;
    for (; isxdigit((unsigned char)hex[0]) && isxdigit((unsigned char)hex[1]); hex += 2) {
        const char digits[3] = {hex[0], hex[1], '\0'};
        assert_true(n < size);
        bytes[n++] = (char)strtol(digits, NULL, 16);
    }
    assert_true(*hex == '\t');
    return n;
}

struct temp_folder temp_folder_make(void)
{
    struct temp_folder folder = {"/tmp/caloris-text-XXXXXX"};
    assert_non_null(mkdtemp(folder.path));
    return folder;
}

void temp_folder_write(const struct temp_folder *folder, const char *name, const char *text)
{
    char path[PATH_BYTES];
    struct caloris_err err = {0};
    assert_int_equal(caloris_file_join(path, sizeof(path), folder->path, name, &err), 0);
    if (caloris_file_write(path, text, strlen(text), 0600, &err) < 0)
        fail_msg("%s", err.text);
}

void temp_folder_link(const struct temp_folder *folder, const char *name, const char *target)
{
    char path[PATH_BYTES];
    assert_int_equal(caloris_file_join(path, sizeof(path), folder->path, name, NULL), 0);
    assert_int_equal(symlink(target, path), 0);
}

void temp_folder_remove(const struct temp_folder *folder)
{
    DIR *dir = opendir(folder->path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[PATH_BYTES];
        assert_int_equal(caloris_file_join(path, sizeof(path), folder->path, entry->d_name, NULL),
                         0);
        unlink(path);
    }
    closedir(dir);
    assert_int_equal(rmdir(folder->path), 0);
}

void check_round_trip(const struct caloris_tokenizer *tok, const char *text, size_t n)
{
    struct caloris_ids ids = {0};
    struct caloris_buf back = CALORIS_BUF(64 << 20);
    struct caloris_err err = {0};
    if (caloris_tokenizer_encode(tok, text, n, CALORIS_TEXT_USER, &ids, &err) < 0 ||
        caloris_tokenizer_decode(tok, ids.id, ids.count, true, &back, &err) < 0)
        fail_msg("%zu bytes: %s", n, err.text);
    for (size_t i = 0; i < ids.count; i++)
        if (caloris_tokenizer_is_special(tok, ids.id[i]))
            fail_msg("id %d of a text of %zu bytes is special", ids.id[i], n);
    assert_int_equal(back.size, n);
    if (n)
        assert_memory_equal(back.data, text, n);
    caloris_ids_free(&ids);
    caloris_buf_free(&back);
}
