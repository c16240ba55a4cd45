/* Whether all ranks get on: what a world's beats need to know of each other, and where each rank
 * is. */
#include "worker/comm/comm_impl.h"

#include "base/err.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BEATS_IN_SILENCE = 10 };

/* ---- where this rank is ---------------------------------------------------------------------- */

#define SET(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define GET(field)        atomic_load_explicit(&(field), memory_order_relaxed)

/* One writer: no locked instruction is needed. */
static void get_on(struct beat_progress *progress)
{
    SET(progress->count, GET(progress->count) + 1);
}

void comm_enter(struct caloris_comm *comm, enum beat_wait wait)
{
    struct beat_progress *progress = &comm->progress;
    const uint64_t now = caloris_time_ns();
    if (comm->left_ns > 0 && now - comm->left_ns > comm->longest_ns)
        comm->longest_ns = now - comm->left_ns;
    if (wait == BEAT_ALLREDUCE) {
        SET(progress->allreduces, comm->counters.allreduces);
        SET(progress->in_layer, (uint32_t)(comm->counters.allreduces - comm->layer_first));
    }
    SET(progress->wait, (uint32_t)wait);
    get_on(progress);
}

void comm_leave(struct caloris_comm *comm)
{
    comm->left_ns = caloris_time_ns();
    SET(comm->progress.wait, BEAT_NOTHING);
    get_on(&comm->progress);
}

void caloris_comm_at(struct caloris_comm *comm, enum caloris_comm_phase phase, uint64_t expect_ns)
{
    static const enum beat_phase phases[] = {
        [CALORIS_COMM_IDLE] = BEAT_IDLE,
        [CALORIS_COMM_LOADING] = BEAT_LOADING,
        [CALORIS_COMM_STEP] = BEAT_STEP,
        [CALORIS_COMM_LEAVING] = BEAT_LEAVING,
    };
    struct beat_progress *progress = &comm->progress;
    comm->longest_ns = comm->left_ns = 0;
    SET(progress->phase, (uint32_t)phases[phase]);
    SET(progress->expect_ns, expect_ns);
    if (phase == CALORIS_COMM_STEP) {
        comm->left_ns = caloris_time_ns();
        comm->layer_first = comm->counters.allreduces;
        SET(progress->layer, BEAT_NO_LAYER);
        SET(progress->step, GET(progress->step) + 1);
    }
    get_on(progress);
}

void caloris_comm_at_layer(struct caloris_comm *comm, size_t layer)
{
    comm->layer_first = comm->counters.allreduces;
    SET(comm->progress.layer, (uint32_t)layer);
    get_on(&comm->progress);
}

void caloris_comm_loaded(struct caloris_comm *comm, uint64_t bytes)
{
    atomic_fetch_add_explicit(&comm->progress.loaded_bytes, bytes, memory_order_relaxed);
}

uint64_t caloris_comm_longest_ns(const struct caloris_comm *comm)
{
    return comm->longest_ns;
}

