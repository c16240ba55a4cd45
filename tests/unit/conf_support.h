/* tests/unit/conf_support.h: a program with an option of every type, and files for it to read. */
#ifndef CALORIS_TESTS_CONF_SUPPORT_H
#define CALORIS_TESTS_CONF_SUPPORT_H

#include "base/conf.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

enum { PATH_BYTES = 256, OUTPUT_BYTES = 16384 };

struct values {
    bool fast, loud;
    int64_t rows, seed, comm;
    double threshold;
    uint64_t cache, wait;
    char *model;
    bool dry;
};

/* A path below the test's own folder. */
const char *path_of(const char *name, char path[PATH_BYTES]);
void write_bytes(const char *name, const char *bytes, size_t n);
void write_file(const char *name, const char *text);

/* caloris_conf_load with the words of line as arguments. "@NAME" stands for the test's file. */
struct caloris_conf *load(const char *line, struct values *values, int *rest, bool *done,
                          struct caloris_err *err);

/* The text of err with the test's folder cut out. */
const char *shown(const struct caloris_err *err);

/* Before and after a group of tests: the folder, and nothing of the user's own to read. */
int make_folder(void **state);
int remove_folder(void **state);

#endif
