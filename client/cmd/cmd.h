/* client/cmd/cmd.h: what the verbs of the caloris command share. Data goes to stdout, all else
 * to stderr. */
#ifndef CALORIS_CMD_H
#define CALORIS_CMD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/conf.h"
#include "base/err.h"
#include "client/client.h"

enum {
    EXIT_DONE = 0,
    EXIT_JOB_FAILED = 1,
    EXIT_SIGNAL = 128, /* plus its number: 130 after Ctrl-C */
    MAX_FIELDS = 64,   /* of the jobs schema */
    MAX_OPTIONS = 96,  /* of one verb */
    MAX_OPERANDS = CALORIS_CLIENT_MAX_WATCHES,
};

/* The values of all options of all verbs. */
struct flags {
    /* every verb that speaks to a gateway */
    char *endpoint, *cluster, *server_key, *certificate;
    uint64_t timeout_ms, patience_ms;
    bool json, quiet;
    /* run, submit */
    bool raw;
    char *ids, *job_file;
    char *fields[MAX_FIELDS]; /* by index of caloris_job_fields */
    /* run, watch */
    bool view;
    int64_t delay_ms;
    char *trace;
    /* replay */
    double speed;
    bool step;
    /* batch; keygen: out */
    char *out, *errors, *shard;
    bool resume;
    int64_t window;
    /* group */
    bool wait, hand_back;
    /* list */
    bool all, count, no_header;
    int64_t limit;
    /* up */
    int64_t ranks;
    char *model, *state;
    bool verbose;
    /* keygen */
    bool server;
};

struct invocation {
    const struct verb *verb;
    struct flags flags;
    struct table *table; /* of options; args.c */
    struct caloris_conf *conf;
    bool cluster_first; /* --cluster said more strongly than --endpoint: a flag beats a variable */
    char **sorted;      /* the command line, options first */
    int n_operands;
    char **operands; /* [n_operands], NULL-terminated; in sorted */
};

enum verb_wants { /* which options a verb has besides its own */
                  WANTS_GATEWAY = 1,
                  WANTS_JOB = 2,
                  WANTS_NOTHING = 0,
};

struct verb {
    const char *name;
    const char *operands;                 /* "ID…" in its usage */
    int least, most;                      /* operands */
    unsigned wants;                       /* enum verb_wants */
    const char *summary;                  /* one line in the list of verbs */
    const char *about;                    /* in its help */
    const struct caloris_option *options; /* its own; ends with a zeroed entry; may be NULL */
    int (*run)(struct invocation *in);    /* returns the exit code */
};

/* ---- args.c ---------------------------------------------------------------------------------- */

/* Which of argv is the verb: options that every verb with a gateway has may stand before it. argc:
 * none. */
int cmd_find_verb(int argc, char **argv);

/* Options of a verb from all sources. Operands may stand between options; behind "--" everything
 * is an operand. argv[0] is the verb. *done: help was served. */
int cmd_parse(struct invocation *in, const struct verb *verb, int argc, char **argv, bool *done,
              struct caloris_err *err);
void cmd_release(struct invocation *in);

/* ---- connect.c ------------------------------------------------------------------------------- */

