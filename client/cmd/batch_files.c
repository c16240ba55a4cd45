#include "client/cmd/batch.h"

#include "base/file.h"
#include "base/json.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_STATE = 4096, SYNC_EVERY_MS = 1000 };

static bool is_ours(const struct batch_files *files, uint64_t number)
{
    return number % files->shards == files->shard % files->shards;
}

static bool is_empty(const struct caloris_buf *text)
{
    size_t n = text->size;
    while (n > 0 && strchr(" \t\r", text->data[n - 1]))
        n--;
    return n == 0;
}

static bool is_done(const struct batch_files *files, uint64_t number)
{
    return files->done && (files->done[number / 8] >> (number % 8) & 1);
}

/* ---- the input ------------------------------------------------------------------------------- */

/* "i/n", i from 1. */
static int read_shard(struct batch_files *files, struct caloris_err *err)
{
    const char *text = files->in->flags.shard;
    char *end = NULL;
    files->shard = files->shards = 1;
    if (!text)
        return 0;
    files->shard = strtoull(text, &end, 10);
    if (*end == '/')
        files->shards = strtoull(end + 1, &end, 10);
    if (*end || text[0] < '0' || text[0] > '9' || files->shard < 1 || files->shards > 1000000 ||
        files->shard > files->shards)
        return caloris_err_set(err, CALORIS_USAGE, "--shard %.40s: not i/n, i from 1 to n", text);
    return 0;
}

/* Counts the lines that are ours, and takes the file's measure (FNV-1a): a resumption must find the
 * same file. */
static int survey(struct batch_files *files, struct caloris_err *err)
{
    struct caloris_lines lines =
        CALORIS_LINES(files->input, files->in->operands[0], CALORIS_JOB_MAX_BYTES);
    uint64_t hash = 0xcbf29ce484222325u;
    int n;
    while ((n = caloris_lines_next(&lines, err)) == 1) {
        for (size_t i = 0; i < lines.text.size; i++)
            hash = (hash ^ (uint8_t)lines.text.data[i]) * 0x100000001b3u;
        hash = (hash ^ '\n') * 0x100000001b3u;
        files->wanted += is_ours(files, lines.number) && !is_empty(&lines.text);
    }
    files->n_lines = lines.number;
    files->input_hash = hash ^ lines.end;
    caloris_lines_free(&lines);
    rewind(files->input);
    files->done = calloc(files->n_lines / 8 + 1, 1);
    if (n == 0 && !files->done)
        n = caloris_err_sys(err, "%" PRIu64 " lines", files->n_lines);
    return n;
}

static int open_input(struct batch_files *files, struct caloris_err *err)
{
    const char *path = files->in->operands[0];
    struct stat st;
    if (strcmp(path, "-") == 0) {
        files->input = stdin;
        path = "stdin";
    } else {
        files->input = fopen(path, "re");
    }
    if (!files->input || fstat(fileno(files->input), &st) < 0) {
        caloris_err_sys(err, "%s", path);
        err->code = CALORIS_USAGE;
        return -1;
    }
    files->lines = CALORIS_LINES(files->input, path, CALORIS_JOB_MAX_BYTES);
    if (S_ISREG(st.st_mode) && files->input != stdin)
        return survey(files, err);
    if (files->in->flags.resume)
        return caloris_err_set(err, CALORIS_USAGE, "--resume needs a file to read again, no pipe");
    return 0;
}

int batch_next(struct batch_files *files, struct caloris_err *err)
{
    int n;
    while ((n = caloris_lines_next(&files->lines, err)) == 1) {
        const uint64_t number = files->lines.number;
        if (files->n_lines && number > files->n_lines)
            return 0; /* lines that came to the file after we had counted: not of this batch */
        if (is_ours(files, number) && !is_empty(&files->lines.text) && !is_done(files, number))
            return 1;
    }
    return n;
}

/* ---- results of before ----------------------------------------------------------------------- */

