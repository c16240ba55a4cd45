/* The gateway's figures, as Prometheus reads them or as JSON. */
#include "client/cmd/cmd.h"

#include <stdlib.h>
#include <string.h>

/* A copy of the n bytes at text; "" without memory. */
static json_t *string(const char *text, size_t n)
{
    json_t *value = json_stringn(text, n);
    return value ? value : json_string("");
}

/* {name: value, …} from "name="value",…}": values end at a quote that is not escaped. */
static json_t *read_labels(const char *at, const char *end)
{
    json_t *labels = json_object();
    while (at < end) {
        const char *equals = memchr(at, '=', (size_t)(end - at));
        if (!equals || end - equals < 2)
            break;
        const char *value = equals + 2, *close = value;
        while (close < end && *close != '"')
            close += *close == '\\' && close + 1 < end ? 2 : 1;
        json_t *text = string(value, (size_t)(close - value));
        char name[64];
        snprintf(name, sizeof(name), "%.*s", (int)(equals - at), at);
        json_object_set_new(labels, name, text);
        at = close < end ? close + 2 : end; /* behind the quote and the comma */
    }
    return labels;
}

/* {"name", "labels", "value"} of a line without its newline. */
static json_t *read_sample(const char *line, size_t n)
{
    json_t *sample = json_object();
    const char *end = line + n, *brace = memchr(line, '{', n);
    const char *space = end;
    while (space > line && space[-1] != ' ')
        space--;
    const char *name_end = brace ? brace : space > line ? space - 1 : line;
    json_object_set_new(sample, "name", string(line, (size_t)(name_end - line)));
    if (brace && space - 2 > brace)
        json_object_set_new(sample, "labels", read_labels(brace + 1, space - 2));
    char number[40];
    snprintf(number, sizeof(number), "%.*s", (int)(end - space), space);
    json_object_set_new(sample, "value", json_real(strtod(number, NULL)));
    return sample;
}

static json_t *metrics_json(const char *text, size_t n)
{
    json_t *samples = json_array();
    while (n > 0) {
        const char *newline = memchr(text, '\n', n);
        const size_t line = newline ? (size_t)(newline - text) : n;
        if (line > 0 && text[0] != '#')
            json_array_append_new(samples, read_sample(text, line));
        text += newline ? line + 1 : n;
        n -= newline ? line + 1 : n;
    }
    return json_pack("{s:o}", "samples", samples);
}

int verb_metrics(struct invocation *in)
{
    struct caloris_err err = {0};
    int rc = EXIT_DONE;
    struct caloris_client *client = cmd_connect(in, &err);
    caloris_answer *answer = client ? caloris_client_metrics(client, &err) : NULL;
    if (!answer) {
        rc = cmd_fail(in, &err);
    } else {
        const ProtobufCBinaryData *text = &answer->metrics->text;
        if (in->flags.json)
            rc = cmd_print_json(in, metrics_json((const char *)text->data, text->len));
        else
            fwrite(text->data, 1, text->len, stdout);
    }
    caloris_answer_free(answer);
    caloris_client_close(client);
    return rc;
}