/* A message line on stderr: "caloris VERB: text". */
void cmd_say(const struct invocation *in, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Says err and returns its exit code; after a signal that is 128 + its number. */
int cmd_fail(const struct invocation *in, const struct caloris_err *err);

/* The gateway that flags, environment or the cluster's file name; NULL and err. From now on
 * Ctrl-C, SIGTERM and SIGHUP end waiting with CANCELLED. */
struct caloris_client *cmd_connect(const struct invocation *in, struct caloris_err *err);

/* From now on Ctrl-C, SIGTERM and SIGHUP end waiting, once: the verb tidies up. */
void cmd_catch_signals(void);

/* The signal that came, or 0; and: it was heeded, the gateway may be spoken to again. */
int cmd_signal(void);
void cmd_forget_signal(void);

/* "17" -> 17; USAGE for what is no job number. */
int cmd_job_number(const char *text, uint64_t *job, struct caloris_err *err);

/* ---- print.c --------------------------------------------------------------------------------- */

const char *cmd_state_name(Caloris__Wire__JobState state);
json_t *cmd_status_json(const Caloris__Wire__JobStatus *status);
json_t *cmd_list_json(const Caloris__Wire__JobList *list);
json_t *cmd_count_json(const Caloris__Wire__JobList *list);
json_t *cmd_cluster_json(const Caloris__Wire__Cluster *cluster);
json_t *cmd_progress_json(const Caloris__Wire__Progress *progress);
void cmd_list_table(const Caloris__Wire__JobList *list, bool header);
void cmd_count_table(const Caloris__Wire__JobList *list, bool header);
void cmd_cluster_table(const Caloris__Wire__Cluster *cluster, bool header);
void cmd_status_lines(const Caloris__Wire__JobStatus *status);

/* One line of JSON on stdout; takes object over. Returns an exit code. */
int cmd_print_json(const struct invocation *in, json_t *object);

/* ---- job.c ----------------------------------------------------------------------------------- */

/* The job that operands and flags describe, checked, as one line to free(); NULL and err
 * (USAGE). */
char *cmd_job_json(const struct invocation *in, struct caloris_err *err);

/* ---- results.c ------------------------------------------------------------------------------- */

/* The text of a result (its ids where it has none), or what failed; with figures, a line of them
 * on stderr. what names the job in messages. Returns the exit code. */
int cmd_print_result_json(const struct invocation *in, const char *what, const json_t *result,
                          bool figures);

/* Fetches a finished job's result and prints its text (--json: all of it) on stdout and, with
 * figures, one line on stderr. A failed job's error goes to stderr. Returns the exit code. */
int cmd_print_result(const struct invocation *in, struct caloris_client *client, uint64_t job,
                     bool figures);

/* ---- follow.c -------------------------------------------------------------------------------- */

struct recorder; /* record.h */

enum follow {
    FOLLOW_SILENT,
    FOLLOW_CANVAS, /* painted: the whole canvas */
    FOLLOW_ANSWER, /* painted: the answer as it settles */
    FOLLOW_STEPS,  /* a line per step and change of state */
    FOLLOW_JSON,   /* a JSON line per event */
};

/* Watches a job to its end; lines go to "lines", steps to the recorder, too (may be NULL). 0 and
 * its final state, or -1 and err. */
int cmd_follow(const struct invocation *in, struct caloris_client *client, uint64_t job,
               enum follow how, FILE *lines, struct recorder *recorder,
               Caloris__Wire__JobState *state, struct caloris_err *err);

/* The last words on a job that ended so: its result, or why there is none. Returns the exit
 * code. (watch.c) */
int cmd_finish(const struct invocation *in, struct caloris_client *client, uint64_t job,
               Caloris__Wire__JobState state, bool figures);

/* ---- places.c -------------------------------------------------------------------------------- */

/* A program of ours beside this one, else in PATH: its path in to [size]. */
int cmd_find_program(const char *name, char *to, size_t size, struct caloris_err *err);

/* The demo model: beside the installed programs, else in the source tree this was built from. */
int cmd_find_demo_model(char *to, size_t size, struct caloris_err *err);

/* ---- verbs ----------------------------------------------------------------------------------- */

int verb_up(struct invocation *in);
int verb_run(struct invocation *in);
int verb_submit(struct invocation *in);
int verb_batch(struct invocation *in);
int verb_replay(struct invocation *in);
int verb_watch(struct invocation *in);
int verb_wait(struct invocation *in);
int verb_list(struct invocation *in);
int verb_show(struct invocation *in);
int verb_results(struct invocation *in);
int verb_cancel(struct invocation *in);
int verb_metrics(struct invocation *in);
int verb_group(struct invocation *in);
int verb_cluster(struct invocation *in);
int verb_presets(struct invocation *in);
int verb_keygen(struct invocation *in);

/* Becomes "NAME VERB …", NAME another program of ours. Returns only on failure. argv[0] is the
 * verb. */
int verb_other(const char *name, int argc, char **argv);

extern const struct caloris_option up_options[], run_options[], submit_options[], follow_options[],
    list_options[], group_options[], presets_options[], replay_options[], batch_options[],
    keygen_options[];

#endif
