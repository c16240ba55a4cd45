#include "client/cmd/children.h"

#include "base/err.h"
#include "base/time.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void children_adopt(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

/* In the child, between fork and exec. */
static void become(const struct child *child, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    if (getppid() != parent)
        _exit(127); /* it died before the line above */
    if (!child->foreground) {
        setpgid(0, 0);
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        int log = child->log ? open(child->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)
                             : STDERR_FILENO;
        if (null < 0 || log < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
            dup2(log, STDERR_FILENO) < 0)
            _exit(127);
    }
    execvp(child->argv[0], child->argv);
    dprintf(STDERR_FILENO, "caloris up: %s: %s\n", child->argv[0], strerror(errno));
    _exit(127);
}

int child_start(struct child *child, struct caloris_err *err)
{
    pid_t parent = getpid();
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    if (pid < 0)
        return caloris_err_sys(err, "%s: fork", child->name);
    if (pid == 0)
        become(child, parent);
    if (!child->foreground)
        setpgid(pid, pid); /* whoever of the two comes first */
    child->pid = pid;
    child->started_ns = caloris_time_ns();
    return 0;
}

int children_reap(struct child *const *children, int n)
{
    int ended = 0, status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (int i = 0; i < n; i++) {
            if (children[i]->pid == pid) {
                children[i]->pid = 0;
                children[i]->status = status;
                ended++;
            }
        }
    }
    return ended;
}

/* The parent of a process, from /proc/PID/stat: "pid (name) state ppid …", where the name may
 * hold anything. */
static pid_t parent_of(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    const char *end = strrchr(text, ')');
    int parent = -1;
    return end && sscanf(end + 1, " %*c %d", &parent) == 1 ? parent : -1;
}

static bool runs(pid_t pid, const char *program)
{
    char path[64], exe[PATH_MAX];
    snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
    ssize_t n = readlink(path, exe, sizeof(exe) - 1);
    if (n < 0)
        return false;
    exe[n] = '\0';
    return strcmp(exe, program) == 0;
}

void children_kill_others(struct child *const *children, int n, const char *program)
{
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    while (proc && (entry = readdir(proc))) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        bool known = false;
        for (int i = 0; i < n; i++)
            known |= children[i]->pid == pid;
        if (!known && parent_of(pid) == getpid() && (!program || runs(pid, program)))
            kill(pid, SIGKILL);
    }
    if (proc)
        closedir(proc);
}

int child_exit_code(const struct child *child)
{
    if (WIFSIGNALED(child->status))
        return 128 + WTERMSIG(child->status);
    return WEXITSTATUS(child->status);
}

void child_show_log(const struct child *child)
{
    enum { TAIL = 3000 };
    char text[TAIL + 1];
    FILE *log = child->log ? fopen(child->log, "rb") : NULL;
    if (!log)
        return;
    if (fseek(log, -TAIL, SEEK_END) < 0)
        rewind(log);
    size_t n = fread(text, 1, TAIL, log);
    fclose(log);
    text[n] = '\0';
    const char *start = text, *line = n == TAIL ? strchr(text, '\n') : NULL;
    if (line)
        start = line + 1; /* not the rest of a line that was cut */
    fprintf(stderr, "---- the end of the %s's log ----\n%s----\n", child->name, start);
}
