#include "worker/comm/beat/datagram.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char beat_magic[8] = {'C', 'A', 'L', 'B', 'E', 'A', 'T', '2'};
static const char answer_magic[8] = {'C', 'A', 'L', 'A', 'N', 'S', 'W', '1'};

/* No byte between fields that nobody wrote. */
_Static_assert(sizeof(struct beat_report) == (14 + CALORIS_METRICS_CLASSES) * 8 + 4 * 4,
               "padding in a report");
_Static_assert(sizeof(struct datagram_beat) == 8 + BEAT_TOKEN + 16 + sizeof(struct beat_report),
               "padding in a beat");
_Static_assert(sizeof(struct datagram_answer) == 8 + BEAT_TOKEN + 16 + JUDGE_TEXT,
               "padding in an answer");

void datagram_beat_make(struct datagram_beat *beat, const uint8_t token[BEAT_TOKEN], int rank,
                        uint64_t sequence, const struct beat_report *report)
{
    memset(beat, 0, sizeof(*beat));
    memcpy(beat->magic, beat_magic, sizeof(beat_magic));
    memcpy(beat->token, token, BEAT_TOKEN);
    beat->sequence = sequence;
    beat->rank = (uint32_t)rank;
    beat->report = *report;
}

void datagram_answer_make(struct datagram_answer *answer, const uint8_t token[BEAT_TOKEN],
                          uint64_t sequence, const char *verdict)
{
    memset(answer, 0, sizeof(*answer));
    memcpy(answer->magic, answer_magic, sizeof(answer_magic));
    memcpy(answer->token, token, BEAT_TOKEN);
    answer->sequence = sequence;
    answer->hangs = verdict != NULL;
    if (verdict)
        snprintf(answer->verdict, sizeof(answer->verdict), "%s", verdict);
}

/* In time that does not depend on where they differ. */
static bool same_token(const uint8_t *a, const uint8_t *b)
{
    unsigned differ = 0;
    for (int i = 0; i < BEAT_TOKEN; i++)
        differ |= (unsigned)(a[i] ^ b[i]);
    return differ == 0;
}

bool datagram_beat_check(const void *bytes, size_t n, const uint8_t token[BEAT_TOKEN], int size,
                         struct datagram_beat *beat)
{
    if (n != sizeof(*beat))
        return false;
    memcpy(beat, bytes, n);
    return memcmp(beat->magic, beat_magic, sizeof(beat_magic)) == 0 &&
           same_token(beat->token, token) && beat->sequence > 0 && beat->rank >= 1 &&
           beat->rank < (uint32_t)size && beat->report.phase < BEAT_PHASES &&
           beat->report.wait < BEAT_WAITS && beat->report.asked < NSIG;
}

bool datagram_answer_check(const void *bytes, size_t n, const uint8_t token[BEAT_TOKEN],
                           struct datagram_answer *answer)
{
    if (n != sizeof(*answer))
        return false;
    memcpy(answer, bytes, n);
    return memcmp(answer->magic, answer_magic, sizeof(answer_magic)) == 0 &&
           same_token(answer->token, token) && answer->hangs <= 1 &&
           memchr(answer->verdict, '\0', sizeof(answer->verdict)) != NULL;
}
