/* caloris: the command. A table of verbs; each has its file. */
#include "client/cmd/cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct verb verbs[] = {
    {"up", "[-- COMMAND…]", 0, MAX_OPERANDS, 0, "start a gateway and a group on this machine",
     "Starts a gateway and a group of ranks on this machine, in a private directory, and restarts "
     "whichever of them dies. With a command: runs it inside (CALORIS_ENDPOINT is set), stops "
     "everything and returns the command's exit code. Without one: serves until Ctrl-C, as the "
     "cluster of --cluster.",
     up_options, verb_up},
    {"run", "PROMPT", 0, 1, WANTS_GATEWAY | WANTS_JOB, "submit a job, wait, print its text",
     "Submits a job, shows its text as it settles and prints it. The prompt becomes one user "
     "message; \"-\" reads it from stdin. A line of figures goes to stderr. Ctrl-C cancels the "
     "job.",
     run_options, verb_run},
    {"submit", "PROMPT", 0, 1, WANTS_GATEWAY | WANTS_JOB, "submit a job, print its number",
     "Submits a job and prints its number alone, once the job is on the gateway's disk. The prompt "
     "becomes one user message; \"-\" reads it from stdin.",
     submit_options, verb_submit},
    {"batch", "FILE", 1, 1, WANTS_GATEWAY, "a file of jobs, results to another file",
     "Submits every line of a file: jobs (proto/JOBS.md) or lines of OpenAI's batches. Results are "
     "appended to --out as they come, whole lines in any order, each with the number of its line. "
     "However it ends, --resume goes on: no line is lost or done twice. Ctrl-C leaves jobs that "
     "are at the gateway there. Exit code 1: some jobs failed.",
     batch_options, verb_batch},
    {"watch", "JOB", 1, 1, WANTS_GATEWAY, "see what happens to a job until it ends",
     "Shows a job until it ends, then its text: painted on a terminal, else a line for each step.",
     follow_options, verb_watch},
    {"replay", "FILE", 1, 1, WANTS_NOTHING, "show recordings made with --trace",
     "Shows what --trace of run, watch or caloris-engine recorded, as if it happened now: painted "
     "on a terminal, else a line for each step; then the text. \"-\" reads stdin. The format is "
     "that of docs/TRACE.md.",
     replay_options, verb_replay},
    {"wait", "JOB…", 1, MAX_OPERANDS, WANTS_GATEWAY, "wait until jobs have ended",
     "Waits until the jobs have ended. Exit code 0 when all are done, 1 when one failed or was "
     "cancelled.",
     NULL, verb_wait},
    {"list", NULL, 0, 0, WANTS_GATEWAY, "jobs, queued and running ones first of all",
     "A table of the jobs that are queued or run; with -a of all jobs, newest first.", list_options,
     verb_list},
    {"show", "JOB", 1, 1, WANTS_GATEWAY, "all that is known of a job",
     "Prints the state of a job and the request as it was submitted.", NULL, verb_show},
    {"results", "JOB", 1, 1, WANTS_GATEWAY, "the text of a finished job",
     "Prints the text of a finished job alone, with --json the whole result. Results stay: this "
     "may "
     "be asked as often as wanted. Exit code 75: the job has not ended.",
     NULL, verb_results},
    {"cancel", "JOB…", 1, MAX_OPERANDS, WANTS_GATEWAY, "cancel jobs",
     "Cancels jobs. A job that has ended stays as it is.", NULL, verb_cancel},
    {"cluster", NULL, 0, 0, WANTS_GATEWAY, "the groups that serve",
     "A table of the groups that are connected to the gateway: \"caloris group list\".", NULL,
     verb_cluster},
    {"group", "list | drain NAME", 1, 2, WANTS_GATEWAY, "list groups, or tell one to leave",
     "list: a table of the groups that are connected to the gateway. drain: the group of this name "
     "leases no more, finishes the jobs it holds (with --hand-back it gives them back to the queue "
     "behind its step) and leaves.",
     group_options, verb_group},
    {"metrics", NULL, 0, 0, WANTS_GATEWAY, "figures of the gateway and its groups",
     "Prints counters, gauges and histograms of the gateway and of every group as Prometheus reads "
     "them; with --json as samples of name, labels and value.",
     NULL, verb_metrics},
    {"presets", NULL, 0, 0, WANTS_NOTHING, "the named sets of decoding fields",
     "Prints what each value of --preset stands for: fields of a job that it leaves open are the "
     "preset's.",
     presets_options, verb_presets},
    {"keygen", NULL, 0, 0, WANTS_NOTHING, "a pair of keys, for gateways that listen at TCP",
     "Makes a certificate: FILE with the secret key (mode 0600, yours alone) and FILE.pub, which "
     "the gateway's administrator puts into its directory of authorized keys. A file that is there "
     "is not replaced.",
     keygen_options, verb_keygen},
};

