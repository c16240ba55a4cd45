#include "base/time.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

enum {
    SPINS = 200, /* about the latency of a message between busy ranks */
    FIRST_SLEEP_NS = 20000,
    LONGEST_SLEEP_NS = 1000000,
};

uint64_t caloris_time_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t caloris_time_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

const char *caloris_time_text(uint64_t wall_ms, char text[CALORIS_TIME_TEXT])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    char date[CALORIS_TIME_TEXT - 8];
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text, CALORIS_TIME_TEXT, "%s.%03uZ", date, (unsigned)(wall_ms % 1000));
    return text;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec rest = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
        ;
}

void caloris_backoff_wait(struct caloris_backoff *backoff)
{
    if (backoff->tries < SPINS) {
        backoff->tries++;
        sched_yield();
        return;
    }
    uint32_t doublings = (backoff->tries - SPINS) / 8;
    uint64_t ns = doublings < 6 ? (uint64_t)FIRST_SLEEP_NS << doublings : LONGEST_SLEEP_NS;
    if (ns > LONGEST_SLEEP_NS)
        ns = LONGEST_SLEEP_NS;
    else
        backoff->tries++;
    sleep_ns(ns);
}

void caloris_time_sleep_ms(uint64_t ms)
{
    sleep_ns(ms * 1000000u);
}
