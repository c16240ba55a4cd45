/* up: a gateway and a group on this machine, for as long as somebody needs them. */
#include "client/cmd/children.h"
#include "client/cmd/cmd.h"

#include "base/file.h"
#include "base/scratch.h"
#include "base/time.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define AT(member) offsetof(struct flags, member)

const struct caloris_option up_options[] = {
    {.name = "ranks",
     .letter = 'n',
     .type = CALORIS_OPTION_INT,
     .offset = AT(ranks),
     .default_text = "1",
     .min = 1,
     .max = 1024,
     .argument = "N",
     .flag_only = true,
     .help = "ranks of the group: MPI processes, or threads of one where there is no mpirun"},
    {.name = "model",
     .letter = 'm',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(model),
     .argument = "DIR",
     .flag_only = true,
     .help = "model folder (default: the demo model)"},
    {.name = "state",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(state),
     .argument = "DIR",
     .flag_only = true,
     .help = "keep the queue and its results there (default: they go when this ends)"},
    {.name = "cluster",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(cluster),
     .argument = "NAME",
     .flag_only = true,
     .help = "write ~/.caloris/NAME, so that caloris --cluster NAME finds this (without a command: "
             "\"default\")"},
    {.name = "json",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(json),
     .flag_only = true,
     .help = "when it serves: one line of JSON on stdout with its address"},
    {.name = "quiet",
     .letter = 'q',
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(quiet),
     .flag_only = true,
     .help = "only errors on stderr"},
    {.name = "verbose",
     .letter = 'v',
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(verbose),
     .flag_only = true,
     .help = "the gateway's and the group's log on stderr beside a command too"},
    {.name = NULL},
};

enum {
    TURN_MS = 50,     /* between looks at the children */
    BACKOFF_MS = 200, /* before the first restart; doubled each time */
    BACKOFF_MAX_MS = 10000,
    STEADY_MS = 30000, /* who lived so long starts from the first back-off again */
    HOPELESS = 6,      /* deaths in a row before it ever served */
    BAD_START = 2,     /* exit code: bad configuration or model, never restart */
    DRAIN_MS = 1500,
    TERM_MS = 4000,
    KILL_MS = 2000, /* patience with a process that shall end */
};

enum { GATEWAY, GROUP, COMMAND, CHILDREN, MAX_WORDS = 32 };

struct up {
    const struct invocation *in;
    struct caloris_scratch dir; /* sockets, logs, mpirun's files */
    char engine[PATH_MAX], gateway[PATH_MAX], model[PATH_MAX], state[PATH_MAX];
    char clients[CALORIS_ENDPOINT_MAX], groups[CALORIS_ENDPOINT_MAX];
    char logs[2][PATH_MAX], ranks[16], threads[16];
    char *words[2][MAX_WORDS]; /* command lines of gateway and group */
    struct child child[CHILDREN];
    struct child *children[CHILDREN];
    struct caloris_client *client;
    bool ready;
    int signal; /* that ended it */
    int code;   /* to exit with */
};

static void say(const struct up *up, const char *text)
{
    if (!up->in->flags.quiet)
        cmd_say(up->in, "%s", text);
}

/* ---- the directory --------------------------------------------------------------------------- */

static int make_dir(struct up *up, struct caloris_err *err)
{
    enum { ROOM = 64 }; /* socket paths end at 107 bytes; long run-time directories do not fit */
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    bool usable = runtime && *runtime == '/' && strlen(runtime) < ROOM && stat(runtime, &st) == 0 &&
                  st.st_uid == geteuid() && access(runtime, W_OK) == 0;
    const char *dir = up->dir.path;
    if (caloris_scratch_make(&up->dir, usable ? runtime : "/tmp", "caloris-up", err) < 0)
        return -1;
    snprintf(up->clients, sizeof(up->clients), "ipc://%.200s/clients.sock", dir);
    snprintf(up->groups, sizeof(up->groups), "ipc://%.200s/groups.sock", dir);
    if (caloris_file_join(up->logs[GATEWAY], PATH_MAX, dir, "gateway.log", err) < 0 ||
        caloris_file_join(up->logs[GROUP], PATH_MAX, dir, "group.log", err) < 0)
        return -1;
    if (!up->in->flags.state)
        return caloris_file_join(up->state, sizeof(up->state), dir, "state", err);
    if (caloris_file_make_dirs(up->in->flags.state, 0700, err) < 0)
        return -1;
    return realpath(up->in->flags.state, up->state)
               ? 0
               : caloris_err_sys(err, "%s", up->in->flags.state);
}

