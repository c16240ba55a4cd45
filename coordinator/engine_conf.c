/* The options of caloris-engine, its verbs, and which of them go together. */
#include "coordinator/engine_conf.h"

#include "base/err.h"
#include "base/log.h"

#include <stddef.h>
#include <string.h>

enum { SHORTEST_SILENCE_MS = 500 }; /* ten beats fit in */

static const struct {
    const char *name;
    enum engine_verb verb;
} verbs[] = {{"plan", VERB_PLAN}, {"doctor", VERB_DOCTOR}, {"shard", VERB_SHARD}};

#define AT(field) offsetof(struct engine_values, field)

static const struct caloris_option options[] = {
    {.name = "model",
     .letter = 'm',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(model),
     .argument = "DIR",
     .help = "model folder: config.json, *.safetensors, tokenizer.json (default: the demo model)"},
    {.name = "gateway",
     .letter = 'g',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(gateway),
     .argument = "ENDPOINT",
     .help = "serve: the gateway's endpoint for groups (tcp://host:port, ipc://…/groups.sock)"},
    {.name = "cluster",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(cluster),
     .argument = "NAME",
     .help = "serve: the gateway whose address and key stand in ~/.caloris/NAME",
     .flag_only = true}, /* a variable that is meant for clients changes no --jobs */
    {.name = "server-key",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(server_key),
     .argument = "FILE|KEY",
     .help = "serve, tcp://: the gateway's public key, or its .pub file (default: the cluster "
             "file's)"},
    {.name = "certificate",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(certificate),
     .argument = "FILE",
     .help = "serve, tcp://: this group's keys, of mode 0600 (default: what the cluster file has, "
             "else ~/.config/caloris/key; \"caloris keygen\" makes them)"},
    {.name = "name",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(name),
     .argument = "NAME",
     .help = "serve: this group's name (default: host and process)"},
    {.name = "redial",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(redial_ms),
     .default_text = "10m",
     .argument = "TIME",
     .help = "serve: how long a lost gateway is redialled before the group gives up"},
    {.name = "end-time",
     .type = CALORIS_OPTION_INT,
     .offset = AT(end_s),
     .default_text = "0",
     .min = 0,
     .max = 1e12,
     .argument = "SECONDS",
     .help = "serve: when this machine is taken away, in seconds since 1970; 0: what Slurm says "
             "(SLURM_JOB_END_TIME), if anything. Jobs that are not likely to be done by then are "
             "not taken"},
    {.name = "end-margin",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(end_margin_ms),
     .default_text = "1m",
     .argument = "TIME",
     .help = "serve: so long before the end what is not done is handed back, and the group leaves"},
    {.name = "rank-silent",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(silent_ms),
     .default_text = "10s",
     .argument = "TIME",
     .help = "a rank that gives no sign of life for so long is lost: all end with 69"},
    {.name = "rank-stands",
     .type = CALORIS_OPTION_DURATION,
     .offset = AT(stands_ms),
     .default_text = "30s",
     .argument = "TIME",
     .help = "so is one that gets no further for so long, and for 20 x what it should take"},
    {.name = "jobs",
     .letter = 'j',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(jobs),
     .argument = "FILE",
     .help = "offline: jobs, one JSON object a line (- for stdin)",
     .flag_only = true},
    {.name = "out",
     .letter = 'o',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(out),
     .argument = "FILE",
     .help = "offline and --logits: where results go; shard: the folder to write",
     .flag_only = true},
    {.name = "resume",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(resume),
     .help = "offline: go on with --out; jobs that have a result there are skipped",
     .flag_only = true},
    {.name = "trace",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(trace),
     .argument = "FILE",
     .help = "offline: record every step of every job there, for caloris replay (docs/TRACE.md)",
     .flag_only = true},
    {.name = "logits",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(logits),
     .argument = "FILE",
     .help = "write raw fp32 logits of the {\"ids\": […]} lines of FILE to --out",
     .flag_only = true},
    {.name = "comm",
     .type = CALORIS_OPTION_CHOICE,
     .offset = AT(comm),
     .choices = "mpi|threads",
     .default_text = "mpi",
     .argument = "KIND",
     .help = "ranks are MPI processes, or threads of this process"},
    {.name = "ranks",
     .letter = 'n',
     .type = CALORIS_OPTION_INT,
     .offset = AT(ranks),
     .default_text = "1",
     .min = 1,
     .max = 65536,
     .argument = "N",
     .help = "ranks with --comm threads, and for plan (mpirun says it otherwise)"},
    {.name = "threads",
     .letter = 't',
     .type = CALORIS_OPTION_INT,
     .offset = AT(threads),
     .default_text = "0",
     .min = 0,
     .max = 4096,
     .argument = "N",
     .help = "compute threads per rank; 0: the cores that the rank owns"},
    {.name = "max-requests",
     .type = CALORIS_OPTION_INT,
     .offset = AT(max_requests),
     .default_text = "16",
     .min = 1,
     .max = 65536,
     .argument = "N",
     .help = "requests that run at a time (one under guidance counts twice)"},
    {.name = "max-canvas",
     .type = CALORIS_OPTION_INT,
     .offset = AT(max_canvas),
     .default_text = "0",
     .min = 0,
     .max = 1 << 24,
     .argument = "TOKENS",
     .help = "longest prompt plus answer; 0: what the model was made for"},
    {.name = "max-step-rows",
     .type = CALORIS_OPTION_INT,
     .offset = AT(max_step_rows),
     .default_text = "0",
     .min = 0,
     .max = 1 << 24,
     .argument = "ROWS",
     .help = "rows of one step over all requests; 0: chosen"},
    {.name = "row-budget",
     .type = CALORIS_OPTION_INT,
     .offset = AT(row_budget),
     .default_text = "0",
     .min = 0,
     .max = 1 << 24,
     .argument = "ROWS",
     .help =
         "rows that a step is filled up to; 0: found at start by timing steps of 1 to 512 rows"},
    {.name = "kv-tokens",
     .type = CALORIS_OPTION_INT,
     .offset = AT(kv_tokens),
     .default_text = "0",
     .min = 0,
     .max = 1 << 30,
     .argument = "TOKENS",
     .help = "positions whose keys and values are kept for requests with a cache; 0: chosen"},
    {.name = "weights",
     .type = CALORIS_OPTION_CHOICE,
     .offset = AT(weights),
     .choices = "auto|fp32|bf16|int8|int4",
     .default_text = "auto",
     .argument = "FORMAT",
     .help = "how matrices stand in memory, whatever the files hold (fp32 is the reference); auto: "
             "as a shard file holds them, else fp32"},
    {.name = "calibrate",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(calibrate),
     .argument = "FILE",
     .help = "int8 and int4 made from safetensors: lines {\"ids\": [1, 2, …]} to look for outliers "
             "with, or \"none\" (default: 256 ids of its own)"},
    {.name = "isa",
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(isa),
     .argument = "NAME",
     .help = "kernels up to this instruction set: ref, portable, avx2, avx-vnni, avx512, "
             "avx512-vnni, avx512-bf16 or amx (default: the best of this CPU)",
     .flag_only = true},
    {.name = "profile",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(profile),
     .help = "measure the phases of steps on every rank; at the end a table on stderr, with --json "
             "an object on stdout",
     .flag_only = true},
    {.name = "log-level",
     .type = CALORIS_OPTION_CHOICE,
     .offset = AT(log_level),
     .choices = "debug|info|warn|error",
     .default_text = "info",
     .argument = "LEVEL",
     .help = "log lines below this are dropped"},
    {.name = "log-format",
     .type = CALORIS_OPTION_CHOICE,
     .offset = AT(log_format),
     .choices = "text|json",
     .default_text = "text",
     .argument = "FORMAT",
     .help = "log lines as text, or each as a JSON object"},
    {.name = "json",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(json),
     .help = "plan, doctor, --profile: one JSON object",
     .flag_only = true},
};

