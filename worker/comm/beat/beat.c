#include "worker/comm/beat/beat.h"

#include "base/err.h"
#include "base/log.h"
#include "base/time.h"
#include "worker/comm/beat/datagram.h"
#include "worker/comm/beat/judge.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    JOIN_MS = 5000,      /* how long a rank tries to get its first answer */
    JOIN_EVERY_MS = 100, /* and how often it asks until then */
    AT_ONCE = 256,       /* datagrams between two looks at the clock */
    LAST_WORDS_MS = 200, /* a launcher ends all when one has left: the line goes out first */
    TOLD = 3,            /* times that a verdict is sent: datagrams get lost */
    RECENT = 100,        /* beats: an answer to an older one is no sign of life */
};

struct beat {
    struct beat_options options;
    const struct beat_progress **all; /* [size]: ranks are threads; else NULL */
    char host_of_0[BEAT_HOST];
    struct beat_invitation invitation;
    int fd;   /* UDP; -1: ranks are threads */
    int wake; /* eventfd: the thread shall look at stop and judging */
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* of judge, answered, stop, judging, wanted */
    pthread_cond_t answer;
    bool stop, judging, answered;
    struct judge *judge;       /* rank 0 */
    struct sockaddr_in *peers; /* rank 0: [size] where the last beat of each came from */
    uint64_t *sequences;       /* rank 0: [size] of the last beat of each */
    uint64_t sequence;         /* others: of the last beat sent */
    struct sockaddr_in seat;   /* others: where rank 0 answered from; port 0: nowhere yet */
    uint64_t tick_ns;          /* when time was last counted */
    uint64_t silence_ms;       /* others: since the last answer */
    char verdict[JUDGE_TEXT];  /* not "": it hangs */
};

void beat_read(const struct beat_progress *progress, struct beat_report *report)
{
#define COPY(field) report->field = atomic_load_explicit(&progress->field, memory_order_relaxed)
    COPY(count), COPY(loaded_bytes), COPY(step), COPY(allreduces), COPY(expect_ns);
    COPY(phase), COPY(wait), COPY(layer), COPY(in_layer);
    COPY(compute_ns), COPY(allreduce_ns), COPY(wait_ns), COPY(sent_bytes), COPY(rows);
    COPY(attention_ns), COPY(mlp_ns), COPY(head_ns);
    for (size_t i = 0; i < CALORIS_METRICS_CLASSES; i++)
        COPY(steps_by_rows[i]);
#undef COPY
    report->asked = 0;
}

/* Milliseconds since the last call, but no more than two beats: what a process slept through while
 * it was stopped is nobody's silence. */
static uint64_t elapsed_ms(struct beat *b)
{
    const uint64_t now = caloris_time_ns();
    const uint64_t passed = (now - b->tick_ns) / 1000000;
    const uint64_t most = 2 * b->options.times.beat_ms;
    b->tick_ns = now;
    return passed < most ? passed : most;
}

static bool is_judging(struct beat *b)
{
    pthread_mutex_lock(&b->lock);
    const bool judging = b->judging;
    pthread_mutex_unlock(&b->lock);
    return judging;
}

/* ---- rank 0 -----------------------------------------------------------------------------------*/

static void answer(struct beat *b, int rank, uint64_t sequence)
{
    struct datagram_answer answer;
    datagram_answer_make(&answer, b->invitation.token, sequence, b->verdict[0] ? b->verdict : NULL);
    /* One that is not sent is one that got lost. */
    (void)!sendto(b->fd, &answer, sizeof(answer), MSG_DONTWAIT,
                  (const struct sockaddr *)&b->peers[rank], sizeof(b->peers[rank]));
}

static void hear(struct beat *b, const void *bytes, size_t n, const struct sockaddr_in *from)
{
    struct datagram_beat beat;
    if (!datagram_beat_check(bytes, n, b->invitation.token, b->options.size, &beat) ||
        beat.sequence <= b->sequences[beat.rank])
        return;
    const int rank = (int)beat.rank;
    b->sequences[rank] = beat.sequence;
    b->peers[rank] = *from;
    pthread_mutex_lock(&b->lock);
    judge_hear(b->judge, rank, &beat.report);
    pthread_mutex_unlock(&b->lock);
    answer(b, rank, beat.sequence);
    if (beat.report.asked && b->options.ask)
        b->options.ask(rank, (int)beat.report.asked);
}

