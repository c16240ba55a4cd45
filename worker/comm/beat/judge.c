#include "worker/comm/beat/judge.h"

#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATIENCE = 20,         /* x what an operation should take */
    LOADING_PATIENCE = 10, /* x stands_ms: file servers fail over for minutes */
    NAMED = 4,             /* ranks in a verdict */
};

struct judged {
    char host[BEAT_HOST];
    struct beat_report last;
    bool heard;
    uint64_t heard_ms, moved_ms; /* of the judge's clock */
};

struct judge {
    int size;
    struct beat_times times;
    uint64_t now_ms;
    struct judged ranks[];
};

struct judge *judge_new(int size, const char (*hosts)[BEAT_HOST], const struct beat_times *times,
                        struct caloris_err *err)
{
    struct judge *judge = calloc(1, sizeof(*judge) + (size_t)size * sizeof(judge->ranks[0]));
    if (!judge) {
        caloris_err_sys(err, "beats of %d ranks", size);
        return NULL;
    }
    judge->size = size;
    judge->times = *times;
    for (int rank = 0; rank < size; rank++)
        snprintf(judge->ranks[rank].host, BEAT_HOST, "%s", hosts[rank]);
    return judge;
}

void judge_free(struct judge *judge)
{
    free(judge);
}

void judge_hear(struct judge *judge, int rank, const struct beat_report *report)
{
    struct judged *r = &judge->ranks[rank];
    if (!r->heard || report->count != r->last.count ||
        report->loaded_bytes != r->last.loaded_bytes || report->phase != r->last.phase)
        r->moved_ms = judge->now_ms;
    r->last = *report;
    r->heard = true;
    r->heard_ms = judge->now_ms;
}

const struct beat_report *judge_latest(const struct judge *judge, int rank)
{
    return judge->ranks[rank].heard ? &judge->ranks[rank].last : NULL;
}

void judge_begin(struct judge *judge)
{
    for (int rank = 0; rank < judge->size; rank++)
        judge->ranks[rank].heard_ms = judge->ranks[rank].moved_ms = judge->now_ms;
}

/* ---- who is to blame --------------------------------------------------------------------------*/

/* Has nothing to do, or is through. */
static bool rests(const struct judged *r)
{
    return r->last.phase == BEAT_GONE || r->last.wait == BEAT_ORDER ||
           (r->last.phase == BEAT_IDLE && r->last.wait == BEAT_NOTHING);
}

static bool silent(const struct judge *judge, const struct judged *r)
{
    return r->last.phase != BEAT_GONE && judge->now_ms - r->heard_ms > judge->times.silent_ms;
}

/* Ranks expect about the same; whoever waits for a slow one has its patience. */
static uint64_t longest_expected_ms(const struct judge *judge)
{
    uint64_t ns = 0;
    for (int rank = 0; rank < judge->size; rank++) {
        const uint64_t its = judge->ranks[rank].last.expect_ns;
        ns = its > ns ? its : ns;
    }
    return ns / 1000000;
}

static bool stands(const struct judge *judge, const struct judged *r)
{
    const uint64_t expected = longest_expected_ms(judge);
    uint64_t limit = judge->times.stands_ms;
    if (r->last.phase == BEAT_LOADING)
        limit *= LOADING_PATIENCE;
    else if (expected > limit / PATIENCE)
        limit = expected < UINT64_MAX / PATIENCE ? PATIENCE * expected : UINT64_MAX;
    return judge->now_ms - r->moved_ms > limit;
}

/* Somebody is silent, or computes without end, or all that have something to do stand. */
static bool hangs(const struct judge *judge)
{
    int busy = 0, standing = 0;
    for (int rank = 0; rank < judge->size; rank++) {
        const struct judged *r = &judge->ranks[rank];
        if (silent(judge, r))
            return true;
        if (rests(r))
            continue;
        busy++;
        if (!stands(judge, r))
            continue;
        standing++;
        if (r->last.wait == BEAT_NOTHING)
            return true;
    }
    return busy > 0 && standing == busy;
}