const struct caloris_program engine_program = {
    .name = "caloris-engine",
    .group = "engine",
    .usage = "mpirun -n N caloris-engine [--model DIR] {--gateway ENDPOINT | --cluster NAME}\n"
             "mpirun -n N caloris-engine [--model DIR] --jobs IN.jsonl --out OUT.jsonl [--resume] "
             "[--trace FILE]\n"
             "mpirun -n N caloris-engine [--model DIR] --logits IN.jsonl --out OUT.f32\n"
             "caloris-engine --comm threads --ranks N …\n"
             "caloris-engine plan [--model DIR] --ranks N [--weights FORMAT] [--json]\n"
             "caloris-engine doctor [--model DIR] [--json]\n"
             "caloris-engine shard MODEL_DIR --out DIR --weights FORMAT",
    .about =
        "Computes denoising steps of a masked-diffusion language model in tensor parallel "
        "over any number of ranks: "
        "as a group of a gateway, or offline from a file of jobs (proto/JOBS.md). Exit codes: 0 "
        "done, also where single jobs failed, 2 bad configuration or model (do not restart), "
        "69 a rank or the gateway is lost (restart), 70 internal error, 75 stopped "
        "by a signal or the end of its time: start it again to go on; doctor: 1 something "
        "is wrong; shard: 130 interrupted.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
};

