/* base: errors, sizes, buffers, files, times, and the noise every answer depends on. */
#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/scratch.h"
#include "base/size.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

enum { PATH_BYTES = 256 };

static char folder[PATH_BYTES];

static const char *path_of(const char *name, char path[PATH_BYTES])
{
    assert_int_equal(caloris_file_join(path, PATH_BYTES, folder, name, NULL), 0);
    return path;
}

/* The table of codes as docs and other programs know it. */
static void test_codes(void **state)
{
    (void)state;
    static const struct {
        enum caloris_code code;
        const char *name;
        int client, server;
    } codes[] = {
        {CALORIS_OK, "ok", 0, 0},
        {CALORIS_USAGE, "usage", 2, 2},
        {CALORIS_BAD_CONFIG, "bad_config", 2, 2},
        {CALORIS_BAD_MODEL, "bad_model", 2, 2},
        {CALORIS_BAD_REQUEST, "bad_request", 2, 2},
        {CALORIS_UNREACHABLE, "unreachable", 3, 69},
        {CALORIS_REFUSED, "refused", 4, 2},
        {CALORIS_NOT_FOUND, "not_found", 5, 2},
        {CALORIS_AGAIN, "try_again", 75, 75},
        {CALORIS_PEER_LOST, "peer_lost", 3, 69},
        {CALORIS_NO_MEMORY, "no_memory", 70, 70},
        {CALORIS_IO, "io", 70, 70},
        {CALORIS_INTERNAL, "internal", 70, 70},
        {CALORIS_CANCELLED, "cancelled", 1, 75},
        {CALORIS_EXPIRED, "expired", 1, 75},
        {CALORIS_DEAD_LETTER, "dead_letter", 1, 70},
    };
    assert_int_equal(LENGTH(codes), CALORIS_CODES);
    for (size_t i = 0; i < LENGTH(codes); i++) {
        assert_string_equal(caloris_code_name(codes[i].code), codes[i].name);
        assert_int_equal(caloris_code_from_name(codes[i].name), codes[i].code);
        assert_int_equal(caloris_exit_client(codes[i].code), codes[i].client);
        assert_int_equal(caloris_exit_server(codes[i].code), codes[i].server);
    }
    assert_int_equal(caloris_code_from_name("nonsense"), CALORIS_INTERNAL);
    assert_string_equal(caloris_code_name((enum caloris_code)99), "unknown");
    assert_int_equal(caloris_exit_client((enum caloris_code)99), 70);
    assert_int_equal(caloris_exit_server((enum caloris_code)99), 70);
}

static void test_errors(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    assert_int_equal(caloris_err_set(NULL, CALORIS_IO, "%s", "nobody listens"), -1);
    assert_int_equal(caloris_err_set(&err, CALORIS_BAD_MODEL, "tensor %s", "w"), -1);
    assert_int_equal(err.code, CALORIS_BAD_MODEL);
    assert_string_equal(err.text, "tensor w");

    assert_int_equal(caloris_err_prefix(&err, "rank %d", 3), -1);
    assert_string_equal(err.text, "rank 3: tensor w");
    assert_int_equal(err.code, CALORIS_BAD_MODEL);
    assert_int_equal(caloris_err_prefix(NULL, "rank %d", 3), -1);

    errno = ENOENT;
    assert_int_equal(caloris_err_sys(&err, "opening %s", "x"), -1);
    assert_int_equal(err.code, CALORIS_IO);
    assert_string_equal(err.text, "opening x: No such file or directory");
    assert_int_equal(errno, ENOENT);
    errno = ENOMEM;
    caloris_err_sys(&err, "growing");
    assert_int_equal(err.code, CALORIS_NO_MEMORY);
}

