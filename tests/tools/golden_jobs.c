/* Recorded runs as jobs, and results held against them, for the script tests.
 *
 *   golden_jobs make SET             jobs, one a line
 *   golden_jobs check SET RESULTS    each job of the set has exactly one result, the recorded one
 *   golden_jobs logits SET INPUT…    {"ids": […]} lines of the named inputs of cases.json
 *
 * SET is a model of tests/golden/models (its decodes), tinycoder (the runs of the demo model's
 * reference.json), tinycoder:N, the runs of one setting (params number N of each prompt), or
 * tinycoder:N:M, those of the first M prompts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/json.h"
#include "tests/unit/golden_decodes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 22 };

/* All: array of {"job", "ids", "canvas" (where the prompt has holes), "forward_passes" (null: as
 * many as it takes)}. */

static json_t *id_array(const int32_t *ids, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}

static json_t *read_decodes(const char *model)
{
    struct golden_decodes decodes;
    golden_decodes_load(model, &decodes);
    json_t *all = json_array();
    for (size_t i = 0; i < decodes.count; i++) {
        const struct golden_decode *decode = &decodes.decode[i];
        json_t *job = json_deep_copy(decode->job);
        json_object_set_new(job, "id", json_string(decode->name));
        json_object_set_new(job, "ids", id_array(decode->prompt, decode->n_prompt));
        json_t *one =
            json_pack("{s:o, s:o, s:I}", "job", job, "ids",
                      id_array(decode->final + decode->n_prompt, decode->length - decode->n_prompt),
                      "forward_passes", (json_int_t)decode->calls);
        if (decode->holes)
            json_object_set_new(one, "canvas", id_array(decode->final, decode->length));
        json_array_append_new(all, one);
    }
    golden_decodes_free(&decodes);
    return all;
}

/* DIR/NAME/FILE of the source tree. */
static json_t *load(const char *dir, const char *name, const char *file)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s/%s/%s", getenv("CALORIS_SOURCE_DIR"), dir, name, file);
    struct caloris_err err;
    json_t *json = caloris_json_load(path, MAX_FILE_BYTES, &err);
    if (!json) {
        fprintf(stderr, "%s\n", err.text);
        exit(2);
    }
    return json;
}

static void add_run(json_t *all, const json_t *file, const json_t *request, size_t number)
{
    static const char *const for_all[] = {"early_stop", "temperature", "quota"};
    const json_t *run = json_array_get(json_object_get(request, "runs"), number);
    json_t *job = json_copy(json_object_get(run, "params"));
    const char *cache = json_string_value(json_object_get(job, "cache"));
    /* With a cache the recorded loop makes passes that reveal nothing, and ours does not. */
    const bool counts = !cache || strcmp(cache, "none") == 0;
    for (size_t i = 0; i < sizeof(for_all) / sizeof(for_all[0]); i++)
        json_object_set(job, for_all[i], json_object_get(file, for_all[i]));
    char id[64];
    snprintf(id, sizeof(id), "%s-%zu", json_string_value(json_object_get(request, "id")), number);
    json_object_set_new(job, "id", json_string(id));
    json_object_set(job, "ids", json_object_get(request, "prompt_ids"));
    json_t *one = json_pack("{s:o, s:O, s:n}", "job", job, "ids", json_object_get(run, "ids"),
                            "forward_passes");
    if (counts)
        json_object_set(one, "forward_passes", json_object_get(run, "forward_passes"));
    json_array_append_new(all, one);
}

/* Of one setting, NULL: of all; "N" or "N:M". */
static json_t *read_reference(const char *only)
{
    char *end = NULL;
    const size_t setting = only ? strtoul(only, &end, 10) : 0;
    const size_t most = end && *end == ':' ? strtoul(end + 1, NULL, 10) : SIZE_MAX;
    json_t *file = load("deploy/models", "tinycoder", "reference.json");
    json_t *all = json_array();
    size_t i;
    json_t *request;
    json_array_foreach(json_object_get(file, "requests"), i, request)
    {
        const size_t runs = json_array_size(json_object_get(request, "runs"));
        for (size_t number = 0; number < runs && i < most; number++) {
            if (!only || number == setting)
                add_run(all, file, request, number);
        }
    }
    json_decref(file);
    return all;
}