static void give_verdict(struct beat *b)
{
    struct beat_report report;
    beat_read(b->options.mine, &report);
    caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.step = report.step}, "%s",
                      b->verdict);
    caloris_time_sleep_ms(LAST_WORDS_MS);
    for (int time = 0; b->fd >= 0 && time < TOLD; time++) {
        for (int rank = 1; rank < b->options.size; rank++)
            answer(b, rank, 0);
        caloris_time_sleep_ms(LAST_WORDS_MS / TOLD);
    }
    b->options.leave();
}

static void watch(struct beat *b)
{
    struct beat_report report;
    const uint64_t passed = elapsed_ms(b);
    pthread_mutex_lock(&b->lock);
    for (int rank = 0; rank < (b->all ? b->options.size : 1); rank++) {
        beat_read(b->all ? b->all[rank] : b->options.mine, &report);
        judge_hear(b->judge, rank, &report);
    }
    const bool hangs = judge_pass(b->judge, passed, b->verdict) && b->judging;
    if (!hangs)
        b->verdict[0] = '\0';
    pthread_mutex_unlock(&b->lock);
    if (hangs)
        give_verdict(b);
}

/* ---- the others -------------------------------------------------------------------------------*/

static void send_beat(struct beat *b)
{
    struct beat_report report;
    struct datagram_beat beat;
    beat_read(b->options.mine, &report);
    if (b->options.asked)
        report.asked = (uint64_t)atomic_load(b->options.asked);
    datagram_beat_make(&beat, b->invitation.token, b->options.rank, ++b->sequence, &report);
    struct sockaddr_in to = b->seat;
    const uint32_t n = to.sin_port ? 1 : b->invitation.n_addresses;
    for (uint32_t i = 0; i < n; i++) {
        if (!b->seat.sin_port) {
            to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = b->invitation.port};
            to.sin_addr.s_addr = b->invitation.addresses[i];
        }
        (void)!sendto(b->fd, &beat, sizeof(beat), MSG_DONTWAIT, (const struct sockaddr *)&to,
                      sizeof(to));
    }
}

static void hear_answer(struct beat *b, const void *bytes, size_t n, const struct sockaddr_in *from)
{
    struct datagram_answer said;
    if (!datagram_answer_check(bytes, n, b->invitation.token, &said))
        return;
    if (said.hangs) {
        caloris_log(CALORIS_LOG_DEBUG, "rank 0 says: %s", said.verdict);
        b->options.leave();
        return;
    }
    if (said.sequence > b->sequence || said.sequence + RECENT < b->sequence)
        return;
    b->seat = *from;
    b->silence_ms = 0;
    pthread_mutex_lock(&b->lock);
    b->answered = true;
    pthread_cond_broadcast(&b->answer);
    pthread_mutex_unlock(&b->lock);
}

static void mind_silence(struct beat *b)
{
    static const char *const doing[BEAT_PHASES] = {"idle", "loading", "in step", "leaving", "gone"};
    struct beat_report report;
    b->silence_ms += elapsed_ms(b);
    if (!is_judging(b) || b->silence_ms <= b->options.times.silent_ms)
        return;
    beat_read(b->options.mine, &report);
    caloris_log_about(CALORIS_LOG_ERROR, (struct caloris_log_about){.step = report.step},
                      "rank %d has had no answer from rank 0 on %s for %.1f s; %s, layer %d, %llu "
                      "all-reduces",
                      b->options.rank, b->host_of_0, (double)b->silence_ms / 1000,
                      doing[report.phase < BEAT_PHASES ? report.phase : BEAT_GONE],
                      (int)report.layer, (unsigned long long)report.allreduces);
    b->options.leave();
}

/* ---- the thread -------------------------------------------------------------------------------*/