/* However long the parts, the text stays within its bounds and keeps both ends of the story. */
static void test_long_errors(void **state)
{
    (void)state;
    char lots[2000];
    memset(lots, 'a', sizeof(lots) - 1);
    lots[sizeof(lots) - 1] = '\0';
    struct caloris_err err;
    caloris_err_set(&err, CALORIS_IO, "%s", lots);
    assert_int_equal(strlen(err.text), CALORIS_ERR_TEXT - 1);
    caloris_err_prefix(&err, "%s", lots);
    assert_true(strlen(err.text) < CALORIS_ERR_TEXT);
    assert_non_null(strstr(err.text, "a: a"));
    errno = EPERM;
    caloris_err_sys(&err, "%s", lots);
    assert_non_null(strstr(err.text, "a: Operation not permitted"));
}

static void test_size_arithmetic(void **state)
{
    (void)state;
    size_t out = 7;
    assert_true(caloris_size_mul(6, 7, &out));
    assert_int_equal(out, 42);
    assert_false(caloris_size_mul(SIZE_MAX / 2, 3, &out));
    assert_false(caloris_size_add(SIZE_MAX, 1, &out));
    assert_int_equal(out, 42);
    assert_true(caloris_size_add(SIZE_MAX, 0, &out));
    assert_int_equal(out, SIZE_MAX);
    assert_int_equal(caloris_size_round_up(0, 64), 0);
    assert_int_equal(caloris_size_round_up(1, 64), 64);
    assert_int_equal(caloris_size_round_up(64, 64), 64);
    assert_int_equal(caloris_size_round_up(65, 1), 65);
    assert_int_equal(caloris_size_round_up(SIZE_MAX, 64), SIZE_MAX);
}

static void test_size_parse(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},        {"4096", 4096},        {"64KiB", 65536},      {"64k", 65536},
        {"64KB", 64000}, {"1.5GB", 1500000000}, {"8 GiB", 1ull << 33}, {"2TiB", 1ull << 41},
        {"1e3", 1000},
    };
    static const char *const bad[] = {"",    "GiB",   "-1",   "8 bits",      "8GiBs", "nan",
                                      "inf", "1e400", "1e19", "99999999TiB", "8,5GiB"};
    struct caloris_err err;
    for (size_t i = 0; i < LENGTH(good); i++) {
        uint64_t bytes = 77;
        if (caloris_size_parse(good[i].text, &bytes, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < LENGTH(bad); i++) {
        uint64_t bytes = 77;
        if (caloris_size_parse(bad[i], &bytes, &err) == 0)
            fail_msg("\"%s\" was taken for %ju bytes", bad[i], (uintmax_t)bytes);
        assert_int_equal(bytes, 77);
        assert_int_equal(err.code, CALORIS_USAGE);
        assert_true(!bad[i][0] || strstr(err.text, bad[i]));
    }
}

static void test_size_text(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {10760680, "10.3 MiB"},
        {1ull << 40, "1.0 TiB"},
        {UINT64_MAX, "16384.0 PiB"},
    };
    char text[CALORIS_SIZE_TEXT];
    for (size_t i = 0; i < LENGTH(cases); i++)
        assert_string_equal(caloris_size_text(cases[i].bytes, text), cases[i].text);
}

/* Every split covers the whole once, in order, and no part is larger than another by more than
 * 1. */
static void test_size_deal(void **state)
{
    (void)state;
    for (size_t total = 0; total < 40; total++) {
        for (size_t parts = 1; parts < 12; parts++) {
            size_t next = 0, last = SIZE_MAX;
            for (size_t index = 0; index < parts; index++) {
                size_t first, count;
                caloris_size_deal(total, parts, index, &first, &count);
                assert_int_equal(first, next);
                assert_true(count == total / parts || count == total / parts + 1);
                assert_true(count <= last);
                next += count;
                last = count;
            }
            assert_int_equal(next, total);
        }
    }
}

