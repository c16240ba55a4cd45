/* base/time.h: clocks, time stamps, and waiting without burning a core. */
#ifndef CALORIS_TIME_H
#define CALORIS_TIME_H

#include <stdint.h>

/* Nanoseconds of a clock that never jumps. */
uint64_t caloris_time_ns(void);

/* Milliseconds since 1970 (UTC). */
uint64_t caloris_time_wall_ms(void);

enum { CALORIS_TIME_TEXT = 32 };

/* ISO 8601 in UTC with milliseconds. Returns text. */
const char *caloris_time_text(uint64_t wall_ms, char text[CALORIS_TIME_TEXT]);

/* The other way round: "2026-11-24T08:00:00Z", with or without a fraction of a second, "Z" or an
 * offset such as "+01:00". -1 for what is no time since 1970. */
int caloris_time_parse(const char *text, uint64_t *wall_ms);

/* How often has somebody polled for something in vain: spins first, then sleeps, longer each time,
 * up to 1 ms.
 * Start from {0}; reset by assigning {0} when something came. */
struct caloris_backoff {
    uint32_t tries;
};

void caloris_backoff_wait(struct caloris_backoff *backoff);

void caloris_time_sleep_ms(uint64_t ms);

#endif
