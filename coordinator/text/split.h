/* coordinator/text/split.h: text to the pieces that merges never cross.
 *
 * One or more stages, each a pattern that cuts every piece of the stage before into its matches and
 * what lies between them. Patterns are read as Hugging Face's engine (Oniguruma) reads them.
 */
#ifndef CALORIS_TEXT_SPLIT_H
#define CALORIS_TEXT_SPLIT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stddef.h>

struct caloris_err;

enum { CALORIS_SPLIT_STAGES = 8, CALORIS_SPLIT_PATTERN_BYTES = 16 << 10 };

/* Start from {0}. */
struct caloris_split {
    pcre2_code *stage[CALORIS_SPLIT_STAGES];
    size_t count;
};

/* What a folder without tokenizer.json, and ByteLevel with use_regex, take for granted. */
extern const char caloris_split_qwen2[];
extern const char caloris_split_gpt2[];

/* Appends a stage. REGEX: a pattern; STRING: a text that stands for itself. */
enum caloris_split_kind { CALORIS_SPLIT_REGEX, CALORIS_SPLIT_STRING };
int caloris_split_add(struct caloris_split *split, const char *pattern, size_t n,
                      enum caloris_split_kind kind, struct caloris_err *err);
void caloris_split_free(struct caloris_split *split);

/* What one thread needs to match. */
struct caloris_splitter {
    const struct caloris_split *split;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};
int caloris_splitter_init(struct caloris_splitter *splitter, const struct caloris_split *split,
                          struct caloris_err *err);
void caloris_splitter_free(struct caloris_splitter *splitter);

/* Calls each(arg, piece, n) for the pieces of text [n], which must be valid UTF-8; stops when it
 * returns -1. */
int caloris_splitter_run(struct caloris_splitter *splitter, const char *text, size_t n,
                         int (*each)(void *arg, const char *piece, size_t n,
                                     struct caloris_err *err),
                         void *arg, struct caloris_err *err);

#endif