static void test_buf(void **state)
{
    (void)state;
    struct caloris_err err;
    struct caloris_buf buf = CALORIS_BUF(1000);
    assert_null(buf.data);
    caloris_buf_consume(&buf, 0);
    assert_int_equal(caloris_buf_append(&buf, "abc", 3, &err), 0);
    assert_int_equal(caloris_buf_printf(&buf, &err, "%d-%s", 42, "x"), 0);
    assert_string_equal(buf.data, "abc42-x");
    assert_int_equal(buf.size, 7);
    caloris_buf_consume(&buf, 3);
    assert_string_equal(buf.data, "42-x");
    caloris_buf_clear(&buf);
    assert_string_equal(buf.data, "");

    /* Exactly up to the maximum, never beyond; what was there stays. */
    char lots[1001];
    memset(lots, 'x', 1000);
    lots[1000] = '\0';
    assert_int_equal(caloris_buf_append(&buf, lots, 999, &err), 0);
    assert_int_equal(caloris_buf_append(&buf, "yz", 2, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_REQUEST);
    assert_string_equal(err.text, "more than 1000 bytes");
    assert_int_equal(caloris_buf_printf(&buf, &err, "%s", "yz"), -1);
    assert_int_equal(caloris_buf_append(&buf, lots, SIZE_MAX, &err), -1);
    assert_int_equal(buf.size, 999);
    assert_int_equal(caloris_buf_append(&buf, "y", 1, &err), 0);
    assert_int_equal(buf.size, 1000);
    assert_int_equal(buf.data[1000], '\0');
    caloris_buf_free(&buf);
    assert_null(buf.data);
    assert_int_equal(buf.max, 1000);
    caloris_buf_free(NULL);
}

static void read_back(const char *path, const char *expected)
{
    struct caloris_err err;
    struct caloris_buf buf = CALORIS_BUF(1 << 20);
    if (caloris_file_read(path, &buf, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(buf.data, expected);
    caloris_buf_free(&buf);
}

static void test_files(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    struct caloris_err err;
    struct stat st;
    path_of("note", path);
    assert_int_equal(caloris_file_write(path, "one", 3, 0600, &err), 0);
    read_back(path, "one");
    assert_int_equal(caloris_file_write(path, "", 0, 0640, &err), 0);
    read_back(path, "");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);

    struct caloris_buf small = CALORIS_BUF(2);
    assert_int_equal(caloris_file_write(path, "one", 3, 0600, &err), 0);
    assert_int_equal(caloris_file_read(path, &small, &err), -1);
    assert_non_null(strstr(err.text, "note: more than 2 bytes"));
    caloris_buf_free(&small);

    path_of("none/note", path);
    assert_int_equal(caloris_file_write(path, "one", 3, 0600, &err), -1);
    assert_int_equal(err.code, CALORIS_IO);
    assert_non_null(strstr(err.text, "none/note: No such file or directory"));
}

/* A reader of the old file keeps it whole while the new one takes its name; nothing is left over
 * when that fails. */
static void test_files_appear_whole(void **state)
{
    (void)state;
    char path[PATH_BYTES], dir[PATH_BYTES], bytes[4] = "";
    struct caloris_err err;
    assert_int_equal(caloris_file_make_dirs(path_of("whole/in", dir), 0700, &err), 0);
    path_of("whole/in/file", path);
    assert_int_equal(caloris_file_write(path, "old", 3, 0600, &err), 0);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(caloris_file_write(path, "new", 3, 0600, &err), 0);
    assert_int_equal(caloris_file_read_at(fd, path, bytes, 3, 0, &err), 0);
    assert_string_equal(bytes, "old");
    close(fd);
    read_back(path, "new");

    assert_int_equal(caloris_file_write(dir, "x", 1, 0600, &err), -1); /* a folder is in the way */
    assert_non_null(strstr(err.text, "whole/in: Is a directory"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(rmdir(path_of("whole", dir)), 0); /* no temporary file is left in it */
}

static void test_read_at(void **state)
{
    (void)state;
    char path[PATH_BYTES], to[8] = "";
    struct caloris_err err;
    path_of("short", path);
    assert_int_equal(caloris_file_write(path, "0123456789", 10, 0600, &err), 0);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(caloris_file_read_at(fd, path, to, 4, 6, &err), 0);
    assert_string_equal(to, "6789");
    assert_int_equal(caloris_file_read_at(fd, path, to, 5, 6, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_MODEL);
    assert_non_null(strstr(err.text, "short ends at byte 10, 1 bytes short"));
    close(fd);
    assert_int_equal(caloris_file_read_at(fd, path, to, 1, 0, &err), -1);
    assert_non_null(strstr(err.text, "reading 1 bytes at 0: Bad file descriptor"));
}

static void test_private_folders(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    struct caloris_err err;
    path_of("private", path);
    assert_int_equal(caloris_file_check_private(path, &err), -1);
    assert_int_equal(caloris_file_make_dirs(path, 0700, &err), 0);
    assert_int_equal(caloris_file_make_dirs(path, 0700, &err), 0);
    assert_int_equal(caloris_file_check_private(path, &err), 0);
    static const mode_t open_modes[] = {0750, 0701, 0710, 0777};
    for (size_t i = 0; i < LENGTH(open_modes); i++) {
        assert_int_equal(chmod(path, open_modes[i]), 0);
        assert_int_equal(caloris_file_check_private(path, &err), -1);
        assert_int_equal(err.code, CALORIS_BAD_CONFIG);
        assert_non_null(strstr(err.text, "it must be 0700"));
    }
    path_of("plain", path);
    assert_int_equal(caloris_file_write(path, "x", 1, 0600, &err), 0);
    assert_int_equal(caloris_file_check_private(path, &err), -1);
    assert_non_null(strstr(err.text, "plain is not a directory"));
    if (geteuid() == 0) {
        path_of("other", path);
        assert_int_equal(caloris_file_make_dirs(path, 0700, &err), 0);
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_int_equal(caloris_file_check_private(path, &err), -1);
        assert_non_null(strstr(err.text, "belongs to user 65534"));
    }
    assert_int_equal(caloris_file_make_dirs(path_of("plain/below", path), 0700, &err), -1);
    assert_non_null(strstr(err.text, "Not a directory"));
}

static void test_paths(void **state)
{
    (void)state;
    char path[8];
    struct caloris_err err;
    assert_int_equal(caloris_file_join(path, sizeof(path), "abc", "def", &err), 0);
    assert_string_equal(path, "abc/def");
    assert_int_equal(caloris_file_join(path, sizeof(path), "abc", "defg", &err), -1);
    assert_string_equal(err.text, "path too long: abc…/defg");
}

static void test_time_text(void **state)
{
    (void)state;
    static const struct {
        uint64_t wall_ms;
        const char *text;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {951782399999, "2000-02-28T23:59:59.999Z"},
        {951782400000, "2000-02-29T00:00:00.000Z"},
        {UINT64_C(253402300799999), "9999-12-31T23:59:59.999Z"},
    };
    char text[CALORIS_TIME_TEXT];
    for (size_t i = 0; i < LENGTH(cases); i++)
        assert_string_equal(caloris_time_text(cases[i].wall_ms, text), cases[i].text);
    static const struct {
        const char *text;
        int64_t wall_ms; /* -1: no time */
    } parsed[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2026-11-24T08:00:00Z", 1795507200000},
        {"2026-11-24T08:00:00.5Z", 1795507200500},
        {"2026-11-24T08:00:00.123456Z", 1795507200123},
        {"2026-11-24T09:30:00+01:30", 1795507200000},
        {"2026-11-23T20:00:00-12:00", 1795507200000},
        {"2024-02-29T00:00:00Z", 1709164800000},
        {"2023-02-29T00:00:00Z", -1},
        {"2026-11-24T08:00:00", -1},
        {"2026-11-24 08:00:00Z", -1},
        {"2026-11-24T8:00:00Z", -1},
        {"2026-11-24T08:00:00.Z", -1},
        {"2026-11-24T08:00:00Zz", -1},
        {"2026-11-24T08:00:00+1:00", -1},
        {"2026-11-24T08:00:00+01:00x", -1},
        {"2026-11-24T08:00:00+01:+1", -1},
        {"1969-12-31T23:59:59Z", -1},
        {"2026-13-01T00:00:00Z", -1},
        {"", -1},
    };
    for (size_t i = 0; i < sizeof(parsed) / sizeof(parsed[0]); i++) {
        uint64_t wall_ms = UINT64_MAX;
        int rc = caloris_time_parse(parsed[i].text, &wall_ms);
        if (rc != (parsed[i].wall_ms < 0 ? -1 : 0) ||
            (rc == 0 && wall_ms != (uint64_t)parsed[i].wall_ms))
            fail_msg("%s: %d, %" PRIu64, parsed[i].text, rc, wall_ms);
    }
    uint64_t before = caloris_time_ns();
    assert_true(caloris_time_ns() >= before);
}

/* Known answers distributed with the paper's own implementation (Random123, kat_vectors). */
static void test_philox(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < LENGTH(known); i++) {
        uint32_t out[4];
        caloris_rng_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof(out));
    }
}

/* The noise as its header states it, and different when any part of its key is. */
static void test_noise_depends_on_its_whole_key(void **state)
{
    (void)state;
    struct caloris_noise_key keys[6];
    for (size_t i = 0; i < LENGTH(keys); i++)
        keys[i] =
            (struct caloris_noise_key){UINT64_C(0x0123456789abcdef), 1, CALORIS_NOISE_TOKEN, 2};
    keys[1].seed ^= UINT64_C(1) << 63;
    keys[2].seed ^= 1;
    keys[3].candidate++;
    keys[4].stream = CALORIS_NOISE_ORDER;
    keys[5].step++;
    double seen[8];
    size_t n = 0;
    for (size_t i = 0; i < LENGTH(keys); i++)
        seen[n++] = caloris_noise_uniform(&keys[i], 3, 4);
    seen[n++] = caloris_noise_uniform(&keys[0], 4, 4);
    seen[n++] = caloris_noise_uniform(&keys[0], 3, 5);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++)
            assert_true(seen[i] != seen[j]);
    }
    assert_true(seen[0] == caloris_noise_uniform(&keys[0], 3, 4));

    const uint32_t counter[4] = {4, 3, 2, 1u << 8 | CALORIS_NOISE_TOKEN};
    const uint32_t key[2] = {0x89abcdef, 0x01234567};
    uint32_t bits[4];
    caloris_rng_philox(counter, key, bits);
    double expected = ((double)(((uint64_t)bits[0] << 32 | bits[1]) >> 12) + 0.5) / 0x1p52;
    assert_true(seen[0] == expected);
    assert_true(fabs(caloris_noise_gumbel(&keys[0], 3, 4) + log(-log(expected))) < 1e-12);
}

/* Moments of a million draws against those of the distributions, within five standard errors. */
static void test_noise_moments(void **state)
{
    (void)state;
    enum { DRAWS = 1000000, TOKENS = 1000 };
    const double euler = 0.57721566490153286, pi = 3.14159265358979324;
    const struct caloris_noise_key key = {42, 0, CALORIS_NOISE_TOKEN, 0};
    double sum = 0, squares = 0, gumbel_sum = 0, gumbel_squares = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        double u = caloris_noise_uniform(&key, i / TOKENS, i % TOKENS);
        assert_true(u > 0 && u < 1);
        double g = caloris_noise_gumbel(&key, i / TOKENS, i % TOKENS);
        assert_true(isfinite(g));
        sum += u;
        squares += (u - 0.5) * (u - 0.5);
        gumbel_sum += g;
        gumbel_squares += (g - euler) * (g - euler);
    }
    double root = sqrt(DRAWS);
    assert_true(fabs(sum / DRAWS - 0.5) < 5 * sqrt(1.0 / 12) / root);
    assert_true(fabs(squares / DRAWS - 1.0 / 12) < 5 * sqrt(1.0 / 180) / root);
    assert_true(fabs(gumbel_sum / DRAWS - euler) < 5 * pi / sqrt(6) / root);
    /* The variance of Gumbel squares: fourth moment 27/5, so (27/5 - 1) of the variance squared. */
    double variance = pi * pi / 6;
    assert_true(fabs(gumbel_squares / DRAWS - variance) < 5 * sqrt(4.4) * variance / root);
}