/* Marks the lines that have a result in this file; a torn last line is cut off. */
static int read_results(struct batch_files *files, struct batch_output *output, bool failures,
                        struct caloris_err *err)
{
    FILE *old = fdopen(dup(output->fd), "r");
    struct caloris_lines lines = CALORIS_LINES(old, output->path, BATCH_LINE_BYTES);
    uint64_t whole = 0;
    int n = 0, rc = -1;
    if (!old)
        return caloris_err_sys(err, "%s", output->path);
    while ((n = caloris_lines_next(&lines, err)) == 1 && !lines.torn) {
        const uint64_t number = caloris_line_number(lines.text.data, lines.text.size);
        if (number == 0 || number > files->n_lines || !is_ours(files, number)) {
            caloris_err_set(err, CALORIS_USAGE, "%s: line %" PRIu64 " is no result of this batch",
                            output->path, lines.number);
            goto out;
        }
        if (is_done(files, number)) {
            caloris_err_set(err, CALORIS_USAGE,
                            "%s: line %" PRIu64 " is a second result of line %" PRIu64,
                            output->path, lines.number, number);
            goto out;
        }
        files->done[number / 8] |= (uint8_t)(1u << (number % 8));
        files->had++;
        files->failed += failures || caloris_line_failed(lines.text.data, lines.text.size);
        whole = lines.end;
    }
    if (n < 0)
        goto out;
    if (ftruncate(output->fd, (off_t)whole) < 0)
        caloris_err_sys(err, "%s: dropping a torn last line", output->path);
    else
        rc = 0;
out:
    caloris_lines_free(&lines);
    fclose(old);
    return rc;
}

