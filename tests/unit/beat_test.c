/* Do all ranks get on: verdicts from a table of what ranks tell, datagrams that nobody of ours
 * sent, real sockets on the loopback, and ranks that are threads. */
#include "base/err.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/time.h"
#include "worker/comm/beat/datagram.h"
#include "worker/comm/beat/judge.h"
#include "worker/comm/comm.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { RANKS = 3, SILENT_MS = 1000, STANDS_MS = 3000, LONG_MS = 20000 };

static const char hosts[RANKS][BEAT_HOST] = {"n1", "n2", "n3"};

/* ---- verdicts -------------------------------------------------------------------------------- */

struct told {
    enum beat_phase phase;
    enum beat_wait wait;
    uint64_t allreduces;
    enum { MOVES, STANDS, LOADS, SILENT } does;
};

/* What three ranks tell for some time, and what comes of it. */
static const struct {
    const char *name;
    struct told ranks[RANKS];
    uint64_t expect_ns;
    uint64_t for_ms;
    const char *verdict; /* NULL: none */
} verdicts[] = {
    {"a silent rank is named with the all-reduce that waits for it",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_NOTHING, 12, SILENT},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS}},
     0,
     SILENT_MS + 200,
     "waiting in all-reduce 2 of layer 7; not arrived: rank 1 on n2 (silent for 1.1 s)"},
    {"a rank that computes without end, too",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_NOTHING, 39, STANDS}},
     0,
     STANDS_MS + 200,
     "waiting in all-reduce 2 of layer 7; not arrived: rank 2 on n3 (no progress for 3.1 s)"},
    {"two of them",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_NOTHING, 39, SILENT},
      {BEAT_STEP, BEAT_NOTHING, 39, SILENT}},
     0,
     SILENT_MS + 200,
     "not arrived: rank 1 on n2 (silent for 1.1 s), rank 2 on n3 (silent for 1.1 s)"},
    {"not one that waits for it in the all-reduce before",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 39, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 39, SILENT}},
     0,
     SILENT_MS + 200,
     "waiting in all-reduce 2 of layer 7; not arrived: rank 2 on n3 (silent for 1.1 s)"},
    {"one that never heard of the step",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_IDLE, BEAT_ORDER, 38, STANDS}},
     0,
     STANDS_MS + 200,
     "not arrived: rank 2 on n3 (idle for 3.1 s)"},
    {"messages that are lost",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS}},
     0,
     STANDS_MS + 200,
     "waiting in all-reduce 2 of layer 7; all have arrived"},
    {"other collectives have names",
     {{BEAT_STEP, BEAT_GATHER, 40, STANDS},
      {BEAT_STEP, BEAT_NOTHING, 40, STANDS},
      {BEAT_STEP, BEAT_GATHER, 40, STANDS}},
     0,
     STANDS_MS + 200,
     "waiting in the gathering of summaries; not arrived: rank 1 on n2"},
    {"a rank that is lost while all are idle",
     {{BEAT_IDLE, BEAT_NOTHING, 40, STANDS},
      {BEAT_IDLE, BEAT_ORDER, 40, STANDS},
      {BEAT_IDLE, BEAT_ORDER, 40, SILENT}},
     0,
     SILENT_MS + 200,
     "waiting for nothing; not arrived: rank 2 on n3 (silent for 1.1 s)"},
    {"idle ranks do not hang",
     {{BEAT_IDLE, BEAT_NOTHING, 40, STANDS},
      {BEAT_IDLE, BEAT_ORDER, 40, STANDS},
      {BEAT_IDLE, BEAT_ORDER, 40, STANDS}},
     0,
     1000 * STANDS_MS,
     NULL},
    {"nor does one that gets on, however slowly the others wait for it",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_NOTHING, 39, MOVES},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS}},
     0,
     100 * STANDS_MS,
     NULL},
    {"nor one that loads, while the others agree",
     {{BEAT_LOADING, BEAT_AGREEMENT, 0, STANDS},
      {BEAT_LOADING, BEAT_NOTHING, 0, LOADS},
      {BEAT_LOADING, BEAT_AGREEMENT, 0, STANDS}},
     0,
     100 * STANDS_MS,
     NULL},
    {"a file server that stands has ten times the patience",
     {{BEAT_LOADING, BEAT_AGREEMENT, 0, STANDS},
      {BEAT_LOADING, BEAT_NOTHING, 0, STANDS},
      {BEAT_LOADING, BEAT_AGREEMENT, 0, STANDS}},
     0,
     9 * STANDS_MS,
     NULL},
    {"but no more",
     {{BEAT_LOADING, BEAT_AGREEMENT, 0, STANDS},
      {BEAT_LOADING, BEAT_NOTHING, 0, STANDS},
      {BEAT_LOADING, BEAT_AGREEMENT, 0, STANDS}},
     0,
     10 * STANDS_MS + 200,
     "waiting in an agreement; not arrived: rank 1 on n2 (no progress for 30.1 s)"},
    {"an operation that should take a second may take twenty",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_NOTHING, 39, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS}},
     1000000000,
     19900,
     NULL},
    {"and no longer",
     {{BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS},
      {BEAT_STEP, BEAT_NOTHING, 39, STANDS},
      {BEAT_STEP, BEAT_ALLREDUCE, 40, STANDS}},
     1000000000,
     20200,
     "not arrived: rank 1 on n2 (no progress for 20.1 s)"},
    {"who is gone is missed by nobody",
     {{BEAT_LEAVING, BEAT_NOTHING, 40, MOVES},
      {BEAT_GONE, BEAT_NOTHING, 40, SILENT},
      {BEAT_GONE, BEAT_NOTHING, 40, SILENT}},
     0,
     100 * STANDS_MS,
     NULL},
};