/* ---- what is started ------------------------------------------------------------------------- */

static void add_all(struct up *up, int server, const char *const *words)
{
    int n = 0;
    while (up->words[server][n])
        n++;
    for (; *words && n + 1 < MAX_WORDS; words++)
        up->words[server][n++] = (char *)(uintptr_t)*words;
}

/* Cores that this process may use, dealt to the ranks. */
static int threads_per_rank(int64_t ranks)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return cores > ranks ? (int)(cores / ranks) : 1;
}

static void describe_group(struct up *up, const char *mpirun)
{
    snprintf(up->ranks, sizeof(up->ranks), "%" PRId64, up->in->flags.ranks);
    snprintf(up->threads, sizeof(up->threads), "%d", threads_per_rank(up->in->flags.ranks));
    if (mpirun)
        add_all(up, GROUP,
                (const char *const[]){mpirun, "-n", up->ranks, "--oversubscribe", "--bind-to",
                                      "none", up->engine, NULL});
    else
        add_all(up, GROUP,
                (const char *const[]){up->engine, "--comm", "threads", "--ranks", up->ranks, NULL});
    add_all(up, GROUP,
            (const char *const[]){"--model", up->model, "--gateway", up->groups, "--threads",
                                  up->threads, NULL});
}

/* What Open MPI and OpenBLAS take from the environment: one node, cores shared. */
static void prepare_environment(const struct up *up)
{
    if (geteuid() == 0) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    }
    if (up->in->flags.ranks > threads_per_rank(1))
        setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    setenv("OMPI_MCA_orte_tmpdir_base", up->dir.path, 0); /* mpirun's files: Open MPI 4, */
    setenv("PRTE_MCA_prte_tmpdir_base", up->dir.path, 0); /* Open MPI 5 */
    unsetenv("OPENBLAS_CORETYPE"); /* inherited ones can hide half of the machine */
    unsetenv("OPENBLAS_L2_SIZE");
    setenv("CALORIS_ENDPOINT", up->clients, 1);
}

static int describe(struct up *up, struct caloris_err *err)
{
    static char mpirun[PATH_MAX];
    const struct flags *flags = &up->in->flags;
    if (cmd_find_program("caloris-gateway", up->gateway, sizeof(up->gateway), err) < 0 ||
        cmd_find_program("caloris-engine", up->engine, sizeof(up->engine), err) < 0)
        return -1;
    if (!flags->model) {
        if (cmd_find_demo_model(up->model, sizeof(up->model), err) < 0)
            return -1;
    } else if (!realpath(flags->model, up->model)) {
        caloris_err_sys(err, "model %s", flags->model);
        err->code = CALORIS_BAD_MODEL;
        return -1;
    }
    bool many = flags->ranks > 1 && cmd_find_program("mpirun", mpirun, sizeof(mpirun), NULL) == 0;
    add_all(up, GATEWAY,
            (const char *const[]){up->gateway, "--clients", up->clients, "--groups", up->groups,
                                  "--state", up->state, NULL});
    /* Its name is for clients elsewhere; a command inside has CALORIS_ENDPOINT. */
    const char *name = flags->cluster ? flags->cluster : up->in->n_operands ? NULL : "default";
    if (name)
        add_all(up, GATEWAY, (const char *const[]){"--name", name, NULL});
    describe_group(up, many ? mpirun : NULL);
    up->child[GATEWAY].argv = up->words[GATEWAY];
    up->child[GROUP].argv = up->words[GROUP];
    up->child[COMMAND].argv = up->in->operands;
    up->child[GATEWAY].name = "gateway";
    up->child[GROUP].name = "group";
    up->child[COMMAND].name = "command";
    up->child[COMMAND].foreground = true;
    if (up->in->n_operands > 0 && !flags->verbose) {
        up->child[GATEWAY].log = up->logs[GATEWAY];
        up->child[GROUP].log = up->logs[GROUP];
    }
    return 0;
}