static int open_output(struct batch_files *files, struct batch_output *output, bool failures,
                       struct caloris_err *err)
{
    struct stat st, input;
    if (!output->path)
        return 0;
    output->fd = open(output->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (output->fd < 0 || fstat(output->fd, &st) < 0 || fstat(fileno(files->input), &input) < 0) {
        caloris_err_sys(err, "%s", output->path);
        err->code = CALORIS_USAGE;
        return -1;
    }
    if (flock(output->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return caloris_err_set(err, CALORIS_USAGE, "%s: another batch is writing there",
                               output->path);
    if (st.st_dev == input.st_dev && st.st_ino == input.st_ino && S_ISREG(st.st_mode))
        return caloris_err_set(err, CALORIS_USAGE, "%s is the file that the jobs come from",
                               output->path);
    if (files->in->flags.resume && S_ISREG(st.st_mode))
        return read_results(files, output, failures, err);
    if (S_ISREG(st.st_mode) && st.st_size > 0)
        return caloris_err_set(err, CALORIS_USAGE,
                               "%s has results already: --resume goes on with it", output->path);
    return 0;
}

/* ---- what a resumption has to know ----------------------------------------------------------- */

static int write_state(struct batch_files *files, struct caloris_err *err)
{
    char text[MAX_STATE], key[2 * BATCH_KEY + 1];
    if (getrandom(files->key, BATCH_KEY, 0) != BATCH_KEY)
        return caloris_err_sys(err, "random bytes for a batch's key");
    for (size_t i = 0; i < BATCH_KEY; i++)
        snprintf(key + 2 * i, 3, "%02x", files->key[i]);
    int n = snprintf(text, sizeof(text),
                     "{\"caloris_batch\": 1, \"key\": \"%s\", \"lines\": %" PRIu64
                     ", \"hash\": \"%016" PRIx64 "\", \"shard\": \"%" PRIu64 "/%" PRIu64 "\"}\n",
                     key, files->n_lines, files->input_hash, files->shard, files->shards);
    return caloris_file_write(files->state, text, (size_t)n, 0600, err);
}

static int read_state(struct batch_files *files, struct caloris_err *err)
{
    char hash[24], shard[48];
    json_t *state = caloris_json_load(files->state, MAX_STATE, err);
    const char *key = json_string_value(json_object_get(state, "key"));
    const char *said_hash = json_string_value(json_object_get(state, "hash"));
    const char *said_shard = json_string_value(json_object_get(state, "shard"));
    int rc = -1;
    snprintf(hash, sizeof(hash), "%016" PRIx64, files->input_hash);
    snprintf(shard, sizeof(shard), "%" PRIu64 "/%" PRIu64, files->shard, files->shards);
    if (!state)
        goto out;
    if (!key || strlen(key) != 2 * (size_t)BATCH_KEY || !said_hash || !said_shard) {
        caloris_err_set(err, CALORIS_USAGE, "%s: not the state of a batch", files->state);
        goto out;
    }
    if (strcmp(hash, said_hash) != 0 || strcmp(shard, said_shard) != 0) {
        caloris_err_set(err, CALORIS_USAGE, "%s: the batch in %s began with %s %s",
                        files->in->operands[0], files->out.path,
                        strcmp(hash, said_hash) ? "other contents than this file has now; shard"
                                                : "--shard",
                        said_shard);
        goto out;
    }
    for (size_t i = 0; i < BATCH_KEY; i++) {
        const char pair[] = {key[2 * i], key[2 * i + 1], '\0'};
        files->key[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    rc = 0;
out:
    json_decref(state);
    return rc;
}

/* The key is on the disk before the first job goes out, so that whoever resumes finds those jobs
 * again. Without the file everything had come back. */
static int open_state(struct batch_files *files, struct caloris_err *err)
{
    if (asprintf(&files->state, "%s.batch", files->out.path) < 0) {
        files->state = NULL;
        return caloris_err_sys(err, "%s", files->out.path);
    }
    if (files->in->flags.resume && access(files->state, F_OK) == 0)
        return read_state(files, err);
    return write_state(files, err);
}

/* ---- all together ---------------------------------------------------------------------------- */

int batch_open(struct batch_files *files, const struct invocation *in, struct caloris_err *err)
{
    *files = (struct batch_files){
        .in = in,
        .out = {.path = in->flags.out, .fd = -1},
        .errors = {.path = in->flags.errors, .fd = -1},
    };
    if (!files->out.path)
        return caloris_err_set(err, CALORIS_USAGE, "-o says where results go");
    if (files->errors.path && strcmp(files->errors.path, files->out.path) == 0)
        files->errors.path = NULL;
    return read_shard(files, err) < 0 || open_input(files, err) < 0 ||
                   open_output(files, &files->out, false, err) < 0 ||
                   open_output(files, &files->errors, true, err) < 0 || open_state(files, err) < 0
               ? -1
               : 0;
}

static int sync_output(struct batch_output *output, struct caloris_err *err)
{
    if (!output->dirty)
        return 0;
    output->dirty = false;
    if (fdatasync(output->fd) < 0 && errno != EINVAL && errno != EROFS) /* a pipe cannot */
        return caloris_err_sys(err, "%s", output->path);
    return 0;
}

int batch_write(struct batch_files *files, bool failure, const char *line, size_t n,
                struct caloris_err *err)
{
    struct batch_output *output = failure && files->errors.path ? &files->errors : &files->out;
    if (caloris_file_write_all(output->fd, output->path, line, n, err) < 0)
        return -1;
    output->dirty = true;
    const uint64_t now = caloris_time_ns();
    if (now - files->synced_ns < SYNC_EVERY_MS * 1000000ull)
        return 0;
    files->synced_ns = now;
    return sync_output(&files->out, err) < 0 || sync_output(&files->errors, err) < 0 ? -1 : 0;
}

int batch_close(struct batch_files *files, bool complete, struct caloris_err *err)
{
    if (sync_output(&files->out, err) < 0 || sync_output(&files->errors, err) < 0)
        return -1;
    if (complete && files->state && unlink(files->state) < 0 && errno != ENOENT)
        return caloris_err_sys(err, "%s", files->state);
    return 0;
}

void batch_free(struct batch_files *files)
{
    if (files->out.fd >= 0)
        close(files->out.fd);
    if (files->errors.fd >= 0)
        close(files->errors.fd);
    if (files->input && files->input != stdin)
        fclose(files->input);
    caloris_lines_free(&files->lines);
    free(files->done);
    free(files->state);
}
