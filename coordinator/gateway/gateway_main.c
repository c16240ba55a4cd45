/* caloris-gateway: the durable queue between clients and groups. */
#include "base/conf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "coordinator/gateway/admin.h"
#include "coordinator/gateway/broker/broker.h"
#include "coordinator/gateway/state_dir.h"
#include "coordinator/gateway/store/store.h"
#include "proto/cluster.h"

#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

struct values {
    char *state, *name, *clients, *groups, *certificate, *authorized;
    bool token, network_fs;
    uint64_t beat_ms, lost_ms, keep_ms, keep_free_bytes, max_bytes;
    int64_t max_queued, max_running, attempts;
    int64_t log_level, log_format;
};

#define AT(field) offsetof(struct values, field)

static const struct caloris_option options[] = {
    {.name = "state",
     .letter = 's',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(state),
     .argument = "DIR",
     .help =
         "private directory (mode 0700, on a local disk) of the queue and, unless said otherwise, "
         "the sockets (default: $XDG_STATE_HOME/caloris/NAME, ~/.local/state/caloris/NAME)"},
    {.name = "state-on-network-fs",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(network_fs),
     .help = "--state may be on NFS, Lustre and the like: this gateway has the queue for itself, "
             "which is slower; a file there tells which host has it"},
    {.name = "name",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(name),
     .argument = "NAME",
     .help = "written to ~/.caloris/NAME, where clients look (default: \"default\"; none where "
             "--clients is given)"},
    {.name = "clients",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(clients),
     .argument = "ENDPOINT",
     .help = "where clients connect: ipc:// in a directory of mode 0700, or tcp://host:port, which "
             "needs keys (default: clients.sock in --state)"},
    {.name = "groups",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(groups),
     .argument = "ENDPOINT",
     .help = "where groups connect, likewise (default: groups.sock in --state)"},
    {.name = "certificate",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(certificate),
     .argument = "FILE",
     .help = "tcp://: this gateway's own keys, of mode 0600 (\"caloris keygen --server\" makes "
             "them)"},
    {.name = "authorized",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(authorized),
     .argument = "DIR",
     .help = "tcp://: directory with one file per key that may come: user, rights, limits "
             "(docs/SECURITY.md); read again on SIGHUP"},
    {.name = "token",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(token),
     .help =
         "tcp://: keys made by this gateway and kept in --state; whoever can read ~/.caloris/NAME "
         "(mode 0600) may do everything"},
    {.name = "beat",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(beat_ms),
     .default_text = "2s",
     .argument = "TIME",
     .help = "how often gateway and groups give each other a sign of life"},
    {.name = "lost",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(lost_ms),
     .default_text = "10s",
     .argument = "TIME",
     .help = "the silence after which a group's jobs are given to others"},
    {.name = "max-queued",
     .type = CALORIS_OPTION_INT,
     .offset = AT(max_queued),
     .default_text = "1000000",
     .min = 0,
     .max = 1e12,
     .argument = "N",
     .help = "jobs that one user may have in the queue; one more is told to try again later; 0: no "
             "limit"},
    {.name = "max-bytes",
     .type = CALORIS_OPTION_SIZE,
     .offset = AT(max_bytes),
     .default_text = "4GiB",
     .argument = "SIZE",
     .help = "that the jobs of one user may take in the queue; one that goes beyond it is told to "
             "try again later, one that alone is larger is refused; 0: no limit"},
    {.name = "max-running",
     .type = CALORIS_OPTION_INT,
     .offset = AT(max_running),
     .default_text = "0",
     .min = 0,
     .max = 1e12,
     .argument = "N",
     .help = "jobs of one user that may run at a time; the others wait; 0: no limit"},
    {.name = "keep-free",
     .type = CALORIS_OPTION_SIZE,
     .offset = AT(keep_free_bytes),
     .default_text = "256MiB",
     .argument = "SIZE",
     .help = "that submissions leave free where --state is, so that the results of what was "
             "accepted have room (of a small file system an 8th); 0: nothing"},
    {.name = "attempts",
     .type = CALORIS_OPTION_INT,
     .offset = AT(attempts),
     .default_text = "3",
     .min = 1,
     .max = 1000,
     .argument = "N",
     .help =
         "a job that was in two crashes runs alone; after so many crashes alone it is given up"},
    {.name = "keep-results",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(keep_ms),
     .default_text = "30d",
     .argument = "TIME",
     .help = "how long jobs that have ended, and their results, are kept; 0s: for ever"},
    {.name = "log-level",
     .type = CALORIS_OPTION_CHOICE,
     .offset = AT(log_level),
     .choices = "debug|info|warn|error",
     .default_text = "info",
     .argument = "LEVEL",
     .help = "log lines below this are dropped"},
    {.name = "log-format",
     .type = CALORIS_OPTION_CHOICE,
     .offset = AT(log_format),
     .choices = "text|json",
     .default_text = "text",
     .argument = "FORMAT",
     .help = "log lines as text, or each as a JSON object"},
};