static void take_datagrams(struct beat *b)
{
    char bytes[DATAGRAM_MOST];
    for (int i = 0; i < AT_ONCE; i++) {
        struct sockaddr_in from;
        socklen_t from_bytes = sizeof(from);
        const ssize_t n = recvfrom(b->fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_TRUNC,
                                   (struct sockaddr *)&from, &from_bytes);
        if (n < 0)
            return;
        if (from_bytes != sizeof(from) || from.sin_family != AF_INET || (size_t)n > sizeof(bytes))
            continue;
        if (b->options.rank == 0)
            hear(b, bytes, (size_t)n, &from);
        else
            hear_answer(b, bytes, (size_t)n, &from);
    }
}

static bool told_to_stop(struct beat *b, uint64_t *beat_ms)
{
    eventfd_t ignored;
    eventfd_read(b->wake, &ignored);
    pthread_mutex_lock(&b->lock);
    const bool stop = b->stop;
    *beat_ms = b->answered || b->options.rank == 0 || b->options.times.beat_ms < JOIN_EVERY_MS
                   ? b->options.times.beat_ms
                   : JOIN_EVERY_MS;
    pthread_mutex_unlock(&b->lock);
    return stop;
}

static void *beat_thread(void *arg)
{
    struct beat *b = arg;
    struct pollfd fds[] = {{.fd = b->wake, .events = POLLIN}, {.fd = b->fd, .events = POLLIN}};
    uint64_t due_ns = caloris_time_ns(), beat_ms;
    b->tick_ns = due_ns;
    while (!told_to_stop(b, &beat_ms)) {
        const uint64_t now = caloris_time_ns();
        if (now < due_ns) {
            poll(fds, b->fd >= 0 ? 2 : 1, (int)((due_ns - now) / 1000000 + 1));
            if (b->fd >= 0)
                take_datagrams(b);
            continue;
        }
        due_ns = now + beat_ms * 1000000;
        if (b->fd >= 0)
            take_datagrams(b); /* before anybody is called silent */
        if (b->options.rank == 0) {
            watch(b);
        } else {
            mind_silence(b);
            send_beat(b);
        }
    }
    return NULL;
}

/* ---- open and close ---------------------------------------------------------------------------*/

static struct beat *beat_new(const struct beat_options *options, struct caloris_err *err)
{
    const size_t n = (size_t)options->size;
    struct beat *b = calloc(1, sizeof(*b));
    if (!b) {
        caloris_err_sys(err, "beats");
        return NULL;
    }
    b->options = *options;
    b->options.all = NULL;
    b->options.hosts = NULL;
    b->options.host_of_0 = b->host_of_0;
    snprintf(b->host_of_0, sizeof(b->host_of_0), "%s", options->host_of_0);
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&b->answer, &clock);
    pthread_condattr_destroy(&clock);
    b->fd = -1;
    b->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->wake < 0) {
        caloris_err_sys(err, "beats");
        goto fail;
    }
    if (options->rank != 0)
        return b;
    b->judge = judge_new(options->size, options->hosts, &options->times, err);
    b->peers = calloc(n, sizeof(*b->peers));
    b->sequences = calloc(n, sizeof(*b->sequences));
    b->all = options->all ? calloc(n, sizeof(*b->all)) : NULL;
    if (!b->judge || !b->peers || !b->sequences || (options->all && !b->all)) {
        caloris_err_set(err, CALORIS_NO_MEMORY, "beats of %d ranks: out of memory", options->size);
        goto fail;
    }
    if (b->all)
        memcpy(b->all, options->all, n * sizeof(*b->all));
    return b;
fail:
    beat_close(b);
    return NULL;
}

/* With every signal blocked: they are the main thread's. */
static int start(struct beat *b, struct caloris_err *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    errno = pthread_create(&b->thread, NULL, beat_thread, b);
    const int failed = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = failed;
    if (failed)
        return caloris_err_sys(err, "a thread for beats");
    b->started = true;
    return 0;
}