static void test_fresh_seeds(void **state)
{
    (void)state;
    uint64_t a = caloris_rng_fresh_seed(), b = caloris_rng_fresh_seed();
    assert_true(a < UINT64_C(1) << 53 && b < UINT64_C(1) << 53);
    assert_true(a != b);
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* A directory whose owner was killed goes when the next one is made; one with an owner, or of
 * another prefix, stays. */
static void test_scratch(void **state)
{
    (void)state;
    struct caloris_scratch mine = {0}, next = {0}, other = {0}, none = {0};
    struct caloris_err err;
    char file[2 * PATH_BYTES];
    int ends[2], status;
    assert_int_equal(caloris_scratch_make(&mine, folder, "scratch", &err), 0);
    assert_int_equal(caloris_scratch_make(&other, folder, "scratch-other", &err), 0);
    close(other.lock); /* as if its owner were gone */
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(mine.lock);
        if (caloris_scratch_make(&next, folder, "scratch", NULL) < 0 ||
            snprintf(file, sizeof(file), "%s/in", next.path) < 0 || mkdir(file, 0700) < 0 ||
            snprintf(file, sizeof(file), "%s/in/file", next.path) < 0 ||
            close(creat(file, 0600)) < 0)
            _exit(1);
        raise(write(ends[1], next.path, sizeof(next.path)) > 0 ? SIGKILL : SIGABRT);
    }
    char lost[CALORIS_SCRATCH_PATH] = "";
    close(ends[1]);
    assert_int_equal(read(ends[0], lost, sizeof(lost)), sizeof(lost));
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(is_there(lost));

    assert_int_equal(caloris_scratch_make(&next, folder, "scratch", &err), 0);
    assert_false(is_there(lost));
    assert_true(is_there(mine.path) && is_there(next.path) && is_there(other.path));
    snprintf(file, sizeof(file), "%s", mine.path);
    caloris_scratch_remove(&mine);
    assert_false(is_there(file) || mine.path[0]);
    caloris_scratch_remove(&mine);
    caloris_scratch_remove(&next);
    assert_int_equal(caloris_scratch_make(&next, folder, "scratch-other", &err), 0);
    assert_false(is_there(other.path));
    caloris_scratch_remove(&next);

    assert_int_equal(caloris_scratch_make(&none, "/no/such", "scratch", &err), -1);
    assert_non_null(strstr(err.text, "/no/such/scratch."));
    assert_true(!none.path[0]);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/caloris-base-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[PATH_BYTES + 16];
    snprintf(command, sizeof(command), "rm -r '%s'", folder);
    return system(command) == 0 ? 0 : -1;
}

