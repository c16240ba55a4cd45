/* coordinator/text/text.h: text to token ids and back.
 *
 * Byte-level BPE as Hugging Face tokenizers does it, from a model folder: tokenizer.json, or
 * vocab.json + merges.txt, with tokenizer_config.json (added_tokens_decoder, names of special
 * tokens, chat_template) and special_tokens_map.json where they are there. PCRE2 splits, utf8proc
 * normalises to NFC where the file asks for it. No post-processor: nothing puts a BOS before text.
 *
 * A special token's literal in user text is text; only templates and hole markers make special ids.
 * Added tokens that are not special ("<think>" of some families) are found in user text too.
 *
 * Text is bytes with a length, at most 8 MiB a call. It need not be valid UTF-8: bytes that are no
 * character become pieces of their own, and decoding gives back every byte (in NFC, and without the
 * white space that an added token with lstrip or rstrip swallows). A tokenizer is read-only after
 * loading: threads may share it.
 */
#ifndef CALORIS_TEXT_H
#define CALORIS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caloris_buf;
struct caloris_err;
struct caloris_tokenizer;

/* The tokenizer of a model folder. NULL and err; *found (may be NULL) tells a folder that has none
 * (false: the folder serves jobs of ids only) from one whose files are bad. Free with
 * caloris_tokenizer_free. */
struct caloris_tokenizer *caloris_tokenizer_load(const char *model_dir, bool *found,
                                                 struct caloris_err *err);
void caloris_tokenizer_free(struct caloris_tokenizer *tokenizer);

/* The largest id + 1. */
size_t caloris_tokenizer_size(const struct caloris_tokenizer *tokenizer);

/* The id of an added or ordinary token by its literal text ("<|mdm_mask|>"), or -1. */
int32_t caloris_tokenizer_find(const struct caloris_tokenizer *tokenizer, const char *token);

/* What the folder says, or -1: mask (tokenizer_config mask_token, or an added token whose name says
 * mask), eos, eot (the end of a chat turn: <|eot_id|>, <|im_end|>, <|role_end|>), bos. */
int32_t caloris_tokenizer_mask_id(const struct caloris_tokenizer *tokenizer);
int32_t caloris_tokenizer_eos_id(const struct caloris_tokenizer *tokenizer);
int32_t caloris_tokenizer_eot_id(const struct caloris_tokenizer *tokenizer);
int32_t caloris_tokenizer_bos_id(const struct caloris_tokenizer *tokenizer);

/* True for control tokens that no shown text may hold. */
bool caloris_tokenizer_is_special(const struct caloris_tokenizer *tokenizer, int32_t id);

/* Ids that grow; free with caloris_ids_free. */
struct caloris_ids {
    int32_t *id;
    size_t count, capacity;
};
void caloris_ids_free(struct caloris_ids *ids);
int caloris_ids_append(struct caloris_ids *ids, int32_t id, struct caloris_err *err);

/* USER: literals of special tokens are text. MARKUP: they become their ids (for templates' own
 * words only). */
enum caloris_text_mode { CALORIS_TEXT_USER, CALORIS_TEXT_MARKUP };

/* Appends the ids of text [n]. On failure nothing is appended. */
int caloris_tokenizer_encode(const struct caloris_tokenizer *tokenizer, const char *text, size_t n,
                             enum caloris_text_mode mode, struct caloris_ids *ids,
                             struct caloris_err *err);

/* User text in which every occurrence of marker stands for one mask: "return [M][M]". What is
 * between two holes is encoded on its own. */
int caloris_tokenizer_encode_holes(const struct caloris_tokenizer *tokenizer, const char *text,
                                   size_t n, const char *marker, int32_t mask_id,
                                   struct caloris_ids *ids, struct caloris_err *err);

/* Appends the bytes of ids [n]; ids without a token give nothing; special tokens too unless
 * with_special. The bytes may end inside a UTF-8 character. */
int caloris_tokenizer_decode(const struct caloris_tokenizer *tokenizer, const int32_t *ids,
                             size_t n, bool with_special, struct caloris_buf *text,
                             struct caloris_err *err);

/* ---- streaming: never half a UTF-8 character ---- */

struct caloris_detokenizer;
struct caloris_detokenizer *caloris_detokenizer_new(const struct caloris_tokenizer *tokenizer,
                                                    struct caloris_err *err);
void caloris_detokenizer_free(struct caloris_detokenizer *detokenizer);

/* Appends to text the whole characters that id completes; what is not yet a character is kept.
 * Bytes that can no longer become one come out as U+FFFD. */
int caloris_detokenizer_push(struct caloris_detokenizer *detokenizer, int32_t id,
                             struct caloris_buf *text, struct caloris_err *err);

/* The end: what is kept comes out as U+FFFD. The detokenizer starts afresh. */
int caloris_detokenizer_finish(struct caloris_detokenizer *detokenizer, struct caloris_buf *text,
                               struct caloris_err *err);

/* ---- chat templates ---- */

struct caloris_message {
    const char *role, *content;
    size_t content_bytes;
};

/* The name of the template that fits the folder's chat_template ("llada"), or NULL when it has none
 * that we know: then messages are refused unless the request names a template ("plain": contents
 * as they are, one newline between two). */
const char *caloris_tokenizer_template(const struct caloris_tokenizer *tokenizer);

/* Ids of a conversation up to and with the header of the assistant's answer. template_name: NULL
 * for the folder's. Roles: system, user, assistant. Contents are user text, tokenized together with
 * the template's words around them as third-party code does with the rendered whole. marker (may be
 * NULL): holes in contents, as in caloris_tokenizer_encode_holes. */
int caloris_tokenizer_render(const struct caloris_tokenizer *tokenizer, const char *template_name,
                             const struct caloris_message *messages, size_t n, const char *marker,
                             int32_t mask_id, struct caloris_ids *ids, struct caloris_err *err);

#endif
