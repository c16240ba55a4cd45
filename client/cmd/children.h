/* client/cmd/children.h: processes that live while "caloris up" lives. */
#ifndef CALORIS_CMD_CHILDREN_H
#define CALORIS_CMD_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct caloris_err;

struct child {
    const char *name;  /* "gateway" */
    char *const *argv; /* NULL-terminated; argv[0] is a path or found in PATH */
    const char *log;   /* stdout and stderr are appended to it; NULL: both go to our stderr */
    bool foreground;   /* stays in our process group, with our stdin and stdout */
    pid_t pid;         /* 0: does not run */
    int status;        /* of waitpid, when it ran and ended */
    uint64_t started_ns, due_ns; /* due: when to start it again */
    unsigned failures;           /* in a row */
};

/* Orphans of our children come to us, so that none can outlive us. Call once. */
void children_adopt(void);

int child_start(struct child *child, struct caloris_err *err);

/* Collects every process that ended. Returns how many of children [n] did; their pid is 0, their
 * status set. */
int children_reap(struct child *const *children, int n);

/* SIGKILL to our children other than these [n] (orphans that were left to us); program: only
 * those that run it. */
void children_kill_others(struct child *const *children, int n, const char *program);

/* 0 … 255; 128 + signal. */
int child_exit_code(const struct child *child);

/* The end of its log on stderr. */
void child_show_log(const struct child *child);

#endif