/* At most 4 values, 3 containers, 2 deep. */
static void test_json_limits(void **state)
{
    (void)state;
    static const struct caloris_json_limits limits = {4, 3, 2};
    static const struct {
        const char *text, *complaint; /* NULL: passes */
    } cases[] = {
        {"", NULL},
        {"{}", NULL},
        {"[1, 2, 3, 4]", NULL},
        {"[1, 2, 3, 4, 5]", "it: more than 4 values"},
        {"{\"a\": 1, \"b\": 2, \"c\": 3, \"d\": 4, \"e\": 5}", "it: more than 4 values"},
        {"[[], []]", NULL},
        {"[{}, {}, {}]", "it: more than 4 values"},
        {"[][][][]", "it: 4 arrays and objects, more than 3"},
        {"[[[]]]", "it: arrays and objects within each other, 3 deep; 2 may be"},
        {"[{\"a\": [", "it: arrays and objects within each other, 3 deep; 2 may be"},
        {"[\"[[[[,,,,{{{{\"]", NULL},
        {"[\"\\\"[[[[,,,,\"]", NULL},
        {"[\"\\\\\", []", NULL},
        {"[\"\\\\\", [[]]", "it: arrays"},
        {"[\"an open string[[[[", NULL},
        {"[\"an open string\\", NULL},
        {"]]]][]", NULL},
    };
    struct caloris_err err;
    for (size_t i = 0; i < LENGTH(cases); i++) {
        const int rc =
            caloris_json_check(cases[i].text, strlen(cases[i].text), &limits, "it", &err);
        if (rc != (cases[i].complaint ? -1 : 0))
            fail_msg("%s: %d", cases[i].text, rc);
        if (rc == 0)
            continue;
        assert_int_equal(err.code, CALORIS_BAD_REQUEST);
        if (strncmp(err.text, cases[i].complaint, strlen(cases[i].complaint)) != 0)
            fail_msg("%s: %s", cases[i].text, err.text);
    }
}

