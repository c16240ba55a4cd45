/* bench_queue [--dir DIR] [--seconds S] [--queued N]: the gateway's queue, as CSV on stdout.
 *
 *   fdatasync   a loop of 4 KiB appended and synced: what the disk of DIR gives
 *   submit      jobs accepted, one per message, each client waiting for its answer; aims: one
 *               client p50 <= 2 x fdatasync + 0.5 ms, 128 clients >= 5000/s
 *   start       seconds until a gateway is ready with so many jobs queued, and its memory
 *   lease       the next job found, marked and read, with so many jobs queued; aim: p99 < 5 ms
 *
 * The queues of the last two hold jobs of 16 users at 3 priorities. Take no figures from a machine
 * that has other work.
 */
#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/time.h"
#include "client/client.h"
#include "coordinator/gateway/broker/held.h"
#include "coordinator/gateway/store/store.h"
#include "tests/bench/bench.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_CLIENTS = 128, MOST_SAMPLES = 1 << 20, LEASES = 2000, USERS = 16, PAGE = 4096 };

static const char job_json[] = "{\"prompt\": \"def add(a, b):\", \"gen_length\": 32}";

static char work[PATH_MAX - 64];
static double seconds = 3;
static const char *bin;

static void die(const char *what)
{
    fprintf(stderr, "bench_queue: %s\n", what);
    exit(1);
}

/* ---- figures ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A row; ms [n] is sorted. */
static void row(const char *what, int clients, uint64_t queued, double *ms, size_t n, double wall_s)
{
    if (n == 0)
        die("no samples");
    qsort(ms, n, sizeof(*ms), by_size);
    printf("%s,%d,%" PRIu64 ",%zu,%.0f,%.3f,%.3f,%.3f,\n", what, clients, queued, n,
           (double)n / wall_s, ms[n / 2], ms[(size_t)((double)(n - 1) * 0.99)], ms[n - 1]);
    fflush(stdout);
}

static double now_ms(void)
{
    return (double)caloris_time_ns() * 1e-6;
}

static double *samples(size_t n)
{
    double *ms = calloc(n, sizeof(*ms));
    if (!ms)
        die("no memory");
    return ms;
}

/* ---- the disk ---- */

static void bench_disk(void)
{
    enum { SYNCS = 300 };
    static const char page[PAGE] = "x";
    char path[PATH_MAX];
    double ms[SYNCS];
    snprintf(path, sizeof(path), "%s/disk", work);
    int fd = open(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        die(path);
    const double start = now_ms();
    for (int i = 0; i < SYNCS; i++) {
        const double before = now_ms();
        if (write(fd, page, sizeof(page)) != PAGE || fdatasync(fd) < 0)
            die("write and fdatasync");
        ms[i] = now_ms() - before;
    }
    row("fdatasync", 1, 0, ms, SYNCS, (now_ms() - start) * 1e-3);
    close(fd);
    unlink(path);
}

/* ---- a gateway ---- */

struct gateway {
    pid_t pid;
    struct caloris_address address;
    double ready_s;
};

static void start_gateway(struct gateway *gateway)
{
    char path[PATH_MAX], state[PATH_MAX], line[64];
    int ends[2];
    snprintf(path, sizeof(path), "%s/caloris-gateway", bin);
    snprintf(state, sizeof(state), "%s/state", work);
    gateway->address = (struct caloris_address){0};
    snprintf(gateway->address.endpoint, sizeof(gateway->address.endpoint), "ipc://%.90s/c", state);
    if (pipe2(ends, O_CLOEXEC) < 0)
        die("pipe");
    const double before = now_ms();
    gateway->pid = fork();
    if (gateway->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], STDOUT_FILENO);
        execl(path, path, "--config", "/dev/null", "--state", state, "--clients",
              gateway->address.endpoint, "--max-queued", "0", "--log-level", "error", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    if (gateway->pid < 0 || read(ends[0], line, sizeof(line)) <= 0)
        die("the gateway did not start");
    gateway->ready_s = (now_ms() - before) * 1e-3;
    close(ends[0]);
}

static void end_gateway(struct gateway *gateway)
{
    kill(gateway->pid, SIGTERM);
    waitpid(gateway->pid, NULL, 0);
}

static double memory_mib(pid_t pid)
{
    char path[64], line[256];
    double kib = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof(line), status))
        sscanf(line, "VmRSS: %lf", &kib);
    if (status)
        fclose(status);
    return kib / 1024;
}

/* ---- submit ---- */

struct submitter {
    pthread_t thread;
    const struct caloris_address *address;
    double until_ms;
    double *ms; /* [most] */
    size_t n, most;
};

static void *submit(void *arg)
{
    struct submitter *s = arg;
    struct caloris_err err;
    const struct caloris_client_options options = {
        .address = s->address, .timeout_ms = 60000, .patience_ms = 60000};
    struct caloris_client *client = caloris_client_open(&options, &err);
    while (client && s->n < s->most) {
        uint64_t job;
        const double before = now_ms();
        if (before > s->until_ms)
            break;
        if (caloris_client_submit(client, job_json, strlen(job_json), &job, &err) < 0)
            die(err.text);
        s->ms[s->n++] = now_ms() - before;
    }
    if (!client)
        die(err.text);
    caloris_client_close(client);
    return NULL;
}

