#include "coordinator/link/time_limit.h"

void link_time_limit_learn(struct link_time_limit *limit, uint64_t took_ms)
{
    const double weight = 1.0 / 8; /* of the newest */
    if (limit->job_ms > 0)
        limit->job_ms += weight * ((double)took_ms - limit->job_ms);
    else
        limit->job_ms = (double)took_ms;
}

enum link_time link_time_limit_ask(const struct link_time_limit *limit, uint64_t wall_ms)
{
    if (limit->end_ms == 0)
        return LINK_TIME_ENOUGH;
    const double left = (double)limit->end_ms - (double)limit->margin_ms - (double)wall_ms;
    return left <= 0               ? LINK_TIME_OVER
           : left <= limit->job_ms ? LINK_TIME_FOR_NO_OTHER
                                   : LINK_TIME_ENOUGH;
}
