/* caloris-engine: one program on every rank of a group. Rank 0's main thread steps, its coordinator
 * thread talks; the other ranks serve. */
#include "base/err.h"
#include "base/log.h"
#include "base/time.h"
#include "coordinator/engine_conf.h"
#include "coordinator/link/link.h"
#include "coordinator/plan/plan.h"
#include "coordinator/schedule/schedule.h"
#include "proto/cluster.h"
#include "worker/engine.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* mpirun ends all ranks once one has left with an error: rank 0 gets time to say why. */
enum { LAST_WORDS_MS = 200 };

enum { INTERRUPTED = 130 }; /* exit code of what a signal ends before it is done */

/* Whether this process is the one to speak for its world before MPI has said which rank it is. */
static bool first_process(void)
{
    static const char *const rank_variables[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                                 "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof(rank_variables) / sizeof(rank_variables[0]); i++) {
        const char *rank = getenv(rank_variables[i]);
        if (rank)
            return strcmp(rank, "0") == 0;
    }
    return true;
}

/* No world yet: each process finds the same fault by itself. A launcher kills the others when one
 * has left, so the one that speaks goes first. */
static int complain(const struct caloris_err *err)
{
    if (first_process())
        fprintf(stderr, "caloris-engine: %s\n", err->text);
    else
        caloris_time_sleep_ms(LAST_WORDS_MS);
    return caloris_exit_server(err->code);
}

/* The model that ships with the program: installed beside it, or in the source tree it was built
 * from. */
static char *demo_model(void)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (n > 0) {
        path[n] = '\0';
        char *slash = strrchr(path, '/');
        if (slash) {
            snprintf(slash, sizeof(path) - (size_t)(slash - path),
                     "/../share/caloris/models/tinycoder");
            char *found = realpath(path, NULL);
            if (found)
                return found;
        }
    }
    return strdup(CALORIS_SOURCE_DIR "/deploy/models/tinycoder");
}

static void announce_plan(const struct caloris_engine_facts *facts)
{
    char text[256];
    caloris_plan_line(facts, text, sizeof(text));
    caloris_log(CALORIS_LOG_INFO, "%s %.1f M parameters, %s, %s, %s by %s kernels",
                facts->model.family, (double)facts->model.parameters * 1e-6, facts->transport,
                facts->blas, facts->format, facts->kernels);
    caloris_log(CALORIS_LOG_INFO, "%s", text);
    if (facts->blas_warning)
        caloris_log(CALORIS_LOG_WARN, "%s", facts->blas_warning);
}

/* A rank is lost: the log has said so, MPI cannot go on, the launcher starts the group again. */
static void leave_at_once(void)
{
    _exit(caloris_exit_server(CALORIS_PEER_LOST));
}

static bool told; /* why the run failed */

static void tell_failure(const struct caloris_err *err)
{
    told = true;
    fprintf(stderr, "caloris-engine: %s\n", err->text);
}

struct work {
    const struct engine_values *values;
    struct caloris_offline offline;
    struct caloris_serve_options serve;
    struct caloris_logits logits;
    struct caloris_doctor doctor;
    enum engine_verb verb;
};

static void sum_up(const struct work *work, bool well)
{
    const struct caloris_offline_report *r = &work->offline.report;
    if (work->values->jobs && (well || r->seconds > 0))
        fprintf(stderr,
                "%" PRIu64 " jobs: %" PRIu64 " done, %" PRIu64 " failed, %" PRIu64
                " skipped; %" PRIu64 " tokens in %" PRIu64
                " forward passes (%.2f a pass), %.1f s, %.1f tokens/s\n",
                r->jobs, r->done, r->failed, r->skipped, r->tokens, r->forward_passes,
                r->forward_passes ? (double)r->tokens / (double)r->forward_passes : 0, r->seconds,
                r->seconds > 0 ? (double)r->tokens / r->seconds : 0);
    if (work->values->logits && well)
        fprintf(stderr, "%" PRIu64 " inputs, %" PRIu64 " rows of logits\n", work->logits.inputs,
                work->logits.rows);
}

/* The rows that a step is filled up to, found unless they are given. */
static int find_row_budget(struct caloris_engine *engine, const struct engine_values *v,
                           size_t *rows, struct caloris_err *err)
{
    struct caloris_row_budget budget;
    char text[CALORIS_ROW_WARNING];
    *rows = (size_t)v->row_budget;
    if (*rows > 0)
        return 0;
    if (caloris_row_budget_measure(engine, &budget, err) < 0)
        return -1;
    *rows = budget.rows;
    if (v->profile && caloris_engine_profile(engine, NULL, err) < 0) /* the timing does not count */
        return -1;
    caloris_log(CALORIS_LOG_INFO, "row budget %zu, of 1 to %zu, found in %.2f s", budget.rows,
                budget.timed, budget.seconds);
    if (caloris_row_budget_warning(&budget, text))
        caloris_log(CALORIS_LOG_WARN, "row budget %zu: %s", budget.rows, text);
    return 0;
}

