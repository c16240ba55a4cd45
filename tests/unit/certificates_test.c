/* Certificates, the files that say who may come, and the handshake that asks for them. */
#include "base/err.h"
#include "base/file.h"
#include "base/time.h"
#include "coordinator/gateway/broker/authorized.h"
#include "proto/cluster.h"
#include "proto/curve.h"
#include "proto/keys.h"
#include "proto/zpl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

static char dir[] = "/tmp/caloris-keys-XXXXXX";

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) && chdir(dir) == 0 && setenv("HOME", dir, 1) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static void put(const char *path, const char *text, mode_t mode)
{
    struct caloris_err err;
    if (caloris_file_write(path, text, strlen(text), mode, &err) < 0)
        fail_msg("%s", err.text);
}

static void expect_words(const struct caloris_err *err, const char *words)
{
    if (!strstr(err->text, words))
        fail_msg("\"%s\" does not say \"%s\"", err->text, words);
}

/* ---- ZPL ------------------------------------------------------------------------------------- */

struct taken {
    char text[512];
};

static int take(const char *value, void *to, struct caloris_err *err)
{
    struct taken *taken = to;
    size_t n = strlen(taken->text);
    if (strcmp(value, "bad") == 0)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "a bad value");
    snprintf(taken->text + n, sizeof(taken->text) - n, "[%s]", value);
    return 0;
}

static const struct caloris_zpl_key table[] = {
    {"a", true, take}, {"b/c", false, take}, {"b/d/e", false, take}, {"free/*", false, NULL}};

static int read_text(const char *text, size_t n, struct taken *taken, struct caloris_err *err)
{
    *taken = (struct taken){""};
    return caloris_zpl_read("f", text, n, table, sizeof(table) / sizeof(*table), taken, err);
}

static void zpl_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *text, *values;
    } good[] = {
        {"a = 1", "[1]"},
        {"a=1\n", "[1]"},
        {"# c\n\n   # c\na = \"1 # 2\" # c\n", "[1 # 2]"},
        {"a = 'x\"y'\n", "[x\"y]"},
        {"a = x y  # z", "[x y]"},
        {"a = \"\"", "[]"},
        {"a = \"ä\"", "[ä]"},
        {"b\n    c = 1\n    d\n        e = 2\na = 3", "[1][2][3]"},
        {"b # c\n\n    # c\n    c = 1\na = 3", "[1][3]"},
        {"free\n    whatever = 1\n    whatever = 2\n    deep\n        er = 1\na = 1", "[1]"},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        struct taken taken;
        struct caloris_err err;
        if (read_text(good[i].text, strlen(good[i].text), &taken, &err) < 0)
            fail_msg("case %zu: %s", i, err.text);
        assert_string_equal(taken.text, good[i].values);
    }
}

static void damaged_zpl_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "f: a is missing"},
        {"b\n    c = 1\n", "f: a is missing"},
        {"a = 1\na = 2", "f:2: a stands here twice"},
        {"a = 1\nx = 2", "f:2: unknown name x"},
        {"a = 1\nb\n    x = 2", "f:3: unknown name b/x"},
        {"a = 1\nx", "f:2: unknown name x"},
        {"a", "f:1: a has no value"},
        {"a =", "f:1: no value"},
        {"a = # 1", "f:1: no value"},
        {"a = \"1", "f:1: a quote without an end"},
        {"a = \"1\" 2", "f:1: something stands behind"},
        {"a 1", "f:1: = or the line's end"},
        {"= 1", "f:1: a name of 1 to 64"},
        {"a = bad", "f:1: a: a bad value"},
        {"b\n  c = 1", "f:2: 2 spaces"},
        {"b\n        c = 1", "f:2: level 2 is too deep"},
        {"    a = 1", "f:1: level 1 is too deep"},
        {"a = 1\n\tb", "f:2: control character 9"},
        {"a = 1\r\n", "f:1: control character 13"},
        {"a = 1\nfree\n    x\n        x\n            x\n                x = 1", "f:6: level 4"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa = 1",
         "f:1: a name of 1 to 64"},
    };
    struct taken taken;
    struct caloris_err err;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(read_text(bad[i].text, strlen(bad[i].text), &taken, &err), -1);
        assert_int_equal(err.code, CALORIS_BAD_CONFIG);
        expect_words(&err, bad[i].words);
    }
    assert_int_equal(read_text("a = 1\0", 6, &taken, &err), -1);
    expect_words(&err, "f:1: control character 0");

    static char large[CALORIS_ZPL_MAX_BYTES + 1];
    memset(large, '\n', sizeof(large));
    assert_int_equal(read_text(large, sizeof(large), &taken, &err), -1);
    expect_words(&err, "the limit is 16384");
    memset(large, 'x', sizeof(large));
    memcpy(large, "a = ", 4);
    assert_int_equal(read_text(large, CALORIS_ZPL_MAX_VALUE + 5, &taken, &err), -1);
    expect_words(&err, "f:1: a value of 513 bytes");
    assert_int_equal(read_text(large, CALORIS_ZPL_MAX_VALUE + 4, &taken, &err), 0);
}

