/* The gateway as a process: started, ended, and the directory that it lives in. */
#include "tests/e2e/gateway_support.h"

#include "base/err.h"
#include "base/file.h"
#include "proto/curve.h"

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static pid_t spawn(const char *const *arguments, int out, int *read_end)
{
    char path[512];
    const char *argv[24];
    int ends[2];
    int n = 0;
    pid_t pid;
    snprintf(path, sizeof(path), "%s/caloris-gateway", getenv("CALORIS_BIN_DIR"));
    argv[n++] = path;
    for (; arguments[n - 1]; n++) {
        assert_true(n < 23);
        argv[n] = arguments[n - 1];
    }
    argv[n] = NULL;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed leaves no gateway behind */
        dup2(ends[1], out);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(ends[1]);
    *read_end = ends[0];
    return pid;
}

int gateway_run(const char *const *arguments, char *text, size_t size)
{
    int fd, status;
    size_t used = 0;
    pid_t pid = spawn(arguments, STDERR_FILENO, &fd);
    for (ssize_t n; used < size - 1 && (n = read(fd, text + used, size - 1 - used)) > 0;)
        used += (size_t)n;
    text[used] = '\0';
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void gateway_start_again(struct gateway *gateway, const char *lost)
{
    char state[128], line[512];
    int fd;
    snprintf(state, sizeof(state), "%s/state", gateway->dir);
    char certificate[128], authorized[128], beat[16];
    snprintf(beat, sizeof(beat), "%ums", gateway->beat_ms ? gateway->beat_ms : DEFAULT_BEAT_MS);
    snprintf(certificate, sizeof(certificate), "%s/server", gateway->dir);
    snprintf(authorized, sizeof(authorized), "%s/authorized", gateway->dir);
    const char *const anywhere = "tcp://127.0.0.1:*";
    const char *const arguments[] = {"--state",
                                     state,
                                     "--name",
                                     "t",
                                     "--beat",
                                     beat,
                                     "--lost",
                                     lost,
                                     "--log-level",
                                     "error",
                                     gateway->keyed ? "--clients" : NULL,
                                     anywhere,
                                     "--groups",
                                     anywhere,
                                     "--certificate",
                                     certificate,
                                     "--authorized",
                                     authorized,
                                     NULL};
    gateway->pid = spawn(arguments, STDOUT_FILENO, &fd);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&ready, 1, PATIENCE_MS), 1);
    ssize_t n = read(fd, line, sizeof(line) - 1);
    line[n > 0 ? n : 0] = '\0';
    assert_memory_equal(line, "ready: clients ", 15);
    close(fd);
    if (!gateway->keyed)
        return;
    assert_int_equal(
        sscanf(line, "ready: clients %127s groups %127s", gateway->clients, gateway->groups), 2);
}

static void make_dir(struct gateway *gateway)
{
    snprintf(gateway->dir, sizeof(gateway->dir), "/tmp/caloris-test-XXXXXX");
    assert_non_null(mkdtemp(gateway->dir));
    setenv("HOME", gateway->dir, 1);
}

void gateway_start(struct gateway *gateway, const char *lost)
{
    make_dir(gateway);
    snprintf(gateway->clients, sizeof(gateway->clients), "ipc://%s/state/clients.sock",
             gateway->dir);
    snprintf(gateway->groups, sizeof(gateway->groups), "ipc://%s/state/groups.sock", gateway->dir);
    gateway_start_again(gateway, lost);
}

/* DIR/USER and DIR/USER.pub. */
static void make_key(const struct gateway *gateway, const char *user, struct caloris_keys *keys)
{
    char path[160];
    struct caloris_err err;
    snprintf(path, sizeof(path), "%s/%s", gateway->dir, user);
    if (caloris_keys_make(keys, &err) < 0 || caloris_keys_write(path, keys, user, &err) < 0)
        fail_msg("%s", err.text);
}

void gateway_start_keyed(struct gateway *gateway, const char *lost, const char *const *users)
{
    char path[160], text[256];
    struct caloris_keys keys;
    struct caloris_err err;
    make_dir(gateway);
    gateway->keyed = true;
    snprintf(path, sizeof(path), "%s/authorized", gateway->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    make_key(gateway, "server", &keys);
    for (; *users; users++) {
        make_key(gateway, *users, &keys);
        snprintf(path, sizeof(path), "%s/authorized/%s", gateway->dir, *users);
        int n = snprintf(text, sizeof(text),
                         "rights = \"submit read-own serve\"\ncurve\n    public-key = \"%s\"\n",
                         keys.public_key);
        assert_int_equal(caloris_file_write(path, text, (size_t)n, 0644, &err), 0);
    }
    gateway_start_again(gateway, lost);
}

int gateway_end(struct gateway *gateway, int signal)
{
    int status = -1;
    assert_int_equal(kill(gateway->pid, signal), 0);
    assert_int_equal(waitpid(gateway->pid, &status, 0), gateway->pid);
    gateway->pid = 0;
    return status;
}

unsigned gateway_memory_mib(const struct gateway *gateway, const char *what)
{
    char path[64], line[256];
    unsigned long kib = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)gateway->pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, what, strlen(what)) == 0)
            kib = strtoul(line + strlen(what), NULL, 10);
    }
    fclose(file);
    return (unsigned)(kib / 1024);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

void gateway_remove(struct gateway *gateway)
{
    /* Also where sanitizers have their last word. */
    int status = gateway->pid ? gateway_end(gateway, SIGTERM) : 0;
    nftw(gateway->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}