static int body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct work *work = arg;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    if (work->verb == VERB_DOCTOR)
        return caloris_doctor_body(engine, &work->doctor, err);
    if (facts->calibrate_s > 0)
        caloris_log(CALORIS_LOG_INFO,
                    "calibrated in %.2f s: outliers are %zu columns, kept apart in bf16, and %zu "
                    "matrices, wholly in bf16",
                    facts->calibrate_s, facts->outlier_columns, facts->outlier_matrices);
    caloris_log(CALORIS_LOG_INFO, "%s loaded in %.2f s", work->values->model, facts->load_s);
    if (facts->watch_warning)
        caloris_log(CALORIS_LOG_WARN, "%s", facts->watch_warning);
    if (facts->isa_warning)
        caloris_log(CALORIS_LOG_WARN, "%s", facts->isa_warning);
    if (facts->core_warning)
        caloris_log(CALORIS_LOG_WARN, "%s", facts->core_warning);
    size_t row_budget = 0;
    if (!work->values->logits && find_row_budget(engine, work->values, &row_budget, err) < 0)
        return -1;
    work->serve.row_budget = work->offline.options.row_budget = row_budget;
    struct caloris_schedule_figures figures = {0};
    work->serve.figures = work->offline.options.figures = &figures;
    int rc = work->serve.gateway    ? caloris_serve_body(engine, &work->serve, err)
             : work->values->logits ? caloris_logits_body(engine, &work->logits, err)
                                    : caloris_offline_body(engine, &work->offline, err);
    sum_up(work, rc == 0);
    struct caloris_err no_profile = {0};
    if (work->values->profile &&
        caloris_plan_profile(engine, work->values->logits ? NULL : &figures, work->values->json,
                             work->values->json ? stdout : stderr, &no_profile) < 0)
        caloris_log(CALORIS_LOG_WARN, "%s", no_profile.text);
    return rc;
}

/* Whom a group dials, and with which keys: what is wrong with that is said before a model is
 * loaded. Rank 0 alone dials, so the files are asked of its host alone. */
static int find_gateway(const struct engine_values *v, struct caloris_address *gateway,
                        struct caloris_err *err)
{
    const struct caloris_wish wish = {
        .endpoint = v->gateway,
        .cluster = v->cluster,
        .server_key = v->server_key,
        .certificate = v->certificate,
        .group = true,
    };
    return first_process() ? caloris_address_find(&wish, gateway, err) : 0;
}

static _Atomic int asked; /* the signal that asked this process to leave, where it is not rank 0 */

static void note_signal(int signal)
{
    asked = signal;
}

/* srun and mpirun give every rank the signal that asks the group to leave; a host that goes down,
 * or an administrator, may give it to one. Rank 0 acts on it: it tells the others when the step
 * that runs is over. One that died of it would take the world down. So the others' beats carry it
 * there; but for Ctrl-C, which is for all of a terminal, and means something else when it comes
 * twice. */
static void leave_signals_to_rank_0(void)
{
    static const int asked_to_leave[] = {SIGTERM, SIGUSR1};
    const struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    for (size_t i = 0; i < sizeof(asked_to_leave) / sizeof(asked_to_leave[0]); i++)
        sigaction(asked_to_leave[i], &action, NULL);
    signal(SIGINT, SIG_IGN);
}

/* On rank 0: the same as if it had been asked itself, while it can hand back. */
static void ask_as_well(int rank, int signal)
{
    static bool done;
    struct sigaction now;
    if (done || sigaction(signal, NULL, &now) < 0 || now.sa_handler == SIG_DFL ||
        now.sa_handler == SIG_IGN)
        return;
    done = true;
    caloris_log(CALORIS_LOG_WARN, "rank %d was asked to leave (%s): all do", rank,
                strsignal(signal));
    kill(getpid(), signal);
}

/* When Slurm takes the machine away, unless it was said otherwise; since 1970, 0: nobody knows. */
static uint64_t end_of_allocation_ms(const struct engine_values *v)
{
    const char *slurm = getenv("SLURM_JOB_END_TIME");
    if (!engine_serves(v))
        return 0;
    if (v->end_s > 0 || !slurm)
        return (uint64_t)v->end_s * 1000;
    char *end;
    errno = 0;
    const long long said = strtoll(slurm, &end, 10);
    if (*slurm && !*end && errno == 0 && said >= 0 && said < LLONG_MAX / 1000)
        return (uint64_t)said * 1000;
    if (first_process())
        caloris_log(CALORIS_LOG_WARN,
                    "SLURM_JOB_END_TIME is \"%.80s\", no time in seconds since 1970: this group "
                    "does not know when its allocation ends",
                    slurm);
    return 0;
}