/* Whatever bytes of a file change, it is read or refused: the sanitizers look on. */
static void mutated_files_harm_nobody(void **state)
{
    (void)state;
    static const char whole[] =
        "user = \"alice\"\nrights = \"submit\"\nlimits\n    share = 2\ncurve\n"
        "    public-key = \"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7\"\n";
    struct caloris_identity who;
    assert_int_equal(authorized_read("f", whole, sizeof(whole) - 1, &who, NULL), 0);
    unsigned random = 20261124, read = 0;
    for (int i = 0; i < 20000; i++) {
        char text[sizeof(whole)];
        size_t n = sizeof(whole) - 1;
        memcpy(text, whole, sizeof(whole));
        for (int k = 0; k < 1 + i % 4; k++) {
            random = random * 1103515245 + 12345;
            size_t at = random >> 8 & 0xffff;
            random = random * 1103515245 + 12345;
            text[at % n] =
                random & 0x10000 ? "\n =\"#'/*0"[(random >> 17) % 9] : (char)(random >> 20);
        }
        n -= (random >> 10) % 3 == 0 ? (random >> 12) % n : 0;
        read += authorized_read("f", text, n, &who, NULL) == 0;
    }
    assert_in_range(read, 100, 10000);
}

/* ---- certificates ---------------------------------------------------------------------------- */

