/* tests/unit/text_support.h: what the tests of coordinator/text share. */
#ifndef CALORIS_TEXT_SUPPORT_H
#define CALORIS_TEXT_SUPPORT_H

#include "coordinator/text/text.h"

/* The path of a file of the source tree; lives until the next four calls. */
const char *source_path(const char *name);

/* The tokenizer of a folder; the test fails when it cannot be loaded. */
struct caloris_tokenizer *load_tokenizer(const char *dir);

/* Exact comparison; a failing test prints both lists and what. */
void check_ids(const char *what, const struct caloris_ids *found, const int32_t *expected,
               size_t count);

/* "785,3974" to ids; "e4bda0" and a TAB to bytes (returns how many). Else the test fails. */
struct caloris_ids parse_ids(const char *list);
size_t parse_hex(const char *hex, char *bytes, size_t size);

/* A folder that is gone, with its files, after temp_folder_remove. */
struct temp_folder {
    char path[64];
};
struct temp_folder temp_folder_make(void);
void temp_folder_write(const struct temp_folder *folder, const char *name, const char *text);
void temp_folder_link(const struct temp_folder *folder, const char *name, const char *target);
void temp_folder_remove(const struct temp_folder *folder);

/* Asserts that id, text and id again are the same bytes: encode, decode, compare. */
void check_round_trip(const struct caloris_tokenizer *tok, const char *text, size_t n);

#endif