static void bench_submit(const struct gateway *gateway, int clients, uint64_t queued)
{
    static struct submitter s[MOST_CLIENTS];
    const double start = now_ms();
    for (int i = 0; i < clients; i++) {
        s[i] = (struct submitter){.address = &gateway->address,
                                  .until_ms = start + seconds * 1e3,
                                  .most = (size_t)(MOST_SAMPLES / clients)};
        s[i].ms = samples(s[i].most);
        if (pthread_create(&s[i].thread, NULL, submit, &s[i]) != 0)
            die("pthread_create");
    }
    double *all = samples(MOST_SAMPLES);
    size_t n = 0;
    for (int i = 0; i < clients; i++) {
        pthread_join(s[i].thread, NULL);
        memcpy(all + n, s[i].ms, s[i].n * sizeof(*all));
        n += s[i].n;
        free(s[i].ms);
    }
    row("submit", clients, queued, all, n, (now_ms() - start) * 1e-3);
    free(all);
}

/* ---- long queues ---- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static void remove_state(void)
{
    char state[PATH_MAX];
    snprintf(state, sizeof(state), "%s/state", work);
    nftw(state, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct caloris_store *open_store(void)
{
    static const struct caloris_store_options options = {.user = "u0"};
    char state[PATH_MAX];
    struct caloris_err err;
    snprintf(state, sizeof(state), "%s/state", work);
    struct caloris_store *store = caloris_store_open(state, &options, &err);
    if (!store)
        die(err.text);
    return store;
}

static void fill(struct caloris_store *store, uint64_t queued)
{
    enum { AT_ONCE = 10000 };
    struct caloris_err err;
    for (uint64_t i = 0; i < queued; i++) {
        char user[16], key[24];
        uint64_t job;
        snprintf(user, sizeof(user), "u%d", (int)(i % USERS));
        snprintf(key, sizeof(key), "%" PRIu64, i);
        const struct caloris_store_submission s = {
            .user = user,
            .key = key,
            .key_bytes = strlen(key),
            .body = job_json,
            .body_bytes = strlen(job_json),
            .seed = (int64_t)i,
            .priority = (int32_t)(i / USERS % 3),
            .now_ms = caloris_time_wall_ms(),
        };
        if (caloris_store_add(store, &s, &job, &err) < 0 ||
            ((i + 1) % AT_ONCE == 0 && caloris_store_commit(store, &err) < 0))
            die(err.text);
    }
    if (caloris_store_commit(store, &err) < 0)
        die(err.text);
}

/* What the broker does for a lease, but for the message. */
static void bench_lease(struct caloris_store *store, uint64_t queued)
{
    static struct caloris_broker b;
    static struct group group = {.capacity = UINT32_MAX};
    struct caloris_err err;
    static double ms[LEASES];
    size_t n = 0;
    b = (struct caloris_broker){.store = store, .options = {.limits = {.share = 1}}};
    if (lanes_load(&b, &err) < 0)
        die(err.text);
    const double start = now_ms();
    for (; n < LEASES && n < queued; n++) {
        struct caloris_buf json = CALORIS_BUF(1 << 20);
        struct lane *lane;
        struct live *live;
        uint64_t job;
        const double before = now_ms();
        if (lanes_pick(&b, "m", LANES_ALL, &lane, &job, &err) != 1 ||
            caloris_store_read_job(store, job, &json, &err) < 0 ||
            lease_assign(&b, &group, lane, job, &live, &err) < 0)
            die(err.text);
        ms[n] = now_ms() - before;
        caloris_buf_free(&json);
    }
    row("lease", 1, queued, ms, n, (now_ms() - start) * 1e-3);
    while (group.held) {
        struct live *live = group.held;
        held_release(&b, live);
        live_drop_unused(&b, live);
    }
    table_free(&b.live);
    lanes_free(&b);
}

static void bench_long(uint64_t queued)
{
    struct gateway gateway;
    remove_state();
    struct caloris_store *store = open_store();
    fill(store, queued);
    bench_lease(store, queued);
    caloris_store_close(store);
    start_gateway(&gateway);
    printf("start,0,%" PRIu64 ",1,,%.3f,,,%.1f\n", queued, gateway.ready_s * 1e3,
           memory_mib(gateway.pid));
    bench_submit(&gateway, 1, queued);
    bench_submit(&gateway, MOST_CLIENTS, queued);
    end_gateway(&gateway);
}

int main(int argc, char **argv)
{
    static const int clients[] = {1, 16, MOST_CLIENTS};
    const char *dir = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    uint64_t queued = 1000000;
    static char own[PATH_MAX];
    struct gateway gateway;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--dir") == 0)
            dir = argv[i + 1];
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = strtod(argv[i + 1], NULL);
        else if (strcmp(argv[i], "--queued") == 0)
            queued = strtoull(argv[i + 1], NULL, 10);
        else
            die("usage: bench_queue [--dir DIR] [--seconds S] [--queued N]");
    }
    if (argc % 2 == 0 || seconds <= 0)
        die("usage: bench_queue [--dir DIR] [--seconds S] [--queued N]");
    if (readlink("/proc/self/exe", own, sizeof(own) - 1) < 0 || !strrchr(own, '/'))
        die("where am I?");
    *strrchr(own, '/') = '\0';
    bin = own;
    snprintf(work, sizeof(work), "%s/caloris-bench-XXXXXX", dir);
    if (!mkdtemp(work))
        die(work);
    char machine[BENCH_MACHINE];
    printf("# %s, commit %s, %s\n", bench_machine(machine), bench_commit(), dir);
    puts("what,clients,queued,n,per_s,p50_ms,p99_ms,max_ms,rss_mib");
    bench_disk();
    start_gateway(&gateway);
    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++)
        bench_submit(&gateway, clients[i], 0);
    end_gateway(&gateway);
    bench_disk();
    bench_long(1000);
    bench_long(queued);
    remove_state();
    rmdir(work);
    return 0;
}
