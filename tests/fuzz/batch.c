/* A line of a batch: of the input, in either form; and one of the output, which --resume reads.
 * What is written for a line says its number. */
#include "base/buf.h"
#include "base/err.h"
#include "proto/jobs.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char result[] = "{\"id\":null,\"ids\":[1],\"text\":\"x\",\"steps\":1}";
    const char *text = (const char *)data;
    struct caloris_line line = {.id = NULL};
    struct caloris_buf job = CALORIS_BUF(2 * CALORIS_JOB_MAX_BYTES);
    struct caloris_buf out = CALORIS_BUF(2 * CALORIS_JOB_MAX_BYTES);
    struct caloris_job parsed = {0};
    struct caloris_err err;

    (void)caloris_line_number(text, size);
    (void)caloris_line_failed(text, size);
    if (caloris_line_read(text, size, &line, &job, &err) == 0) {
        if (caloris_job_parse(job.data, job.size, &parsed, &err) < 0)
            __builtin_trap();
        caloris_job_free(&parsed);
    }
    line.number = 7;
    if (caloris_line_write(&line, 1, result, sizeof result - 1, &out, &err) == 0 &&
        (caloris_line_number(out.data, out.size - 1) != 7 ||
         caloris_line_failed(out.data, out.size - 1)))
        __builtin_trap();
    caloris_buf_clear(&out);
    (void)caloris_line_write(&line, 1, text, size, &out, &err);
    caloris_line_free(&line);
    caloris_buf_free(&job);
    caloris_buf_free(&out);
    return 0;
}