static const struct caloris_program program = {
    .name = "caloris-gateway",
    .group = "gateway",
    .usage = "caloris-gateway [--name NAME] [--state DIR]\n"
             "caloris-gateway admin backup|check|compact …",
    .about =
        "Accepts jobs from clients, keeps them and their results on disk, and leases them to the "
        "groups that dial in. Ends on SIGTERM or SIGINT; queued jobs stay. SIGHUP makes it read "
        "the authorized keys again. Exit codes: 0 done, 2 "
        "bad configuration (do not restart), 70 internal error, 75 try again later.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
};

/* Where it all is. */
struct places {
    const char *name; /* to publish; NULL: not */
    char state[PATH_MAX];
    char clients[CALORIS_ENDPOINT_MAX], groups[CALORIS_ENDPOINT_MAX];
    bool keyed;                 /* one of them is tcp:// */
    struct caloris_keys server; /* of this gateway */
    struct caloris_keys token;  /* for whoever can read the published file; "": none */
};

static int find_endpoint(const char *given, const char *state, const char *file,
                         char endpoint[CALORIS_ENDPOINT_MAX], struct caloris_err *err)
{
    int n = given ? snprintf(endpoint, CALORIS_ENDPOINT_MAX, "%s", given)
                  : snprintf(endpoint, CALORIS_ENDPOINT_MAX, "ipc://%s/%s", state, file);
    if (n < 0 || n >= CALORIS_ENDPOINT_MAX)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%.120s…: a socket's path may have 107 bytes; choose a shorter "
                               "directory",
                               given ? given : state);
    return 0;
}

/* Loopback is no exception: a login node has hundreds of users. */
static int check_keys(const struct values *values, struct places *places, struct caloris_err *err)
{
    const char *const endpoints[] = {places->clients, places->groups};
    for (size_t i = 0; i < 2; i++) {
        if (caloris_endpoint_check(endpoints[i], err) < 0 && err->code != CALORIS_IO)
            return -1; /* IO: the state directory is not there yet */
        bool keyed = caloris_endpoint_needs_keys(endpoints[i]);
        if (keyed && !values->token && !(values->certificate && values->authorized))
            return caloris_err_set(err, CALORIS_BAD_CONFIG,
                                   "%s: a TCP address needs keys: --certificate and --authorized, "
                                   "or --token; else ipc:// in a directory of mode 0700",
                                   endpoints[i]);
        places->keyed |= keyed;
    }
    if (!places->keyed && (values->certificate || values->authorized || values->token))
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "--certificate, --authorized and --token are for tcp://; clients "
                               "%s and groups %s have the file system's permissions",
                               places->clients, places->groups);
    return 0;
}

static int find_places(const struct values *values, struct places *places, struct caloris_err *err)
{
    places->name = values->name                        ? values->name
                   : values->clients && !values->token ? NULL
                                                       : "default";
    if (places->name && caloris_cluster_check_name(places->name, err) < 0)
        return -1;
    if (values->lost_ms < 2 * values->beat_ms || values->beat_ms < 10)
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "beat %" PRIu64 " ms, lost %" PRIu64
                               " ms: a beat is at least 10 ms, and lost at least two beats",
                               values->beat_ms, values->lost_ms);
    if (state_dir_find(values->state, places->name, places->state, err) < 0 ||
        find_endpoint(values->clients, places->state, "clients.sock", places->clients, err) < 0 ||
        find_endpoint(values->groups, places->state, "groups.sock", places->groups, err) < 0)
        return -1;
    size_t length = strlen(places->clients);
    if (strcmp(places->clients, places->groups) == 0 && places->clients[length - 1] != '*')
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "%s: clients and groups need an endpoint each", places->clients);
    return check_keys(values, places, err);
}

/* The user this process runs as; a number where no name is known. */
static void find_user(char user[CALORIS_STORE_MAX_USER + 1])
{
    const struct passwd *entry = getpwuid(geteuid());
    size_t n = entry ? strlen(entry->pw_name) : 0;
    if (n > 0 && n <= CALORIS_STORE_MAX_USER)
        snprintf(user, CALORIS_STORE_MAX_USER + 1, "%s", entry->pw_name);
    else
        snprintf(user, CALORIS_STORE_MAX_USER + 1, "%u", (unsigned)geteuid());
}

/* A certificate in the state directory, made when it is not there: groups and clients that know
 * it outlive this process. */