/* ---- while it serves ------------------------------------------------------------------------- */

/* Sleeps until a child ends or a signal comes, at most for ms. */
static void rest(struct up *up, long ms)
{
    sigset_t set;
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    int number = sigtimedwait(&set, NULL, &time);
    if (number > 0 && number != SIGCHLD)
        up->signal = number;
}

/* A server ended: when is it started again? -1: never. */
static int note_end(struct up *up, struct child *child, struct caloris_err *err)
{
    char text[128];
    int code = child_exit_code(child);
    uint64_t lived_ms = (caloris_time_ns() - child->started_ns) / 1000000;
    child->failures = lived_ms > STEADY_MS ? 0 : child->failures;
    if (child == &up->child[GROUP])
        children_kill_others(up->children, CHILDREN, up->engine); /* ranks that lost their mpirun */
    if (code == BAD_START || (!up->ready && child->failures + 1 >= HOPELESS)) {
        child_show_log(child);
        return caloris_err_set(err, code == BAD_START ? CALORIS_BAD_CONFIG : CALORIS_INTERNAL,
                               "the %s cannot be started: exit code %d", child->name, code);
    }
    uint64_t wait_ms = BACKOFF_MS;
    for (unsigned i = 0; i < child->failures && wait_ms < BACKOFF_MAX_MS; i++)
        wait_ms *= 2;
    wait_ms = wait_ms < BACKOFF_MAX_MS ? wait_ms : BACKOFF_MAX_MS;
    child->failures++;
    child->due_ns = caloris_time_ns() + wait_ms * 1000000;
    snprintf(text, sizeof(text), "the %s ended (%s %d), starting it again in %.1f s", child->name,
             code > EXIT_SIGNAL ? "signal" : "exit code",
             code > EXIT_SIGNAL ? code - EXIT_SIGNAL : code, (double)wait_ms / 1000);
    say(up, text);
    return 0;
}

/* One look at the servers: collect who ended, start who is due. */
static int keep_running(struct up *up, struct caloris_err *err)
{
    bool ran[CHILDREN];
    for (int i = 0; i < CHILDREN; i++)
        ran[i] = up->child[i].pid != 0;
    children_reap(up->children, CHILDREN);
    for (int i = 0; i < COMMAND; i++) {
        struct child *child = &up->child[i];
        if (ran[i] && child->pid == 0 && note_end(up, child, err) < 0)
            return -1;
        if (child->pid == 0 && caloris_time_ns() >= child->due_ns && child_start(child, err) < 0)
            return -1;
    }
    return 0;
}

/* True when a group has dialled in. */
static bool group_is_there(struct up *up)
{
    struct caloris_address address = {0};
    snprintf(address.endpoint, sizeof(address.endpoint), "%s", up->clients);
    const struct caloris_client_options options = {
        .address = &address, .timeout_ms = 200, .patience_ms = 200};
    if (!up->client)
        up->client = caloris_client_open(&options, NULL);
    caloris_answer *answer = up->client ? caloris_client_cluster(up->client, NULL) : NULL;
    bool there = answer && answer->cluster->n_groups > 0;
    caloris_answer_free(answer);
    return there;
}

static int become_ready(struct up *up, struct caloris_err *err)
{
    uint64_t started_ns = caloris_time_ns();
    char text[CALORIS_ENDPOINT_MAX + 160];
    const char *slash = strrchr(up->model, '/');
    snprintf(text, sizeof(text), "starting %.80s on %s rank%s …", slash ? slash + 1 : up->model,
             up->ranks, up->in->flags.ranks > 1 ? "s" : "");
    say(up, text);
    while (!up->signal && !up->ready) {
        if (keep_running(up, err) < 0)
            return -1;
        up->ready = group_is_there(up);
        if (!up->ready)
            rest(up, TURN_MS);
    }
    caloris_client_close(up->client);
    up->client = NULL;
    if (!up->ready)
        return 0;
    snprintf(text, sizeof(text), "ready after %.1f s at %s",
             (double)(caloris_time_ns() - started_ns) * 1e-9, up->clients);
    say(up, text);
    return 0;
}