/* Other programs do these, and have their help. */
static const struct {
    const char *name, *program, *summary;
} other_verbs[] = {
    {"plan", "caloris-engine", "how a model is split over ranks, and the bytes of each"},
    {"doctor", "caloris-engine", "what this machine offers: cores, binding, BLAS, MPI"},
    {"shard", "caloris-engine", "a model's weights packed once, for any number of ranks"},
    {"admin", "caloris-gateway", "backup, check or compact the files of a queue"},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void print_help(FILE *to)
{
    fputs("Usage: caloris VERB [options] …\n\n"
          "Serves masked-diffusion language models: submits jobs to a gateway and shows them.\n\n",
          to);
    for (size_t i = 0; i < COUNT(verbs); i++)
        fprintf(to, "  %-9s %s\n", verbs[i].name, verbs[i].summary);
    for (size_t i = 0; i < COUNT(other_verbs); i++)
        fprintf(to, "  %-9s %s\n", other_verbs[i].name, other_verbs[i].summary);
    fputs("\n\"caloris VERB --help\" tells more. The gateway is the one of --endpoint, of\n"
          "CALORIS_ENDPOINT, or of the cluster's file in ~/.caloris. Options that name it may\n"
          "stand before VERB, too.\n\n"
          "Exit codes: 0 done, 1 a job failed or was cancelled, 2 usage or configuration,\n"
          "3 no gateway answers, 4 refused, 5 no such job, 75 not yet: try again later,\n"
          "130 interrupted.\n",
          to);
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
    struct invocation in = {.verb = verb};
    struct caloris_err err = {0};
    bool done = false;
    int rc = EXIT_DONE;
    if (cmd_parse(&in, verb, argc, argv, &done, &err) < 0)
        rc = cmd_fail(&in, &err);
    else if (!done)
        rc = verb->run(&in);
    cmd_release(&in);
    if ((fflush(stdout) != 0 || ferror(stdout)) && rc == EXIT_DONE) {
        fprintf(stderr, "caloris %s: cannot write to stdout\n", verb->name);
        rc = caloris_exit_client(CALORIS_IO);
    }
    return rc;
}

static bool is_one_of(const char *word, const char *a, const char *b)
{
    return strcmp(word, a) == 0 || strcmp(word, b) == 0;
}

/* Options without a verb. */
static int without_verb(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (is_one_of(argv[i], "--help", "-h")) {
            print_help(stdout);
            return EXIT_DONE;
        }
        if (is_one_of(argv[i], "--version", "-V")) {
            puts("caloris " CALORIS_VERSION);
            return EXIT_DONE;
        }
    }
    if (argc > 1)
        fprintf(stderr, "caloris: a verb is missing\n");
    print_help(stderr);
    return caloris_exit_client(CALORIS_USAGE);
}

int main(int argc, char **argv)
{
    const int at = cmd_find_verb(argc, argv);
    if (at == argc)
        return without_verb(argc, argv);
    char *name = argv[at];
    memmove(argv + 2, argv + 1, (size_t)(at - 1) * sizeof(*argv)); /* the verb goes first */
    argv[1] = name;
    for (size_t i = 0; i < COUNT(verbs); i++) {
        if (strcmp(name, verbs[i].name) == 0)
            return run_verb(&verbs[i], argc - 1, argv + 1);
    }
    for (size_t i = 0; i < COUNT(other_verbs); i++) {
        if (strcmp(name, other_verbs[i].name) == 0)
            return verb_other(other_verbs[i].program, argc - 1, argv + 1);
    }
    if (strcmp(name, "help") == 0) {
        print_help(stdout);
        return EXIT_DONE;
    }
    fprintf(stderr, "caloris: no verb %s; \"caloris --help\" lists them\n", name);
    return caloris_exit_client(CALORIS_USAGE);
}
