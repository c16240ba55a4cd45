/* replay: a recording, shown as if it happened now. Asks no gateway. */
#include "client/cmd/screen.h"
#include "proto/trace.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(member) offsetof(struct flags, member)

const struct caloris_option replay_options[] = {
    {.name = "speed",
     .type = CALORIS_OPTION_REAL,
     .offset = AT(speed),
     .default_text = "0",
     .min = 0,
     .max = 1e6,
     .argument = "X",
     .help = "play X times as fast as it was; 0: as it was on a terminal, at once elsewhere",
     .flag_only = true},
    {.name = "step",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(step),
     .help = "wait for a key behind each step: q ends, any other goes on",
     .flag_only = true},
    {.name = "json",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(json),
     .help = "a line of JSON for each step, as watch --json prints them, and for each result",
     .flag_only = true},
    {.name = "quiet",
     .letter = 'q',
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(quiet),
     .help = "only errors on stderr",
     .flag_only = true},
    {.name = NULL},
};

struct player {
    const struct invocation *in;
    struct screen screen;
    enum follow how;
    double speed; /* 0: at once */
    bool quit;
    int rc; /* of the recordings that ended */
};

/* ---- entries --------------------------------------------------------------------------------- */

static int print_json(const struct player *p, const struct caloris_trace_entry *entry,
                      struct caloris_err *err)
{
    json_t *object =
        entry->kind == CALORIS_TRACE_RESULT ? json_pack("{s:O}", "result", entry->head)
        : entry->kind == CALORIS_TRACE_BEGIN
            ? json_pack("{s:O?, s:O?, s:o}", "model", json_object_get(entry->head, "model"), "job",
                        json_object_get(entry->head, "job"), "progress",
                        cmd_progress_json(entry->progress))
            : json_pack("{s:o}", "progress", cmd_progress_json(entry->progress));
    if (cmd_print_json(p->in, object) == EXIT_DONE)
        return 0;
    return caloris_err_set(err, CALORIS_IO, "cannot write steps");
}

/* What is waited for before a step's rows were computed, in the recording and now. */
static void wait_for_step(const struct player *p, const Caloris__Wire__Progress *progress)
{
    const double ms = 1e3, longest_s = 60;
    double seconds = progress->has_seconds && p->speed > 0 ? progress->seconds / p->speed : 0;
    screen_hold((uint64_t)((seconds < longest_s ? seconds : longest_s) * ms));
}

static int end_recording(struct player *p, const struct caloris_trace_entry *entry,
                         struct caloris_err *err)
{
    if (p->screen.dirty && screen_paint(&p->screen, err) < 0)
        return -1;
    screen_close(&p->screen);
    const char *id = json_string_value(json_object_get(entry->head, "id"));
    int rc = p->how == FOLLOW_JSON && !json_object_get(entry->head, "error")
                 ? EXIT_DONE
                 : cmd_print_result_json(p->in, id ? id : "the job", entry->head,
                                         isatty(STDOUT_FILENO) && !p->in->flags.quiet);
    p->rc = p->rc ? p->rc : rc;
    return 0;
}

static int play(struct player *p, const struct caloris_trace_entry *entry, struct caloris_err *err)
{
    if (p->how == FOLLOW_JSON && print_json(p, entry, err) < 0)
        return -1;
    if (entry->kind == CALORIS_TRACE_RESULT)
        return end_recording(p, entry, err);
    if (entry->kind == CALORIS_TRACE_BEGIN && screen_open(&p->screen, p->how, stdout, err) < 0)
        return -1;
    wait_for_step(p, entry->progress);
    const bool by_keys = p->in->flags.step, paced = p->speed > 0 || by_keys;
    if (screen_show(&p->screen, entry->progress, 0, err) < 0 ||
        (paced && p->screen.dirty && screen_paint(&p->screen, err) < 0))
        return -1;
    char key = 0;
    const int n = by_keys ? screen_key(&p->screen, &key, err) : 0;
    p->quit = n == 1 && key == 'q';
    return n < 0 ? -1 : 0;
}

static int play_all(struct player *p, struct caloris_trace *trace, struct caloris_err *err)
{
    struct caloris_trace_entry entry;
    int n = 0;
    bool any = false;
    while (!p->quit && !cmd_signal() && (n = caloris_trace_next(trace, &entry, err)) == 1) {
        any = true;
        if (play(p, &entry, err) < 0)
            return -1;
    }
    if (n == 0 && !any && !cmd_signal())
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "%s is empty", p->in->operands[0]);
    return n < 0 ? -1 : 0;
}

int verb_replay(struct invocation *in)
{
    const char *path = in->operands[0];
    const bool from_stdin = strcmp(path, "-") == 0, terminal = isatty(STDOUT_FILENO);
    const struct flags *flags = &in->flags;
    struct player p = {
        .in = in,
        .how = flags->json          ? FOLLOW_JSON
               : screen_can_paint() ? FOLLOW_CANVAS
                                    : FOLLOW_STEPS,
        .speed = flags->step        ? 0
                 : flags->speed > 0 ? flags->speed
                                    : terminal && !flags->json,
    };
    struct caloris_err err = {0};
    struct caloris_trace *trace = NULL;
    FILE *file = from_stdin ? stdin : fopen(path, "rbe");
    if (!file) {
        caloris_err_sys(&err, "%s", path);
        err.code = CALORIS_USAGE;
        return cmd_fail(in, &err);
    }
    cmd_catch_signals();
    if ((flags->step && screen_keys_open(&err) < 0) ||
        !(trace = caloris_trace_open(file, from_stdin ? "stdin" : path, &err)) ||
        play_all(&p, trace, &err) < 0) {
        screen_close(&p.screen);
        p.rc = cmd_fail(in, &err);
    }
    screen_close(&p.screen);
    screen_keys_close();
    caloris_trace_close(trace);
    if (!from_stdin)
        fclose(file);
    return cmd_signal() ? EXIT_SIGNAL + cmd_signal() : p.rc;
}
