/* batch: a file of jobs through the gateway, results to another. Each line's job has a key of its
 * own, so that whoever goes on behind a kill finds the jobs that are there already. */
#include "client/cmd/batch.h"

#include "base/time.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WAIT_MS = 200,
    SHOW_EVERY_MS = 200,
    MAX_PENDING_BYTES = 64 << 20, /* of jobs that are on their way */
    MOST_LOST = 3,                /* a job that is gone so often is one that the gateway forgets */
    KEY_BYTES = BATCH_KEY + 8,
    BAR = 24, /* columns */
};

#define AT(member) offsetof(struct flags, member)

const struct caloris_option batch_options[] = {
    {.name = "out",
     .letter = 'o',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(out),
     .argument = "FILE",
     .help = "where results go, a line each, as they come",
     .flag_only = true},
    {.name = "resume",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(resume),
     .help = "go on with a batch that was interrupted, however it was",
     .flag_only = true},
    {.name = "errors",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(errors),
     .argument = "FILE",
     .help = "where jobs that failed go (default: to --out, too)",
     .flag_only = true},
    {.name = "shard",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(shard),
     .argument = "I/N",
     .help = "only every N-th line, from the I-th on: N such batches do the whole file",
     .flag_only = true},
    {.name = "window",
     .type = CALORIS_OPTION_INT,
     .offset = AT(window),
     .default_text = "256",
     .min = 1,
     .max = CALORIS_CLIENT_MAX_WATCHES,
     .argument = "N",
     .help = "jobs that are at the gateway at a time",
     .flag_only = true},
    {.name = NULL},
};

enum slot_state { SLOT_FREE, SLOT_READ, SLOT_ACCEPTED, SLOT_ENDED };

/* A line on its way. */
struct slot {
    enum slot_state state;
    struct caloris_line line;
    struct caloris_buf json; /* to its end: the gateway may lose it */
    uint8_t key[KEY_BYTES];
    uint64_t job;
    int lost;
};

struct batch {
    const struct invocation *in;
    struct batch_files files;
    struct caloris_client *client; /* dialled when the first job is there */
    struct slot *slots;            /* [n_slots] */
    size_t n_slots, open;
    size_t pending_bytes;
    bool no_more;
    uint64_t hold_until_ns; /* the gateway asked for patience until then */
    uint64_t done, failed;  /* in this run */
    uint64_t started_ns, shown_ns;
    bool terminal;
    struct caloris_submission *submissions; /* [n_slots] */
};

/* ---- progress -------------------------------------------------------------------------------- */

static void show(struct batch *b, bool last)
{
    const uint64_t now = caloris_time_ns();
    if (!b->terminal || (!last && now - b->shown_ns < SHOW_EVERY_MS * 1000000ull))
        return;
    b->shown_ns = now;
    const uint64_t ended = b->files.had + b->done + b->failed, wanted = b->files.wanted;
    const double seconds = (double)(now - b->started_ns) * 1e-9;
    const double rate = seconds > 0 ? (double)(b->done + b->failed) / seconds : 0;
    fputs("\r\033[K", stderr);
    if (wanted > 0) {
        fputc('[', stderr);
        for (uint64_t i = 0; i < BAR; i++)
            fputc(i * wanted < ended * BAR ? '#' : '.', stderr);
        fprintf(stderr, "] %" PRIu64 "/%" PRIu64, ended, wanted);
    } else {
        fprintf(stderr, "%" PRIu64, ended);
    }
    fprintf(stderr, " jobs, %" PRIu64 " failed, %.1f/s", b->files.failed + b->failed, rate);
    if (wanted > ended && rate > 0) {
        const uint64_t left = (uint64_t)((double)(wanted - ended) / rate);
        fprintf(stderr, ", %" PRIu64 ":%02u:%02u left", left / 3600, (unsigned)(left / 60 % 60),
                (unsigned)(left % 60));
    }
    if (last)
        fputc('\n', stderr);
    fflush(stderr);
}

/* ---- lines out ------------------------------------------------------------------------------- */

static void free_slot(struct batch *b, struct slot *slot)
{
    b->pending_bytes -= slot->json.size;
    caloris_buf_free(&slot->json);
    caloris_line_free(&slot->line);
    slot->state = SLOT_FREE;
    b->open--;
}

/* The line's result; the line is over. */
static int end_line(struct batch *b, struct slot *slot, const char *result, size_t n,
                    struct caloris_err *err)
{
    struct caloris_buf text = CALORIS_BUF(BATCH_LINE_BYTES);
    const bool failure = caloris_line_failed(result, n);
    int rc = caloris_line_write(&slot->line, slot->job, result, n, &text, err);
    if (rc == 0)
        rc = batch_write(&b->files, failure, text.data, text.size, err);
    caloris_buf_free(&text);
    if (rc < 0)
        return -1;
    b->done += !failure;
    b->failed += failure;
    free_slot(b, slot);
    return 0;
}

