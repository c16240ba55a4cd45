/* coordinator/link/files.h (inside link): the files of a run without a gateway. */
#ifndef CALORIS_LINK_FILES_H
#define CALORIS_LINK_FILES_H

#include <stdbool.h>

struct caloris_err;

struct link_files {
    const char *option; /* that names the input */
    const char *in;     /* "-": stdin */
    const char *out;
    const char *trace; /* NULL: none */
};

/* Whether in can be read, out and trace can be written, and all are different files: nobody's jobs
 * are written over. Opens nothing, makes nothing. USAGE names the option. */
int link_files_check(const struct link_files *files, struct caloris_err *err);

/* USAGE where path is a regular file with something in it. */
int link_files_check_empty(const char *path, struct caloris_err *err);

/* A file of the command line that errno keeps from being opened: USAGE. Returns -1. */
int link_no_file(const char *option, const char *path, struct caloris_err *err);

#endif