/* Integers that 64 bits hold stay integers, larger ones are reals, whatever stands around them. */
static void test_json_big_integers(void **state)
{
    (void)state;
    static const struct {
        const char *text, *same; /* NULL: refused */
    } cases[] = {
        {"[9223372036854775807, -9223372036854775808, 1.0, 7]",
         "[9223372036854775807, -9223372036854775808, 1.0, 7]"},
        {"[9223372036854775808,-9223372036854775809]",
         "[9223372036854775808.0, -9223372036854775809.0]"},
        {"{\"a\":1000000000000000019884624838656,\"b\":[9223372036854775807,2.5e-1,-3]}",
         "{\"a\": 1e30, \"b\": [9223372036854775807, 0.25, -3]}"},
        {"[\"9223372036854775808 \\\"9223372036854775808\",9223372036854775808]",
         "[\"9223372036854775808 \\\"9223372036854775808\", 9223372036854775808.0]"},
        {"[9223372036854775808,9223372036854775808.5,12345678901234567890e3]",
         "[9223372036854775808.0, 9223372036854775808.5, 12345678901234567890e3]"},
        {"[9223372036854775808", NULL},
        {"[9223372036854775808,\"open", NULL},
        {"[9223372036854775808,\"open\\", NULL},
        {"[9223372036854775808,1e999]", NULL},
        {"[9223372036854775808,01]", NULL},
        {"{\"a\":9223372036854775808,\"a\":1}", NULL},
    };
    struct caloris_err err;
    for (size_t i = 0; i < LENGTH(cases); i++) {
        json_t *document = caloris_json_parse(cases[i].text, strlen(cases[i].text), "it", &err);
        json_t *same = cases[i].same ? json_loads(cases[i].same, 0, NULL) : NULL;
        if (!document != !same || (same && !json_equal(document, same)))
            fail_msg("%s: %s", cases[i].text, document ? "reads as something else" : err.text);
        if (!same)
            assert_int_equal(strncmp(err.text, "it:1:", 5), 0);
        json_decref(document);
        json_decref(same);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_long_errors),
        cmocka_unit_test(test_size_arithmetic),
        cmocka_unit_test(test_size_parse),
        cmocka_unit_test(test_size_text),
        cmocka_unit_test(test_size_deal),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_files_appear_whole),
        cmocka_unit_test(test_read_at),
        cmocka_unit_test(test_private_folders),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_time_text),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_noise_depends_on_its_whole_key),
        cmocka_unit_test(test_noise_moments),
        cmocka_unit_test(test_fresh_seeds),
        cmocka_unit_test(test_scratch),
        cmocka_unit_test(test_json_limits),
        cmocka_unit_test(test_json_big_integers),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