static int end_badly(struct batch *b, struct slot *slot, const struct caloris_err *why,
                     struct caloris_err *err)
{
    struct caloris_buf result = CALORIS_BUF(CALORIS_JOB_MAX_BYTES);
    const struct caloris_job_result failed = {.id = slot->line.id, .error = why};
    int rc = caloris_job_result_write(&failed, &result, err);
    if (rc == 0)
        rc = end_line(b, slot, result.data, result.size, err);
    caloris_buf_free(&result);
    return rc;
}

/* A gateway that is away is dialled again by whoever waits next. */
static bool is_away(const struct caloris_err *err)
{
    return err->code == CALORIS_UNREACHABLE || err->code == CALORIS_PEER_LOST ||
           err->code == CALORIS_AGAIN;
}

/* The gateway was given another queue, or has forgotten the result before it was here: nothing was
 * delivered, so the job is submitted again. */
static int lose(struct batch *b, struct slot *slot, struct caloris_err *err)
{
    struct caloris_err why;
    if (++slot->lost < MOST_LOST) {
        slot->state = SLOT_READ;
        return 0;
    }
    caloris_err_set(&why, CALORIS_NOT_FOUND, "the gateway has lost it %d times", MOST_LOST);
    return end_badly(b, slot, &why, err);
}

/* 0, 1: nobody is there to be asked, -1 and err. */
static int fetch(struct batch *b, struct slot *slot, struct caloris_err *err)
{
    struct caloris_err why = {0};
    caloris_answer *answer = caloris_client_results(b->client, slot->job, &why);
    if (!answer && is_away(&why))
        return why.code != CALORIS_AGAIN;
    if (!answer && why.code == CALORIS_NOT_FOUND)
        return lose(b, slot, err);
    if (!answer)
        return caloris_err_set(err, why.code, "%s", why.text);
    int rc = end_line(b, slot, (const char *)answer->result->result_json.data,
                      answer->result->result_json.len, err);
    caloris_answer_free(answer);
    return rc;
}

static int fetch_all(struct batch *b, struct caloris_err *err)
{
    int rc = 0;
    for (size_t i = 0; i < b->n_slots && rc == 0; i++) {
        if (b->slots[i].state == SLOT_ENDED)
            rc = fetch(b, &b->slots[i], err);
    }
    return rc < 0 ? -1 : 0; /* who is away is waited for once, with the events */
}

/* ---- lines in -------------------------------------------------------------------------------- */

static void make_key(const struct batch *b, struct slot *slot)
{
    memcpy(slot->key, b->files.key, BATCH_KEY);
    for (int i = 0; i < KEY_BYTES - BATCH_KEY; i++)
        slot->key[BATCH_KEY + i] = (uint8_t)(slot->line.number >> (8 * i));
}

static int read_line(struct batch *b, struct slot *slot, struct caloris_err *err)
{
    const struct caloris_lines *lines = &b->files.lines;
    struct caloris_err why = {0};
    slot->json = CALORIS_BUF(2 * CALORIS_JOB_MAX_BYTES);
    slot->job = 0;
    slot->lost = 0;
    slot->state = SLOT_READ;
    b->open++;
    int rc = lines->cut ? caloris_err_set(&why, CALORIS_BAD_REQUEST, "more than %d bytes",
                                          CALORIS_JOB_MAX_BYTES)
                        : caloris_line_read(lines->text.data, lines->text.size, &slot->line,
                                            &slot->json, &why);
    slot->line.number = lines->number;
    b->pending_bytes += slot->json.size;
    make_key(b, slot);
    return rc < 0 ? end_badly(b, slot, &why, err) : 0;
}

static int read_lines(struct batch *b, struct caloris_err *err)
{
    for (size_t i = 0; i < b->n_slots && !b->no_more;) {
        if (cmd_signal())
            return caloris_err_set(err, CALORIS_CANCELLED, "interrupted");
        if (b->slots[i].state != SLOT_FREE) {
            i++;
            continue;
        }
        if (b->pending_bytes > MAX_PENDING_BYTES)
            return 0;
        int n = batch_next(&b->files, err);
        if (n < 0)
            return -1;
        b->no_more = n == 0;
        if (n > 0 && read_line(b, &b->slots[i], err) < 0)
            return -1;
        show(b, false);
    }
    return 0;
}

/* What the gateway said to one submission. */
static int take_answer(struct batch *b, struct slot *slot, const struct caloris_submission *s,
                       struct caloris_err *err)
{
    if (!s->answered)
        return 0;
    if (s->accepted) {
        slot->state = SLOT_ACCEPTED;
        slot->job = s->job;
        return 0;
    }
    if (s->why.code == CALORIS_BAD_REQUEST)
        return end_badly(b, slot, &s->why, err);
    if (s->why.code != CALORIS_AGAIN)
        return caloris_err_set(err, s->why.code, "%s", s->why.text);
    const uint64_t until_ns =
        caloris_time_ns() + (s->retry_after_ms ? s->retry_after_ms : WAIT_MS) * 1000000;
    if (until_ns > b->hold_until_ns)
        b->hold_until_ns = until_ns;
    return 0;
}

