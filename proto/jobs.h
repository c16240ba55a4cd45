/* proto/jobs.h: the jobs schema of JOBS.md. The only parser of jobs in the project: offline
 * files, submit, batch, HTTP.
 *
 * A job is one JSON object; an unknown, ill-typed or out-of-range field is an error that names
 * it. What depends on the model (mask id, canvas length) is checked where the model is. One
 * table of fields makes parser, flags and docs.
 */
#ifndef CALORIS_JOBS_H
#define CALORIS_JOBS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_buf;
struct caloris_err;

enum {
    CALORIS_JOB_MAX_BYTES = 8 << 20, /* of one job's JSON */
    /* The same as a gateway keeps it: with what caloris_job_settle adds, and a seed. */
    CALORIS_JOB_MAX_STORED = CALORIS_JOB_MAX_BYTES + (4 << 10),
    CALORIS_JOB_MAX_ID = 256, /* bytes of id */
    CALORIS_JOB_MAX_TOKENS = 1 << 20,
    CALORIS_JOB_MAX_MESSAGES = 1024,
    CALORIS_JOB_MAX_NAME = 64,   /* bytes of hole, chat_template, a message's role */
    CALORIS_JOB_MAX_MODEL = 128, /* bytes of model */
    CALORIS_JOB_MAX_BEST = 64,   /* answers to one prompt */
    CALORIS_JOB_MAX_CANDIDATE = 65535,
};

enum caloris_preset { CALORIS_PRESET_EXACT, CALORIS_PRESET_BALANCED, CALORIS_PRESET_FAST };
enum caloris_order {
    CALORIS_ORDER_CONFIDENCE,
    CALORIS_ORDER_RANDOM,
    CALORIS_ORDER_MARGIN,
    CALORIS_ORDER_ENTROPY,
    CALORIS_ORDER_LEFT_TO_RIGHT,
};
enum caloris_commit {
    CALORIS_COMMIT_QUOTA,
    CALORIS_COMMIT_THRESHOLD,
    CALORIS_COMMIT_FACTOR,
    CALORIS_COMMIT_ENTROPY_BOUNDED,
};
enum caloris_quota { CALORIS_QUOTA_ALL, CALORIS_QUOTA_BLOCK };
enum caloris_cache {
    CALORIS_CACHE_NONE,
    CALORIS_CACHE_PREFIX,
    CALORIS_CACHE_DUAL,
    CALORIS_CACHE_ACTIVE
};

/* What a job may say of decoding, and of when; defaults filled in by the parser. JOBS.md has the
 * meaning of each. */
struct caloris_job_params {
    enum caloris_preset preset; /* where the fields that the job left open come from */
    uint32_t gen_length;        /* 0: only the prompt's holes are filled */
    uint32_t block_length;      /* at least 1, at most gen_length where that is not 0 */
    enum caloris_order order;
    enum caloris_commit commit;
    uint32_t steps; /* 0: one for every mask that the quota counts */
    double threshold, factor, gamma;
    double early_commit; /* 0: off */
    enum caloris_quota quota;
    double temperature, cfg_scale;
    enum caloris_cache cache;
    uint32_t refresh;   /* at least 1: full forwards stand at the entry of every so many blocks */
    int64_t seed;       /* -1: draw one */
    uint32_t best;      /* answers, of which the best is given; at least 1 */
    uint32_t candidate; /* which of the answers that a seed gives, of several the first */
    bool early_stop;
    int32_t eos_id, eot_id, mask_id; /* -1: what the model says */
    bool logits_eos_inf, confidence_eos_eot_inf;
    int64_t priority;    /* higher goes first */
    int64_t deadline_ms; /* > 0: since 1970; < 0: so long after acceptance; 0: none */
};

enum caloris_job_source { CALORIS_JOB_PROMPT, CALORIS_JOB_MESSAGES, CALORIS_JOB_IDS };

struct caloris_job_message {
    char *role, *content;
    size_t content_bytes;
};

struct caloris_job {
    char *id; /* NULL: none */
    enum caloris_job_source source;
    char *prompt; /* bytes, may hold NUL */
    size_t prompt_bytes;
    struct caloris_job_message *messages;
    size_t n_messages;
    int32_t *ids;
    size_t n_ids;
    char *hole;          /* text that stands for one mask in prompt or contents; NULL: none */
    char *chat_template; /* name; NULL: the model's */
    char *model;         /* which groups may compute it; NULL: all */
    struct caloris_job_params params;
};

/* What a job gets that says nothing: the preset balanced. */
void caloris_job_params_default(struct caloris_job_params *params);

/* ---- presets: named sets of fields ----------------------------------------------------------- */

enum { CALORIS_PRESET_FIELDS = 8 };
struct caloris_job_preset {
    const char *name, *help;
    struct {
        const char *name, *value;    /* as the text of a flag */
    } fields[CALORIS_PRESET_FIELDS]; /* the first without a name ends them */
};
extern const struct caloris_job_preset caloris_job_presets[]; /* by enum caloris_preset */
extern const size_t caloris_job_presets_count;

/* What a job gets that says nothing but its preset. */
void caloris_job_params_preset(struct caloris_job_params *params, enum caloris_preset preset);

/* A parsed job's JSON [n] with every field of decoding that it left open and that has a default
 * written out, so that it means the same to every later version; appended to settled, the bytes of
 * the job behind it as they came. *added (may be NULL): how many bytes stand between the brace and
 * them. */
int caloris_job_settle(const char *json, size_t n, const struct caloris_job *job,
                       struct caloris_buf *settled, size_t *added, struct caloris_err *err);

