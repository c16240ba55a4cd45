#include "base/log.h"

#include "base/time.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 2048, WHO_BYTES = 128 };

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static atomic_int lowest = CALORIS_LOG_INFO;
static pthread_mutex_t who_lock = PTHREAD_MUTEX_INITIALIZER;
static char who[WHO_BYTES];

void caloris_log_set_level(enum caloris_log_level level)
{
    atomic_store(&lowest, (int)level);
}

void caloris_log_set_who(const char *text)
{
    pthread_mutex_lock(&who_lock);
    snprintf(who, sizeof(who), "%s", text);
    pthread_mutex_unlock(&who_lock);
}

void caloris_log(enum caloris_log_level level, const char *format, ...)
{
    if ((int)level < atomic_load(&lowest))
        return;
    char stamp[CALORIS_TIME_TEXT];
    char line[LINE_BYTES];
    caloris_time_text(caloris_time_wall_ms(), stamp);

    pthread_mutex_lock(&who_lock);
    int used = snprintf(line, sizeof(line), "%s %s %s%s", stamp, level_names[level], who,
                        who[0] ? " " : "");
    pthread_mutex_unlock(&who_lock);

    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof(line) - (size_t)used, format, args);
    va_end(args);

    size_t length = (size_t)used + (size_t)(more < 0 ? 0 : more);
    if (length > sizeof(line) - 2)
        length = sizeof(line) - 2;
    line[length] = '\n';
    /* One write, so that lines of several ranks do not mix. A log that cannot be written is not an
     * error. */
    ssize_t ignored = write(STDERR_FILENO, line, length + 1);
    (void)ignored;
}