static uint64_t in_ns(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

void caloris_comm_did(struct caloris_comm *comm, const struct caloris_comm_work *work)
{
    const struct caloris_comm_counters *counters = &comm->counters;
    struct beat_progress *progress = &comm->progress;
    SET(progress->compute_ns, in_ns(work->compute_s));
    SET(progress->attention_ns, in_ns(work->attention_s));
    SET(progress->mlp_ns, in_ns(work->mlp_s));
    SET(progress->head_ns, in_ns(work->head_s));
    SET(progress->allreduce_ns, in_ns(counters->allreduce_s - counters->wait_s));
    SET(progress->wait_ns, in_ns(counters->wait_s));
    SET(progress->sent_bytes, counters->bytes_sent);
    atomic_fetch_add_explicit(&progress->rows, work->step_rows, memory_order_relaxed);
    atomic_fetch_add_explicit(&progress->steps_by_rows[caloris_metrics_class(work->step_rows)], 1,
                              memory_order_relaxed);
}

bool caloris_comm_figures(const struct caloris_comm *comm, int rank,
                          struct caloris_comm_figures *figures)
{
    struct beat_report report;
    if (!comm->beat || !beat_latest(comm->beat, rank, &report))
        return false;
    *figures = (struct caloris_comm_figures){
        .compute_s = (double)report.compute_ns * 1e-9,
        .allreduce_s = (double)report.allreduce_ns * 1e-9,
        .wait_s = (double)report.wait_ns * 1e-9,
        .attention_s = (double)report.attention_ns * 1e-9,
        .mlp_s = (double)report.mlp_ns * 1e-9,
        .head_s = (double)report.head_ns * 1e-9,
        .steps = report.step,
        .rows = report.rows,
        .sent_bytes = report.sent_bytes,
    };
    memcpy(figures->steps_by_rows, report.steps_by_rows, sizeof(figures->steps_by_rows));
    return true;
}

/* ---- a world that is watched ----------------------------------------------------------------- */

/* What rank 0 knows of everybody. */
struct roll {
    char (*hosts)[BEAT_HOST];              /* [size] */
    const struct beat_progress **progress; /* [size]; only good where ranks are threads */
};

static int call_roll(struct caloris_comm *comm, struct roll *roll, struct caloris_err *err)
{
    struct caloris_err mine = {0};
    int rc = 0;
    char host[BEAT_HOST] = "";
    const struct beat_progress *progress = &comm->progress;
    if (comm->rank == 0) {
        roll->hosts = calloc((size_t)comm->size, sizeof(*roll->hosts));
        roll->progress = calloc((size_t)comm->size, sizeof(*roll->progress));
        if (!roll->hosts || !roll->progress)
            rc = caloris_err_sys(&mine, "beats of %d ranks", comm->size);
    }
    if (caloris_comm_agree(comm, rc < 0 ? &mine : NULL, err) < 0)
        return -1;
    snprintf(host, sizeof(host), "%s", comm->host);
    return caloris_comm_gather(comm, host, sizeof(host), roll->hosts, err) < 0 ||
                   caloris_comm_gather(comm, &progress, sizeof(progress), roll->progress, err) < 0
               ? -1
               : 0;
}

/* The rank's own part: 0 when it beats, -1 and err otherwise. */
static int start(struct caloris_comm *comm, const struct beat_options *options,
                 struct beat_invitation *invitation, struct caloris_err *err)
{
    if (comm->rank == 0)
        comm->beat = beat_open_seat(options, comm->neighbour_count == comm->size, invitation, err);
    else if (!comm->threads)
        comm->beat = beat_join(options, invitation, err);
    return comm->beat || (comm->rank != 0 && comm->threads) ? 0 : -1;
}

int caloris_comm_watch(struct caloris_comm *comm, const struct caloris_comm_watch *how,
                       char warning[CALORIS_COMM_WARNING], struct caloris_err *err)
{
    struct roll roll = {NULL, NULL};
    struct {
        char host[BEAT_HOST];
        struct beat_invitation invitation;
    } seat;
    struct caloris_err mine = {0}, verdict = {0};
    int rc = -1, seated;
    warning[0] = '\0';
    memset(&seat, 0, sizeof(seat));
    if (call_roll(comm, &roll, err) < 0)
        goto out;
    snprintf(seat.host, sizeof(seat.host), "%s", comm->host);
    struct beat_options options = {
        .rank = comm->rank,
        .size = comm->size,
        .times = {(how->silent_ms + BEATS_IN_SILENCE - 1) / BEATS_IN_SILENCE, how->silent_ms,
                  how->stands_ms},
        .mine = &comm->progress,
        .all = comm->threads ? roll.progress : NULL,
        .hosts = (const char(*)[BEAT_HOST])roll.hosts,
        .host_of_0 = seat.host,
        .leave = how->leave,
        .asked = how->asked,
        .ask = how->ask,
    };
    seated = comm->rank == 0 ? start(comm, &options, &seat.invitation, &mine) : 0;
    if (caloris_comm_agree(comm, seated < 0 ? &mine : NULL, &verdict) == 0) {
        if (caloris_comm_broadcast(comm, &seat, sizeof(seat), err) < 0)
            goto out;
        const int joined = comm->rank == 0 ? 0 : start(comm, &options, &seat.invitation, &mine);
        seated = caloris_comm_agree(comm, joined < 0 ? &mine : NULL, &verdict);
    } else {
        seated = -1;
    }
    if (verdict.code == CALORIS_PEER_LOST) {
        caloris_err_set(err, verdict.code, "%s", verdict.text);
        goto out;
    }
    if (seated == 0) {
        if (comm->beat)
            beat_judge(comm->beat);
    } else {
        comm_unwatch(comm);
        snprintf(warning, CALORIS_COMM_WARNING, "ranks are not watched: %.200s", verdict.text);
    }
    rc = 0;
out:
    free(roll.hosts);
    free(roll.progress);
    return rc;
}

void comm_unwatch(struct caloris_comm *comm)
{
    SET(comm->progress.phase, BEAT_GONE);
    beat_close(comm->beat);
    comm->beat = NULL;
}
