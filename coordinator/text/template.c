#include "coordinator/text/tokenizer.h"

#include "base/err.h"
#include "coordinator/text/utf8.h"

#include <string.h>

/* Chat templates: a newcomer adds a line. Words are our own text, in which literals of added tokens
 * are ids; {bos}, {role} and {content} stand for the tokenizer's bos and for what the user says,
 * which is always text.
 *
 *   llada   LLaDA-8B, LLaDA-1.5 and the demo model: Llama-3's headers, contents trimmed, bos before
 *           the first message
 *   plain   contents as they are, a newline between two of them, nothing else: for models that were
 *           taught no chat
 */
enum { MARKS = 6 };

struct caloris_template {
    const char *name;
    const char *before;  /* the first message */
    const char *message; /* each one */
    const char *between; /* two of them */
    const char *after;   /* the last: the header of the answer */
    enum { AS_IT_IS, TRIMMED } contents;
    const char *tokens[MARKS]; /* added tokens that the words need */
    /* A folder's chat_template is this one when it holds all of tokens and of has and none of
     * lacks. */
    const char *has[MARKS], *lacks[MARKS];
};

static const struct caloris_template templates[] = {
    {
        .name = "llada",
        .before = "{bos}",
        .message = "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        .between = "",
        .after = "<|start_header_id|>assistant<|end_header_id|>\n\n",
        .contents = TRIMMED,
        .tokens = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
        .has = {"bos_token", "trim", "add_generation_prompt"},
        .lacks = {"tools", "date_string"}, /* later Llamas write more into the system turn */
    },
    {
        .name = "plain",
        .before = "",
        .message = "{content}",
        .between = "\n",
        .after = "",
        .contents = AS_IT_IS,
        /* No tokens: nothing in a folder can tell it, a request names it. */
    },
};

enum { TEMPLATES = sizeof(templates) / sizeof(templates[0]) };

static const char *const roles[] = {"system", "user", "assistant"};

static bool fits(const struct caloris_template *t, const char *text)
{
    if (!t->tokens[0])
        return false;
    for (size_t i = 0; i < MARKS; i++)
        if ((t->tokens[i] && !strstr(text, t->tokens[i])) ||
            (t->has[i] && !strstr(text, t->has[i])) || (t->lacks[i] && strstr(text, t->lacks[i])))
            return false;
    return true;
}

const struct caloris_template *caloris_template_detect(const char *chat_template)
{
    for (size_t i = 0; i < TEMPLATES; i++)
        if (fits(&templates[i], chat_template))
            return &templates[i];
    return NULL;
}

const char *caloris_tokenizer_template(const struct caloris_tokenizer *tokenizer)
{
    return tokenizer->chat ? tokenizer->chat->name : NULL;
}

/* The template that a request names, or the folder's; it must suit the vocabulary. */
static const struct caloris_template *choose(const struct caloris_tokenizer *tok, const char *name,
                                             struct caloris_err *err)
{
    const struct caloris_template *chosen = name ? NULL : tok->chat;
    for (size_t i = 0; name && i < TEMPLATES; i++)
        if (strcmp(templates[i].name, name) == 0)
            chosen = &templates[i];
    if (!chosen) {
        struct caloris_buf names = CALORIS_BUF(256);
        for (size_t i = 0; i < TEMPLATES; i++)
            caloris_buf_printf(&names, NULL, "%s%s", i ? ", " : "", templates[i].name);
        if (name)
            caloris_err_set(err, CALORIS_BAD_REQUEST,
                            "template: there is no \"%.40s\" (there are: %s)", name, names.data);
        else
            caloris_err_set(err, CALORIS_BAD_REQUEST,
                            "messages: the model has no chat template that we know; name a "
                            "template (%s) or give a"
                            " prompt",
                            names.data);
        caloris_buf_free(&names);
        return NULL;
    }
    for (size_t i = 0; i < MARKS && chosen->tokens[i]; i++) {
        int32_t id = caloris_tokenizer_literal(tok, chosen->tokens[i], strlen(chosen->tokens[i]));
        if (id >= 0 && tok->vocab.token[id].added)
            continue;
        caloris_err_set(err, CALORIS_BAD_REQUEST,
                        "template: \"%s\" needs the token %s, which the model has not",
                        chosen->name, chosen->tokens[i]);
        return NULL;
    }
    return chosen;
}