static int run(const struct engine_values *v, enum engine_verb verb)
{
    struct caloris_err err = {0};
    struct caloris_engine_options engine = {
        .model_dir = v->model,
        .transport =
            v->comm == 1 || verb == VERB_PLAN ? CALORIS_TRANSPORT_THREADS : CALORIS_TRANSPORT_MPI,
        .ranks = (int)v->ranks,
        .threads = (int)v->threads,
        .max_requests = (size_t)v->max_requests,
        .max_canvas = (size_t)v->max_canvas,
        .max_step_rows = (size_t)v->max_step_rows,
        .kv_tokens = (size_t)v->kv_tokens,
        .weights = v->weights == 0 ? NULL : caloris_engine_format((size_t)v->weights - 1),
        .calibrate = v->calibrate,
        .isa = v->isa,
        .profile = v->profile || engine_serves(v), /* metrics tell the phases */
        .planned = verb == VERB_RUN ? announce_plan : NULL,
        .failed = tell_failure,
        .lost = verb == VERB_RUN ? leave_at_once : NULL,
        .asked = &asked,
        .ask = ask_as_well,
        .silent_ms = v->silent_ms,
        .stands_ms = v->stands_ms,
    };
    if (verb == VERB_PLAN)
        return caloris_plan_print(&engine, v->json, stdout, &err) < 0 ? complain(&err) : 0;
    if (verb == VERB_SHARD) {
        const int code = caloris_shard_run(&engine, v->out, stdout, &err) < 0 ? complain(&err) : 0;
        return err.code == CALORIS_CANCELLED ? INTERRUPTED : code;
    }
    struct caloris_address gateway = {0};
    if (engine_serves(v) && find_gateway(v, &gateway, &err) < 0)
        return complain(&err);
    if ((engine_serves(v) || v->jobs) && engine.transport == CALORIS_TRANSPORT_MPI &&
        !first_process())
        leave_signals_to_rank_0();

    struct work work = {
        .values = v,
        .verb = verb,
        .offline.options = {.model_dir = v->model,
                            .jobs = v->jobs,
                            .out = v->out,
                            .trace = v->trace,
                            .resume = v->resume},
        .serve = {.model_dir = v->model,
                  .gateway = engine_serves(v) ? &gateway : NULL,
                  .name = v->name,
                  .redial_ms = v->redial_ms,
                  .end_ms = end_of_allocation_ms(v),
                  .end_margin_ms = v->end_margin_ms},
        .logits = {.in = v->logits, .out = v->out},
        .doctor = {.model_dir = v->model, .json = v->json, .to = stdout},
    };
    if (first_process() && ((v->jobs && caloris_offline_check(&work.offline.options, &err) < 0) ||
                            (v->logits && caloris_logits_check(&work.logits, &err) < 0)))
        return complain(&err);
    bool report = true;
    int rc = caloris_engine_run(&engine, body, &work, &report, &err);
    if (rc < 0 && report && !told)
        tell_failure(&err);
    return rc < 0 ? caloris_exit_server(err.code) : work.doctor.errors ? 1 : 0;
}

/* A model is known by the last part of its path: "llada/" is llada. */
static void drop_slashes(char *path)
{
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = '\0';
}

int main(int argc, char **argv)
{
    struct engine_values values = {0};
    struct caloris_err err = {0};
    bool done = false;
    char *operand = NULL;
    const enum engine_verb verb = engine_take_verb(&argc, &argv, &operand);
    signal(SIGPIPE, SIG_IGN);
    struct caloris_conf *conf =
        caloris_conf_load(&engine_program, argc, argv, &values, NULL, &done, &err);
    if (!conf)
        return complain(&err);
    int code = 0;
    char *shipped = NULL;
    if (!done) {
        caloris_log_set_level((enum caloris_log_level)values.log_level);
        caloris_log_set_format((enum caloris_log_format)values.log_format);
        caloris_log_set_who("engine");
        if (operand)
            values.model = operand;
        else if (!values.model && verb != VERB_SHARD)
            values.model = shipped = demo_model();
        if (values.model)
            drop_slashes(values.model);
        code = engine_check_usage(&values, verb, &err) < 0 ? complain(&err) : run(&values, verb);
    }
    caloris_conf_free(conf);
    free(shipped);
    return code;
}
