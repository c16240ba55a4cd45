#include "coordinator/link/hand_over.h"

#include "base/buf.h"
#include "base/err.h"
#include "proto/caloris.pb-c.h"
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

struct link_place link_place(const struct caloris_stand *stands, size_t n)
{
    struct link_place place = {UINT32_MAX, 0};
    uint32_t last = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t block = stands[i].step > 0 ? stands[i].block : 0;
        last = block > last ? block : last;
        if (!stands[i].done && block < place.block)
            place.block = block;
        place.passes += stands[i].step > 0 ? stands[i].passes : 0;
    }
    if (place.block == UINT32_MAX) /* all are done */
        place.block = last;
    return place;
}

/* ---- out ------------------------------------------------------------------------------------- */

static int append(const Caloris__Wire__HandOver *message, struct caloris_buf *bytes,
                  struct caloris_err *err)
{
    const size_t n = protobuf_c_message_get_packed_size(&message->base);
    if (n > CALORIS_WIRE_MAX_HAND_OVER)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "progress of %zu bytes, more than %d", n,
                               CALORIS_WIRE_MAX_HAND_OVER);
    uint8_t *packed = malloc(n);
    if (!packed)
        return caloris_err_sys(err, "progress of %zu bytes", n);
    protobuf_c_message_pack(&message->base, packed);
    const int rc = caloris_buf_append(bytes, (const char *)packed, n, err);
    free(packed);
    return rc;
}

int link_hand_over_pack(const struct link_model *model, const char *name,
                        const struct link_job *job, const struct caloris_stand *stands,
                        struct caloris_buf *bytes, struct caloris_err *err)
{
    Caloris__Wire__Stand *entries = calloc(job->best, sizeof(*entries));
    Caloris__Wire__Stand **list = calloc(job->best, sizeof(Caloris__Wire__Stand *));
    int rc = -1;
    if (!entries || !list) {
        caloris_err_sys(err, "progress of %zu candidates", job->best);
        goto out;
    }
    for (size_t i = 0; i < job->best; i++) {
        Caloris__Wire__Stand *to = list[i] = &entries[i];
        caloris__wire__stand__init(to);
        if (stands[i].step == 0)
            continue;
        to->block = stands[i].block;
        to->step = stands[i].step;
        to->done = stands[i].done;
        to->passes = stands[i].passes;
        to->rows = stands[i].rows;
        to->ids = (uint32_t *)stands[i].canvas; /* none is negative */
        to->n_ids = job->length;
        to->log_p = stands[i].log_p;
        to->n_log_p = job->length;
    }
    Caloris__Wire__HandOver message = CALORIS__WIRE__HAND_OVER__INIT;
    message.model = (char *)name;
    message.weights = (char *)model->facts->format;
    message.candidates = list;
    message.n_candidates = job->best;
    rc = append(&message, bytes, err);
out:
    free(entries);
    free(list);
    return rc;
}

/* ---- in -------------------------------------------------------------------------------------- */

static int take_stand(const struct link_job *job, const Caloris__Wire__Stand *from,
                      struct caloris_stand *to, struct caloris_err *err)
{
    if (from->step == 0)
        return 0;
    if (from->n_ids != job->length || from->n_log_p != job->length)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "progress: a canvas of %zu ids and %zu log p, but %zu tokens",
                               from->n_ids, from->n_log_p, job->length);
    to->block = from->block;
    to->step = from->step;
    to->done = from->done;
    to->passes = from->passes;
    to->rows = from->rows;
    for (size_t i = 0; i < job->length; i++) {
        if (from->ids[i] > INT32_MAX)
            return caloris_err_set(err, CALORIS_BAD_REQUEST, "progress: id %u at %zu", from->ids[i],
                                   i);
        to->canvas[i] = (int32_t)from->ids[i];
    }
    memcpy(to->log_p, from->log_p, job->length * sizeof(*to->log_p));
    return 0;
}

static int check_origin(const struct link_model *model, const char *name,
                        const struct link_job *job, const Caloris__Wire__HandOver *message,
                        struct caloris_err *err)
{
    if (strcmp(message->model, name) != 0 || strcmp(message->weights, model->facts->format) != 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "progress: of model %.64s as %.16s, but this is %s as %s",
                               message->model, message->weights, name, model->facts->format);
    if (message->n_candidates != job->best)
        return caloris_err_set(err, CALORIS_BAD_REQUEST,
                               "progress: of %zu candidates, but the job has %zu",
                               message->n_candidates, job->best);
    return 0;
}

struct caloris_stand *link_hand_over_unpack(const struct link_model *model, const char *name,
                                            const struct link_job *job, const uint8_t *bytes,
                                            size_t n, struct caloris_err *err)
{
    struct caloris_stand *stands = NULL;
    int rc = -1;
    if (n > CALORIS_WIRE_MAX_HAND_OVER) {
        caloris_err_set(err, CALORIS_BAD_REQUEST, "progress: %zu bytes, more than %d", n,
                        CALORIS_WIRE_MAX_HAND_OVER);
        return NULL;
    }
    Caloris__Wire__HandOver *message = (Caloris__Wire__HandOver *)caloris_wire_unpack(
        &caloris__wire__hand_over__descriptor, bytes, n, false, err);
    if (!message)
        return NULL;
    if (check_origin(model, name, job, message, err) < 0)
        goto out;
    stands = caloris_stand_new(job->best, job->length);
    if (!stands) {
        caloris_err_sys(err, "progress of %zu candidates", job->best);
        goto out;
    }
    for (size_t i = 0; i < job->best; i++) {
        if (take_stand(job, message->candidates[i], &stands[i], err) < 0)
            goto out;
    }
    rc = 0;
out:
    protobuf_c_message_free_unpacked(&message->base, NULL);
    if (rc == 0)
        return stands;
    free(stands);
    return NULL;
}
