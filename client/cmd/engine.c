/* Verbs about tensors: caloris-engine takes over, so that this program needs no MPI; and about a
 * queue's files: caloris-gateway does, which alone knows SQLite. */
#include "client/cmd/cmd.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int verb_other(const char *name, int argc, char **argv)
{
    char path[PATH_MAX];
    char *args[64];
    struct caloris_err err = {0};
    if ((size_t)argc + 2 > sizeof(args) / sizeof(args[0])) {
        fprintf(stderr, "caloris %s: more than %zu arguments\n", argv[0],
                sizeof(args) / sizeof(args[0]) - 2);
        return caloris_exit_client(CALORIS_USAGE);
    }
    if (cmd_find_program(name, path, sizeof(path), &err) == 0) {
        args[0] = path;
        memcpy(args + 1, argv, (size_t)argc * sizeof(*argv));
        args[argc + 1] = NULL;
        execv(path, args);
        caloris_err_sys(&err, "%s", path);
    }
    fprintf(stderr, "caloris %s: %s\n", argv[0], err.text);
    return caloris_exit_client(err.code);
}
