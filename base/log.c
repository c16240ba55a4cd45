#include "base/log.h"

#include "base/time.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 2048, WHO_BYTES = 128, SAID_BYTES = LINE_BYTES - 512 };

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static atomic_int lowest = CALORIS_LOG_INFO;
static atomic_int as = CALORIS_LOG_TEXT;
static atomic_int my_rank, all_ranks;
static pthread_mutex_t who_lock = PTHREAD_MUTEX_INITIALIZER;
static char who[WHO_BYTES];

void caloris_log_set_level(enum caloris_log_level level)
{
    atomic_store(&lowest, (int)level);
}

void caloris_log_set_format(enum caloris_log_format format)
{
    atomic_store(&as, (int)format);
}

void caloris_log_set_who(const char *program)
{
    pthread_mutex_lock(&who_lock);
    snprintf(who, sizeof(who), "%s", program);
    pthread_mutex_unlock(&who_lock);
}

void caloris_log_set_rank(int rank, int ranks)
{
    atomic_store(&my_rank, rank);
    atomic_store(&all_ranks, ranks);
}

/* ---- a line ---------------------------------------------------------------------------------- */

struct entry {
    enum caloris_log_level level;
    struct caloris_log_about about;
    char time[CALORIS_TIME_TEXT];
    char program[WHO_BYTES];
    int rank, ranks;
    char said[SAID_BYTES];
};

static size_t as_text(const struct entry *entry, char line[LINE_BYTES])
{
    char rank[40] = "", job[40] = "", step[40] = "";
    if (entry->ranks > 0)
        snprintf(rank, sizeof(rank), " rank=%d/%d", entry->rank, entry->ranks);
    if (entry->about.job > 0)
        snprintf(job, sizeof(job), " job=%" PRIu64, entry->about.job);
    if (entry->about.step > 0)
        snprintf(step, sizeof(step), " step=%" PRIu64, entry->about.step);
    const int n =
        snprintf(line, LINE_BYTES - 1, "%s %s%s%s%s%s%s %s", entry->time, level_names[entry->level],
                 entry->program[0] ? " " : "", entry->program, rank, job, step, entry->said);
    return n < 0 ? 0 : (size_t)n < LINE_BYTES - 1 ? (size_t)n : LINE_BYTES - 2;
}

static void put_number(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

/* What is no UTF-8 loses its bytes beyond ASCII. */
static json_t *clean_string(const char *text)
{
    json_t *value = json_string(text);
    if (value)
        return value;
    char ascii[SAID_BYTES];
    snprintf(ascii, sizeof(ascii), "%s", text);
    for (char *at = ascii; *at; at++)
        *at = (unsigned char)*at < 0x80 ? *at : '?';
    return json_string(ascii);
}

static size_t as_json(const struct entry *entry, char line[LINE_BYTES])
{
    json_t *object = json_object();
    size_t n = 0;
    json_object_set_new(object, "time", json_string(entry->time));
    json_object_set_new(object, "level", json_string(level_names[entry->level]));
    if (entry->program[0])
        json_object_set_new(object, "program", clean_string(entry->program));
    if (entry->ranks > 0) {
        put_number(object, "rank", (uint64_t)entry->rank);
        put_number(object, "ranks", (uint64_t)entry->ranks);
    }
    if (entry->about.job > 0)
        put_number(object, "job", entry->about.job);
    if (entry->about.step > 0)
        put_number(object, "step", entry->about.step);
    json_object_set_new(object, "text", clean_string(entry->said));
    n = json_dumpb(object, line, LINE_BYTES - 1, JSON_COMPACT);
    json_decref(object);
    /* Escapes may make it too long, and memory may be short: a line that is whole, or text. */
    return n > 0 && n < LINE_BYTES - 1 ? n : as_text(entry, line);
}

static void say(enum caloris_log_level level, struct caloris_log_about about, const char *format,
                va_list args) __attribute__((format(printf, 3, 0)));
static void say(enum caloris_log_level level, struct caloris_log_about about, const char *format,
                va_list args)
{
    char line[LINE_BYTES];
    struct entry entry = {
        .level = level,
        .about = about,
        .rank = atomic_load(&my_rank),
        .ranks = atomic_load(&all_ranks),
    };
    caloris_time_text(caloris_time_wall_ms(), entry.time);
    pthread_mutex_lock(&who_lock);
    memcpy(entry.program, who, sizeof(who));
    pthread_mutex_unlock(&who_lock);
    vsnprintf(entry.said, sizeof(entry.said), format, args);
    for (char *at = entry.said; *at; at++) /* one event, one line, whatever a name holds */
        *at = (unsigned char)*at < ' ' || *at == 0x7f ? ' ' : *at;

    size_t n = atomic_load(&as) == CALORIS_LOG_JSON ? as_json(&entry, line) : as_text(&entry, line);
    line[n++] = '\n';
    /* One write, so that lines of several ranks do not mix. A log that cannot be written is not an
     * error. */
    ssize_t ignored = write(STDERR_FILENO, line, n);
    (void)ignored;
}

void caloris_log(enum caloris_log_level level, const char *format, ...)
{
    va_list args;
    if ((int)level < atomic_load(&lowest))
        return;
    va_start(args, format);
    say(level, (struct caloris_log_about){0, 0}, format, args);
    va_end(args);
}

void caloris_log_about(enum caloris_log_level level, struct caloris_log_about about,
                       const char *format, ...)
{
    va_list args;
    if ((int)level < atomic_load(&lowest))
        return;
    va_start(args, format);
    say(level, about, format, args);
    va_end(args);
}
