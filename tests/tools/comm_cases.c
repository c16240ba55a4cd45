#include "tests/tools/comm_cases.h"

#include "base/err.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/time.h"
#include "worker/comm/comm.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GUARD = 16, /* floats around every vector that nobody may touch */
    ROUNDS = 150,
    ROUND_FLOATS = 5000,
};

static const uint8_t guard_byte = 0xa5;

/* Keeps the first failure; the body goes on. */
struct verdict {
    int rc;
    struct caloris_err *err;
};

static void fail(struct verdict *verdict, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void fail(struct verdict *verdict, const char *format, ...)
{
    if (verdict->rc < 0)
        return;
    char text[CALORIS_ERR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    verdict->rc = caloris_err_set(verdict->err, CALORIS_INTERNAL, "%s", text);
}

/* A collective that fails ends the body: the world is lost. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            goto lost;                                                                             \
    } while (0)

static void random_words(int rank, uint32_t round, size_t i, uint32_t words[4])
{
    uint32_t counter[4] = {(uint32_t)i, (uint32_t)(i >> 32), (uint32_t)rank, round};
    uint32_t key[2] = {0xca107150, 7};
    caloris_rng_philox(counter, key, words);
}

float comm_case_value(int rank, uint32_t round, size_t i)
{
    uint32_t words[4];
    random_words(rank, round, i, words);
    return ldexpf((float)(int32_t)words[0] * 0x1p-31f, (int)(words[1] % 24) - 12);
}

/* A vector of count floats with guards around it, 64-byte aligned. */
static float *new_vector(size_t count)
{
    size_t bytes = caloris_size_round_up((count + 2 * GUARD) * sizeof(float), 64);
    float *all = aligned_alloc(64, bytes);
    if (!all)
        abort();
    memset(all, guard_byte, bytes);
    return all + GUARD;
}

static void free_vector(float *x)
{
    if (x)
        free(x - GUARD);
}

static void check_guards(const float *x, size_t count, const char *what, struct verdict *verdict)
{
    uint8_t guard[GUARD * sizeof(float)];
    memset(guard, guard_byte, sizeof(guard));
    if (memcmp(x - GUARD, guard, sizeof(guard)) != 0 ||
        memcmp(x + count, guard, sizeof(guard)) != 0)
        fail(verdict, "%s of %zu floats: written outside", what, count);
}

static void check_sum(const float *x, size_t count, int size, uint32_t round,
                      struct verdict *verdict)
{
    for (size_t i = 0; i < count; i++) {
        float sum = comm_case_value(0, round, i);
        for (int rank = 1; rank < size; rank++)
            sum += comm_case_value(rank, round, i);
        if (memcmp(&sum, &x[i], sizeof(sum)) != 0) {
            fail(verdict, "all-reduce of %zu floats: [%zu] is %.9g, the sum in rank order %.9g",
                 count, i, (double)x[i], (double)sum);
            return;
        }
    }
}

typedef int (*reduce_fn)(struct caloris_comm *, float *, size_t, void *, struct caloris_err *);

/* x [count] = this rank's values, reduced; scratch is exactly as large as is asked for. */
static int reduce(struct caloris_comm *comm, reduce_fn reduce_with, float *x, size_t count,
                  uint32_t round, struct verdict *verdict)
{
    size_t scratch_bytes = caloris_comm_scratch_bytes(comm, count);
    size_t scratch_floats = (scratch_bytes + sizeof(float) - 1) / sizeof(float);
    float *scratch = new_vector(scratch_floats);
    for (size_t i = 0; i < count; i++)
        x[i] = comm_case_value(caloris_comm_rank(comm), round, i);
    int rc = reduce_with(comm, x, count, scratch_bytes ? scratch : NULL, verdict->err);
    check_guards(x, count, "all-reduce", verdict);
    check_guards(scratch, scratch_floats, "scratch of an all-reduce", verdict);
    free_vector(scratch);
    return rc;
}

static const size_t counts[] = {0, 1, 15, 16, 17, 31, 1000, 65536, 65537, 100003, 300001};
enum { COUNTS = sizeof(counts) / sizeof(counts[0]) };

static int sums_have_the_bits_of_rank_order(struct caloris_comm *comm, struct caloris_err *err)
{
    struct verdict verdict = {0, err};
    for (uint32_t c = 0; c < COUNTS; c++) {
        float *x = new_vector(counts[c]);
        int rc = reduce(comm, caloris_comm_allreduce_f32, x, counts[c], c, &verdict);
        if (rc == 0)
            check_sum(x, counts[c], caloris_comm_size(comm), c, &verdict);
        free_vector(x);
        TRY(rc);
    }
    return verdict.rc;
lost:
    return -1;
}

/* The reference may round otherwise: within size * 2^-23 of the sum of magnitudes. */
static int sums_are_close_to_the_reference(struct caloris_comm *comm, struct caloris_err *err)
{
    struct verdict verdict = {0, err};
    int size = caloris_comm_size(comm);
    for (uint32_t c = 0; c < COUNTS; c++) {
        float *ours = new_vector(counts[c]);
        float *theirs = new_vector(counts[c]);
        int rc = reduce(comm, caloris_comm_allreduce_f32, ours, counts[c], c, &verdict);
        if (rc == 0)
            rc = reduce(comm, caloris_comm_allreduce_reference_f32, theirs, counts[c], c, &verdict);
        for (size_t i = 0; rc == 0 && i < counts[c]; i++) {
            double magnitude = 0;
            for (int rank = 0; rank < size; rank++)
                magnitude += fabs((double)comm_case_value(rank, c, i));
            if (!(fabs((double)ours[i] - (double)theirs[i]) <= magnitude * size * 0x1p-23))
                fail(&verdict, "sum [%zu] of %zu is %.9g, by the reference %.9g", i, counts[c],
                     (double)ours[i], (double)theirs[i]);
        }
        free_vector(ours);
        free_vector(theirs);
        TRY(rc);
    }
    return verdict.rc;
lost:
    return -1;
}

static int sums_keep_infinities_and_negative_zero(struct caloris_comm *comm,
                                                  struct caloris_err *err)
{
    struct verdict verdict = {0, err};
    int size = caloris_comm_size(comm);
    int last = caloris_comm_rank(comm) == size - 1;
    float *x = new_vector(3);
    size_t bytes = caloris_size_round_up(caloris_comm_scratch_bytes(comm, 3), 64);
    void *scratch = aligned_alloc(64, bytes ? bytes : 64);
    x[0] = -0.0f;
    x[1] = last ? INFINITY : 1.0f;
    x[2] = last ? NAN : 1.0f;
    int rc = caloris_comm_allreduce_f32(comm, x, 3, scratch, err);
    if (rc == 0) {
        if (!(x[0] == 0 && signbit(x[0])))
            fail(&verdict, "-0 on every rank sums to %g", (double)x[0]);
        if (!isinf(x[1]))
            fail(&verdict, "infinity on the last rank sums to %g", (double)x[1]);
        if (!isnan(x[2]))
            fail(&verdict, "NaN on the last rank sums to %g", (double)x[2]);
    }
    free(scratch);
    free_vector(x);
    return rc < 0 ? -1 : verdict.rc;
}

static int broadcasts_reach_everybody(struct caloris_comm *comm, struct caloris_err *err)
{
    static const size_t sizes[] = {0, 1, 7, 4096, 1000003};
    typedef int (*broadcast_fn)(struct caloris_comm *, void *, size_t, struct caloris_err *);
    static const broadcast_fn ways[] = {caloris_comm_broadcast, caloris_comm_broadcast_idle};
    struct verdict verdict = {0, err};
    int rank = caloris_comm_rank(comm);
    for (size_t s = 0; s < 2 * sizeof(sizes) / sizeof(sizes[0]); s++) {
        size_t n = sizes[s / 2];
        uint8_t *bytes = malloc(n + 1);
        for (size_t i = 0; i < n; i++)
            bytes[i] = rank == 0 ? (uint8_t)(i * 7 + s) : 0;
        bytes[n] = guard_byte;
        if (rank == 0)
            caloris_time_sleep_ms(3);
        int rc = ways[s % 2](comm, bytes, n, err);
        for (size_t i = 0; rc == 0 && i < n; i++) {
            if (bytes[i] != (uint8_t)(i * 7 + s)) {
                fail(&verdict, "broadcast of %zu bytes: [%zu] is %u", n, i, bytes[i]);
                break;
            }
        }
        if (bytes[n] != guard_byte)
            fail(&verdict, "broadcast of %zu bytes: written outside", n);
        free(bytes);
        TRY(rc);
    }
    return verdict.rc;
lost:
    return -1;
}

static int gathers_keep_rank_order(struct caloris_comm *comm, struct caloris_err *err)
{
    static const size_t sizes[] = {0, 1, 5, 4096, 70000};
    struct verdict verdict = {0, err};
    int rank = caloris_comm_rank(comm);
    size_t ranks = (size_t)caloris_comm_size(comm);
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        size_t n = sizes[s];
        uint8_t *mine = malloc(n + 1);
        uint8_t *all = rank == 0 ? malloc(ranks * n + 1) : NULL;
        for (size_t i = 0; i < n; i++)
            mine[i] = (uint8_t)(i + 31 * (size_t)rank);
        if (all)
            all[ranks * n] = guard_byte;
        int rc = caloris_comm_gather(comm, mine, n, all, err);
        for (size_t i = 0; rc == 0 && all && i < ranks * n; i++) {
            if (all[i] != (uint8_t)(i % n + 31 * (i / n))) {
                fail(&verdict, "gather of %zu bytes: rank %zu's [%zu] is %u", n, i / n, i % n,
                     all[i]);
                break;
            }
        }
        if (all && all[ranks * n] != guard_byte)
            fail(&verdict, "gather of %zu bytes: written outside", n);
        free(mine);
        free(all);
        TRY(rc);
    }
    return verdict.rc;
lost:
    return -1;
}

/* Ranks failing [first, first + count) with codes of their own; the lowest is named. */
static int agree_with_failures(struct caloris_comm *comm, int first, int count,
                               struct verdict *verdict)
{
    static const enum caloris_code codes[] = {CALORIS_BAD_MODEL, CALORIS_IO, CALORIS_NO_MEMORY};
    int rank = caloris_comm_rank(comm);
    struct caloris_err mine, agreed = {CALORIS_OK, ""};
    caloris_err_set(&mine, codes[rank % 3], "tensor of rank %d is damaged", rank);
    bool failing = rank >= first && rank < first + count;
    int rc = caloris_comm_agree(comm, failing ? &mine : NULL, &agreed);
    if (agreed.code == CALORIS_PEER_LOST)
        return caloris_err_set(verdict->err, agreed.code, "%s", agreed.text);
    if (count == 0) {
        if (rc != 0)
            fail(verdict, "all ranks are fine, but agree says: %s", agreed.text);
        return 0;
    }
    char start[64], end[64];
    snprintf(start, sizeof(start), "rank %d on ", first);
    snprintf(end, sizeof(end), ": tensor of rank %d is damaged", first);
    size_t length = strlen(agreed.text);
    if (rc != -1 || agreed.code != codes[first % 3])
        fail(verdict, "ranks %d … %d fail: agree returns %d, code %s", first, first + count - 1, rc,
             caloris_code_name(agreed.code));
    else if (strncmp(agreed.text, start, strlen(start)) != 0 || length < strlen(end) ||
             strcmp(agreed.text + length - strlen(end), end) != 0)
        fail(verdict, "rank %d fails first: agree says \"%.300s\"", first, agreed.text);
    return 0;
}

static int agreement_names_the_lowest_failing_rank(struct caloris_comm *comm,
                                                   struct caloris_err *err)
{
    struct verdict verdict = {0, err};
    int size = caloris_comm_size(comm);
    TRY(agree_with_failures(comm, 0, 0, &verdict));
    for (int first = 0; first < size; first++) {
        for (int count = 1; first + count <= size; count++)
            TRY(agree_with_failures(comm, first, count, &verdict));
    }
    TRY(agree_with_failures(comm, 0, 0, &verdict));
    struct caloris_err mine = {CALORIS_IO, "nobody wants to know"};
    if (caloris_comm_agree(comm, caloris_comm_rank(comm) == 0 ? &mine : NULL, NULL) != -1)
        fail(&verdict, "agree without an err does not fail");
    return verdict.rc;
lost:
    return -1;
}

static int maxima_are_of_all_ranks(struct caloris_comm *comm, struct caloris_err *err)
{
    struct verdict verdict = {0, err};
    const int size = caloris_comm_size(comm), rank = caloris_comm_rank(comm);
    enum { COUNT = 37 };
    float x[COUNT], *all = calloc((size_t)size * COUNT, sizeof(*all));
    /* Rank i % size has the largest x[i], a negative one; the others less. */
    for (int i = 0; i < COUNT; i++)
        x[i] = i % size == rank ? (float)-i - 1 : (float)-i - 2 - (float)rank;
    int rc = all ? caloris_comm_allreduce_max_f32(comm, x, COUNT, all, err) : -1;
    for (int i = 0; rc == 0 && i < COUNT; i++) {
        if (x[i] != (float)-i - 1)
            fail(&verdict, "the largest at %d is %g, expected %d", i, (double)x[i], -i - 1);
    }
    free(all);
    return rc < 0 ? -1 : verdict.rc;
}

static int ranks_know_their_neighbours(struct caloris_comm *comm, struct caloris_err *err)
{
    struct place {
        char host[64];
        int index, count;
    };
    struct verdict verdict = {0, err};
    int size = caloris_comm_size(comm);
    struct place mine;
    memset(&mine, 0, sizeof(mine));
    snprintf(mine.host, sizeof(mine.host), "%s", caloris_comm_host(comm));
    caloris_comm_neighbours(comm, &mine.index, &mine.count);
    struct place *places = calloc((size_t)size, sizeof(*places));
    int rc = caloris_comm_gather(comm, &mine, sizeof(mine), places, err);
    for (int rank = 0; rc == 0 && caloris_comm_rank(comm) == 0 && rank < size; rank++) {
        int index = 0, count = 0;
        for (int other = 0; other < size; other++) {
            bool same = strcmp(places[other].host, places[rank].host) == 0;
            count += same;
            index += same && other < rank;
        }
        if (places[rank].index != index || places[rank].count != count)
            fail(&verdict, "rank %d on %s is %d of %d, expected %d of %d", rank, places[rank].host,
                 places[rank].index, places[rank].count, index, count);
    }
    free(places);
    return rc < 0 ? -1 : verdict.rc;
}

static int counters_count_what_was_sent(struct caloris_comm *comm, struct caloris_err *err)
{
    /* 1000 floats are 63 units of 16; dealt to n ranks, the first ones get one more; the last unit
     * has 8. */
    struct verdict verdict = {0, err};
    int size = caloris_comm_size(comm), rank = caloris_comm_rank(comm);
    struct caloris_comm_counters before, after;
    caloris_comm_counters(comm, &before);
    float *x = new_vector(1000);
    int rc = reduce(comm, caloris_comm_allreduce_f32, x, 1000, 0, &verdict);
    caloris_comm_counters(comm, &after);
    size_t slice = (size_t)(63 / size + (rank < 63 % size)) * 16 - (rank == size - 1 ? 8 : 0);
    size_t sent = size == 1 ? 0 : 4 * (1000 - slice + slice * (size_t)(size - 1));
    if (after.allreduces - before.allreduces != 1 || after.bytes_sent - before.bytes_sent != sent)
        fail(&verdict, "%llu all-reduces sent %llu bytes, expected 1 and %zu",
             after.allreduces - before.allreduces, after.bytes_sent - before.bytes_sent, sent);
    double wait_s = after.wait_s - before.wait_s, all_s = after.allreduce_s - before.allreduce_s;
    if (!(wait_s >= 0 && wait_s <= all_s))
        fail(&verdict, "waited %g s of %g s", wait_s, all_s);
    free_vector(x);
    return rc < 0 ? -1 : verdict.rc;
}

/* One round: a command that not everybody expects at the same time, then a sum and a gather. */
static int one_round(struct caloris_comm *comm, uint32_t round, float *x, struct verdict *verdict)
{
    int rank = caloris_comm_rank(comm);
    uint32_t words[4];
    random_words(rank, round, 0, words);
    if (words[0] % 16 == 0)
        caloris_time_sleep_ms(words[1] % 4);
    uint32_t command = rank == 0 ? words[2] : 0;
    if (caloris_comm_broadcast_idle(comm, &command, sizeof(command), verdict->err) < 0)
        return -1;
    random_words(0, round, 0, words);
    if (command != words[2])
        fail(verdict, "round %u: command %u, expected %u", round, command, words[2]);

    size_t count = words[3] % ROUND_FLOATS;
    if (reduce(comm, caloris_comm_allreduce_f32, x, count, round, verdict) < 0)
        return -1;
    check_sum(x, count, caloris_comm_size(comm), round, verdict);
    return 0;
}

static int many_rounds_with_random_delays(struct caloris_comm *comm, struct caloris_err *err)
{
    struct verdict verdict = {0, err};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t words[4];
        random_words(0, round, 0, words);
        float *x = new_vector(words[3] % ROUND_FLOATS);
        int rc = one_round(comm, round, x, &verdict);
        free_vector(x);
        TRY(rc);
    }
    return verdict.rc;
lost:
    return -1;
}

const struct comm_case comm_cases[] = {
    {"sums have the bits of rank order", sums_have_the_bits_of_rank_order},
    {"sums are close to the reference", sums_are_close_to_the_reference},
    {"sums keep infinities and negative zero", sums_keep_infinities_and_negative_zero},
    {"broadcasts reach everybody", broadcasts_reach_everybody},
    {"gathers keep rank order", gathers_keep_rank_order},
    {"agreement names the lowest failing rank", agreement_names_the_lowest_failing_rank},
    {"maxima are of all ranks", maxima_are_of_all_ranks},
    {"ranks know their neighbours", ranks_know_their_neighbours},
    {"counters count what was sent", counters_count_what_was_sent},
    {"many rounds with random delays", many_rounds_with_random_delays},
};
const size_t n_comm_cases = sizeof(comm_cases) / sizeof(comm_cases[0]);