/* The rank that is furthest in an all-reduce, else one in some other collective, else NULL. */
static const struct judged *first_waiting(const struct judge *judge)
{
    const struct judged *first = NULL;
    for (int rank = 0; rank < judge->size; rank++) {
        const struct judged *r = &judge->ranks[rank];
        if (r->last.wait == BEAT_NOTHING || r->last.wait == BEAT_ORDER || silent(judge, r))
            continue;
        if (!first ||
            (r->last.wait == BEAT_ALLREDUCE &&
             (first->last.wait != BEAT_ALLREDUCE || r->last.allreduces > first->last.allreduces)))
            first = r;
    }
    return first;
}

/* How sure it is that a rank is to blame: the surest are named. One that waits in an all-reduce
 * before the first one's waits for somebody itself: parts of an all-reduce come one by one. */
enum blame { BLAME_NONE, BLAME_BEHIND, BLAME_ELSEWHERE, BLAME_SILENT };

static enum blame blame(const struct judge *judge, const struct judged *r,
                        const struct judged *first)
{
    if (r->last.phase == BEAT_GONE)
        return BLAME_NONE;
    if (silent(judge, r))
        return BLAME_SILENT;
    if (!first)
        return !rests(r) && stands(judge, r) ? BLAME_ELSEWHERE : BLAME_NONE;
    if (r->last.wait != first->last.wait)
        return BLAME_ELSEWHERE;
    return r->last.allreduces < first->last.allreduces ? BLAME_BEHIND : BLAME_NONE;
}

/* ---- the verdict ------------------------------------------------------------------------------*/

static void append(char text[JUDGE_TEXT], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void append(char text[JUDGE_TEXT], const char *format, ...)
{
    const size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, JUDGE_TEXT - used, format, args);
    va_end(args);
}

static void name_place(char text[JUDGE_TEXT], const struct judged *first)
{
    static const char *const waits[BEAT_WAITS] = {
        [BEAT_BROADCAST] = "a broadcast",
        [BEAT_GATHER] = "the gathering of summaries",
        [BEAT_AGREEMENT] = "an agreement",
    };
    if (!first)
        append(text, "waiting for nothing");
    else if (first->last.wait == BEAT_ALLREDUCE && first->last.layer == BEAT_NO_LAYER)
        append(text, "waiting in the all-reduce of the embedding");
    else if (first->last.wait == BEAT_ALLREDUCE)
        append(text, "waiting in all-reduce %u of layer %u", first->last.in_layer,
               first->last.layer);
    else
        append(text, "waiting in %s", waits[first->last.wait]);
}

static void describe(const struct judge *judge, char text[JUDGE_TEXT])
{
    const struct judged *first = first_waiting(judge);
    enum blame most = BLAME_NONE;
    int missing = 0;
    text[0] = '\0';
    name_place(text, first);
    for (int rank = 0; rank < judge->size; rank++) {
        const enum blame its = blame(judge, &judge->ranks[rank], first);
        most = its > most ? its : most;
    }
    for (int rank = 0; rank < judge->size && most > BLAME_NONE; rank++) {
        const struct judged *r = &judge->ranks[rank];
        if (blame(judge, r, first) < most || ++missing > NAMED)
            continue;
        const uint64_t since = most == BLAME_SILENT ? r->heard_ms : r->moved_ms;
        append(text, "%s rank %d on %s (%s for %.1f s)", missing == 1 ? "; not arrived:" : ",",
               rank, r->host,
               most == BLAME_SILENT ? "silent"
               : rests(r)           ? "idle"
                                    : "no progress",
               (double)(judge->now_ms - since) / 1000);
    }
    if (missing > NAMED)
        append(text, " and %d more", missing - NAMED);
    if (missing == 0)
        append(text, "; all have arrived, but their messages have not");
}

bool judge_pass(struct judge *judge, uint64_t elapsed_ms, char text[JUDGE_TEXT])
{
    judge->now_ms += elapsed_ms;
    if (!hangs(judge))
        return false;
    describe(judge, text);
    return true;
}