static bool run_case(size_t c, char text[JUDGE_TEXT])
{
    enum { TICK_MS = 100 };
    const struct beat_times times = {TICK_MS, SILENT_MS, STANDS_MS};
    struct judge *judge = judge_new(RANKS, hosts, &times, NULL);
    bool hangs = false;
    assert_non_null(judge);
    for (uint64_t at = 0; at < verdicts[c].for_ms && !hangs; at += TICK_MS) {
        for (int rank = 0; rank < RANKS; rank++) {
            const struct told *told = &verdicts[c].ranks[rank];
            const struct beat_report report = {
                .count = told->does == MOVES ? 100 + at : 100,
                .loaded_bytes = told->does == LOADS ? at : 0,
                .step = 5,
                .allreduces = told->allreduces,
                .expect_ns = verdicts[c].expect_ns,
                .phase = told->phase,
                .wait = told->wait,
                .layer = 7,
                .in_layer = 2,
            };
            if (at == 0 || told->does != SILENT)
                judge_hear(judge, rank, &report);
        }
        if (at == 0)
            judge_begin(judge);
        hangs = judge_pass(judge, TICK_MS, text);
    }
    judge_free(judge);
    return hangs;
}

static void test_verdicts(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof(verdicts) / sizeof(verdicts[0]); c++) {
        char text[JUDGE_TEXT] = "";
        const bool hangs = run_case(c, text);
        if (hangs != (verdicts[c].verdict != NULL) || (hangs && !strstr(text, verdicts[c].verdict)))
            fail_msg("%s: \"%s\", expected \"%s\"", verdicts[c].name, hangs ? text : "no verdict",
                     verdicts[c].verdict ? verdicts[c].verdict : "no verdict");
    }
}

static void test_verdict_fits(void **state)
{
    (void)state;
    enum { MANY = 2000 };
    static char names[MANY][BEAT_HOST];
    const struct beat_times times = {100, 1000, 3000};
    const struct beat_report idle = {.phase = BEAT_STEP, .wait = BEAT_ALLREDUCE, .in_layer = 1};
    char text[JUDGE_TEXT];
    for (int rank = 0; rank < MANY; rank++)
        memset(names[rank], 'n', BEAT_HOST - 1);
    struct judge *judge = judge_new(MANY, (const char(*)[BEAT_HOST])names, &times, NULL);
    assert_non_null(judge);
    judge_hear(judge, 0, &idle);
    assert_true(judge_pass(judge, 60000, text));
    assert_true(strlen(text) < JUDGE_TEXT);
    judge_free(judge);
}

/* ---- datagrams ------------------------------------------------------------------------------- */

static const uint8_t token[BEAT_TOKEN] = "0123456789abcde";