static void certificates_are_written_and_read(void **state)
{
    (void)state;
    struct caloris_keys keys, back;
    struct caloris_err err;
    char key[CALORIS_KEY_TEXT + 1];
    struct stat st;
    assert_int_equal(caloris_keys_make(&keys, &err), 0);
    assert_int_equal(caloris_keys_write("mine", &keys, "me@here", &err), 0);
    assert_int_equal(stat("mine", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(caloris_keys_load("mine", &back, &err), 0);
    assert_memory_equal(&back, &keys, sizeof(keys));
    assert_int_equal(caloris_keys_find_public("mine.pub", key, &err), 0);
    assert_string_equal(key, keys.public_key);
    assert_int_equal(caloris_keys_find_public(keys.public_key, key, &err), 0);
    assert_string_equal(key, keys.public_key);

    assert_int_equal(caloris_keys_write("mine", &keys, "me@here", &err), -1);
    expect_words(&err, "it is not replaced");
    assert_int_equal(unlink("mine"), 0);
    assert_int_equal(caloris_keys_write("mine", &keys, "me@here", &err), -1);
    expect_words(&err, "mine.pub is there already");
    assert_int_equal(caloris_keys_write("other", &keys, "a\"b", &err), -1);
    expect_words(&err, "no quotes");

    assert_true(caloris_keys_equal(keys.public_key, key));
    key[39] ^= 1;
    assert_false(caloris_keys_equal(keys.public_key, key));
}

/* As CZMQ writes one; the keys are those of ZeroMQ's manual of zmq_curve. */
#define CZMQ_HEAD                                                                                  \
    "#   ****  Generated on 2026-11-24 00:00:00 by CZMQ  ****\n"                                   \
    "#   ZeroMQ CURVE **Secret** Certificate\n\nmetadata\n    name = \"Joe\"\ncurve\n"
#define MANUAL_PUBLIC "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
#define MANUAL_SECRET "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
#define PUBLIC_LINE   "    public-key = \"" MANUAL_PUBLIC "\"\n"
#define SECRET_LINE   "    secret-key = \"" MANUAL_SECRET "\"\n"

static void bad_certificates_are_refused(void **state)
{
    (void)state;
    struct caloris_keys keys;
    struct caloris_err err;
    put("czmq", CZMQ_HEAD PUBLIC_LINE SECRET_LINE, 0600);
    assert_int_equal(caloris_keys_load("czmq", &keys, &err), 0);
    assert_string_equal(keys.public_key, MANUAL_PUBLIC);
    assert_string_equal(keys.secret_key, MANUAL_SECRET);

    static const struct {
        const char *text;
        mode_t mode;
        const char *words;
    } bad[] = {
        {CZMQ_HEAD PUBLIC_LINE SECRET_LINE, 0604, "chmod 600 bad"},
        {CZMQ_HEAD PUBLIC_LINE SECRET_LINE, 0640, "mode 0640: others may use it"},
        {CZMQ_HEAD PUBLIC_LINE, 0600, "bad: curve/secret-key is missing"},
        {CZMQ_HEAD SECRET_LINE, 0600, "bad: curve/public-key is missing"},
        {CZMQ_HEAD PUBLIC_LINE "    secret-key = \"" MANUAL_PUBLIC "\"\n", 0600, "does not belong"},
        {CZMQ_HEAD "    public-key = \"short\"\n", 0600, "bad:7: curve/public-key: 5 characters"},
        {CZMQ_HEAD "    public-key = \"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hI~\"\n", 0600,
         "bad:7: curve/public-key: 40 characters that are no key"},
        {CZMQ_HEAD PUBLIC_LINE PUBLIC_LINE, 0600, "bad:8: curve/public-key stands here twice"},
        {"", 0600, "is missing"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        put("bad", bad[i].text, bad[i].mode);
        assert_int_equal(caloris_keys_load("bad", &keys, &err), -1);
        assert_int_equal(err.code, CALORIS_BAD_CONFIG);
        expect_words(&err, bad[i].words);
    }
    assert_int_equal(caloris_keys_load("none", &keys, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_CONFIG);
    assert_int_equal(caloris_keys_load(dir, &keys, &err), -1);
    expect_words(&err, "not a regular file");
}

/* ---- who may come ---------------------------------------------------------------------------- */

static void authorized_files(void **state)
{
    (void)state;
    struct caloris_identity who;
    struct caloris_err err;
    static const char key[] = "curve\n" PUBLIC_LINE;
    char text[512];
    assert_int_equal(authorized_read("d/alice", key, strlen(key), &who, &err), 0);
    assert_string_equal(who.user, "alice");
    assert_int_equal(who.rights, RIGHT_SUBMIT | RIGHT_READ_OWN);
    assert_int_equal(who.max_queued, 0);
    assert_int_equal(who.max_bytes, 0);
    assert_int_equal(who.share, 1);
    assert_int_equal(who.max_priority, 100);
    assert_string_equal(who.key, MANUAL_PUBLIC);

    snprintf(
        text, sizeof(text),
        "user = \"bob\"\nrights = \"serve, admin read-all\"\nlimits\n    max_queued = 7\n"
        "    max_bytes = 1.5GiB\n    max_running = 2\n    share = 10\n    max_priority = -5\n%s",
        key);
    assert_int_equal(authorized_read("d/alice", text, strlen(text), &who, &err), 0);
    assert_string_equal(who.user, "bob");
    assert_int_equal(who.rights, RIGHT_SERVE | RIGHT_ADMIN | RIGHT_READ_ALL);
    assert_int_equal(who.max_queued, 7);
    assert_int_equal(who.max_bytes, 3u << 29);
    assert_int_equal(who.max_running, 2);
    assert_int_equal(who.share, 10);
    assert_int_equal(who.max_priority, -5);
    char words[AUTHORIZED_RIGHTS_TEXT];
    assert_string_equal(authorized_rights(who.rights, words), "read-all serve admin");
    assert_string_equal(authorized_rights(RIGHTS_ALL, words),
                        "submit read-own read-all serve admin");

    static const char *const none[] = {"", " ", ",", " , "}; /* is not what is not said */
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
        snprintf(text, sizeof(text), "rights = \"%s\"\n%s", none[i], key);
        assert_int_equal(authorized_read("d/alice", text, strlen(text), &who, &err), 0);
        assert_int_equal(who.rights, 0);
    }

    static const struct {
        const char *line, *words;
    } bad[] = {
        {"rights = \"submit root\"", "d/alice:1: rights: \"root\" is no right"},
        {"user = \"a b\"", "d/alice:1: user: \"a b\" is no name"},
        {"user = \"\"", "d/alice:1: user"},
        {"limits\n    share = 0", "d/alice:2: limits/share: \"0\" is no whole number"},
        {"limits\n    share = 1001", "from 1 to 1000"},
        {"limits\n    max_queued = -1", "d/alice:2: limits/max_queued"},
        {"limits\n    max_queued = 99999999999999999999", "d/alice:2: limits/max_queued"},
        {"limits\n    max_bytes = 0", "d/alice:2: limits/max_bytes: \"0\" is no size"},
        {"limits\n    max_bytes = -1GiB", "d/alice:2: limits/max_bytes: \"-1GiB\" is no size"},
        {"limits\n    max_bytes = 9e18GiB", "d/alice:2: limits/max_bytes"},
        {"limits\n    max_running = 5x", "d/alice:2: limits/max_running"},
        {"limits\n    max_priority = 101", "max_priority: \"101\" is no whole number from -100 to"},
        {"limits\n    max_priority = ", "d/alice:2: "},
        {"limit\n    share = 1", "d/alice:1: unknown name limit"},
        {"admin = yes", "d/alice:1: unknown name admin"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        snprintf(text, sizeof(text), "%s\n%s", bad[i].line, key);
        assert_int_equal(authorized_read("d/alice", text, strlen(text), &who, &err), -1);
        expect_words(&err, bad[i].words);
    }
    snprintf(text, sizeof(text), "%s%s", key, SECRET_LINE);
    assert_int_equal(authorized_read("d/alice", text, strlen(text), &who, &err), -1);
    expect_words(&err, "d/alice:3: curve/secret-key: a secret key: it stays with its owner");
    assert_int_equal(authorized_read("d/a b", key, strlen(key), &who, &err), -1);
    expect_words(&err, "d/a b: no user is said");
}

static void authorized_directories(void **state)
{
    (void)state;
    struct authorized set = {NULL, 0};
    struct caloris_err err;
    assert_int_equal(authorized_load("keys", &set, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_CONFIG);
    assert_int_equal(mkdir("keys", 0755), 0);
    assert_int_equal(authorized_load("keys", &set, &err), 0);
    assert_int_equal(set.n, 0);
    assert_null(authorized_find(&set, MANUAL_PUBLIC));
    assert_null(authorized_find(&set, ""));

    struct caloris_keys keys;
    assert_int_equal(caloris_keys_make(&keys, &err), 0);
    assert_int_equal(caloris_keys_write("keys/bob", &keys, "bob", &err), 0);
    assert_int_equal(unlink("keys/bob"), 0);
    put("keys/alice", "curve\n" PUBLIC_LINE, 0644);
    put("keys/.swp", "not a key", 0644);
    assert_int_equal(authorized_load("keys", &set, &err), 0);
    assert_int_equal(set.n, 2);
    assert_string_equal(authorized_find(&set, MANUAL_PUBLIC)->user, "alice");
    assert_string_equal(authorized_find(&set, keys.public_key)->user, "bob");
    assert_null(authorized_find(&set, MANUAL_SECRET));
    assert_null(authorized_find(&set, ""));

    /* A set that is wrong leaves the one of before. */
    put("keys/carol", "curve\n" PUBLIC_LINE, 0644);
    assert_int_equal(authorized_load("keys", &set, &err), -1);
    expect_words(&err, "carol: the same key stands in alice");
    put("keys/carol", "curve\n", 0644);
    assert_int_equal(authorized_load("keys", &set, &err), -1);
    expect_words(&err, "keys/carol: curve/public-key is missing");
    assert_int_equal(unlink("keys/carol"), 0);
    assert_int_equal(chmod("keys/alice", 0664), 0);
    assert_int_equal(authorized_load("keys", &set, &err), -1);
    expect_words(&err, "keys/alice has mode 0664: others may change it; chmod go-w");
    assert_int_equal(chmod("keys/alice", 0644), 0);
    assert_int_equal(chmod("keys", 0777), 0);
    assert_int_equal(authorized_load("keys", &set, &err), -1);
    expect_words(&err, "others may put keys there");
    assert_int_equal(chmod("keys", 0755), 0);
    assert_int_equal(mkdir("keys/more", 0755), 0);
    assert_int_equal(authorized_load("keys", &set, &err), -1);
    expect_words(&err, "keys/more is not a regular file");
    assert_int_equal(set.n, 2);
    authorized_free(&set);
}

/* ---- how to reach a gateway ------------------------------------------------------------------ */

static void addresses(void **state)
{
    (void)state;
    struct caloris_cluster cluster = {.clients = "tcp://h:1", .groups = "tcp://h:2"}, back;
    struct caloris_address address;
    struct caloris_err err;
    struct caloris_wish wish = {.cluster = "here"};
    struct stat st;
    assert_int_equal(caloris_address_find(&wish, &address, &err), -1);
    assert_int_equal(err.code, CALORIS_UNREACHABLE);

    snprintf(cluster.server_key, sizeof(cluster.server_key), "%s", MANUAL_PUBLIC);
    assert_int_equal(caloris_cluster_write("here", &cluster, &err), 0);
    assert_int_equal(stat(".caloris/here", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(caloris_cluster_load("here", &back, &err), 0);
    assert_memory_equal(&back, &cluster, sizeof(back));

    /* No key of one's own yet. */
    assert_int_equal(caloris_address_find(&wish, &address, &err), -1);
    assert_int_equal(err.code, CALORIS_BAD_CONFIG);
    expect_words(&err, "caloris keygen");
    char own[256];
    struct caloris_keys mine;
    assert_int_equal(caloris_address_own("key", own, sizeof(own), &err), 0);
    assert_int_equal(mkdir(".config", 0700) | mkdir(".config/caloris", 0700), 0);
    assert_int_equal(caloris_keys_make(&mine, &err), 0);
    assert_int_equal(caloris_keys_write(own, &mine, "me", &err), 0);
    assert_int_equal(caloris_address_find(&wish, &address, &err), 0);
    assert_string_equal(address.endpoint, "tcp://h:1");
    assert_string_equal(address.server_key, MANUAL_PUBLIC);
    assert_string_equal(address.keys.secret_key, mine.secret_key);

    /* The token goes before one's own key, what was said before all. */
    assert_int_equal(caloris_keys_make(&cluster.token, &err), 0);
    assert_int_equal(caloris_cluster_write("here", &cluster, &err), 0);
    wish.group = true;
    assert_int_equal(caloris_address_find(&wish, &address, &err), 0);
    assert_string_equal(address.endpoint, "tcp://h:2");
    assert_string_equal(address.keys.public_key, cluster.token.public_key);
    wish = (struct caloris_wish){.endpoint = "tcp://g:3", .certificate = own};
    assert_int_equal(caloris_address_find(&wish, &address, &err), -1);
    expect_words(&err, "--server-key");
    wish.server_key = "none.pub";
    assert_int_equal(caloris_address_find(&wish, &address, &err), -1);
    expect_words(&err, "the gateway's key: none.pub");
    wish.server_key = MANUAL_SECRET;
    assert_int_equal(caloris_address_find(&wish, &address, &err), 0);
    assert_string_equal(address.server_key, MANUAL_SECRET);
    assert_string_equal(address.keys.public_key, mine.public_key);

    caloris_cluster_remove("here", "tcp://other:1");
    assert_int_equal(stat(".caloris/here", &st), 0);
    static const struct {
        const char *text;
        mode_t mode;
        const char *words;
    } bad[] = {
        {"{\"endpoint\": \"tcp://h:1\"}", 0644, "chmod 600"},
        {"{}", 0600, "no \"endpoint\""},
        {"{\"endpoint\": 1}", 0600, "\"endpoint\" is no text"},
        {"{\"endpoint\": \"tcp://h:1\", \"server_key\": \"x\"}", 0600, "\"server_key\": 1 char"},
        {"{\"endpoint\": \"tcp://h:1\", \"secret_key\": 7}", 0600, "\"secret_key\" is no text"},
        {"[", 0600, ".caloris/here:1"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        put(".caloris/here", bad[i].text, bad[i].mode);
        assert_int_equal(caloris_cluster_load("here", &back, &err), -1);
        assert_int_equal(err.code, CALORIS_BAD_CONFIG);
        expect_words(&err, bad[i].words);
    }
}

/* ---- the handshake --------------------------------------------------------------------------- */

enum { PATIENCE_MS = 10000 };

/* What the dialling side is told, with somebody at the door who lets only one key in. */
static enum caloris_connection_event handshake(const struct caloris_address *address, void *handler,
                                               void *context, const char *name, const char *welcome,
                                               struct caloris_entry *entry)
{
    struct caloris_err err;
    enum caloris_connection_event event = CALORIS_CONNECTION_NOTHING;
    void *socket = zmq_socket(context, ZMQ_DEALER);
    const int linger = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
    void *watch = caloris_curve_watch(context, socket, name, &err);
    assert_non_null(watch);
    assert_int_equal(caloris_curve_dial(socket, address, &err), 0);
    zmq_send(socket, "x", 1, 0);
    bool in = false;
    for (int ms = 0; ms < PATIENCE_MS && event == CALORIS_CONNECTION_NOTHING && !in; ms++) {
        if (caloris_curve_asked(handler, entry)) {
            in = strcmp(entry->key, welcome) == 0;
            caloris_curve_answer(handler, entry, in);
        }
        event = caloris_curve_next_event(watch);
        caloris_time_sleep_ms(1);
    }
    zmq_socket_monitor(socket, NULL, 0);
    zmq_close(watch);
    zmq_close(socket);
    return event;
}

static void handshakes(void **state)
{
    (void)state;
    struct caloris_keys server, friend, stranger;
    struct caloris_err err;
    struct caloris_entry entry = {{0}, {0}, {0}};
    struct caloris_address address = {0};
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    assert_int_equal(caloris_keys_make(&server, &err) | caloris_keys_make(&friend, &err) |
                         caloris_keys_make(&stranger, &err),
                     0);
    void *handler = caloris_curve_handler(context, &err);
    assert_non_null(handler);
    assert_int_equal(
        caloris_curve_bind(router, "tcp://127.0.0.1:*", NULL, "clients", address.endpoint, &err),
        -1);
    expect_words(&err, "needs keys");
    assert_int_equal(
        caloris_curve_bind(router, "tcp://127.0.0.1:*", &server, "clients", address.endpoint, &err),
        0);
    assert_int_equal(caloris_endpoint_check(address.endpoint, &err), 0);

    memcpy(address.server_key, server.public_key, sizeof(server.public_key));
    address.keys = friend;
    assert_int_equal(handshake(&address, handler, context, "a", friend.public_key, &entry),
                     CALORIS_CONNECTION_NOTHING);
    assert_string_equal(entry.key, friend.public_key);
    assert_string_equal(entry.domain, "clients");
    assert_string_equal(entry.address, "127.0.0.1");
    address.keys = stranger;
    assert_int_equal(handshake(&address, handler, context, "b", friend.public_key, &entry),
                     CALORIS_CONNECTION_REFUSED);
    memcpy(address.server_key, friend.public_key, sizeof(friend.public_key));
    assert_int_equal(handshake(&address, handler, context, "c", friend.public_key, &entry),
                     CALORIS_CONNECTION_STRANGER);
    zmq_close(router);
    zmq_close(handler);
    zmq_ctx_term(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zpl_is_read),
        cmocka_unit_test(damaged_zpl_is_refused),
        cmocka_unit_test(mutated_files_harm_nobody),
        cmocka_unit_test(certificates_are_written_and_read),
        cmocka_unit_test(bad_certificates_are_refused),
        cmocka_unit_test(authorized_files),
        cmocka_unit_test(authorized_directories),
        cmocka_unit_test(addresses),
        cmocka_unit_test(handshakes),
    };
    return cmocka_run_group_tests_name("keys", tests, setup, teardown);
}