/* The addresses of this host that others may reach. */
static int list_addresses(struct beat_invitation *invitation, struct caloris_err *err)
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) < 0)
        return caloris_err_sys(err, "the addresses of this host");
    for (const struct ifaddrs *at = all; at && invitation->n_addresses < BEAT_ADDRESSES;
         at = at->ifa_next) {
        if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET || !(at->ifa_flags & IFF_UP) ||
            (at->ifa_flags & IFF_LOOPBACK))
            continue;
        struct sockaddr_in address;
        memcpy(&address, at->ifa_addr, sizeof(address));
        invitation->addresses[invitation->n_addresses++] = address.sin_addr.s_addr;
    }
    freeifaddrs(all);
    return invitation->n_addresses > 0
               ? 0
               : caloris_err_set(err, CALORIS_IO, "this host has no IPv4 address");
}

static int open_seat(struct beat *b, bool one_host, struct caloris_err *err)
{
    struct beat_invitation *invitation = &b->invitation;
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t bytes = sizeof(address);
    address.sin_addr.s_addr = htonl(one_host ? INADDR_LOOPBACK : INADDR_ANY);
    if (getrandom(invitation->token, BEAT_TOKEN, 0) != BEAT_TOKEN)
        return caloris_err_sys(err, "random bytes");
    b->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (b->fd < 0 || bind(b->fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        getsockname(b->fd, (struct sockaddr *)&address, &bytes) < 0)
        return caloris_err_sys(err, "a UDP socket");
    invitation->port = address.sin_port;
    if (!one_host)
        return list_addresses(invitation, err);
    invitation->addresses[invitation->n_addresses++] = htonl(INADDR_LOOPBACK);
    return 0;
}

struct beat *beat_open_seat(const struct beat_options *options, bool one_host,
                            struct beat_invitation *invitation, struct caloris_err *err)
{
    struct beat *b = beat_new(options, err);
    if (!b)
        return NULL;
    if ((!b->all && options->size > 1 && open_seat(b, one_host, err) < 0) || start(b, err) < 0) {
        beat_close(b);
        return NULL;
    }
    if (invitation)
        *invitation = b->invitation;
    return b;
}

static bool wait_for_answer(struct beat *b)
{
    const uint64_t until = caloris_time_ns() + (uint64_t)JOIN_MS * 1000000;
    const struct timespec deadline = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
    int rc = 0;
    pthread_mutex_lock(&b->lock);
    while (!b->answered && rc == 0)
        rc = pthread_cond_timedwait(&b->answer, &b->lock, &deadline);
    const bool answered = b->answered;
    pthread_mutex_unlock(&b->lock);
    return answered;
}

struct beat *beat_join(const struct beat_options *options, const struct beat_invitation *invitation,
                       struct caloris_err *err)
{
    struct beat *b = beat_new(options, err);
    if (!b)
        return NULL;
    b->invitation = *invitation;
    b->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (b->fd < 0) {
        caloris_err_sys(err, "a UDP socket");
        goto fail;
    }
    if (start(b, err) < 0)
        goto fail;
    if (!wait_for_answer(b)) {
        caloris_err_set(err, CALORIS_IO, "no answer from %s to UDP datagrams to port %u",
                        b->host_of_0, ntohs(invitation->port));
        goto fail;
    }
    return b;
fail:
    beat_close(b);
    return NULL;
}

void beat_judge(struct beat *b)
{
    pthread_mutex_lock(&b->lock);
    if (b->judge)
        judge_begin(b->judge);
    b->judging = true;
    pthread_mutex_unlock(&b->lock);
}

bool beat_latest(struct beat *b, int rank, struct beat_report *report)
{
    pthread_mutex_lock(&b->lock);
    const struct beat_report *latest = judge_latest(b->judge, rank);
    if (latest)
        *report = *latest;
    pthread_mutex_unlock(&b->lock);
    return latest != NULL;
}

void beat_close(struct beat *b)
{
    if (!b)
        return;
    if (b->started) {
        pthread_mutex_lock(&b->lock);
        b->stop = true;
        pthread_mutex_unlock(&b->lock);
        eventfd_write(b->wake, 1);
        pthread_join(b->thread, NULL);
        if (b->options.rank != 0)
            send_beat(b); /* that it is gone, if its progress says so */
    }
    if (b->fd >= 0)
        close(b->fd);
    if (b->wake >= 0)
        close(b->wake);
    judge_free(b->judge);
    free(b->peers);
    free(b->sequences);
    free(b->all);
    pthread_cond_destroy(&b->answer);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