static void test_datagrams_are_checked(void **state)
{
    (void)state;
    const struct beat_report report = {.phase = BEAT_STEP, .wait = BEAT_GATHER};
    struct datagram_beat beat, taken;
    struct datagram_answer answer, heard;
    char bytes[2 * sizeof(answer)];
    datagram_beat_make(&beat, token, 2, 9, &report);
    datagram_answer_make(&answer, token, 9, "why");
    assert_true(datagram_beat_check(&beat, sizeof(beat), token, RANKS, &taken));
    assert_memory_equal(&taken, &beat, sizeof(beat));
    assert_true(datagram_answer_check(&answer, sizeof(answer), token, &heard));
    assert_string_equal(heard.verdict, "why");

    /* Any other size, a world without that rank, each byte of magic and token. */
    memset(bytes, 0, sizeof(bytes));
    for (size_t n = 0; n < sizeof(bytes); n++) {
        memcpy(bytes, &beat, sizeof(beat));
        assert_int_equal(datagram_beat_check(bytes, n, token, RANKS, &taken), n == sizeof(beat));
        memcpy(bytes, &answer, sizeof(answer));
        assert_int_equal(datagram_answer_check(bytes, n, token, &heard), n == sizeof(answer));
    }
    assert_false(datagram_beat_check(&beat, sizeof(beat), token, 2, &taken));
    for (size_t i = 0; i < offsetof(struct datagram_beat, sequence); i++) {
        memcpy(bytes, &beat, sizeof(beat));
        bytes[i] ^= 1;
        assert_false(datagram_beat_check(bytes, sizeof(beat), token, RANKS, &taken));
        memcpy(bytes, &answer, sizeof(answer));
        bytes[i] ^= 1;
        assert_false(datagram_answer_check(bytes, sizeof(answer), token, &heard));
    }
    struct datagram_beat bad = beat;
    bad.rank = 0;
    assert_false(datagram_beat_check(&bad, sizeof(bad), token, RANKS, &taken));
    bad = beat;
    bad.report.phase = BEAT_PHASES;
    assert_false(datagram_beat_check(&bad, sizeof(bad), token, RANKS, &taken));
    bad = beat;
    bad.report.wait = BEAT_WAITS;
    assert_false(datagram_beat_check(&bad, sizeof(bad), token, RANKS, &taken));
    bad = beat;
    bad.report.asked = 1000; /* no signal */
    assert_false(datagram_beat_check(&bad, sizeof(bad), token, RANKS, &taken));
    memset(answer.verdict, 'x', sizeof(answer.verdict));
    assert_false(datagram_answer_check(&answer, sizeof(answer), token, &heard));
}

/* ---- real sockets ---------------------------------------------------------------------------- */

static atomic_int leavers;

static void count_leaver(void)
{
    atomic_fetch_add(&leavers, 1);
}

static bool comes_true(bool (*is)(void *arg), void *arg)
{
    for (int i = 0; i < LONG_MS / 10 && !is(arg); i++)
        caloris_time_sleep_ms(10);
    return is(arg);
}

static bool somebody_left(void *arg)
{
    return atomic_load(&leavers) >= *(int *)arg;
}

struct live {
    struct beat_progress progress[RANKS];
    struct beat *beats[RANKS];
    struct beat_invitation invitation;
};

static struct beat_options live_options(struct live *live, int rank)
{
    return (struct beat_options){
        .rank = rank,
        .size = RANKS,
        .times = {50, LONG_MS, LONG_MS},
        .mine = &live->progress[rank],
        .hosts = hosts,
        .host_of_0 = "n1",
        .leave = count_leaver,
    };
}

/* Of all ranks, judged by `times`. */
static void live_open(struct live *live, struct beat_times times)
{
    struct caloris_err err = {0};
    memset(live, 0, sizeof(*live));
    atomic_store(&leavers, 0);
    for (int rank = 0; rank < RANKS; rank++) {
        struct beat_options options = live_options(live, rank);
        options.times = times;
        live->beats[rank] = rank == 0 ? beat_open_seat(&options, true, &live->invitation, &err)
                                      : beat_join(&options, &live->invitation, &err);
        if (!live->beats[rank])
            fail_msg("rank %d: %s", rank, err.text);
    }
    for (int rank = 0; rank < RANKS; rank++)
        beat_judge(live->beats[rank]);
}

static void live_close(struct live *live)
{
    for (int rank = RANKS - 1; rank >= 0; rank--) {
        atomic_store(&live->progress[rank].phase, BEAT_GONE);
        beat_close(live->beats[rank]);
    }
}

static bool rank_2_tells(void *arg)
{
    struct beat_report report;
    struct live *live = arg;
    return beat_latest(live->beats[0], 2, &report) && report.sent_bytes == 4711;
}

static void test_beats_arrive(void **state)
{
    (void)state;
    struct live live;
    live_open(&live, (struct beat_times){50, LONG_MS, LONG_MS});
    atomic_store(&live.progress[2].sent_bytes, 4711);
    assert_true(comes_true(rank_2_tells, &live));
    assert_int_equal(atomic_load(&leavers), 0);
    live_close(&live);
}

