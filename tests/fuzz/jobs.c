/* A line of JOBS.md. What settles must parse again. */
#include "base/buf.h"
#include "base/err.h"
#include "proto/jobs.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct caloris_job job = {0}, again = {0};
    struct caloris_buf settled = CALORIS_BUF(CALORIS_JOB_MAX_STORED);
    struct caloris_err err;

    if (caloris_job_parse((const char *)data, size, &job, &err) == 0 &&
        caloris_job_settle((const char *)data, size, &job, &settled, NULL, &err) == 0 &&
        caloris_job_parse_stored((const char *)settled.data, settled.size, &again, &err) < 0)
        __builtin_trap();
    caloris_job_free(&again);
    caloris_job_free(&job);
    caloris_buf_free(&settled);
    return 0;
}
