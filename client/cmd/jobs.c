/* The verbs that ask once: list, show, results, cancel, cluster. */
#include "client/cmd/cmd.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define AT(member) offsetof(struct flags, member)

const struct caloris_option list_options[] = {
    {.name = "all",
     .letter = 'a',
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(all),
     .help = "finished jobs too",
     .flag_only = true},
    {.name = "limit",
     .type = CALORIS_OPTION_INT,
     .offset = AT(limit),
     .default_text = "1000",
     .min = 1,
     .max = 100000,
     .argument = "N",
     .help = "the newest N jobs",
     .flag_only = true},
    {.name = "count",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(count),
     .help = "no jobs, but how many are queued, running and finished, and whose",
     .flag_only = true},
    {.name = "no-header",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(no_header),
     .help = "the table without its first line",
     .flag_only = true},
    {.name = NULL},
};

int verb_list(struct invocation *in)
{
    struct caloris_err err = {0};
    caloris_answer *answer = NULL;
    int rc = EXIT_DONE;
    struct caloris_client *client = cmd_connect(in, &err);
    if (client)
        answer = in->flags.count ? caloris_client_count(client, &err)
                                 : caloris_client_list(client, in->flags.all,
                                                       (uint32_t)in->flags.limit, 0, &err);
    if (!answer) {
        rc = cmd_fail(in, &err);
    } else if (in->flags.count) {
        if (in->flags.json)
            rc = cmd_print_json(in, cmd_count_json(answer->list));
        else
            cmd_count_table(answer->list, !in->flags.no_header);
    } else if (in->flags.json) {
        rc = cmd_print_json(in, cmd_list_json(answer->list));
    } else {
        cmd_list_table(answer->list, !in->flags.no_header);
        if (answer->list->n_jobs >= (size_t)in->flags.limit && !in->flags.quiet)
            cmd_say(in,
                    "%" PRIu64 " queued, %" PRIu64 " running, %" PRIu64
                    " finished in all; --limit shows more",
                    answer->list->queued, answer->list->running, answer->list->finished);
    }
    caloris_answer_free(answer);
    caloris_client_close(client);
    return rc;
}

int verb_show(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_client *client = NULL;
    caloris_answer *answer = NULL;
    uint64_t job;
    int rc = EXIT_DONE;
    if (cmd_job_number(in->operands[0], &job, &err) == 0 && (client = cmd_connect(in, &err)))
        answer = caloris_client_show(client, job, &err);
    if (!answer)
        rc = cmd_fail(in, &err);
    else if (in->flags.json)
        rc = cmd_print_json(in, cmd_status_json(answer->status));
    else
        cmd_status_lines(answer->status);
    caloris_answer_free(answer);
    caloris_client_close(client);
    return rc;
}

int verb_results(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_client *client = NULL;
    uint64_t job;
    int rc;
    if (cmd_job_number(in->operands[0], &job, &err) < 0 || !(client = cmd_connect(in, &err)))
        rc = cmd_fail(in, &err);
    else
        rc = cmd_print_result(in, client, job, false);
    caloris_client_close(client);
    return rc;
}

/* Every job is tried; the first failure decides the exit code. */
int verb_cancel(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_client *client = NULL;
    json_t *jobs = json_array();
    uint64_t job;
    int rc = EXIT_DONE;
    for (int i = 0; i < in->n_operands && rc == EXIT_DONE; i++) {
        if (cmd_job_number(in->operands[i], &job, &err) < 0)
            rc = cmd_fail(in, &err);
    }
    if (rc == EXIT_DONE && !(client = cmd_connect(in, &err)))
        rc = cmd_fail(in, &err);
    for (int i = 0; i < in->n_operands && client; i++) {
        cmd_job_number(in->operands[i], &job, NULL);
        if (caloris_client_cancel(client, job, &err) < 0) {
            rc = rc ? rc : cmd_fail(in, &err);
            continue;
        }
        if (!in->flags.json)
            continue;
        /* Who may cancel a job need not be allowed to read it. */
        caloris_answer *answer = caloris_client_show(client, job, &err);
        json_array_append_new(
            jobs, answer ? cmd_status_json(answer->status)
                         : json_pack("{s:I, s:s}", "job", (json_int_t)job, "state", "cancelled"));
        caloris_answer_free(answer);
    }
    if (in->flags.json && client) {
        json_t *object = in->n_operands == 1 && json_array_size(jobs) == 1
                             ? json_incref(json_array_get(jobs, 0))
                             : json_pack("{s:O}", "jobs", jobs);
        int printed = cmd_print_json(in, object);
        rc = rc ? rc : printed;
    }
    json_decref(jobs);
    caloris_client_close(client);
    return rc;
}