static int submit_lines(struct batch *b, struct caloris_err *err)
{
    struct caloris_err why = {0};
    size_t n = 0;
    if (caloris_time_ns() < b->hold_until_ns)
        return 0;
    for (size_t i = 0; i < b->n_slots; i++) {
        const struct slot *slot = &b->slots[i];
        if (slot->state == SLOT_READ)
            b->submissions[n++] = (struct caloris_submission){.key = slot->key,
                                                              .key_bytes = KEY_BYTES,
                                                              .json = slot->json.data,
                                                              .bytes = slot->json.size};
    }
    if (n == 0)
        return 0;
    if (!b->client && !(b->client = cmd_connect(b->in, err)))
        return -1;
    int rc = caloris_client_submit_all(b->client, b->submissions, n, &why);
    for (size_t i = 0, k = 0; i < b->n_slots && k < n; i++) {
        if (b->slots[i].state == SLOT_READ &&
            take_answer(b, &b->slots[i], &b->submissions[k++], err) < 0)
            return -1;
    }
    return rc < 0 ? caloris_err_set(err, why.code, "%s", why.text) : 0;
}

/* ---- events ---------------------------------------------------------------------------------- */

static int note(struct batch *b, const Caloris__Wire__Event *event, struct caloris_err *err)
{
    const bool lost = caloris_event_is_loss(event);
    if (!lost && !(event->status && caloris_state_is_final(event->status->state)))
        return 0;
    for (size_t i = 0; i < b->n_slots; i++) {
        struct slot *slot = &b->slots[i];
        if (slot->state != SLOT_ACCEPTED || slot->job != event->job)
            continue;
        if (lost)
            return lose(b, slot, err);
        slot->state = SLOT_ENDED;
    }
    return 0;
}

/* What has happened, and what happens soon. */
static int wait_for_events(struct batch *b, struct caloris_err *err)
{
    uint64_t wait_ms = WAIT_MS;
    for (;;) {
        caloris_answer *event = NULL;
        int n = caloris_client_next(b->client, wait_ms, &event, err);
        if (n <= 0)
            return n;
        n = note(b, event->event, err);
        caloris_answer_free(event);
        if (n < 0)
            return -1;
        wait_ms = 0;
    }
}

static int run(struct batch *b, struct caloris_err *err)
{
    for (;;) {
        if (read_lines(b, err) < 0 || submit_lines(b, err) < 0)
            return -1;
        show(b, false);
        if (b->open == 0 && b->no_more)
            return 0;
        if (b->client && (wait_for_events(b, err) < 0 || fetch_all(b, err) < 0))
            return -1;
    }
}

/* ---- the verb -------------------------------------------------------------------------------- */

static int sum_up(const struct batch *b, bool complete)
{
    const uint64_t done = b->files.had - b->files.failed + b->done;
    const uint64_t failed = b->files.failed + b->failed;
    if (!b->in->flags.quiet)
        cmd_say(b->in, "%" PRIu64 " done, %" PRIu64 " failed%s", done, failed,
                complete ? "" : " so far");
    if (!complete && !(b->files.input == stdin))
        cmd_say(b->in,
                "%s holds whole lines; the same command with --resume goes on (jobs that "
                "are at the gateway are computed meanwhile)",
                b->files.out.path);
    if (b->in->flags.json)
        cmd_print_json(b->in, json_pack("{s:I, s:I, s:b}", "done", (json_int_t)done, "failed",
                                        (json_int_t)failed, "complete", complete));
    return failed > 0 ? EXIT_JOB_FAILED : EXIT_DONE;
}

int verb_batch(struct invocation *in)
{
    struct batch b = {
        .in = in,
        .n_slots = (size_t)in->flags.window,
        .started_ns = caloris_time_ns(),
        .terminal = isatty(STDERR_FILENO) && !in->flags.quiet,
    };
    struct caloris_err err = {0}, closing = {0};
    int rc;
    cmd_catch_signals();
    b.slots = calloc(b.n_slots, sizeof(*b.slots));
    b.submissions = calloc(b.n_slots, sizeof(*b.submissions));
    if (!b.slots || !b.submissions) {
        caloris_err_sys(&err, "%zu jobs at a time", b.n_slots);
        rc = cmd_fail(in, &err);
    } else if (batch_open(&b.files, in, &err) < 0) {
        rc = cmd_fail(in, &err);
    } else {
        const bool complete = run(&b, &err) == 0;
        if (batch_close(&b.files, complete, &closing) < 0 && complete)
            err = closing;
        show(&b, true);
        rc = err.code ? cmd_fail(in, &err) : EXIT_DONE;
        const int ended = sum_up(&b, complete);
        rc = rc ? rc : ended;
    }
    for (size_t i = 0; b.slots && i < b.n_slots; i++) {
        if (b.slots[i].state != SLOT_FREE)
            free_slot(&b, &b.slots[i]);
    }
    caloris_client_close(b.client);
    batch_free(&b.files);
    free(b.submissions);
    free(b.slots);
    return rc;
}
