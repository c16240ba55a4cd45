/* `caloris shard`: a folder with packed weights, and all else that a model folder needs. */
#include "coordinator/plan/plan.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/size.h"
#include "base/time.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is read besides weights, where it is there. */
static const char *const companions[] = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
};

enum { MAX_COMPANION_BYTES = 256 << 20, FIRST_WORD_MS = 2000, NEXT_WORD_MS = 1000 };

static volatile sig_atomic_t asked_to_stop;

static void stop(int signal_number)
{
    asked_to_stop = signal_number;
}

struct telling {
    FILE *to;
    uint64_t next_ns; /* when progress is told again */
    size_t matrices;
};

static int tell_progress(void *arg, uint64_t done, uint64_t all, struct caloris_err *err)
{
    struct telling *telling = arg;
    char so_far[CALORIS_SIZE_TEXT], whole[CALORIS_SIZE_TEXT];
    if (asked_to_stop)
        return caloris_err_set(err, CALORIS_CANCELLED, "interrupted: nothing was written");
    if (caloris_time_ns() < telling->next_ns)
        return 0;
    telling->next_ns = caloris_time_ns() + NEXT_WORD_MS * (uint64_t)1000000;
    fprintf(stderr, "%3.0f %%  %s of %s\n", 100 * (double)done / (double)all,
            caloris_size_text(done, so_far), caloris_size_text(all, whole));
    return 0;
}

static int tell_tensor(void *arg, const struct caloris_sharded_tensor *tensor,
                       struct caloris_err *err)
{
    struct telling *telling = arg;
    (void)err;
    if (!tensor->format)
        return 0;
    if (telling->matrices++ == 0)
        fprintf(telling->to, "%-48s %17s  %-6s %s\n", "matrix", "shape", "as", "relative error");
    char shape[64];
    snprintf(shape, sizeof(shape), "%zu x %zu", tensor->rows, tensor->cols);
    fprintf(telling->to, "%-48s %17s  %-6s %.2e", tensor->name, shape, tensor->format,
            tensor->relative_error);
    if (tensor->outliers > 0)
        fprintf(telling->to, "  %zu outlier columns in bf16", tensor->outliers);
    fputc('\n', telling->to);
    return 0;
}

static int copy_companion(const char *from_dir, const char *to_dir, const char *name,
                          struct caloris_err *err)
{
    char from[PATH_MAX], to[PATH_MAX];
    struct caloris_buf buf = {.max = MAX_COMPANION_BYTES};
    if (caloris_file_join(from, sizeof(from), from_dir, name, err) < 0 ||
        caloris_file_join(to, sizeof(to), to_dir, name, err) < 0)
        return -1;
    if (access(from, F_OK) < 0 && errno == ENOENT)
        return 0;
    int rc = caloris_file_read(from, &buf, err);
    if (rc == 0)
        rc = caloris_file_write(to, buf.data, buf.size, 0644, err);
    caloris_buf_free(&buf);
    return rc;
}

/* A model that cannot be had under two names at once. */
static int check_other(const char *model_dir, const char *out_dir, struct caloris_err *err)
{
    char *model = realpath(model_dir, NULL), *out = realpath(out_dir, NULL);
    const bool same = model && out && strcmp(model, out) == 0;
    free(model);
    free(out);
    return same ? caloris_err_set(err, CALORIS_USAGE,
                                  "%s is the model's own folder: --out names another one", out_dir)
                : 0;
}

int caloris_shard_run(const struct caloris_engine_options *options, const char *out_dir, FILE *to,
                      struct caloris_err *err)
{
    struct telling telling = {.to = to};
    const struct caloris_sharding told = {tell_progress, tell_tensor, &telling};
    const uint64_t start = caloris_time_ns();
    telling.next_ns = start + FIRST_WORD_MS * (uint64_t)1000000;
    if (caloris_file_make_dirs(out_dir, 0755, err) < 0 ||
        check_other(options->model_dir, out_dir, err) < 0)
        return -1;
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    for (size_t i = 0; i < sizeof(companions) / sizeof(companions[0]); i++) {
        if (copy_companion(options->model_dir, out_dir, companions[i], err) < 0)
            return -1;
    }
    if (caloris_engine_shard(options, out_dir, &told, err) < 0)
        return -1;
    fprintf(to, "%s holds the model as %s (%.1f s)\n", out_dir, options->weights,
            (double)(caloris_time_ns() - start) * 1e-9);
    return 0;
}
