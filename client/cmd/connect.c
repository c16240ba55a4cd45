#include "client/cmd/cmd.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t signal_seen;

static void on_signal(int number)
{
    signal_seen = number;
}

int cmd_signal(void)
{
    return signal_seen;
}

void cmd_forget_signal(void)
{
    signal_seen = 0;
}

/* The first signal ends waiting and lets the verb tidy up; a second one of the kind ends the
 * process. */
void cmd_catch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
}

void cmd_say(const struct invocation *in, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    fflush(stdout);
    /* In one write: nobody else's words get in between. */
    if (vasprintf(&text, format, args) >= 0) {
        fprintf(stderr, "caloris %s: %s\n", in->verb->name, text);
        free(text);
    }
    va_end(args);
}

int cmd_fail(const struct invocation *in, const struct caloris_err *err)
{
    if (err->code == CALORIS_CANCELLED && signal_seen)
        return EXIT_SIGNAL + signal_seen;
    cmd_say(in, "%s", err->text);
    if (err->code == CALORIS_USAGE)
        fprintf(stderr, "Try \"caloris %s --help\".\n", in->verb->name);
    return caloris_exit_client(err->code);
}

static void on_notice(void *arg, const char *text)
{
    const struct invocation *in = arg;
    if (!in->flags.quiet)
        cmd_say(in, "%s", text);
}

struct caloris_client *cmd_connect(const struct invocation *in, struct caloris_err *err)
{
    const struct flags *flags = &in->flags;
    const struct caloris_wish wish = {
        .endpoint = in->cluster_first ? NULL : flags->endpoint,
        .cluster = flags->cluster,
        .server_key = flags->server_key,
        .certificate = flags->certificate,
    };
    struct caloris_address address;
    const struct caloris_client_options options = {
        .address = &address,
        .timeout_ms = flags->timeout_ms,
        .patience_ms = flags->patience_ms,
        .stop = &signal_seen,
        .notice = on_notice,
        .notice_arg = (void *)(uintptr_t)in,
    };
    if (caloris_address_find(&wish, &address, err) < 0)
        return NULL;
    cmd_catch_signals();
    struct caloris_client *client = caloris_client_open(&options, err);
    explicit_bzero(&address.keys, sizeof(address.keys));
    return client;
}

int cmd_job_number(const char *text, uint64_t *job, struct caloris_err *err)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || number == 0)
        return caloris_err_set(err, CALORIS_USAGE, "%.80s is no job number", text);
    *job = number;
    return 0;
}
