/* worker/comm/beat/judge.h (inside beat): from what ranks tell to a verdict. No clock, no socket:
 * the caller says how time goes by. */
#ifndef CALORIS_BEAT_JUDGE_H
#define CALORIS_BEAT_JUDGE_H

#include "worker/comm/beat/beat.h"

enum { JUDGE_TEXT = 320 };

struct judge;

/* hosts [size] is copied. */
struct judge *judge_new(int size, const char (*hosts)[BEAT_HOST], const struct beat_times *times,
                        struct caloris_err *err);
void judge_free(struct judge *judge); /* NULL is fine */

/* A rank's word. */
void judge_hear(struct judge *judge, int rank, const struct beat_report *report);
const struct beat_report *judge_latest(const struct judge *judge, int rank);

/* Nothing before now counts: everybody was heard of just now. */
void judge_begin(struct judge *judge);

/* elapsed_ms more have gone by. True: the world hangs, and text says where and because of whom. */
bool judge_pass(struct judge *judge, uint64_t elapsed_ms, char text[JUDGE_TEXT]);

#endif