/* With --json, for whoever started this: where it serves. */
static void announce(const struct up *up)
{
    if (up->in->flags.json)
        cmd_print_json(up->in, json_pack("{s:s, s:s, s:s, s:I}", "endpoint", up->clients, "groups",
                                         up->groups, "model", up->model, "ranks",
                                         (json_int_t)up->in->flags.ranks));
}

/* Until the command has ended, or a signal comes. */
static int serve(struct up *up, struct caloris_err *err)
{
    struct child *command = &up->child[COMMAND];
    bool has_command = up->in->n_operands > 0;
    if (has_command && child_start(command, err) < 0)
        return -1;
    while (!up->signal && (!has_command || command->pid)) {
        rest(up, TURN_MS);
        if (keep_running(up, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Waits for a process that was told to end. */
static bool ended_within(struct up *up, const struct child *child, long ms)
{
    uint64_t deadline_ns = caloris_time_ns() + (uint64_t)ms * 1000000;
    while (child->pid && caloris_time_ns() < deadline_ns) {
        children_reap(up->children, CHILDREN);
        if (child->pid)
            rest(up, 10);
    }
    return !child->pid;
}

/* Asks with this signal first, then more firmly. */
static void stop(struct up *up, struct child *child, int first, long patience_ms)
{
    if (!child->pid)
        return;
    if (first)
        kill(child->pid, first);
    if (ended_within(up, child, patience_ms))
        return;
    kill(child->pid, SIGTERM);
    if (ended_within(up, child, TERM_MS))
        return;
    kill(child->foreground ? child->pid : -child->pid, SIGKILL);
    ended_within(up, child, KILL_MS);
}

static void clean_up(struct up *up)
{
    struct child *command = &up->child[COMMAND];
    /* A terminal's Ctrl-C has reached the command as well; SIGTERM came to us alone. */
    bool by_terminal = up->signal == SIGINT;
    stop(up, command, by_terminal ? 0 : SIGTERM, by_terminal ? DRAIN_MS : TERM_MS);
    stop(up, &up->child[GROUP], SIGUSR1, DRAIN_MS); /* drain: mpirun hands it on at once */
    stop(up, &up->child[GATEWAY], SIGTERM, TERM_MS);
    children_kill_others(up->children, CHILDREN, NULL);
    children_reap(up->children, CHILDREN);
    caloris_scratch_remove(&up->dir);
}

static void block_signals(void)
{
    static const int numbers[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaddset(&set, numbers[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int verb_up(struct invocation *in)
{
    struct caloris_err err = {0};
    struct up *up = calloc(1, sizeof(*up));
    int rc = EXIT_DONE;
    if (!up) {
        caloris_err_sys(&err, "starting");
        return cmd_fail(in, &err);
    }
    up->in = in;
    for (int i = 0; i < CHILDREN; i++)
        up->children[i] = &up->child[i];
    block_signals();
    children_adopt();
    if (make_dir(up, &err) < 0 || describe(up, &err) < 0)
        rc = cmd_fail(in, &err);
    if (rc == EXIT_DONE) {
        prepare_environment(up);
        if (become_ready(up, &err) < 0)
            rc = cmd_fail(in, &err);
        if (rc == EXIT_DONE && up->ready)
            announce(up);
        if (rc == EXIT_DONE && up->ready && serve(up, &err) < 0)
            rc = cmd_fail(in, &err);
    }
    struct child *command = &up->child[COMMAND];
    bool commanded = command->started_ns != 0;
    clean_up(up);
    if (rc == EXIT_DONE && commanded)
        rc = child_exit_code(command);
    else if (rc == EXIT_DONE && (!up->ready || in->n_operands > 0))
        rc = EXIT_SIGNAL + up->signal; /* Ctrl-C is how serving ends, but not how it starts */
    caloris_client_close(up->client);
    free(up);
    return rc;
}
