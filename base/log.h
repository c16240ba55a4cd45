/* base/log.h: one line per event on stderr, from programs and their long-lived threads (library
 * calls return errors instead). As text or as a JSON object, with the same fields:
 *
 *   2026-11-23T20:03:55.123Z warn engine rank=0/4 job=17 begins anew: …
 *   {"time":"2026-11-23T20:03:55.123Z","level":"warn","program":"engine","rank":0,"ranks":4,
 *    "job":17,"text":"begins anew: …"}                                        (on one line)
 *
 * Prompts and answers are never logged. */
#ifndef CALORIS_LOG_H
#define CALORIS_LOG_H

#include <stdint.h>

enum caloris_log_level { CALORIS_LOG_DEBUG, CALORIS_LOG_INFO, CALORIS_LOG_WARN, CALORIS_LOG_ERROR };
enum caloris_log_format { CALORIS_LOG_TEXT, CALORIS_LOG_JSON };

/* Lines below level are dropped. Default: INFO. */
void caloris_log_set_level(enum caloris_log_level level);
void caloris_log_set_format(enum caloris_log_format format);

/* Stand in every line of this process from now on: "gateway", "engine" (copied), and which rank of
 * how many it is (0 ranks: none). */
void caloris_log_set_who(const char *program);
void caloris_log_set_rank(int rank, int ranks);

void caloris_log(enum caloris_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* What a line is about; 0: nothing. */
struct caloris_log_about {
    uint64_t job, step;
};
void caloris_log_about(enum caloris_log_level level, struct caloris_log_about about,
                       const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
