/* coordinator/link/time_limit.h (inside link): an allocation that ends.
 *
 * A group takes no job any more that is not likely to be done by then, and hands back what is not
 * done a margin before the end. How long a job takes is the mean of those that this group has done
 * lately: one that takes longer is handed back where it stands, at the cost of some steps. No
 * clock: the caller says how late it is. */
#ifndef CALORIS_LINK_TIME_LIMIT_H
#define CALORIS_LINK_TIME_LIMIT_H

#include <stdint.h>

struct link_time_limit {
    uint64_t end_ms;    /* since 1970; 0: there is none */
    uint64_t margin_ms; /* for the way back of everything, and the end of the ranks */
    double job_ms;      /* mean of jobs lately; 0: none yet */
};

enum link_time { LINK_TIME_ENOUGH, LINK_TIME_FOR_NO_OTHER, LINK_TIME_OVER };

/* A job was done, so long after it came. */
void link_time_limit_learn(struct link_time_limit *limit, uint64_t took_ms);

enum link_time link_time_limit_ask(const struct link_time_limit *limit, uint64_t wall_ms);

#endif