/* The job in n bytes of JSON (one object). Everything is checked that can be without a model.
 * Codes: BAD_REQUEST. On failure job->id is set if there was a usable one, so that the error can
 * be answered: free it all the same. */
int caloris_job_parse(const char *json, size_t n, struct caloris_job *job, struct caloris_err *err);
/* The same of a job that a gateway kept. */
int caloris_job_parse_stored(const char *json, size_t n, struct caloris_job *job,
                             struct caloris_err *err);
void caloris_job_free(struct caloris_job *job); /* the contents; a zeroed one is fine */

/* ---- lines of a batch: OpenAI's and our own -------------------------------------------------- */

enum caloris_line_form {
    CALORIS_LINE_JOB,        /* ours */
    CALORIS_LINE_CHAT,       /* OpenAI's, /v1/chat/completions */
    CALORIS_LINE_COMPLETION, /* OpenAI's, /v1/completions */
};
struct caloris_line {
    enum caloris_line_form form;
    char *id;        /* custom_id or id; NULL: none, or none that is usable */
    char *model;     /* that the line names; NULL: none */
    uint64_t number; /* in its file; the caller's */
};

/* The job in a line [n] of either form, checked, as JSON of our own form appended to job. On
 * failure (BAD_REQUEST) line says what is known of it; free it all the same. */
int caloris_line_read(const char *text, size_t n, struct caloris_line *line,
                      struct caloris_buf *job, struct caloris_err *err);
/* The result's JSON [n] of that line's job, in the line's form and with the line's number, as a
 * line of JSON with its newline appended to to. job: its number at the gateway, 0: none. */
int caloris_line_write(const struct caloris_line *line, uint64_t job, const char *result, size_t n,
                       struct caloris_buf *to, struct caloris_err *err);
/* Which line a written line [n] is of. 0: it does not say. */
uint64_t caloris_line_number(const char *text, size_t n);
bool caloris_line_failed(const char *text, size_t n);
void caloris_line_free(struct caloris_line *line); /* the contents */

/* The schema, for flags, help and docs: every field but the prompt itself (prompt | messages |
 * ids) and custom_id. */
enum caloris_job_field_type {
    CALORIS_FIELD_UINT,   /* uint32_t */
    CALORIS_FIELD_INT,    /* int64_t */
    CALORIS_FIELD_ID,     /* int32_t: a token id */
    CALORIS_FIELD_REAL,   /* double */
    CALORIS_FIELD_BOOL,   /* bool */
    CALORIS_FIELD_CHOICE, /* an enum: index into choices */
    CALORIS_FIELD_TEXT,   /* of struct caloris_job, not of its params */
    CALORIS_FIELD_WHEN,   /* int64_t: see deadline_ms */
};
struct caloris_job_field {
    const char *name; /* "gen_length"; as a flag: --gen-length */
    enum caloris_job_field_type type;
    double min, max;          /* of a number; of a text's bytes */
    const char *choices;      /* "confidence|random" */
    const char *default_text; /* "" when there is none, or the model decides */
    const char *help;         /* one line */
    size_t offset;            /* in struct caloris_job_params; text fields: SIZE_MAX */
};
extern const struct caloris_job_field caloris_job_fields[];
extern const size_t caloris_job_fields_count;

/* What a value of this field may be, in words: "a whole number from 1 to 1048576". Returns text. */
enum { CALORIS_FIELD_WORDS = 160 };
const char *caloris_job_field_words(const struct caloris_job_field *field,
                                    char text[CALORIS_FIELD_WORDS]);

/* Sets field in a job's JSON object from the text of a flag or variable ("0.9", "true",
 * "random"); the same checks. */
int caloris_job_set(json_t *job, const char *field, const char *text, struct caloris_err *err);

/* ---- results --------------------------------------------------------------------------------- */

/* One of several answers. */
struct caloris_job_answer {
    uint32_t candidate;
    double score;       /* NAN where nothing was scored */
    const int32_t *ids; /* [n_ids] of the result */
    const char *text;   /* [text_bytes]; NULL where the model has no tokenizer */
    size_t text_bytes;
    const char *finish_reason;
    uint64_t completion_tokens;
};

struct caloris_job_result {
    const char *id;                  /* NULL: none */
    const char *model;               /* that computed it; NULL: not said */
    const struct caloris_err *error; /* not NULL: a failed job; the rest is ignored */
    const int32_t *ids;              /* [n_ids]: the generated ones */
    size_t n_ids;
    const int32_t *canvas; /* [n_canvas]: all; NULL unless the prompt had holes */
    size_t n_canvas;
    const char *canvas_text; /* [canvas_text_bytes]: its text; NULL: none */
    size_t canvas_text_bytes;
    const char *text; /* [text_bytes]; NULL where the model has no tokenizer */
    size_t text_bytes;
    const char *finish_reason;                 /* "stop": an EOS or EoT came; "length" */
    uint64_t prompt_tokens, completion_tokens; /* completion: up to the first EOS or EoT */
    uint64_t forward_passes, steps;
    uint64_t rows; /* computed, over all forward passes */
    bool resumed;  /* another group began it: at this block, after so many forward passes */
    uint32_t resumed_block;
    uint64_t resumed_passes;
    uint64_t seed;
    double queue_s, denoise_s; /* waiting in the group; first to last step */
    uint32_t ranks;
    const struct caloris_job_answer *answers; /* [n_answers] best first; NULL: one was asked for */
    size_t n_answers;
};

/* One JSON object without a newline, appended to json. Text that is no valid UTF-8 is written
 * with U+FFFD. */
int caloris_job_result_write(const struct caloris_job_result *result, struct caloris_buf *json,
                             struct caloris_err *err);

#endif
