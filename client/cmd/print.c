#include "client/cmd/cmd.h"

#include "base/json.h"
#include "base/time.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[] = {
    [CALORIS__WIRE__JOB_STATE__QUEUED] = "queued",
    [CALORIS__WIRE__JOB_STATE__RUNNING] = "running",
    [CALORIS__WIRE__JOB_STATE__DONE] = "done",
    [CALORIS__WIRE__JOB_STATE__FAILED] = "failed",
    [CALORIS__WIRE__JOB_STATE__CANCELLED] = "cancelled",
    [CALORIS__WIRE__JOB_STATE__EXPIRED] = "expired",
};

const char *cmd_state_name(Caloris__Wire__JobState state)
{
    size_t i = (size_t)state;
    return i < sizeof(state_names) / sizeof(state_names[0]) && state_names[i] ? state_names[i]
                                                                              : "unknown";
}

int cmd_print_json(const struct invocation *in, json_t *object)
{
    struct caloris_err err;
    int rc = object ? json_dumpf(object, stdout, JSON_COMPACT | CALORIS_JSON_DIGITS) : -1;
    json_decref(object);
    if (rc == 0 && putchar('\n') != EOF && fflush(stdout) == 0)
        return EXIT_DONE;
    caloris_err_sys(&err, "writing JSON to stdout");
    return cmd_fail(in, &err);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void put(json_t *object, const char *name, json_t *value)
{
    if (object)
        json_object_set_new(object, name, value);
    else
        json_decref(value);
}

static json_t *integer(uint64_t number)
{
    return json_integer((json_int_t)number);
}

/* Text of a gateway, which need not be good UTF-8: then null. */
static json_t *text_or_null(const char *text)
{
    json_t *value = text && *text ? json_string(text) : NULL;
    return value ? value : json_null();
}

static json_t *time_json(bool known, uint64_t wall_ms)
{
    char text[CALORIS_TIME_TEXT];
    return known ? json_string(caloris_time_text(wall_ms, text)) : json_null();
}

json_t *cmd_status_json(const Caloris__Wire__JobStatus *status)
{
    json_t *object = json_object();
    put(object, "job", integer(status->job));
    put(object, "id", text_or_null(status->id));
    put(object, "state", json_string(cmd_state_name(status->state)));
    put(object, "submitted", time_json(status->has_submitted_ms, status->submitted_ms));
    put(object, "started", time_json(status->has_started_ms, status->started_ms));
    put(object, "finished", time_json(status->has_finished_ms, status->finished_ms));
    put(object, "group", text_or_null(status->group));
    put(object, "crashes", integer(status->has_crashes ? status->crashes : 0));
    put(object, "attempts", integer(status->has_attempts ? status->attempts : 0));
    put(object, "user", text_or_null(status->user));
    put(object, "model", text_or_null(status->model));
    put(object, "priority", json_integer(status->has_priority ? status->priority : 0));
    put(object, "deadline", time_json(status->has_deadline_ms, status->deadline_ms));
    if (status->waits)
        put(object, "waits", text_or_null(status->waits));
    if (status->has_step)
        put(object, "step", integer(status->step));
    if (status->has_masks_left)
        put(object, "masks_left", integer(status->masks_left));
    if (status->has_block)
        put(object, "block", integer(status->block));
    if (status->has_resumed_block)
        put(object, "resumed_block", integer(status->resumed_block));
    if (status->failure) {
        json_t *error = json_object();
        put(error, "code", text_or_null(status->failure->code));
        put(error, "message", text_or_null(status->failure->text));
        put(object, "error", error);
    }
    if (status->has_job_json) {
        json_t *request = json_loadb((const char *)status->job_json.data, status->job_json.len,
                                     JSON_ALLOW_NUL, NULL);
        put(object, "request", request ? request : json_null());
    }
    return object;
}

json_t *cmd_list_json(const Caloris__Wire__JobList *list)
{
    json_t *object = json_object(), *jobs = json_array();
    for (size_t i = 0; i < list->n_jobs; i++)
        json_array_append_new(jobs, cmd_status_json(list->jobs[i]));
    put(object, "jobs", jobs);
    put(object, "queued", integer(list->queued));
    put(object, "running", integer(list->running));
    put(object, "finished", integer(list->finished));
    return object;
}

json_t *cmd_count_json(const Caloris__Wire__JobList *list)
{
    json_t *object = json_object(), *users = json_array();
    for (size_t i = 0; i < list->n_users; i++) {
        json_t *user = json_object();
        put(user, "user", text_or_null(list->users[i]->user));
        put(user, "queued", integer(list->users[i]->queued));
        put(user, "running", integer(list->users[i]->running));
        json_array_append_new(users, user);
    }
    put(object, "users", users);
    put(object, "queued", integer(list->queued));
    put(object, "running", integer(list->running));
    put(object, "finished", integer(list->finished));
    return object;
}

static const char *group_state_name(const Caloris__Wire__GroupStatus *group)
{
    static const char *const names[] = {
        [CALORIS__WIRE__GROUP_STATE__SERVING] = "serving",
        [CALORIS__WIRE__GROUP_STATE__DRAINING] = "draining",
        [CALORIS__WIRE__GROUP_STATE__SILENT] = "silent",
    };
    const size_t n = sizeof(names) / sizeof(names[0]);
    return group->has_state && (size_t)group->state < n ? names[group->state] : "serving";
}

json_t *cmd_cluster_json(const Caloris__Wire__Cluster *cluster)
{
    json_t *object = json_object(), *groups = json_array();
    for (size_t i = 0; i < cluster->n_groups; i++) {
        const Caloris__Wire__GroupStatus *from = cluster->groups[i];
        json_t *group = json_object();
        put(group, "name", text_or_null(from->name));
        put(group, "model", text_or_null(from->model));
        put(group, "host", text_or_null(from->host));
        put(group, "ranks", integer(from->ranks));
        put(group, "running", integer(from->running));
        put(group, "capacity", integer(from->capacity));
        put(group, "silent_ms", integer(from->silent_ms));
        put(group, "state", json_string(group_state_name(from)));
        put(group, "age_ms", from->has_age_ms ? integer(from->age_ms) : json_null());
        put(group, "version", text_or_null(from->version));
        json_array_append_new(groups, group);
    }
    put(object, "groups", groups);
    put(object, "queued", integer(cluster->queued));
    put(object, "running", integer(cluster->running));
    return object;
}

/* {"step", "masks_left", "full", "phase", "rows", "seconds",
 *  "cells": [{"position", "kind", "token", "confidence"}]}; a token's bytes as text where they are
 * UTF-8. */
json_t *cmd_progress_json(const Caloris__Wire__Progress *progress)
{
    static const char *const kinds[] = {
        [CALORIS__WIRE__CELL_KIND__PROMPT] = "prompt",
        [CALORIS__WIRE__CELL_KIND__MASK] = "mask",
        [CALORIS__WIRE__CELL_KIND__REVEALED] = "revealed",
    };
    json_t *object = json_object(), *cells = json_array();
    put(object, "seq", integer(progress->seq));
    put(object, "step", integer(progress->step));
    put(object, "masks_left", integer(progress->masks_left));
    put(object, "full", json_boolean(progress->full));
    if (progress->has_phase)
        put(object, "phase",
            json_string(progress->phase == CALORIS__WIRE__STEP_PHASE__REFRESH ? "refresh"
                                                                              : "denoise"));
    if (progress->has_rows)
        put(object, "rows", integer(progress->rows));
    if (progress->has_seconds)
        put(object, "seconds", json_real(progress->seconds));
    if (progress->has_cells_total)
        put(object, "cells_total", integer(progress->cells_total));
    if (progress->has_prompt_cells)
        put(object, "prompt_cells", integer(progress->prompt_cells));
    for (size_t i = 0; i < progress->n_cells; i++) {
        const Caloris__Wire__Cell *from = progress->cells[i];
        size_t kind = (size_t)from->kind;
        const char *name = kind < sizeof(kinds) / sizeof(kinds[0]) ? kinds[kind] : NULL;
        json_t *cell = json_object(), *text = NULL;
        put(cell, "position", integer(from->position));
        put(cell, "kind", text_or_null(name));
        if (from->has_token)
            put(cell, "token", integer(from->token));
        if (from->has_text)
            text = json_stringn((const char *)from->text.data, from->text.len);
        if (text)
            put(cell, "text", text);
        if (from->has_confidence)
            put(cell, "confidence", json_real((double)from->confidence));
        json_array_append_new(cells, cell);
    }
    put(object, "cells", cells);
    return object;
}

/* ---- for people ------------------------------------------------------------------------------ */

/* Text of others in a table: what is no printable ASCII becomes '?'. */
static const char *shown(const char *text, char *to, size_t size)
{
    snprintf(to, size, "%s", text && *text ? text : "-");
    for (char *c = to; *c; c++)
        *c = *c < ' ' || *c > '~' ? '?' : *c;
    return to;
}

/* 93000 -> "1:33" */
static const char *duration(uint64_t ms, char *to, size_t size)
{
    uint64_t s = ms / 1000;
    if (s >= 3600)
        snprintf(to, size, "%" PRIu64 ":%02u:%02u", s / 3600, (unsigned)(s / 60 % 60),
                 (unsigned)(s % 60));
    else
        snprintf(to, size, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
    return to;
}

static uint64_t span(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

static void list_row(const Caloris__Wire__JobStatus *job)
{
    char submitted[CALORIS_TIME_TEXT] = "-", time[32] = "-", progress[48] = "-", id[25], group[65];
    if (job->has_submitted_ms)
        caloris_time_text(job->submitted_ms, submitted);
    if (job->has_started_ms)
        duration(
            span(job->started_ms, job->has_finished_ms ? job->finished_ms : caloris_time_wall_ms()),
            time, sizeof(time));
    if (job->has_step && job->has_masks_left)
        snprintf(progress, sizeof(progress), "step %u, %u left", job->step, job->masks_left);
    printf("%-8" PRIu64 " %-24s %-9s %-24s %8s  %-18s %s\n", job->job,
           shown(job->id, id, sizeof(id)), cmd_state_name(job->state), submitted, time, progress,
           shown(job->group, group, sizeof(group)));
}

void cmd_list_table(const Caloris__Wire__JobList *list, bool header)
{
    if (header)
        printf("%-8s %-24s %-9s %-24s %8s  %-18s %s\n", "JOB", "ID", "STATE", "SUBMITTED", "TIME",
               "PROGRESS", "GROUP");
    for (size_t i = 0; i < list->n_jobs; i++)
        list_row(list->jobs[i]);
}

static void count_row(const char *user, uint64_t queued, uint64_t running)
{
    char name[65];
    printf("%-24s %10" PRIu64 " %10" PRIu64, shown(user, name, sizeof(name)), queued, running);
}

/* Finished jobs are counted by nobody's name: their users are on disk alone. */
void cmd_count_table(const Caloris__Wire__JobList *list, bool header)
{
    if (header)
        printf("%-24s %10s %10s %10s\n", "USER", "QUEUED", "RUNNING", "FINISHED");
    for (size_t i = 0; i < list->n_users; i++) {
        count_row(list->users[i]->user, list->users[i]->queued, list->users[i]->running);
        printf(" %10s\n", "-");
    }
    count_row("(all)", list->queued, list->running);
    printf(" %10" PRIu64 "\n", list->finished);
}

void cmd_cluster_table(const Caloris__Wire__Cluster *cluster, bool header)
{
    if (header)
        printf("%-24s %-8s %-20s %-16s %5s %9s %10s %s\n", "GROUP", "STATE", "MODEL", "HOST",
               "RANKS", "RUNNING", "AGE", "VERSION");
    for (size_t i = 0; i < cluster->n_groups; i++) {
        const Caloris__Wire__GroupStatus *group = cluster->groups[i];
        char name[65], model[65], host[65], version[65], running[32];
        snprintf(running, sizeof(running), "%u/%u", group->running, group->capacity);
        printf("%-24s %-8s %-20s %-16s %5u %9s %8" PRIu64 " s %s\n",
               shown(group->name, name, sizeof(name)), group_state_name(group),
               shown(group->model, model, sizeof(model)), shown(group->host, host, sizeof(host)),
               group->ranks, running, group->age_ms / 1000,
               shown(group->version ? group->version : "", version, sizeof(version)));
    }
}

static void time_line(const char *name, bool known, uint64_t wall_ms)
{
    char text[CALORIS_TIME_TEXT];
    if (known)
        printf("%-10s %s\n", name, caloris_time_text(wall_ms, text));
}

static void text_line(const char *name, const char *value)
{
    char text[512];
    if (value)
        printf("%-10s %s\n", name, shown(value, text, sizeof(text)));
}

void cmd_status_lines(const Caloris__Wire__JobStatus *status)
{
    printf("%-10s %" PRIu64 "\n", "job", status->job);
    text_line("id", status->id);
    printf("%-10s %s\n", "state", cmd_state_name(status->state));
    time_line("submitted", status->has_submitted_ms, status->submitted_ms);
    time_line("started", status->has_started_ms, status->started_ms);
    time_line("finished", status->has_finished_ms, status->finished_ms);
    time_line("deadline", status->has_deadline_ms, status->deadline_ms);
    text_line("user", status->user);
    text_line("model", status->model);
    if (status->has_priority && status->priority)
        printf("%-10s %d\n", "priority", status->priority);
    text_line("group", status->group);
    text_line("waits", status->waits);
    if (status->has_crashes && status->crashes)
        printf("%-10s %u\n", "crashes", status->crashes);
    if (status->has_attempts && status->attempts)
        printf("%-10s %u\n", "attempts", status->attempts);
    if (status->has_step)
        printf("%-10s %u\n", "step", status->step);
    if (status->has_masks_left)
        printf("%-10s %u\n", "masks left", status->masks_left);
    if (status->has_block)
        printf("%-10s another group could go on with block %u\n", "progress", status->block);
    if (status->has_resumed_block)
        printf("%-10s from block %u, where another group had left it\n", "resumed",
               status->resumed_block);
    text_line("error", status->failure ? status->failure->text : NULL);
    if (status->has_job_json) /* JSON has no control characters, but need not be ASCII */
        printf("%-10s %.*s\n", "request", (int)status->job_json.len,
               (const char *)status->job_json.data);
}
