/* coordinator/link/hand_over.h (inside link): where a job stands, in bytes that another group
 * understands. */
#ifndef CALORIS_LINK_HAND_OVER_H
#define CALORIS_LINK_HAND_OVER_H

#include "coordinator/link/job.h"

/* The first block that is not behind all candidates, and the forward passes that were done. */
struct link_place {
    uint32_t block, passes;
};
struct link_place link_place(const struct caloris_stand *stands, size_t n);

/* A HandOver of stands [job->best], appended to bytes. model: the group's name of it. */
int link_hand_over_pack(const struct link_model *model, const char *name,
                        const struct link_job *job, const struct caloris_stand *stands,
                        struct caloris_buf *bytes, struct caloris_err *err);

/* The stands of job in bytes [n], which nobody has looked at: they have the shape of this job, and
 * come from the same model; whether they can be its own the schedule says. free(); NULL and
 * err. */
struct caloris_stand *link_hand_over_unpack(const struct link_model *model, const char *name,
                                            const struct link_job *job, const uint8_t *bytes,
                                            size_t n, struct caloris_err *err);

#endif
