/* base/log.h: one line per event on stderr, from programs and their long-lived threads (library
 * calls return errors instead). A line reads "2026-11-23T20:03:55.123Z info rank=0/4 host=n1 text".
 * Prompts and answers are never logged.
 */
#ifndef CALORIS_LOG_H
#define CALORIS_LOG_H

enum caloris_log_level { CALORIS_LOG_DEBUG, CALORIS_LOG_INFO, CALORIS_LOG_WARN, CALORIS_LOG_ERROR };

/* Lines below level are dropped. Default: INFO. */
void caloris_log_set_level(enum caloris_log_level level);

/* "gateway", "rank=2/4 host=n1" …: stands in every line of this process from now on. Copied. */
void caloris_log_set_who(const char *who);

void caloris_log(enum caloris_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
