/* worker/comm/beat/datagram.h (inside beat): beats and answers on the wire. Ranks of one world are
 * alike, so that structs travel as they are; but whoever can reach the port may send anything. */
#ifndef CALORIS_BEAT_DATAGRAM_H
#define CALORIS_BEAT_DATAGRAM_H

#include "worker/comm/beat/judge.h"

struct datagram_beat {
    char magic[8];
    uint8_t token[BEAT_TOKEN];
    uint64_t sequence; /* 1, 2, … of this rank */
    uint32_t rank, reserved;
    struct beat_report report;
};

struct datagram_answer {
    char magic[8];
    uint8_t token[BEAT_TOKEN];
    uint64_t sequence; /* of the beat; 0: unasked */
    uint32_t hangs, reserved;
    char verdict[JUDGE_TEXT]; /* hangs: why */
};

enum { DATAGRAM_MOST = sizeof(struct datagram_answer) + 1 }; /* a longer one shows as such */

void datagram_beat_make(struct datagram_beat *beat, const uint8_t token[BEAT_TOKEN], int rank,
                        uint64_t sequence, const struct beat_report *report);
void datagram_answer_make(struct datagram_answer *answer, const uint8_t token[BEAT_TOKEN],
                          uint64_t sequence, const char *verdict);

/* True and a copy of it when these n bytes are one of this run: a rank in 1 … size - 1, known
 * values in every field; an answer's text ends. */
bool datagram_beat_check(const void *bytes, size_t n, const uint8_t token[BEAT_TOKEN], int size,
                         struct datagram_beat *beat);
bool datagram_answer_check(const void *bytes, size_t n, const uint8_t token[BEAT_TOKEN],
                           struct datagram_answer *answer);

#endif
