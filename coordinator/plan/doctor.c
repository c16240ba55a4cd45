#include "coordinator/plan/plan.h"

#include "base/err.h"
#include "base/json.h"
#include "base/time.h"
#include "coordinator/schedule/schedule.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum verdict { FINE, WARNING, BROKEN };
static const char *const verdicts[] = {"ok", "warning", "error"};

struct report {
    struct caloris_doctor *doctor;
    json_t *checks;
};

static void say(struct report *report, enum verdict verdict, const char *what, const char *format,
                ...) __attribute__((format(printf, 4, 5)));

static void say(struct report *report, enum verdict verdict, const char *what, const char *format,
                ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (verdict == BROKEN)
        report->doctor->errors++;
    if (report->checks)
        json_array_append_new(report->checks, json_pack("{s:s, s:s, s:s}", "check", what, "verdict",
                                                        verdicts[verdict], "text", text));
    else
        fprintf(report->doctor->to, "%-8s %-10s %s\n", verdicts[verdict], what, text);
}

static int forget(void *arg, const float *logits, size_t rows, struct caloris_err *err)
{
    (void)err;
    float *last = arg;
    if (rows > 0)
        *last = logits[0];
    return 0;
}

/* One forward pass of a canvas full of one id: that the world computes at all, and how fast. */
static void check_step(struct report *report, struct caloris_engine *engine)
{
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    const size_t n = facts->max_canvas < 64 ? facts->max_canvas : 64;
    int32_t ids[64] = {0};
    float last = 0;
    struct caloris_err err;
    const uint64_t start = caloris_time_ns();
    if (caloris_engine_logits(engine, ids, n, forget, &last, &err) < 0)
        say(report, BROKEN, "step", "%s", err.text);
    else
        say(report, FINE, "step", "%zu rows, all logits, in %.1f ms (the first one)", n,
            (double)(caloris_time_ns() - start) * 1e-6);
}

/* What a group started so would fill its steps up to. */
static void check_rows(struct report *report, struct caloris_engine *engine)
{
    struct caloris_row_budget budget;
    struct caloris_err err;
    double best = 0;
    size_t best_rows = 0;
    char text[CALORIS_ROW_WARNING];
    if (caloris_row_budget_measure(engine, &budget, &err) < 0) {
        say(report, BROKEN, "rows", "%s", err.text);
        return;
    }
    for (size_t i = 0; i < budget.n; i++) {
        const double rate = (double)budget.rates[i].rows / budget.rates[i].seconds;
        best_rows = rate > best ? budget.rates[i].rows : best_rows;
        best = rate > best ? rate : best;
    }
    say(report, FINE, "rows",
        "budget %zu a step: within 5 %% of the best of 1 to %zu, %.0f rows/s at %zu", budget.rows,
        budget.timed, best, best_rows);
    if (caloris_row_budget_warning(&budget, text))
        say(report, WARNING, "rows", "%s", text);
}

int caloris_doctor_body(struct caloris_engine *engine, void *arg, struct caloris_err *err)
{
    struct caloris_doctor *doctor = arg;
    const struct caloris_engine_facts *facts = caloris_engine_facts(engine);
    struct report report = {doctor, doctor->json ? json_array() : NULL};
    char plan[256];
    caloris_plan_line(facts, plan, sizeof(plan));

    say(&report, FINE, "version", "caloris %s", CALORIS_VERSION);
    say(&report, FINE, "world", "%d rank%s by %s", facts->ranks, facts->ranks == 1 ? "" : "s",
        facts->transport);
    if (facts->isa_warning)
        say(&report, WARNING, "kernels", "%s", facts->isa_warning);
    if (facts->core_warning)
        say(&report, WARNING, "cores", "%s", facts->core_warning);
    else
        say(&report, FINE, "cores", "%d thread%s per rank, each with a core of its own",
            facts->threads, facts->threads == 1 ? "" : "s");
    say(&report, facts->blas_warning ? WARNING : FINE, "blas", "%s%s%s", facts->blas,
        facts->blas_warning ? ": " : "", facts->blas_warning ? facts->blas_warning : "");
    for (const char *const *name =
             (const char *const[]){"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", NULL};
         *name; name++) {
        if (getenv(*name))
            say(&report, WARNING, "blas",
                "%s=%s is set: it overrides what OpenBLAS finds on this CPU", *name, getenv(*name));
    }
    say(&report, FINE, "model", "%s: %s, %.1f million parameters, loaded in %.2f s",
        doctor->model_dir, facts->model.family, (double)facts->model.parameters * 1e-6,
        facts->load_s);
    say(&report, FINE, "memory", "%s", plan);
    check_step(&report, engine);
    check_rows(&report, engine);

    if (!report.checks)
        return 0;
    json_t *all = json_pack("{s:o, s:i}", "checks", report.checks, "errors", doctor->errors);
    int rc = all && json_dumpf(all, doctor->to, JSON_COMPACT | CALORIS_JSON_DIGITS) == 0
                 ? 0
                 : caloris_err_sys(err, "writing the report");
    fputc('\n', doctor->to);
    json_decref(all);
    return rc;
}
