/* A finished job's result: its text on stdout, a line of figures on stderr. */
#include "client/cmd/cmd.h"

#include "base/buf.h"
#include "base/json.h"
#include "client/view/view.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int write_failed(const struct invocation *in)
{
    struct caloris_err err;
    caloris_err_sys(&err, "writing to stdout");
    return cmd_fail(in, &err);
}

/* The text ends its line; a terminal gets no control characters. */
static int print_text(const struct invocation *in, const char *text, size_t n)
{
    struct caloris_buf shown = CALORIS_BUF(8 * n + 16);
    struct caloris_err err;
    if (isatty(STDOUT_FILENO)) {
        if (caloris_view_text(text, n, &shown, &err) < 0) {
            caloris_buf_free(&shown);
            return cmd_fail(in, &err);
        }
        text = shown.data ? shown.data : "";
        n = shown.size;
    }
    bool good = fwrite(text, 1, n, stdout) == n;
    if (n == 0 || text[n - 1] != '\n')
        good &= putchar('\n') != EOF;
    good &= fflush(stdout) == 0;
    caloris_buf_free(&shown);
    return good ? EXIT_DONE : write_failed(in);
}

/* Where the model has no tokenizer: ids, as --ids takes them. */
static int print_ids(const struct invocation *in, const json_t *ids)
{
    for (size_t i = 0; i < json_array_size(ids); i++)
        printf("%s%" JSON_INTEGER_FORMAT, i ? "," : "", json_integer_value(json_array_get(ids, i)));
    putchar('\n');
    return fflush(stdout) == 0 ? EXIT_DONE : write_failed(in);
}

static void print_figures(const struct invocation *in, const json_t *result)
{
    json_int_t ranks = json_integer_value(json_object_get(result, "ranks"));
    json_int_t steps = json_integer_value(json_object_get(result, "steps"));
    json_int_t passes = json_integer_value(json_object_get(result, "forward_passes"));
    const json_t *usage = json_object_get(result, "usage");
    json_int_t tokens = json_integer_value(json_object_get(usage, "completion_tokens"));
    double seconds =
        json_number_value(json_object_get(json_object_get(result, "timings"), "denoise_s"));
    cmd_say(in,
            "%" JSON_INTEGER_FORMAT " rank%s, %" JSON_INTEGER_FORMAT
            " step%s (%" JSON_INTEGER_FORMAT " forward pass%s), %" JSON_INTEGER_FORMAT
            " tokens, %.2f tokens per step, %.1f tokens/s",
            ranks, ranks == 1 ? "" : "s", steps, steps == 1 ? "" : "s", passes,
            passes == 1 ? "" : "es", tokens, steps ? (double)tokens / (double)steps : 0,
            seconds > 0 ? (double)tokens / seconds : 0);
}

/* {"error": {"code", "message"}} */
static int print_error(const struct invocation *in, const char *what, const json_t *error)
{
    const char *message = json_string_value(json_object_get(error, "message"));
    cmd_say(in, "%s failed: %s", what, message ? message : "no reason is given");
    return EXIT_JOB_FAILED;
}

int cmd_print_result_json(const struct invocation *in, const char *what, const json_t *result,
                          bool figures)
{
    const json_t *error = json_object_get(result, "error");
    /* Nothing was to be generated: what is wanted is the prompt with its holes filled. */
    const bool filled = json_array_size(json_object_get(result, "ids")) == 0;
    const json_t *text = json_object_get(result, filled ? "canvas_text" : "text");
    int rc = error ? print_error(in, what, error)
             : json_is_string(text)
                 ? print_text(in, json_string_value(text), json_string_length(text))
                 : print_ids(in, json_object_get(result, filled ? "canvas" : "ids"));
    if (rc == EXIT_DONE && figures)
        print_figures(in, result);
    return rc;
}

int cmd_print_result(const struct invocation *in, struct caloris_client *client, uint64_t job,
                     bool figures)
{
    struct caloris_err err = {0};
    char what[48];
    json_t *result = NULL;
    int rc;
    snprintf(what, sizeof(what), "result of job %" PRIu64, job);
    caloris_answer *answer = caloris_client_results(client, job, &err);
    if (answer)
        result = caloris_json_parse((const char *)answer->result->result_json.data,
                                    answer->result->result_json.len, what, &err);
    caloris_answer_free(answer);
    if (!result)
        return cmd_fail(in, &err);

    snprintf(what, sizeof(what), "job %" PRIu64, job);
    if (in->flags.json) {
        rc = json_object_get(result, "error") ? cmd_print_result_json(in, what, result, false)
                                              : EXIT_DONE;
        int printed = cmd_print_json(in, json_incref(result));
        rc = printed ? printed : rc;
        if (rc == EXIT_DONE && figures)
            print_figures(in, result);
    } else {
        rc = cmd_print_result_json(in, what, result, figures);
    }
    json_decref(result);
    return rc;
}