bool engine_serves(const struct engine_values *v)
{
    return v->gateway || v->cluster;
}

int engine_check_usage(const struct engine_values *v, enum engine_verb verb,
                       struct caloris_err *err)
{
    const int modes = engine_serves(v) + (v->jobs != NULL) + (v->logits != NULL);
    if (verb != VERB_RUN && modes > 0)
        return caloris_err_set(err, CALORIS_USAGE,
                               "plan, doctor and shard take no --gateway, --cluster, --jobs or "
                               "--logits");
    if (verb == VERB_SHARD && (!v->model || !v->out || v->weights == 0))
        return caloris_err_set(err, CALORIS_USAGE,
                               "shard MODEL_DIR --out DIR --weights FORMAT: all three are needed");
    if (verb != VERB_RUN)
        return 0;
    if (v->silent_ms < SHORTEST_SILENCE_MS || v->stands_ms < v->silent_ms)
        return caloris_err_set(err, CALORIS_USAGE,
                               "rank-silent is at least %d ms, and rank-stands no shorter",
                               SHORTEST_SILENCE_MS);
    if (modes != 1)
        return caloris_err_set(err, CALORIS_USAGE,
                               "one of --gateway (or --cluster), --jobs and --logits says what to "
                               "do; --help tells more");
    if (v->gateway && v->cluster)
        return caloris_err_set(err, CALORIS_USAGE, "--gateway or --cluster, not both");
    if ((v->jobs || v->logits) && !v->out)
        return caloris_err_set(err, CALORIS_USAGE, "--out says where results go");
    if (v->resume && !v->jobs)
        return caloris_err_set(err, CALORIS_USAGE, "--resume goes with --jobs");
    if (v->trace && !v->jobs)
        return caloris_err_set(err, CALORIS_USAGE, "--trace goes with --jobs");
    if (v->resume && strcmp(v->jobs, "-") == 0)
        caloris_log(CALORIS_LOG_DEBUG,
                    "resuming from stdin: lines without id are named by their number");
    return 0;
}

/* The verb, if there is one, and for shard the folder, are no options: taken out of argv. */
enum engine_verb engine_take_verb(int *argc, char ***argv, char **operand)
{
    enum engine_verb verb = VERB_RUN;
    for (size_t i = 0; *argc > 1 && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (strcmp((*argv)[1], verbs[i].name) == 0)
            verb = verbs[i].verb;
    }
    const bool has_operand = verb == VERB_SHARD && *argc > 2 && (*argv)[2][0] != '-';
    const int taken = (verb != VERB_RUN) + has_operand;
    if (has_operand)
        *operand = (*argv)[2];
    (*argv)[taken] = (*argv)[0];
    *argv += taken;
    *argc -= taken;
    return verb;
}
