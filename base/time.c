#include "base/time.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
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

/* "Z" or "+01:00" at the end of a text: the seconds that local time is ahead; -1 for anything
 * else. */
static int parse_offset(const char *text, int *ahead_s)
{
    static const char shape[] = "+00:00";
    *ahead_s = 0;
    if (strcmp(text, "Z") == 0)
        return 0;
    if (strlen(text) != strlen(shape) || (text[0] != '+' && text[0] != '-') || text[3] != ':')
        return -1;
    for (int i = 1; shape[i]; i++) {
        if (shape[i] == '0' && !isdigit((unsigned char)text[i]))
            return -1;
    }
    const int hours = (text[1] - '0') * 10 + text[2] - '0';
    const int minutes = (text[4] - '0') * 10 + text[5] - '0';
    if (hours > 23 || minutes > 59)
        return -1;
    *ahead_s = (text[0] == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
    return 0;
}

int caloris_time_parse(const char *text, uint64_t *wall_ms)
{
    struct tm utc = {0};
    unsigned ms = 0;
    int ahead_s;
    const char *at = strptime(text, "%Y-%m-%dT%H:%M:%S", &utc);
    if (!at || at - text != 19) /* strptime takes fewer digits, too */
        return -1;
    if (*at == '.') {
        unsigned weight = 100;
        if (!isdigit((unsigned char)*++at))
            return -1;
        for (; isdigit((unsigned char)*at); at++, weight /= 10)
            ms += weight * (unsigned)(*at - '0');
    }
    const int day = utc.tm_mday;
    time_t seconds = timegm(&utc);
    if (utc.tm_mday != day || parse_offset(at, &ahead_s) < 0 || seconds - ahead_s < 0)
        return -1;
    *wall_ms = (uint64_t)(seconds - ahead_s) * 1000u + ms;
    return 0;
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
