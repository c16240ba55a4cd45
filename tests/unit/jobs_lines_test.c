/* Lines of a batch as jobs: what becomes of the fields that OpenAI's have, and what is refused in
 * which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "proto/jobs.h"

#include <string.h>

#define LINE(body)                                                                                 \
    "{\"custom_id\":\"p1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{"        \
    "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" body "}}"
#define JOB(fields)                                                                                \
    "{\"custom_id\":\"p1\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" fields "}"

static const struct {
    const char *line, *job; /* NULL: refused */
    const char *complaint;  /* the text begins with it */
} lines[] = {
    {LINE(""), JOB(""), NULL},
    {LINE(",\"max_tokens\":5"), JOB(",\"gen_length\":5"), NULL},
    {LINE(",\"max_completion_tokens\":5,\"seed\":7"), JOB(",\"gen_length\":5,\"seed\":7"), NULL},
    {LINE(",\"n\":1,\"stop\":null,\"user\":\"u\",\"store\":true"), JOB(""), NULL},
    {LINE(",\"n\":2"), NULL, "body: n: 2 is not supported"},
    {LINE(",\"heat\":2"), NULL, "body: \"heat\": unknown field"},
    {LINE("},\"heat\":{"), NULL, "\"heat\": unknown field beside body"},

    /* Numbers of any size: left out with what is left out, else a field's. */
    {LINE(",\"metadata\":{\"n\":82572006251298816000000},\"seed\":9007199254740991"),
     JOB(",\"seed\":9007199254740991"), NULL},
    {LINE(",\"seed\":82572006251298816000000"), NULL, "body: seed: 8.25720"},
    {"{\"id\":\"p1\",\"prompt\":\"x\",\"tests\":[82572006251298816000000]}", NULL,
     "\"tests\": unknown field"},
};

static void becomes_a_job_or_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct caloris_buf job = CALORIS_BUF(CALORIS_JOB_MAX_BYTES);
        struct caloris_line line;
        struct caloris_err err = {0};
        const int rc = caloris_line_read(lines[i].line, strlen(lines[i].line), &line, &job, &err);
        if (rc != (lines[i].job ? 0 : -1))
            fail_msg("%s\n  %d: %s", lines[i].line, rc, err.text);
        assert_string_equal(line.id, "p1"); /* so that a refusal can be answered */
        if (rc == 0) {
            assert_int_equal(job.size, strlen(lines[i].job));
            assert_memory_equal(job.data, lines[i].job, job.size);
        } else if (strncmp(err.text, lines[i].complaint, strlen(lines[i].complaint)) != 0) {
            fail_msg("%s\n  expected: %s\n  found:    %s", lines[i].line, lines[i].complaint,
                     err.text);
        }
        caloris_line_free(&line);
        caloris_buf_free(&job);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(becomes_a_job_or_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