struct rendering {
    const struct caloris_tokenizer *tok;
    const struct caloris_template *chosen;
    const struct caloris_message *message; /* the one at hand, or NULL */
    const char *marker;
    int32_t mask_id;
    struct caloris_draft draft;
};

static int put_bos(struct rendering *r, struct caloris_err *err)
{
    int32_t bos = r->tok->role[CALORIS_ROLE_BOS];
    if (bos < 0)
        return caloris_err_set(
            err, CALORIS_BAD_REQUEST,
            "template: \"%s\" needs a bos_token, which the model's tokenizer does not name",
            r->chosen->name);
    return caloris_draft_id(&r->draft, bos, err);
}

static int put_role(struct rendering *r, struct caloris_err *err)
{
    return caloris_draft_user(&r->draft, r->message->role, strlen(r->message->role), NULL, -1, err);
}

static int put_content(struct rendering *r, struct caloris_err *err)
{
    const char *text = r->message->content_bytes ? r->message->content : "";
    size_t n = r->message->content_bytes;
    if (r->chosen->contents == TRIMMED) {
        size_t space = caloris_utf8_space_after(text, n, CALORIS_UTF8_PYTHON_SPACE);
        text += space;
        n -= space;
        n -= caloris_utf8_space_before(text, n, CALORIS_UTF8_PYTHON_SPACE);
    }
    return caloris_draft_user(&r->draft, text, n, r->marker, r->mask_id, err);
}

static const struct {
    const char *name;
    int (*put)(struct rendering *, struct caloris_err *);
} blanks[] = {
    {"{bos}", put_bos},
    {"{role}", put_role},
    {"{content}", put_content},
};

/* Words up to the first blank, the blank, and so on. */
static int put_words(struct rendering *r, const char *words, struct caloris_err *err)
{
    while (*words) {
        const char *first = words + strlen(words);
        size_t blank = sizeof(blanks) / sizeof(blanks[0]);
        for (size_t i = 0; i < sizeof(blanks) / sizeof(blanks[0]); i++) {
            const char *place = strstr(words, blanks[i].name);
            if (place && place < first) {
                first = place;
                blank = i;
            }
        }
        if (caloris_draft_words(&r->draft, r->tok, words, (size_t)(first - words), err) < 0)
            return -1;
        if (blank == sizeof(blanks) / sizeof(blanks[0]))
            return 0;
        if (blanks[blank].put(r, err) < 0)
            return -1;
        words = first + strlen(blanks[blank].name);
    }
    return 0;
}

static int check_role(const struct caloris_message *message, size_t i, struct caloris_err *err)
{
    for (size_t k = 0; message->role && k < sizeof(roles) / sizeof(roles[0]); k++)
        if (strcmp(message->role, roles[k]) == 0)
            return 0;
    return caloris_err_set(err, CALORIS_BAD_REQUEST,
                           "messages[%zu].role: \"%.40s\" is not system, user or assistant", i,
                           message->role ? message->role : "");
}

int caloris_tokenizer_render(const struct caloris_tokenizer *tokenizer, const char *template_name,
                             const struct caloris_message *messages, size_t n, const char *marker,
                             int32_t mask_id, struct caloris_ids *ids, struct caloris_err *err)
{
    struct rendering r = {
        .tok = tokenizer,
        .chosen = choose(tokenizer, template_name, err),
        .marker = marker,
        .mask_id = mask_id,
        .draft = CALORIS_DRAFT,
    };
    if (!r.chosen)
        return -1;
    if (n == 0)
        return caloris_err_set(err, CALORIS_BAD_REQUEST, "messages: there are none");
    int rc = -1;
    if (put_words(&r, r.chosen->before, err) < 0)
        goto out;
    for (size_t i = 0; i < n; i++) {
        r.message = &messages[i];
        if (check_role(r.message, i, err) < 0 ||
            (i > 0 && put_words(&r, r.chosen->between, err) < 0) ||
            put_words(&r, r.chosen->message, err) < 0)
            goto out;
    }
    if (put_words(&r, r.chosen->after, err) < 0)
        goto out;
    rc = caloris_draft_encode(&r.draft, tokenizer, ids, err);
out:
    caloris_draft_free(&r.draft);
    return rc;
}
