/* What is done with a queue by hand, on its directory: copies and checks go on beside a gateway. */
#include "coordinator/gateway/admin.h"

#include "base/conf.h"
#include "base/err.h"
#include "coordinator/gateway/state_dir.h"
#include "coordinator/gateway/store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct values {
    char *state, *name;
};

static const struct caloris_option options[] = {
    {.name = "state",
     .letter = 's',
     .type = CALORIS_OPTION_TEXT,
     .offset = offsetof(struct values, state),
     .argument = "DIR",
     .help = "directory of the queue, as the gateway's option of this name"},
    {.name = "name",
     .type = CALORIS_OPTION_TEXT,
     .offset = offsetof(struct values, name),
     .argument = "NAME",
     .help = "name of the gateway, likewise"},
};

static int backup(const char *dir, const char *file, struct caloris_err *err)
{
    if (caloris_store_backup(dir, file, err) < 0)
        return -1;
    printf("%s\n", file);
    return 0;
}

static int check(const char *dir, const char *file, struct caloris_err *err)
{
    struct caloris_store_counts counts;
    (void)file;
    if (caloris_store_check(dir, &counts, err) < 0)
        return -1;
    printf("ok: %" PRIu64 " queued, %" PRIu64 " finished\n", counts.queued, counts.finished);
    return 0;
}

static int compact(const char *dir, const char *file, struct caloris_err *err)
{
    uint64_t before, after;
    (void)file;
    if (caloris_store_compact(dir, &before, &after, err) < 0)
        return -1;
    printf("%" PRIu64 " bytes before, %" PRIu64 " after\n", before, after);
    return 0;
}

static const struct {
    const char *name;
    int operands; /* FILE */
    int (*run)(const char *dir, const char *file, struct caloris_err *err);
    const char *usage, *about;
} verbs[] = {
    {"backup", 1, backup, "caloris admin backup [options] FILE",
     "Copies the queue to a new file of mode 0600: one state of it, whole or not at all. The "
     "gateway may run meanwhile. To go back to it: stop the gateway, remove queue.db, queue.db-wal "
     "and queue.db-shm from its directory, and put the copy there as queue.db."},
    {"check", 0, check, "caloris admin check [options]",
     "Reads the whole queue and says whether it is sound. The gateway may run meanwhile. Exit code "
     "2: it is damaged."},
    {"compact", 0, compact, "caloris admin compact [options]",
     "Gives the space of forgotten jobs back to the disk. The gateway must not run."},
};

static int usage(FILE *to)
{
    fputs("Usage: caloris admin VERB [options] …\n\n"
          "Works on the directory of a queue, as the user of its gateway.\n\n"
          "  backup   copy it to a file, also while the gateway runs\n"
          "  check    read all of it and say whether it is sound, likewise\n"
          "  compact  give free space back to the disk; the gateway must not run\n\n"
          "\"caloris admin VERB --help\" tells more.\n",
          to);
    return to == stdout ? 0 : caloris_exit_server(CALORIS_USAGE);
}

int admin_main(int argc, char **argv, const struct caloris_program *gateway)
{
    const struct caloris_program *const siblings[] = {gateway, NULL};
    struct values values = {0};
    struct caloris_err err = {0};
    char dir[PATH_MAX];
    size_t i = 0;
    int rest = 0, code = 0;
    bool done = false;
    const bool help = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    while (argc > 1 && i < sizeof(verbs) / sizeof(verbs[0]) && strcmp(verbs[i].name, argv[1]) != 0)
        i++;
    if (argc < 2 || i == sizeof(verbs) / sizeof(verbs[0]))
        return usage(help ? stdout : stderr);
    const struct caloris_program program = {
        .name = "caloris admin",
        .group = gateway->group,
        .usage = verbs[i].usage,
        .about = verbs[i].about,
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
        .siblings = siblings,
    };
    argc--;
    argv++;
    struct caloris_conf *conf =
        caloris_conf_load(&program, argc, argv, &values, &rest, &done, &err);
    int rc = conf ? 0 : -1;
    if (conf && !done && argc - rest != verbs[i].operands)
        rc = caloris_err_set(&err, CALORIS_USAGE, "%s: %d operands, not %d", verbs[i].usage,
                             argc - rest, verbs[i].operands);
    if (rc == 0 && !done)
        rc = state_dir_find(values.state, values.name, dir, &err);
    if (rc == 0 && !done)
        rc = verbs[i].run(dir, verbs[i].operands ? argv[rest] : NULL, &err);
    if (rc < 0) {
        fprintf(stderr, "caloris admin: %s\n", err.text);
        code = caloris_exit_server(err.code);
    }
    caloris_conf_free(conf);
    return code;
}
