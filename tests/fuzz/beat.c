/* Datagrams of beats and of their answers, and the verdict on what beats say. Whoever can reach the
 * port does not know the run's token; it is put in, as if he did, behind the first byte, which
 * says what it is. */
#include <string.h>

#include "base/err.h"
#include "tests/fuzz/fuzz.h"
#include "worker/comm/beat/datagram.h"

enum { RANKS = 3 };

static void judge(const struct datagram_beat *beat)
{
    static const char hosts[RANKS][BEAT_HOST] = {"n1", "n2", "n3"};
    static const struct beat_times times = {1000, 10000, 30000};
    struct judge *judge = judge_new(RANKS, hosts, &times, NULL);
    char text[JUDGE_TEXT];

    if (!judge)
        return;
    judge_begin(judge);
    judge_hear(judge, (int)beat->rank, &beat->report);
    for (int i = 0; i < 40 && !judge_pass(judge, 1000, text); i++)
        ;
    judge_free(judge);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t token[BEAT_TOKEN] = {1, 2, 3, 4};
    uint8_t bytes[DATAGRAM_MOST];
    struct datagram_beat beat;
    struct datagram_answer answer;

    if (size < 1 || size - 1 > sizeof bytes)
        return 0;
    memcpy(bytes, data + 1, --size);
    if (data[0] & 1 && size >= 8 + BEAT_TOKEN)
        memcpy(bytes + 8, token, BEAT_TOKEN);
    if (datagram_beat_check(bytes, size, token, RANKS, &beat))
        judge(&beat);
    if (datagram_answer_check(bytes, size, token, &answer) &&
        strlen(answer.verdict) >= sizeof answer.verdict)
        __builtin_trap();
    return 0;
}
