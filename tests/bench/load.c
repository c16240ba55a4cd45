/* How long a shard file takes to load, against reading it from one end to the other.
 *
 *   load [--model DIR] [--weights FORMAT] [--threads T] [--repeats N]
 *
 * DIR holds a shard file; without it one is made under $TMPDIR of a model of zeros with 0.95
 * billion parameters, and removed again. One rank; cold: the page cache is asked to forget the file
 * first. The plain read is one thread's, 4 MiB at a time into one buffer. Before either, so much
 * memory as the load wants is taken and given back: where a hypervisor takes back what lies free,
 * the first touch would else cost more than the disk. touch_s: what it cost before the plain read.
 */
#include "base/arena.h"
#include "base/err.h"
#include "base/time.h"
#include "tests/bench/bench.h"
#include "worker/engine.h"
#include "worker/model/model.h"
#include "worker/pool/pool.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HIDDEN = 2048, HEADS = 16, FFN = 5632, VOCAB = 32000, LAYERS = 16, READ_BYTES = 4 << 20 };

static int fail(const char *what, const struct caloris_err *err)
{
    fprintf(stderr, "load: %s: %s\n", what, err->text);
    return 1;
}

/* ---- a model of zeros ------------------------------------------------------------------------ */

static size_t add_tensor(FILE *to, const char *name, size_t rows, size_t cols, size_t at)
{
    const size_t end = at + rows * (cols ? cols : 1) * 2;
    fprintf(to, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%zu", at ? "," : "", name, rows);
    if (cols)
        fprintf(to, ",%zu", cols);
    fprintf(to, "],\"data_offsets\":[%zu,%zu]}", at, end);
    return end;
}

static size_t print_header(FILE *to)
{
    static const struct {
        const char *name;
        size_t rows, cols;
    } layer[] = {
        {"attn_norm", HIDDEN, 0},   {"q_proj", HIDDEN, HIDDEN},   {"k_proj", HIDDEN, HIDDEN},
        {"v_proj", HIDDEN, HIDDEN}, {"attn_out", HIDDEN, HIDDEN}, {"ff_norm", HIDDEN, 0},
        {"ff_proj", FFN, HIDDEN},   {"up_proj", FFN, HIDDEN},     {"ff_out", HIDDEN, FFN},
    };
    size_t at = 0;
    fputc('{', to);
    at = add_tensor(to, "model.transformer.wte.weight", VOCAB, HIDDEN, at);
    at = add_tensor(to, "model.transformer.ln_f.weight", HIDDEN, 0, at);
    at = add_tensor(to, "model.transformer.ff_out.weight", VOCAB, HIDDEN, at);
    for (int l = 0; l < LAYERS; l++) {
        for (size_t i = 0; i < sizeof(layer) / sizeof(layer[0]); i++) {
            char name[128];
            snprintf(name, sizeof(name), "model.transformer.blocks.%d.%s.weight", l, layer[i].name);
            at = add_tensor(to, name, layer[i].rows, layer[i].cols, at);
        }
    }
    fputc('}', to);
    return at;
}

/* The tensors are a hole in the file. */
static int make_model(const char *dir, struct caloris_err *err)
{
    char path[PATH_MAX], *text = NULL;
    size_t n;
    FILE *header = open_memstream(&text, &n);
    if (!header)
        return caloris_err_sys(err, "header");
    const size_t bytes = print_header(header);
    fclose(header);
    const uint64_t length = n;
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    FILE *to = fopen(path, "wb");
    int rc = to && fwrite(&length, 8, 1, to) == 1 && fwrite(text, 1, n, to) == n &&
                     fflush(to) == 0 && ftruncate(fileno(to), (off_t)(8 + n + bytes)) == 0
                 ? 0
                 : caloris_err_sys(err, "%s", path);
    free(text);
    if (to)
        fclose(to);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    if (rc == 0 && !(to = fopen(path, "w")))
        rc = caloris_err_sys(err, "%s", path);
    if (rc < 0)
        return -1;
    fprintf(to,
            "{\"model_type\":\"llada\",\"d_model\":%d,\"n_layers\":%d,\"n_heads\":%d,"
            "\"vocab_size\":%d,\"max_sequence_length\":64,\"weight_tying\":false,"
            "\"mlp_hidden_size\":%d,\"block_type\":\"llama\",\"activation_type\":\"silu\","
            "\"layer_norm_type\":\"rms\",\"rope\":true,\"include_bias\":false}\n",
            HIDDEN, LAYERS, HEADS, VOCAB, FFN);
    fclose(to);
    return 0;
}

static int make_shard(const char *dir, const char *format, struct caloris_err *err)
{
    const struct caloris_engine_options options = {.model_dir = dir, .weights = format};
    const struct caloris_sharding silent = {0};
    char path[PATH_MAX];
    if (make_model(dir, err) < 0 || caloris_engine_shard(&options, dir, &silent, err) < 0)
        return -1;
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    unlink(path);
    return 0;
}

static void remove_made(const char *dir)
{
    static const char *const names[] = {"model.safetensors", "config.json", CALORIS_SHARD_FILE};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

/* ---- measuring ------------------------------------------------------------------------------- */

static void forget(const char *path)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

struct touching {
    char *memory;
    size_t bytes;
};

enum { MEMORY_OF_FILE = 2 }; /* in the page cache, and as weights */
enum { TOUCH_BYTES = 2 << 20, PAGE_BYTES = 4096 };

static void touch_some(void *arg, size_t index, int thread)
{
    (void)thread;
    const struct touching *touching = arg;
    const size_t first = index * TOUCH_BYTES;
    for (size_t at = first; at < touching->bytes && at < first + TOUCH_BYTES; at += PAGE_BYTES)
        touching->memory[at] = 1;
}

/* Seconds that all threads take to touch so much memory first. Afterwards the system has that much
 * (at most half of what is free) at hand: a hypervisor that takes back what is free for some
 * seconds has just given it. */
static double touch(struct caloris_pool *pool, size_t bytes)
{
    const size_t free_bytes =
        (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGE_SIZE) / 2;
    bytes = bytes < free_bytes ? bytes : free_bytes;
    const uint64_t start = caloris_time_ns();
    struct touching touching = {caloris_arena_map(bytes, "memory", NULL), bytes};
    if (touching.memory)
        caloris_pool_run(pool, (bytes + TOUCH_BYTES - 1) / TOUCH_BYTES, touch_some, &touching);
    const double seconds = (double)(caloris_time_ns() - start) * 1e-9;
    caloris_arena_unmap(touching.memory, bytes);
    return seconds;
}

static double read_plainly(const char *path, char *buffer)
{
    const uint64_t start = caloris_time_ns();
    int fd = open(path, O_RDONLY);
    while (fd >= 0 && read(fd, buffer, READ_BYTES) > 0)
        ;
    close(fd);
    return (double)(caloris_time_ns() - start) * 1e-9;
}

static int load_once(const char *dir, const struct caloris_model_config *config,
                     enum caloris_format format, struct caloris_pool *pool, double *seconds,
                     struct caloris_err *err)
{
    struct caloris_model_split split;
    struct caloris_weights weights;
    const uint64_t start = caloris_time_ns();
    caloris_model_split(config, 1, 0, &split);
    if (caloris_weights_load(dir, config, &split, format, NULL, pool, NULL, &weights, err) < 0)
        return -1;
    *seconds = (double)(caloris_time_ns() - start) * 1e-9;
    caloris_weights_free(&weights);
    return 0;
}

static int measure(const char *dir, int threads, int repeats, struct caloris_err *err)
{
    char path[PATH_MAX];
    struct stat st;
    struct caloris_model_config config;
    struct caloris_stored stored;
    char machine[BENCH_MACHINE];
    int rc = -1;
    char *buffer = malloc(READ_BYTES);
    struct caloris_pool *pool = caloris_pool_new(threads, err);
    snprintf(path, sizeof(path), "%s/%s", dir, CALORIS_SHARD_FILE);
    if (!buffer || !pool || caloris_model_config_load(dir, &config, err) < 0 ||
        caloris_shard_find(dir, &stored, err) < 0)
        goto out;
    if (!stored.there || stat(path, &st) < 0) {
        caloris_err_sys(err, "%s", path);
        goto out;
    }
    bench_machine(machine);
    puts("machine,commit,weights,threads,cache,repeat,bytes,load_s,read_s,load_gb_s,share_of_read,"
         "touch_s");
    for (int r = 0; r < repeats; r++) {
        for (int cold = 1; cold >= 0; cold--) {
            double load, plain;
            if (cold)
                forget(path);
            const double touched = touch(pool, MEMORY_OF_FILE * (size_t)st.st_size);
            plain = read_plainly(path, buffer);
            if (cold)
                forget(path);
            touch(pool, MEMORY_OF_FILE * (size_t)st.st_size);
            if (load_once(dir, &config, stored.format, pool, &load, err) < 0)
                goto out;
            printf("%s,%s,%s,%d,%s,%d,%jd,%.3f,%.3f,%.2f,%.2f,%.3f\n", machine, bench_commit(),
                   caloris_format_name(stored.format), threads, cold ? "cold" : "warm", r,
                   (intmax_t)st.st_size, load, plain, (double)st.st_size * 1e-9 / load,
                   plain / load, touched);
            fflush(stdout);
        }
    }
    rc = 0;
out:
    caloris_pool_free(pool);
    free(buffer);
    return rc;
}

int main(int argc, char **argv)
{
    const char *dir = NULL, *format = "int8";
    int threads = 2, repeats = 3;
    char made[PATH_MAX] = "";
    struct caloris_err err = {0};
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--model") == 0)
            dir = value;
        else if (strcmp(argv[i], "--weights") == 0)
            format = value;
        else if (strcmp(argv[i], "--threads") == 0)
            threads = atoi(value);
        else if (strcmp(argv[i], "--repeats") == 0)
            repeats = atoi(value);
        else
            value = "";
        if (!*value) {
            fprintf(stderr, "usage: load [--model DIR] [--weights FORMAT] [--threads T] "
                            "[--repeats N]\n");
            return 2;
        }
    }
    caloris_kernels_init();
    if (!dir) {
        const char *tmp = getenv("TMPDIR");
        snprintf(made, sizeof(made), "%s/caloris-load-XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(made))
            return fail(made, &err);
        dir = made;
    }
    int rc = made[0] ? make_shard(made, format, &err) : 0;
    if (rc == 0)
        rc = measure(dir, threads, repeats, &err);
    if (made[0])
        remove_made(made);
    return rc < 0 ? fail(dir, &err) : 0;
}