static int keep_keys(const char *state, const char *file, struct caloris_keys *keys,
                     struct caloris_err *err)
{
    char path[PATH_MAX];
    if (caloris_file_join(path, sizeof(path), state, file, err) < 0)
        return -1;
    if (access(path, F_OK) < 0 && (caloris_keys_make(keys, err) < 0 ||
                                   caloris_keys_write(path, keys, "caloris-gateway", err) < 0))
        return -1;
    return caloris_keys_load(path, keys, err);
}

static int load_keys(const struct values *values, struct places *places, struct caloris_err *err)
{
    if (!places->keyed)
        return 0;
    if (values->certificate ? caloris_keys_load(values->certificate, &places->server, err) < 0
                            : keep_keys(places->state, "server.key", &places->server, err) < 0)
        return -1;
    return values->token ? keep_keys(places->state, "token.key", &places->token, err) : 0;
}

static int serve(const struct values *values, int signals, struct caloris_err *err)
{
    struct places places = {0};
    struct caloris_store *store = NULL;
    struct caloris_broker *broker = NULL;
    char user[CALORIS_STORE_MAX_USER + 1];
    struct caloris_cluster cluster = {0};
    bool published = false;
    int rc = -1;
    find_user(user);
    if (find_places(values, &places, err) < 0)
        return -1;
    const struct caloris_store_options store_options = {.user = user,
                                                        .network_fs = values->network_fs};
    store = caloris_store_open(places.state, &store_options, err);
    if (!store || load_keys(values, &places, err) < 0)
        goto out;
    const struct caloris_broker_options broker_options = {
        .clients = places.clients,
        .groups = places.groups,
        .user = user,
        .server = places.keyed ? &places.server : NULL,
        .authorized = places.keyed ? values->authorized : NULL,
        .token = places.token.secret_key[0] ? places.token.public_key : NULL,
        .state = places.state,
        .keep_free_bytes = values->keep_free_bytes,
        .limits = {.max_queued = (uint64_t)values->max_queued,
                   .max_bytes = values->max_bytes,
                   .max_running = (uint64_t)values->max_running,
                   .share = 1},
        .attempts = (uint32_t)values->attempts,
        .keep_ms = values->keep_ms,
        .beat_ms = values->beat_ms,
        .lost_ms = values->lost_ms,
    };
    broker = caloris_broker_open(store, &broker_options, err);
    if (!broker)
        goto out;
    cluster.token = places.token;
    memcpy(cluster.server_key, places.server.public_key, sizeof(cluster.server_key));
    if (caloris_endpoint_publish(caloris_broker_clients(broker), cluster.clients, err) < 0 ||
        caloris_endpoint_publish(caloris_broker_groups(broker), cluster.groups, err) < 0)
        goto out;
    if (places.name && caloris_cluster_write(places.name, &cluster, err) < 0)
        goto out;
    published = places.name != NULL;
    printf("ready: clients %s groups %s\n", cluster.clients, cluster.groups);
    fflush(stdout);
    rc = caloris_broker_run(broker, signals, err);
    caloris_log(CALORIS_LOG_INFO, "ending; queued jobs stay in %s", places.state);
out:
    if (published)
        caloris_cluster_remove(places.name, cluster.clients);
    caloris_broker_close(broker);
    caloris_store_close(store);
    return rc;
}

/* Readable when a signal came. Blocked before ZeroMQ makes threads, which inherit it. */
static int open_signals(struct caloris_err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP); /* read the keys again */
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return caloris_err_sys(err, "signals");
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? caloris_err_sys(err, "signals") : fd;
}

/* A connection is a file: as many as this process is allowed at all. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
    struct values values = {0};
    struct caloris_err err = {0};
    bool done = false;
    int code = 0, signals = -1;
    umask(077); /* SQLite's files, too: prompts stand in them */
    if (argc > 1 && strcmp(argv[1], "admin") == 0)
        return admin_main(argc - 1, argv + 1, &program);
    struct caloris_conf *conf = caloris_conf_load(&program, argc, argv, &values, NULL, &done, &err);
    if (conf && !done) {
        caloris_log_set_level((enum caloris_log_level)values.log_level);
        caloris_log_set_format((enum caloris_log_format)values.log_format);
        caloris_log_set_who("gateway");
        raise_file_limit();
        signals = open_signals(&err);
    }
    if (!conf || (!done && (signals < 0 || serve(&values, signals, &err) < 0))) {
        fprintf(stderr, "caloris-gateway: %s\n", err.text);
        code = caloris_exit_server(err.code);
    }
    if (signals >= 0)
        close(signals);
    caloris_conf_free(conf);
    return code;
}
