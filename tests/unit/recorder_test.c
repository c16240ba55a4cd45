/* Recordings of requests in one file: what cannot be recorded costs the others nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "coordinator/link/recorder.h"
#include "proto/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LENGTH = 3, PROMPT = 1, MASK = 9 };

static char path[32];
static const struct link_model no_tokenizer;

static int make_file(void **state)
{
    (void)state;
    strcpy(path, "/tmp/caloris-recorder-XXXXXX");
    const int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

/* A request that is seen twice, and whose canvas is said to be so long. */
static void record(struct link_recorder *recorder, char *id, size_t length)
{
    static const char json[] = "{\"ids\":[1]}";
    const struct link_job job = {
        .id = id, .seed = 7, .mask_id = MASK, .prompt = PROMPT, .length = length};
    struct caloris_job parsed = {0};
    struct caloris_err err = {0};
    struct caloris_buf result = CALORIS_BUF(1 << 10);
    struct link_recording recording;
    assert_int_equal(caloris_job_parse(json, strlen(json), &parsed, &err), 0);
    parsed.id = strdup(id);
    link_recording_begin(recorder, &recording, &parsed, json, strlen(json));
    struct caloris_reveal reveals[LENGTH] = {{0, 1, 0, 0}, {1, MASK, 0, 0}, {2, MASK, 0, 0}};
    const struct caloris_event canvas = {.kind = CALORIS_EVENT_SNAPSHOT,
                                         .masks_left = LENGTH - PROMPT,
                                         .reveals = reveals,
                                         .n_reveals = LENGTH};
    link_recording_add(recorder, &recording, &no_tokenizer, &job, &canvas);
    link_recording_add(recorder, &recording, &no_tokenizer, &job, &canvas);
    assert_true(caloris_buf_printf(&result, &err, "{\"id\":\"%s\"}", id) == 0);
    link_recording_end(recorder, &recording, &job, &result);
    link_recording_free(&recording);
    caloris_job_free(&parsed);
    caloris_buf_free(&result);
}

/* The ids of the file's recordings, one behind the other. */
static void read_ids(char *ids, size_t room)
{
    struct caloris_trace_entry entry;
    struct caloris_err err = {0};
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    struct caloris_trace *trace = caloris_trace_open(file, path, &err);
    int n;
    *ids = '\0';
    while ((n = caloris_trace_next(trace, &entry, &err)) == 1) {
        if (entry.kind == CALORIS_TRACE_RESULT)
            snprintf(ids + strlen(ids), room - strlen(ids), "%s ",
                     json_string_value(json_object_get(entry.head, "id")));
    }
    if (n < 0)
        fail_msg("%s", err.text);
    caloris_trace_close(trace);
    fclose(file);
}

static void one_that_cannot_be_recorded_is_left_out(void **state)
{
    (void)state;
    struct link_recorder recorder = {.path = path, .model = "none", .fd = -1};
    struct caloris_err err = {0};
    char ids[64];
    assert_int_equal(link_recorder_open(&recorder, false, &err), 0);
    record(&recorder, "a", LENGTH);
    record(&recorder, "long", CALORIS_TRACE_MAX_CELLS + 1);
    record(&recorder, "b", LENGTH);
    link_recorder_close(&recorder);
    read_ids(ids, sizeof(ids));
    assert_string_equal(ids, "a b ");
}

/* The recording is written before the result: a run that ends in between has one without the
 * other, and computes the job again. */
static void what_is_there_is_not_recorded_again(void **state)
{
    (void)state;
    struct link_recorder recorder = {.path = path, .model = "none", .fd = -1};
    struct caloris_err err = {0};
    char ids[64];
    assert_int_equal(link_recorder_open(&recorder, false, &err), 0);
    record(&recorder, "a", LENGTH);
    record(&recorder, "b", LENGTH);
    link_recorder_close(&recorder);
    assert_int_equal(link_recorder_open(&recorder, true, &err), 0);
    record(&recorder, "b", LENGTH);
    record(&recorder, "c", LENGTH);
    link_recorder_close(&recorder);
    read_ids(ids, sizeof(ids));
    assert_string_equal(ids, "a b c ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_that_cannot_be_recorded_is_left_out, make_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(what_is_there_is_not_recorded_again, make_file,
                                        remove_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
