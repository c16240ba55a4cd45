/* tests/tp/decode_runs.h: the recorded decodes through the schedule over a real engine. */
#ifndef DECODE_RUNS_H
#define DECODE_RUNS_H

#include "tests/unit/golden_decodes.h"
#include "worker/engine.h"

enum { DECODE_CANVAS = 64, DECODE_SLOTS = 18, DECODE_FLIGHT = 16 };

/* Body of caloris_engine_run, arg a struct golden_decodes: all its runs with one and with 16 in
 * flight, with 16 that must take turns, that wait for each other's K/V, or whose steps aim at few
 * rows. Ids, forwards, rows and the writes of every step must be the recorded ones; -1 and err
 * say what was not. */
int decode_runs_body(struct caloris_engine *engine, void *arg, struct caloris_err *err);

#endif