static json_t *read_set(const char *set)
{
    static const char demo[] = "tinycoder";
    const size_t n = sizeof(demo) - 1;
    json_t *all = strncmp(set, demo, n) != 0 ? read_decodes(set)
                  : set[n] == ':'            ? read_reference(set + n + 1)
                                             : read_reference(NULL);
    if (json_array_size(all) == 0) {
        fprintf(stderr, "%s: no runs\n", set);
        exit(2);
    }
    return all;
}

static void print_line(json_t *json)
{
    json_dumpf(json, stdout, JSON_COMPACT);
    putchar('\n');
}

static int make(json_t *all)
{
    size_t i;
    json_t *one;
    json_array_foreach(all, i, one) print_line(json_object_get(one, "job"));
    return 0;
}

/* 0, or 1 and a line that says what is not as recorded. */
static int compare(const char *id, const json_t *one, const json_t *result)
{
    static const char *const fields[] = {"ids", "canvas", "forward_passes"};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        json_t *expected = json_object_get(one, fields[i]);
        json_t *found = json_object_get(result, fields[i]);
        if (json_is_null(expected) || (!expected && !found) ||
            (expected && found && json_equal(expected, found)))
            continue;
        char *text[2] = {expected ? json_dumps(expected, JSON_COMPACT | JSON_ENCODE_ANY) : NULL,
                         json_dumps(found ? found : result, JSON_COMPACT | JSON_ENCODE_ANY)};
        printf("%s: %s: expected %s, found %s\n", id, fields[i], text[0] ? text[0] : "none",
               text[1]);
        free(text[0]);
        free(text[1]);
        return 1;
    }
    return 0;
}

static int check(json_t *all, const char *path)
{
    json_t *open = json_object(); /* id -> what is expected; taken out when its result comes */
    size_t i;
    json_t *one;
    json_array_foreach(all, i, one) json_object_set(
        open, json_string_value(json_object_get(json_object_get(one, "job"), "id")), one);
    FILE *in = fopen(path, "r");
    if (!in) {
        perror(path);
        return 2;
    }
    char *line = NULL;
    size_t size = 0;
    int wrong = 0;
    for (ssize_t n; (n = getline(&line, &size, in)) > 0;) {
        struct caloris_err err;
        json_t *result = caloris_json_parse(line, (size_t)n, path, &err);
        const char *id = json_string_value(json_object_get(result, "id"));
        const json_t *expected = id ? json_object_get(open, id) : NULL;
        if (!expected) {
            printf("a result that nobody waits for: %s", line);
            wrong++;
        } else {
            wrong += compare(id, expected, result);
            json_object_del(open, id);
        }
        json_decref(result);
    }
    const char *id;
    json_object_foreach(open, id, one)
    {
        printf("%s: no result\n", id);
        wrong++;
    }
    printf("%zu runs, %d wrong\n", json_array_size(all), wrong);
    free(line);
    fclose(in);
    json_decref(open);
    return wrong ? 1 : 0;
}

static int print_logit_inputs(const char *model, char **names, int n)
{
    json_t *cases = load("tests/golden/models", model, "cases.json");
    int found = 0;
    for (int k = 0; k < n; k++) {
        size_t i;
        json_t *input;
        json_array_foreach(json_object_get(cases, "logits"), i, input)
        {
            if (strcmp(json_string_value(json_object_get(input, "name")), names[k]) != 0)
                continue;
            json_t *line = json_pack("{s:O}", "ids", json_object_get(input, "ids"));
            print_line(line);
            json_decref(line);
            found++;
        }
    }
    json_decref(cases);
    return found == n ? 0 : 2;
}

int main(int argc, char **argv)
{
    if (argc >= 4 && strcmp(argv[1], "logits") == 0)
        return print_logit_inputs(argv[2], argv + 3, argc - 3);
    if (argc < 3 || !getenv("CALORIS_SOURCE_DIR")) {
        fprintf(stderr, "golden_jobs make SET | check SET RESULTS | logits SET INPUT…, and "
                        "CALORIS_SOURCE_DIR set\n");
        return 2;
    }
    json_t *all = read_set(argv[2]);
    int code = 2;
    if (strcmp(argv[1], "make") == 0)
        code = make(all);
    else if (strcmp(argv[1], "check") == 0 && argc == 4)
        code = check(all, argv[3]);
    json_decref(all);
    return code;
}