static void test_nobody_there(void **state)
{
    (void)state;
    struct live live = {0};
    struct caloris_err err = {0};
    struct beat_options options = live_options(&live, 0);
    struct beat *seat = beat_open_seat(&options, true, &live.invitation, &err);
    assert_non_null(seat);
    live.invitation.token[3] ^= 1; /* as good as nobody */
    options = live_options(&live, 1);
    assert_null(beat_join(&options, &live.invitation, &err));
    assert_non_null(strstr(err.text, "no answer from n1 to UDP datagrams"));
    beat_close(seat);
}

/* What anybody on the machine may send to rank 0's port changes nothing. */
static void test_strangers(void **state)
{
    (void)state;
    enum { STRANGE = 20000 };
    struct live live;
    struct beat_report report = {.phase = BEAT_STEP};
    struct datagram_beat beat;
    unsigned char bytes[1024];
    uint64_t random = 1;
    live_open(&live, (struct beat_times){50, LONG_MS, LONG_MS});
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = live.invitation.port};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    datagram_beat_make(&beat, token, 1, UINT64_MAX - 1, &report); /* not this run's token */
    for (int i = 0; i < STRANGE; i++) {
        size_t n = sizeof(beat);
        memcpy(bytes, &beat, n);
        random = random * 6364136223846793005u + 1442695040888963407u;
        if (i % 3 == 0) {
            n = (size_t)(random >> 33) % sizeof(bytes);
            memset(bytes, (int)(random >> 50), n);
        } else if (i % 3 == 1) {
            bytes[(random >> 33) % n] ^= (unsigned char)(1 + (random >> 20) % 255);
        }
        (void)!sendto(fd, bytes, n, 0, (const struct sockaddr *)&to, sizeof(to));
    }
    close(fd);
    atomic_store(&live.progress[2].sent_bytes, 4711);
    assert_true(comes_true(rank_2_tells, &live));
    assert_true(beat_latest(live.beats[0], 1, &report));
    assert_int_equal(report.phase, BEAT_IDLE);
    assert_int_equal(atomic_load(&leavers), 0);
    live_close(&live);
}

/* A rank that stops without a word takes all with it: rank 0 says why, the others hear it. */
static void test_a_silent_rank_ends_all(void **state)
{
    (void)state;
    struct live live;
    int all_left = 2;
    live_open(&live, (struct beat_times){20, 300, LONG_MS});
    beat_close(live.beats[1]);
    live.beats[1] = NULL;
    assert_true(comes_true(somebody_left, &all_left));
    live_close(&live);
}

static void test_no_answer_ends_a_rank(void **state)
{
    (void)state;
    struct live live;
    int all_left = 2;
    live_open(&live, (struct beat_times){20, 300, LONG_MS});
    beat_close(live.beats[0]);
    live.beats[0] = NULL;
    assert_true(comes_true(somebody_left, &all_left));
    live_close(&live);
}

/* ---- ranks that are threads ------------------------------------------------------------------ */

/* Rank 1 loads slowly: no hang. Then it computes without end: one. */
static int threads_body(struct caloris_comm *comm, void *arg, struct caloris_err *err)
{
    const struct caloris_comm_watch how = {
        .silent_ms = 200, .stands_ms = 200, .leave = count_leaver};
    char warning[CALORIS_COMM_WARNING];
    int one = 1;
    int *before = arg;
    caloris_comm_at(comm, CALORIS_COMM_LOADING, 0);
    if (caloris_comm_watch(comm, &how, warning, err) < 0)
        return -1;
    if (warning[0])
        return caloris_err_set(err, CALORIS_INTERNAL, "%s", warning);
    for (int i = 0; caloris_comm_rank(comm) == 1 && i < 50; i++) {
        caloris_time_sleep_ms(50);
        caloris_comm_loaded(comm, 4096);
    }
    if (caloris_comm_agree(comm, NULL, err) < 0)
        return -1;
    if (caloris_comm_rank(comm) == 0)
        *before = atomic_load(&leavers);
    caloris_comm_at(comm, CALORIS_COMM_STEP, 0);
    if (caloris_comm_rank(comm) == 1)
        comes_true(somebody_left, &one);
    return caloris_comm_agree(comm, NULL, err);
}

static void test_threads(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    int one = 1, before = -1;
    atomic_store(&leavers, 0);
    if (caloris_comm_run_threads(RANKS, threads_body, &before, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(before, 0);
    assert_true(somebody_left(&one));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_verdict_fits),
        cmocka_unit_test(test_datagrams_are_checked),
        cmocka_unit_test(test_beats_arrive),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_a_silent_rank_ends_all),
        cmocka_unit_test(test_no_answer_ends_a_rank),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
