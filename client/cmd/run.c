/* run: submit, watch, print. submit: the first of these alone. */
#include "client/cmd/record.h"
#include "client/cmd/screen.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(member) offsetof(struct flags, member)

#define JOB_OPTIONS                                                                                \
    {.name = "raw",                                                                                \
     .type = CALORIS_OPTION_FLAG,                                                                  \
     .offset = AT(raw),                                                                            \
     .flag_only = true,                                                                            \
     .help =                                                                                       \
         "take the prompt as it is: without this it is a user's message that goes through the "    \
         "model's chat template"},                                                                 \
        {.name = "ids",                                                                            \
         .type = CALORIS_OPTION_TEXT,                                                              \
         .offset = AT(ids),                                                                        \
         .argument = "1,2,3",                                                                      \
         .flag_only = true,                                                                        \
         .help = "token ids instead of a prompt; the mask's id is a hole"},                        \
    {                                                                                              \
        .name = "job", .type = CALORIS_OPTION_TEXT, .offset = AT(job_file), .argument = "FILE",    \
        .flag_only = true,                                                                         \
        .help = "a job in JSON instead of a prompt (\"-\": stdin); other flags change its fields"  \
    }

const struct caloris_option submit_options[] = {JOB_OPTIONS, {.name = NULL}};

#define VIEW_OPTIONS                                                                               \
    {.name = "view",                                                                               \
     .type = CALORIS_OPTION_FLAG,                                                                  \
     .offset = AT(view),                                                                           \
     .flag_only = true,                                                                            \
     .help =                                                                                       \
         "paint the whole canvas while it is denoised: masks, tokens coloured by how sure the "    \
         "model was; a line per step where stdout is no terminal"},                                \
        {.name = "delay",                                                                          \
         .type = CALORIS_OPTION_INT,                                                               \
         .offset = AT(delay_ms),                                                                   \
         .argument = "MS",                                                                         \
         .default_text = "0",                                                                      \
         .min = 0,                                                                                 \
         .max = 60000,                                                                             \
         .flag_only = true,                                                                        \
         .help = "hold every step for so many milliseconds before the eyes"},                      \
    {                                                                                              \
        .name = "trace", .type = CALORIS_OPTION_TEXT, .offset = AT(trace), .argument = "FILE",     \
        .flag_only = true, .help = "record every step there, for caloris replay (docs/TRACE.md)"   \
    }

const struct caloris_option follow_options[] = {VIEW_OPTIONS, {.name = NULL}};
const struct caloris_option run_options[] = {JOB_OPTIONS, VIEW_OPTIONS, {.name = NULL}};

/* watched: from before its first step on, so that none is missed. */
static int submit(const struct invocation *in, bool watched, struct caloris_client **client,
                  uint64_t *job, struct caloris_err *err)
{
    char *json = cmd_job_json(in, err);
    if (!json)
        return -1;
    int rc = -1;
    *client = cmd_connect(in, err);
    if (*client)
        rc = watched ? caloris_client_submit_watched(*client, json, strlen(json), job, err)
                     : caloris_client_submit(*client, json, strlen(json), job, err);
    free(json);
    return rc;
}

int verb_submit(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_client *client = NULL;
    uint64_t job;
    int rc = EXIT_DONE;
    if (submit(in, false, &client, &job, &err) < 0)
        rc = cmd_fail(in, &err);
    else if (in->flags.json)
        rc = cmd_print_json(in, json_pack("{s:I}", "job", (json_int_t)job));
    else
        printf("%" PRIu64 "\n", job);
    caloris_client_close(client);
    return rc;
}

static enum follow how_to_show(const struct invocation *in)
{
    if (in->flags.json)
        return FOLLOW_SILENT; /* the result alone is the data */
    if (screen_can_paint())
        return in->flags.view ? FOLLOW_CANVAS : FOLLOW_ANSWER;
    return in->flags.view ? FOLLOW_STEPS : FOLLOW_SILENT;
}

/* Ctrl-C while it runs: nobody would fetch the result. */
static int give_up(const struct invocation *in, struct caloris_client *client, uint64_t job)
{
    struct caloris_err err = {0};
    int number = cmd_signal();
    cmd_forget_signal();
    if (caloris_client_cancel(client, job, &err) < 0)
        cmd_say(in, "job %" PRIu64 " could not be cancelled: %s", job, err.text);
    else if (!in->flags.quiet)
        cmd_say(in, "job %" PRIu64 " is cancelled", job);
    return EXIT_SIGNAL + number;
}

int verb_run(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_client *client = NULL;
    struct recorder recorder, *records = in->flags.trace ? &recorder : NULL;
    Caloris__Wire__JobState state;
    const enum follow how = how_to_show(in);
    uint64_t job;
    int rc;
    if (records && recorder_open(records, in, &err) < 0)
        return cmd_fail(in, &err);
    if (submit(in, how != FOLLOW_SILENT || records, &client, &job, &err) < 0)
        rc = cmd_fail(in, &err);
    else if (cmd_follow(in, client, job, how, stderr, records, &state, &err) < 0)
        rc = cmd_signal() ? give_up(in, client, job) : cmd_fail(in, &err);
    else
        rc = cmd_finish(in, client, job, state, !in->flags.quiet);
    if (records && client && rc != caloris_exit_client(CALORIS_UNREACHABLE))
        recorder_end(records, client, job);
    if (records)
        rc = recorder_close(records, rc);
    caloris_client_close(client);
    return rc;
}
