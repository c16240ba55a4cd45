/* coordinator/link/progress.h (inside link): a STEP or SNAPSHOT event as the message that viewers
 * and traces understand. */
#ifndef CALORIS_LINK_PROGRESS_H
#define CALORIS_LINK_PROGRESS_H

#include "base/buf.h"
#include "coordinator/link/job.h"
#include "proto/caloris.pb-c.h"

struct link_progress {
    Caloris__Wire__Progress message; /* of what follows; seq is the caller's */
    Caloris__Wire__Cell *cells;
    Caloris__Wire__Cell **list;
    struct caloris_buf pieces; /* the tokens' bytes */
};

/* NULL and err. */
struct link_progress *link_progress_new(const struct link_model *model, const struct link_job *job,
                                        const struct caloris_event *event, struct caloris_err *err);
void link_progress_free(struct link_progress *progress); /* NULL is fine */

#endif
