#include "coordinator/text/split.h"

#include "base/buf.h"
#include "base/err.h"
#include "coordinator/text/utf8.h"

#include <stdbool.h>
#include <string.h>

const char caloris_split_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{"
                                   "N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
                                   "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char caloris_split_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* What one match may cost: a constant, and so many steps for each byte of the piece. A pattern that
 * goes wild is an error instead of a hang. */
enum {
    LIMIT_BASE = 1 << 20,
    LIMIT_PER_BYTE = 8,
    LIMIT_DEPTH = 1 << 20,
    LIMIT_HEAP_KIB = 256 << 10
};

/* PCRE2's \s holds U+180E, which is no white space since Unicode 6.3 and not so to Oniguruma: spell
 * the set out. */
#define WHITE_SPACE "\\p{Z}\\x09-\\x0D\\x{85}"

/* The pattern with \s and \S replaced; \S inside a class has no such spelling and stays. */
static int translate(const char *pattern, size_t n, struct caloris_buf *to, struct caloris_err *err)
{
    bool in_class = false;
    size_t class_begin = 0;
    for (size_t i = 0; i < n; i++) {
        char c = pattern[i], next = i + 1 < n ? pattern[i + 1] : '\0';
        const char *instead = NULL;
        size_t taken = 1;
        if (c == '\\' && next) {
            taken = 2;
            if (next == 's')
                instead = in_class ? WHITE_SPACE : "[" WHITE_SPACE "]";
            else if (next == 'S' && !in_class)
                instead = "[^" WHITE_SPACE "]";
        } else if (c == '[' && !in_class) {
            in_class = true;
            class_begin = i + (next == '^' ? 2 : 1);
        } else if (c == ']' && in_class && i > class_begin) {
            in_class = false;
        }
        int rc = instead ? caloris_buf_append(to, instead, strlen(instead), err)
                         : caloris_buf_append(to, pattern + i, taken, err);
        if (rc < 0)
            return -1;
        i += taken - 1;
    }
    return 0;
}

int caloris_split_add(struct caloris_split *split, const char *pattern, size_t n,
                      enum caloris_split_kind kind, struct caloris_err *err)
{
    if (split->count == CALORIS_SPLIT_STAGES)
        return caloris_err_set(err, CALORIS_BAD_MODEL, "more than %d patterns",
                               CALORIS_SPLIT_STAGES);
    if (n == 0 || n > CALORIS_SPLIT_PATTERN_BYTES)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "a pattern of %zu bytes; 1 to %d are allowed", n,
                               CALORIS_SPLIT_PATTERN_BYTES);
    struct caloris_buf text = CALORIS_BUF(64 * CALORIS_SPLIT_PATTERN_BYTES);
    uint32_t options = kind == CALORIS_SPLIT_STRING
                           ? PCRE2_UTF | PCRE2_LITERAL
                           : PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    int rc = kind == CALORIS_SPLIT_STRING ? caloris_buf_append(&text, pattern, n, err)
                                          : translate(pattern, n, &text, err);
    if (rc < 0)
        goto out;
    int error;
    PCRE2_SIZE where;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)text.data, text.size, options, &error, &where, NULL);
    if (!code) {
        char reason[160];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof(reason));
        rc = caloris_err_set(err, CALORIS_BAD_MODEL, "pattern %.100s: %s", pattern, reason);
        goto out;
    }
    /* Without JIT (a kernel that forbids it) the interpreter gives the same matches. */
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    split->stage[split->count++] = code;
out:
    caloris_buf_free(&text);
    return rc;
}

void caloris_split_free(struct caloris_split *split)
{
    for (size_t i = 0; i < split->count; i++)
        pcre2_code_free(split->stage[i]);
    *split = (struct caloris_split){0};
}

int caloris_splitter_init(struct caloris_splitter *splitter, const struct caloris_split *split,
                          struct caloris_err *err)
{
    splitter->split = split;
    splitter->match = pcre2_match_data_create(1, NULL);
    splitter->limits = pcre2_match_context_create(NULL);
    if (!splitter->match || !splitter->limits)
        return caloris_err_set(err, CALORIS_NO_MEMORY, "no memory to match patterns");
    pcre2_set_depth_limit(splitter->limits, LIMIT_DEPTH);
    pcre2_set_heap_limit(splitter->limits, LIMIT_HEAP_KIB);
    return 0;
}

void caloris_splitter_free(struct caloris_splitter *splitter)
{
    pcre2_match_data_free(splitter->match);
    pcre2_match_context_free(splitter->limits);
}

/* The first match that is not empty at or after from: 1 and its place, 0 when there is none. */
static int next_match(struct caloris_splitter *splitter, const pcre2_code *code, const char *text,
                      size_t n, size_t from, size_t *begin, size_t *end, struct caloris_err *err)
{
    /* The text was checked once; checking it again for every match would be quadratic. */
    const uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int rc =
        pcre2_match(code, (PCRE2_SPTR)text, n, from, options, splitter->match, splitter->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)text, n, from, options | PCRE2_NO_JIT, splitter->match,
                         splitter->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        char reason[160];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof(reason));
        return caloris_err_set(
            err, CALORIS_BAD_REQUEST,
            "the model's split pattern gave up at byte %zu of a text of %zu bytes: %s", from, n,
            reason);
    }
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(splitter->match);
    if (place[0] < from || place[1] <= place[0] || place[1] > n)
        return caloris_err_set(err, CALORIS_BAD_MODEL,
                               "the model's split pattern moves its own start (\\K)");
    *begin = place[0];
    *end = place[1];
    return 1;
}

struct job {
    struct caloris_splitter *splitter;
    int (*each)(void *arg, const char *piece, size_t n, struct caloris_err *err);
    void *arg;
};

static int cut(const struct job *job, size_t stage, const char *text, size_t n,
               struct caloris_err *err)
{
    if (n == 0)
        return 0;
    if (stage == job->splitter->split->count)
        return job->each(job->arg, text, n, err);
    uint64_t limit = LIMIT_BASE + LIMIT_PER_BYTE * (uint64_t)n;
    size_t at = 0, begin = 0, end = 0;
    for (;;) {
        pcre2_set_match_limit(job->splitter->limits,
                              limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
        int found = next_match(job->splitter, job->splitter->split->stage[stage], text, n, at,
                               &begin, &end, err);
        if (found < 0)
            return -1;
        if (!found)
            return cut(job, stage + 1, text + at, n - at, err);
        if (cut(job, stage + 1, text + at, begin - at, err) < 0 ||
            cut(job, stage + 1, text + begin, end - begin, err) < 0)
            return -1;
        at = end;
    }
}

int caloris_splitter_run(struct caloris_splitter *splitter, const char *text, size_t n,
                         int (*each)(void *arg, const char *piece, size_t n,
                                     struct caloris_err *err),
                         void *arg, struct caloris_err *err)
{
    const struct job job = {splitter, each, arg};
    return cut(&job, 0, text, n, err);
}
