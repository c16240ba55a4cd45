/* A long file through `caloris batch`: does memory stay bounded, and how fast does it go?
 *
 *   batch [--lines N] [--most-mib M]
 *
 * N (1,000,000) lines, each a job of its own, a real gateway with its queue in /tmp, and a group
 * that answers at once, so that what is measured is the way and not the work. Prints CSV; fails
 * when a line has no result, or when the client ever had more than M MiB (64) of memory.
 */
#include "tests/e2e/gateway_support.h"

#include "base/time.h"

#include <getopt.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { LOST_S = 600, CAPACITY = 512 };

static int complain(const char *what)
{
    perror(what);
    return -1;
}

static int write_lines(const char *path, uint64_t n)
{
    FILE *to = fopen(path, "w");
    if (!to)
        return complain(path);
    for (uint64_t i = 1; i <= n; i++)
        fprintf(to, "{\"id\":\"line-%" PRIu64 "\",\"ids\":[1,2,%" PRIu64 "],\"gen_length\":8}\n", i,
                i % 400);
    return fclose(to) == 0 ? 0 : complain(path);
}

/* In a process of its own, until it is killed. */
static void answer_all(const struct gateway *gateway)
{
    static const char result[] =
        "{\"id\":null,\"text\":\"out\",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":8},"
        "\"forward_passes\":8}";
    void *group = group_dial(gateway, "echo", CAPACITY);
    for (;;) {
        to_group *order = group_order(group);
        if ((int)order->body_case == ORDER(LEASE)) {
            const Caloris__Wire__LeaseId *id = order->lease->lease;
            const struct lease lease = {order->lease->job, id->epoch, id->counter};
            group_result(group, &lease, result);
        }
        order_free(order);
    }
}

/* Exit code, and the most memory that it had. */
static int run_batch(const char *program, const struct gateway *gateway, const char *in,
                     const char *out, long *most_kib)
{
    struct rusage used = {0};
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        execl(program, program, "batch", "--endpoint", gateway->clients, in, "-o", out,
              (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &used) != pid)
        return complain("caloris batch");
    *most_kib = used.ru_maxrss;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint64_t count_lines(const char *path)
{
    uint64_t n = 0;
    FILE *from = fopen(path, "r");
    for (int c; from && (c = getc(from)) != EOF;)
        n += c == '\n';
    if (from)
        fclose(from);
    return n;
}

/* The most memory that a process has had, of /proc. */
static long most_kib_of(pid_t pid)
{
    char path[64], line[128];
    long kib = 0;
    snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
    FILE *from = fopen(path, "r");
    while (from && fgets(line, sizeof(line), from)) {
        if (sscanf(line, "VmHWM: %ld", &kib) == 1)
            break;
    }
    if (from)
        fclose(from);
    return kib;
}

static int measure(const char *program, uint64_t lines, long most_mib)
{
    struct gateway gateway = {.beat_ms = 1000};
    char in[96], out[96], lost[16];
    long batch_kib = 0;
    snprintf(lost, sizeof(lost), "%ds", LOST_S);
    gateway_start(&gateway, lost);
    snprintf(in, sizeof(in), "%s/in.jsonl", gateway.dir);
    snprintf(out, sizeof(out), "%s/out.jsonl", gateway.dir);
    pid_t group = -1;
    int code = write_lines(in, lines);
    if (code == 0 && (group = fork()) == 0)
        answer_all(&gateway);
    const uint64_t began_ns = caloris_time_ns();
    if (code == 0)
        code = run_batch(program, &gateway, in, out, &batch_kib);
    const double seconds = (double)(caloris_time_ns() - began_ns) * 1e-9;
    const uint64_t results = count_lines(out);
    const long gateway_kib = most_kib_of(gateway.pid);
    printf("lines,results,exit,seconds,lines_per_s,batch_mib,gateway_mib\n");
    printf("%" PRIu64 ",%" PRIu64 ",%d,%.1f,%.0f,%.1f,%.1f\n", lines, results, code, seconds,
           (double)results / seconds, (double)batch_kib / 1024, (double)gateway_kib / 1024);
    if (group > 0) {
        kill(group, SIGKILL);
        waitpid(group, NULL, 0);
    }
    gateway_end(&gateway, SIGTERM);
    gateway_remove(&gateway);
    return code == 0 && results == lines && batch_kib < most_mib * 1024 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"lines", required_argument, NULL, 'n'},
                                            {"most-mib", required_argument, NULL, 'm'},
                                            {NULL, 0, NULL, 0}};
    long lines = 1000000, most_mib = 64;
    char program[4096];
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'n')
            lines = atol(optarg);
        else if (c == 'm')
            most_mib = atol(optarg);
        else
            return 2;
    }
    if (lines < 1 || most_mib < 1)
        return 2;
    /* The programs beside this one. */
    const ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 16);
    if (n < 0)
        return 2;
    program[n] = '\0';
    char *name = strrchr(program, '/');
    *name = '\0';
    setenv("CALORIS_BIN_DIR", program, 1);
    strcpy(name, "/caloris");
    return measure(program, (uint64_t)lines, most_mib);
}
