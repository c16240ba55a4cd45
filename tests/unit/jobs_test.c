/* The jobs schema: what is taken, what is refused and in which words, and JOBS.md against the
 * table of fields. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "proto/jobs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int parse(const char *json, struct caloris_job *job, struct caloris_err *err)
{
    return caloris_job_parse(json, strlen(json), job, err);
}

static void takes_a_bare_prompt_with_defaults(void **state)
{
    (void)state;
    struct caloris_job job;
    struct caloris_err err;
    assert_int_equal(parse("{\"prompt\":\"a\\u0000b\\u00e9\"}", &job, &err), 0);
    assert_int_equal(job.source, CALORIS_JOB_PROMPT);
    assert_int_equal(job.prompt_bytes, 5);
    assert_memory_equal(job.prompt, "a\0b\xc3\xa9", 6);
    assert_null(job.id);
    assert_int_equal(job.params.gen_length, 96);
    assert_int_equal(job.params.block_length, 96);
    assert_int_equal(job.params.order, CALORIS_ORDER_CONFIDENCE);
    assert_int_equal(job.params.commit, CALORIS_COMMIT_THRESHOLD);
    assert_int_equal(job.params.steps, 0);
    assert_true(job.params.threshold == 0.9 && job.params.factor == 1);
    assert_int_equal(job.params.quota, CALORIS_QUOTA_ALL);
    assert_true(job.params.temperature == 0 && job.params.cfg_scale == 0);
    assert_int_equal(job.params.seed, -1);
    assert_int_equal(job.params.preset, CALORIS_PRESET_BALANCED);
    assert_int_equal(job.params.refresh, 1);
    assert_true(job.params.early_stop);
    assert_int_equal(job.params.eos_id, -1);
    assert_int_equal(job.params.eot_id, -1);
    assert_int_equal(job.params.mask_id, -1);
    assert_false(job.params.logits_eos_inf || job.params.confidence_eos_eot_inf);
    assert_true(!job.model && job.params.priority == 0 && job.params.deadline_ms == 0);
    caloris_job_free(&job);
}

static void takes_every_field(void **state)
{
    (void)state;
    struct caloris_job job;
    struct caloris_err err;
    assert_int_equal(
        parse("{\"custom_id\":\"q-1\",\"messages\":[{\"role\":\"system\",\"content\":\"\"},"
              "{\"role\":\"user\",\"content\":\"x "
              "[M]\"}],\"hole\":\"[M]\",\"chat_template\":\"llada\","
              "\"gen_length\":64,\"block_length\":16,\"order\":\"random\",\"commit\":\"quota\","
              "\"steps\":8,\"threshold\":1,\"factor\":0.5,\"quota\":\"block\",\"temperature\":0.25,"
              "\"cfg_scale\":1.5,\"cache\":\"dual\",\"refresh\":3,\"seed\":9007199254740991,"
              "\"early_stop\":false,\"model\":\"tiny\",\"priority\":-100,\"deadline\":1.5,"
              "\"eos_id\":1,"
              "\"eot_id\":2,\"mask_id\":3,\"logits_eos_inf\":true,\"confidence_eos_eot_inf\":true}",
              &job, &err),
        0);
    assert_string_equal(job.id, "q-1");
    assert_int_equal(job.source, CALORIS_JOB_MESSAGES);
    assert_int_equal(job.n_messages, 2);
    assert_string_equal(job.messages[1].role, "user");
    assert_int_equal(job.messages[1].content_bytes, 5);
    assert_string_equal(job.hole, "[M]");
    assert_string_equal(job.chat_template, "llada");
    const struct caloris_job_params *p = &job.params;
    assert_true(p->gen_length == 64 && p->block_length == 16 && p->steps == 8);
    assert_true(p->order == CALORIS_ORDER_RANDOM && p->commit == CALORIS_COMMIT_QUOTA);
    assert_true(p->threshold == 1 && p->factor == 0.5 && p->quota == CALORIS_QUOTA_BLOCK);
    assert_true(p->temperature == 0.25 && p->cfg_scale == 1.5 && p->seed == 9007199254740991);
    assert_true(p->cache == CALORIS_CACHE_DUAL && p->refresh == 3);
    assert_true(!p->early_stop && p->eos_id == 1 && p->eot_id == 2 && p->mask_id == 3);
    assert_true(p->logits_eos_inf && p->confidence_eos_eot_inf);
    assert_string_equal(job.model, "tiny");
    assert_true(p->priority == -100 && p->deadline_ms == -1500);
    caloris_job_free(&job);
}

static void bounds_entropy_by_entropy(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        enum caloris_order order;
    } cases[] = {
        {"{\"ids\":[1]}", CALORIS_ORDER_CONFIDENCE},
        {"{\"ids\":[1],\"commit\":\"entropy_bounded\"}", CALORIS_ORDER_ENTROPY},
        {"{\"ids\":[1],\"commit\":\"entropy_bounded\",\"order\":\"margin\"}", CALORIS_ORDER_MARGIN},
        {"{\"ids\":[1],\"commit\":\"quota\",\"order\":\"left_to_right\"}",
         CALORIS_ORDER_LEFT_TO_RIGHT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_job job;
        struct caloris_err err = {0};
        if (parse(cases[i].json, &job, &err) < 0)
            fail_msg("%s: %s", cases[i].json, err.text);
        assert_int_equal(job.params.order, cases[i].order);
        assert_true(job.params.gamma == 0.1 && job.params.early_commit == 0);
        caloris_job_free(&job);
    }
}

/* ---- presets --------------------------------------------------------------------------------- */

static const char *value_of(const struct caloris_job_preset *preset, const char *name)
{
    for (size_t i = 0; i < CALORIS_PRESET_FIELDS && preset->fields[i].name; i++) {
        if (strcmp(preset->fields[i].name, name) == 0)
            return preset->fields[i].value;
    }
    return NULL;
}

/* All name the same fields with values that the schema takes; the table of fields has balanced's as
 * defaults; the choices of the field are the names. */
static void lists_presets(void **state)
{
    (void)state;
    struct caloris_err err = {0};
    char names[256] = "";
    const struct caloris_job_preset *balanced = &caloris_job_presets[CALORIS_PRESET_BALANCED];
    json_t *job = json_object();
    for (size_t p = 0; p < caloris_job_presets_count; p++) {
        const struct caloris_job_preset *preset = &caloris_job_presets[p];
        snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", p > 0 ? "|" : "",
                 preset->name);
        for (size_t i = 0; i < CALORIS_PRESET_FIELDS; i++) {
            const char *name = preset->fields[i].name;
            assert_true(!name == !balanced->fields[i].name);
            if (!name)
                continue;
            assert_non_null(value_of(balanced, name));
            if (caloris_job_set(job, name, preset->fields[i].value, &err) < 0)
                fail_msg("%s: %s", preset->name, err.text);
        }
    }
    json_decref(job);
    for (size_t f = 0; f < caloris_job_fields_count; f++) {
        const struct caloris_job_field *field = &caloris_job_fields[f];
        if (strcmp(field->name, "preset") == 0)
            assert_string_equal(field->choices, names);
        if (value_of(balanced, field->name))
            assert_string_equal(field->default_text, value_of(balanced, field->name));
    }
}

#define FACTOR_TO_GUIDANCE                                                                         \
    "\"factor\": 1, \"gamma\": 0.1, \"early_commit\": 0, \"quota\": \"all\", \"temperature\": 0, " \
    "\"cfg_scale\": 0, "
#define BEST_TO_END                                                                                \
    "\"best\": 1, \"candidate\": 0, \"early_stop\": true, \"logits_eos_inf\": false, "             \
    "\"confidence_eos_eot_inf\": false, "

/* A preset gives what the job leaves open, wherever it stands; settled, the job says it itself. */
static const struct {
    const char *json;
    enum caloris_commit commit;
    enum caloris_cache cache;
    uint32_t block;
    const char *settled;
} preset_jobs[] = {
    {"{\"ids\":[1],\"preset\":\"exact\"}", CALORIS_COMMIT_QUOTA, CALORIS_CACHE_NONE, 32,
     "{\"gen_length\": 96, \"block_length\": 32, \"order\": \"confidence\", \"commit\": \"quota\", "
     "\"threshold\": 0.9, " FACTOR_TO_GUIDANCE "\"cache\": \"none\", \"refresh\": 1, " BEST_TO_END
     "\"ids\":[1],\"preset\":\"exact\"}"},
    {" {\"cache\":\"prefix\",\"ids\":[1],\"gen_length\":7,\"refresh\":2,"
     "\"commit\":\"entropy_bounded\",\"threshold\":0.1,\"preset\":\"exact\"}",
     CALORIS_COMMIT_ENTROPY_BOUNDED, CALORIS_CACHE_PREFIX, 7,
     "{\"block_length\": 7, \"order\": \"entropy\", " FACTOR_TO_GUIDANCE BEST_TO_END
     "\"cache\":\"prefix\",\"ids\":[1],\"gen_length\":7,\"refresh\":2,"
     "\"commit\":\"entropy_bounded\",\"threshold\":0.1,\"preset\":\"exact\"}"},
    {"{\"ids\":[1],\"gen_length\":200,\"commit\":\"quota\",\"steps\":50}", CALORIS_COMMIT_QUOTA,
     CALORIS_CACHE_ACTIVE, 40,
     "{\"block_length\": 40, \"order\": \"confidence\", \"threshold\": 0.9, " FACTOR_TO_GUIDANCE
     "\"cache\": \"active\", \"refresh\": 1, " BEST_TO_END
     "\"ids\":[1],\"gen_length\":200,\"commit\":\"quota\",\"steps\":50}"},
    {"{\"ids\":[1],\"gen_length\":0,\"gamma\":0.3,\"early_stop\":false}", CALORIS_COMMIT_THRESHOLD,
     CALORIS_CACHE_ACTIVE, 1,
     "{\"block_length\": 1, \"order\": \"confidence\", \"commit\": \"threshold\", "
     "\"threshold\": 0.9, \"factor\": 1, \"early_commit\": 0, \"quota\": \"all\", "
     "\"temperature\": 0, \"cfg_scale\": 0, \"cache\": \"active\", \"refresh\": 1, \"best\": 1, "
     "\"candidate\": 0, \"logits_eos_inf\": false, \"confidence_eos_eot_inf\": false, "
     "\"ids\":[1],\"gen_length\":0,\"gamma\":0.3,\"early_stop\":false}"},
};

static void settles_presets(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(preset_jobs) / sizeof(preset_jobs[0]); i++) {
        struct caloris_job job, again;
        struct caloris_err err = {0};
        struct caloris_buf settled = CALORIS_BUF(1 << 10);
        size_t added;
        const char *json = preset_jobs[i].json;
        if (parse(json, &job, &err) < 0 ||
            caloris_job_settle(json, strlen(json), &job, &settled, &added, &err) < 0 ||
            parse(settled.data, &again, &err) < 0)
            fail_msg("%s: %s", json, err.text);
        assert_int_equal(job.params.commit, preset_jobs[i].commit);
        assert_int_equal(job.params.cache, preset_jobs[i].cache);
        assert_int_equal(job.params.block_length, preset_jobs[i].block);
        assert_string_equal(settled.data, preset_jobs[i].settled);
        assert_string_equal(settled.data + 1 + added, strchr(json, '{') + 1);
        assert_memory_equal(&job.params, &again.params, sizeof(job.params));
        caloris_job_free(&job);
        caloris_job_free(&again);
        caloris_buf_free(&settled);
    }
}

static void fits_the_default_block_to_short_answers(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        uint32_t block;
    } cases[] = {
        {"{\"ids\":[1],\"gen_length\":20}", 20},
        {"{\"ids\":[1],\"gen_length\":50}", 50},
        {"{\"ids\":[1],\"gen_length\":150}", 96},
        {"{\"ids\":[1],\"gen_length\":0}", 1}, /* 1 may be the model's mask */
        {"{\"ids\":[1,9],\"gen_length\":0,\"mask_id\":9}", 1},
        {"{\"prompt\":\"a _\",\"hole\":\"_\",\"gen_length\":0}", 1},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
         "\"content\":\"_\"}],\"hole\":\"_\",\"gen_length\":0}",
         1},
        {"{\"ids\":[1],\"gen_length\":50,\"commit\":\"quota\"}", 50},
        {"{\"ids\":[1],\"gen_length\":20,\"commit\":\"quota\",\"steps\":7}", 20},
        {"{\"ids\":[1],\"gen_length\":200,\"commit\":\"quota\",\"steps\":50}", 40},
        {"{\"ids\":[1],\"gen_length\":192,\"commit\":\"quota\",\"steps\":50}", 96},
        {"{\"ids\":[1],\"gen_length\":50,\"preset\":\"exact\",\"steps\":10}", 25},
        {"{\"ids\":[1],\"gen_length\":200,\"commit\":\"quota\"}", 96},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_job job;
        struct caloris_err err = {0};
        if (parse(cases[i].json, &job, &err) < 0)
            fail_msg("%s: %s", cases[i].json, err.text);
        assert_int_equal(job.params.block_length, cases[i].block);
        caloris_job_free(&job);
    }
}

#define IDS "{\"id\":\"j\",\"ids\":[5],"
static const struct {
    const char *json, *complaint; /* the text begins with it */
} refused[] = {
    {"", "job: no JSON"},
    {"{\"prompt\":\"x\",sec\nret}", "job: no JSON: column 17: string or '}' expected"},
    {"{\"prompt\":\"x\"} 1", "job: no JSON"},
    {"[1]", "job: not a JSON object"},
    {"{\"prompt\":\"x\",\"prompt\":\"y\"}", "job: no JSON: column 22: duplicate object key"},
    {"{\"prompt\":\"\xff\"}", "job: no JSON"},
    {"{\"ids\":[[[[[[[[[[[[[[[[[[[[1", "job: arrays and objects within each other, 21 deep"},
    {"{}", "prompt: missing"},
    {"{\"prompt\":\"x\",\"ids\":[1]}", "ids: stands beside prompt"},
    {"{\"prompt\":1}", "prompt: 1 is not text"},
    {"{\"ids\":[]}", "ids: not an array of 1 to 1048576"},
    {"{\"ids\":\"1\"}", "ids: not an array"},
    {"{\"ids\":[1,2.0]}", "ids[1]: 2.0 is not a token id"},
    {"{\"ids\":[-1]}", "ids[0]: -1 is not a token id"},
    {"{\"ids\":[2147483648]}", "ids[0]: 2147483648 is not"},
    {"{\"messages\":[]}", "messages: not an array of 1 to 1024"},
    {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0]: not an object of two texts"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"bot\",\"content\":\"\"}]}",
     "messages[1].role: \"bot\" is not one of"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":\"b\"}]}", "messages[0]: not"},
    {"{\"prompt\":\"x\",\"chat_template\":\"llada\"}", "chat_template: needs messages"},
    {"{\"ids\":[1],\"hole\":\"_\"}", "hole: needs prompt or messages"},
    {"{\"ids\":[1],\"id\":\"a\",\"custom_id\":\"a\"}", "custom_id: stands beside id"},
    {"{\"ids\":[1],\"id\":7}", "id: 7 is not text of 1 to 256 bytes"},
    {"{\"ids\":[1],\"id\":\"\"}", "id: \"\" is not text of 1 to 256 bytes"},
    {"{\"ids\":[1],\"custom_id\":\"a\\u0000\"}", "custom_id: \"a\\u0000\" is not text"},
    {IDS "\"gen_lenght\":3}", "\"gen_lenght\": unknown field"},
    {IDS "\"a\\nb\":3}", "\"a\\nb\": unknown field"},
    {IDS "\"gen_length\":3.0}", "gen_length: 3.0 is not a whole number from 0 to 1048576"},
    {IDS "\"gen_length\":\"3\"}", "gen_length: \"3\" is not a whole number"},
    {IDS "\"gen_length\":-1}", "gen_length: -1 is not"},
    {IDS "\"gen_length\":1048577}", "gen_length: 1048577 is not"},
    {IDS "\"gen_length\":null}", "gen_length: null is not"},
    {IDS "\"gen_length\":[1]}", "gen_length: an array is not"},
    {IDS "\"block_length\":0}", "block_length: 0 is not a whole number from 1"},
    {IDS "\"block_length\":97}", "block_length: 97 is longer than gen_length 96"},
    {IDS "\"gen_length\":0,\"block_length\":2}", "block_length: 2 is longer than gen_length 0"},
    {IDS "\"steps\":0}", "steps: 0 is not a whole number from 1"},
    {IDS "\"order\":\"sure\"}", "order: \"sure\" is not one of confidence|random|margin|entropy"},
    {IDS "\"order\":\"confidence|random\"}", "order: \"confidence|random\" is not"},
    {IDS "\"order\":\"confidence\\u0000\"}", "order: "},
    {IDS "\"cache\":\"both\"}", "cache: \"both\" is not one of none|prefix|dual|active"},
    {IDS "\"refresh\":0}", "refresh: 0 is not a whole number from 1"},
    {IDS "\"commit\":0}", "commit: 0 is not one of quota|threshold|factor|entropy_bounded"},
    {IDS "\"threshold\":1.01}", "threshold: 1.01 is not a number from 0 to 1"},
    {IDS "\"threshold\":1.1}", "threshold: 1.1 is not a number from 0 to 1"},
    {IDS "\"threshold\":NaN}", "job: no JSON"},
    {IDS "\"threshold\":1e999}", "job: no JSON"},
    {IDS "\"temperature\":true}", "temperature: true is not a number"},
    {IDS "\"seed\":9007199254740992}", "seed: 9007199254740992 is not a whole number"},
    {IDS "\"seed\":99999999999999999999}", "seed: 1e20 is not a whole number from 0 to"},
    {IDS "\"priority\":-9223372036854775809}", "priority: -9.22337"},
    {IDS "\"heat\":[9223372036854775808]}", "\"heat\": unknown field"},
    {"{\"ids\":[1,99999999999999999999]}", "ids[1]: 1e20 is not a token id"},
    {IDS "\"early_stop\":1}", "early_stop: 1 is not true or false"},
    {IDS "\"mask_id\":-1}", "mask_id: -1 is not a token id from 0 to 2147483647"},
    {IDS "\"gen_length\":50,\"block_length\":32,\"commit\":\"quota\",\"steps\":10}",
     "block_length: 32 does not divide gen_length 50, as a quota over steps needs; 25 or 50 would"},
    {IDS "\"gen_length\":64,\"block_length\":32,\"commit\":\"quota\",\"steps\":7}",
     "steps: 7 cannot be dealt evenly to 2 blocks (gen_length 64 / block_length 32); 6 could"},
    {IDS "\"gen_length\":64,\"block_length\":32,\"commit\":\"quota\",\"steps\":1}",
     "steps: 1 cannot be dealt evenly"},
    {IDS "\"gen_length\":200,\"commit\":\"quota\",\"steps\":7}",
     "block_length: up to the preset's 96, none cuts gen_length 200 into blocks to which 7 steps "
     "can be dealt evenly; 200 would"},
    {IDS "\"gen_length\":0,\"mask_id\":9}", "gen_length: 0, and the prompt has no hole"},
    {"{\"prompt\":\"a\",\"gen_length\":0}", "gen_length: 0, and the prompt has no hole"},
    {"{\"prompt\":\"a\",\"hole\":\"_\",\"gen_length\":0}", "gen_length: 0, and the prompt has"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"hole\":\"_\",\"gen_length\":0}",
     "gen_length: 0, and the prompt has no hole"},
    {IDS "\"best\":2}", "best: 2 answers need a temperature above 0, or all are the same"},
    {IDS "\"best\":2,\"temperature\":1e-40}", "best: 2 answers need a temperature above 0"},
    {IDS "\"best\":2,\"temperature\":1e-300}", "best: 2 answers need a temperature above 0"},
    {IDS "\"best\":0,\"temperature\":1}", "best: 0 is not a whole number from 1 to 64"},
    {IDS "\"best\":65,\"temperature\":1}", "best: 65 is not a whole number from 1 to 64"},
    {IDS "\"candidate\":65536}", "candidate: 65536 is not a whole number from 0 to 65535"},
};

static void refuses_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct caloris_job job;
        struct caloris_err err = {0};
        if (parse(refused[i].json, &job, &err) == 0)
            fail_msg("taken: %s", refused[i].json);
        if (strncmp(err.text, refused[i].complaint, strlen(refused[i].complaint)) != 0)
            fail_msg("%s\n  expected: %s\n  found:    %s", refused[i].json, refused[i].complaint,
                     err.text);
        assert_int_equal(err.code, CALORIS_BAD_REQUEST);
        assert_null(strstr(err.text, "near '")); /* nothing of the job in what may be logged */
        if (strncmp(refused[i].json, IDS, sizeof(IDS) - 1) == 0 &&
            strncmp(err.text, "job:", 4) != 0)
            assert_string_equal(job.id, "j"); /* so that the refusal can be answered */
        caloris_job_free(&job);
    }
}

static void refuses_depth_and_size(void **state)
{
    (void)state;
    struct caloris_job job;
    struct caloris_err err;
    enum { DEEP = 100000 };
    char *deep = malloc(DEEP + 16);
    assert_non_null(deep);
    int start = snprintf(deep, 16, "{\"ids\":");
    memset(deep + start, '[', DEEP);
    assert_int_equal(caloris_job_parse(deep, DEEP, &job, &err), -1);
    assert_int_equal(caloris_job_parse(deep, (size_t)CALORIS_JOB_MAX_BYTES + 1, &job, &err), -1);
    assert_string_equal(err.text, "job: 8388609 bytes, more than 8388608");
    free(deep);
}

static void sets_fields_from_flags(void **state)
{
    (void)state;
    static const struct {
        const char *field, *text, *complaint;
    } cases[] = {
        {"gen_length", "64", NULL},
        {"order", "random", NULL},
        {"temperature", "0.5", NULL},
        {"early_stop", "false", NULL},
        {"id", "12", NULL},
        {"seed", "12", NULL},
        {"deadline", "2026-11-24T08:00:00Z", NULL},
        {"priority", "-1", NULL},
        {"deadline", "tomorrow",
         "deadline: \"tomorrow\" is not seconds from 0 to 1000000000 after"},
        {"deadline", "2026-11-24", "deadline: \"2026-11-24\" is not seconds"},
        {"deadline", "-1", "deadline: -1 is not seconds"},
        {"priority", "101", "priority: 101 is not a whole number from -100 to 100"},
        {"gen_length", "64k", "gen_length: \"64k\" is not a whole number from 0 to 1048576"},
        {"gen_length", "1.5", "gen_length: 1.5 is not"},
        {"temperature", "hot", "temperature: \"hot\" is not a number from 0 to 100"},
        {"temperature", "\xff", "temperature: the value is no UTF-8 text"},
        {"early_stop", "1", "early_stop: 1 is not true or false"},
        {"order", "true", "order: \"true\" is not one of"},
        {"heat", "1", "\"heat\": unknown field"},
    };
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct caloris_err err = {0};
        int status = caloris_job_set(object, cases[i].field, cases[i].text, &err);
        if (!cases[i].complaint)
            assert_int_equal(status, 0);
        else if (status == 0 ||
                 strncmp(err.text, cases[i].complaint, strlen(cases[i].complaint)) != 0)
            fail_msg("%s=%s: %s", cases[i].field, cases[i].text, err.text);
    }
    char *text = json_dumps(object, JSON_COMPACT);
    assert_string_equal(text, "{\"gen_length\":64,\"order\":\"random\",\"temperature\":0.5,"
                              "\"early_stop\":false,\"id\":\"12\",\"seed\":12,"
                              "\"deadline\":\"2026-11-24T08:00:00Z\",\"priority\":-1}");
    free(text);
    json_decref(object);
}

static void writes_results(void **state)
{
    (void)state;
    static const int32_t ids[] = {7, 8}, canvas[] = {1, 7, 8};
    /* Overlong, surrogate, cut short, and a NUL. */
    static const char text[] = "a\xc3\xa9\xc0\xaf\xed\xa0\x80\0\xf0\x9f\x98";
    struct caloris_job_result result = {
        .id = "j",
        .ids = ids,
        .n_ids = 2,
        .text = text,
        .text_bytes = sizeof(text) - 1,
        .finish_reason = "stop",
        .prompt_tokens = 1,
        .completion_tokens = 2,
        .forward_passes = 3,
        .steps = 3,
        .rows = 12,
        .seed = 9007199254740991,
        .queue_s = 0.5,
        .denoise_s = 0.25,
        .model = "tiny",
        .ranks = 2,
    };
    struct caloris_buf json = CALORIS_BUF(4096);
    struct caloris_err err;
#define BAD "\xef\xbf\xbd"
#define REST                                                                                       \
    "\"finish_reason\":\"stop\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,"           \
    "\"total_tokens\":3},\"forward_passes\":3,\"steps\":3,\"rows\":12,\"timings\":{\"queue_s\":0." \
    "5,"                                                                                           \
    "\"denoise_s\":0.25},\"seed\":9007199254740991,\"model\":\"tiny\",\"ranks\":2}"
    assert_int_equal(caloris_job_result_write(&result, &json, &err), 0);
    assert_string_equal(json.data,
                        "{\"id\":\"j\",\"ids\":[7,8],\"text\":\"a\xc3\xa9" BAD BAD BAD BAD BAD
                        "\\u0000" BAD "\"," REST);
    caloris_buf_clear(&json);
    result.text = NULL;
    result.canvas = canvas;
    result.n_canvas = 3;
    assert_int_equal(caloris_job_result_write(&result, &json, &err), 0);
    assert_string_equal(json.data, "{\"id\":\"j\",\"ids\":[7,8],\"canvas\":[1,7,8]," REST);
    result.canvas_text = "(ab";
    result.canvas_text_bytes = 3;
    caloris_buf_clear(&json);
    assert_int_equal(caloris_job_result_write(&result, &json, &err), 0);
    assert_string_equal(
        json.data, "{\"id\":\"j\",\"ids\":[7,8],\"canvas\":[1,7,8],\"canvas_text\":\"(ab\"," REST);

    caloris_buf_clear(&json);
    result.resumed = true;
    result.resumed_block = 2;
    result.resumed_passes = 40;
    assert_int_equal(caloris_job_result_write(&result, &json, &err), 0);
    assert_non_null(strstr(json.data, ",\"resumed\":{\"block\":2,\"forward_passes\":40},"));
    result.resumed = false;

    caloris_buf_clear(&json);
    static const int32_t other[] = {9, 8};
    const struct caloris_job_answer answers[] = {
        {4, -0.5, ids, "a", 1, "stop", 2},
        {3, (double)NAN, other, NULL, 0, "length", 2},
    };
    result.canvas = NULL;
    result.answers = answers;
    result.n_answers = 2;
    assert_int_equal(caloris_job_result_write(&result, &json, &err), 0);
    static const char ranked[] =
        ",\"ranks\":2,\"candidates\":[{\"candidate\":4,\"score\":-0.5,\"ids\":[7,8],\"text\":\"a\","
        "\"finish_reason\":\"stop\",\"completion_tokens\":2},"
        "{\"candidate\":3,\"score\":null,\"ids\":[9,8],\"finish_reason\":\"length\","
        "\"completion_tokens\":2}]}";
    assert_non_null(strstr(json.data, ranked));
    result.answers = NULL;

    caloris_buf_clear(&json);
    struct caloris_err failure;
    caloris_err_set(&failure, CALORIS_BAD_REQUEST, "gen_length: \"x\"\n");
    const struct caloris_job_result failed = {.error = &failure};
    assert_int_equal(caloris_job_result_write(&failed, &json, &err), 0);
    assert_string_equal(json.data, "{\"id\":null,\"error\":{\"code\":\"bad_request\","
                                   "\"message\":\"gen_length: \\\"x\\\"\\n\"}}");
    caloris_buf_free(&json);

    struct caloris_buf small = CALORIS_BUF(16);
    assert_int_equal(caloris_job_result_write(&result, &small, &err), -1);
    caloris_buf_free(&small);
}

static void documents_every_field(void **state)
{
    (void)state;
    const char *source = getenv("CALORIS_SOURCE_DIR");
    assert_non_null(source);
    char path[4096];
    struct caloris_err err = {0};
    struct caloris_buf text = CALORIS_BUF(1 << 20);
    assert_int_equal(caloris_file_join(path, sizeof(path), source, "proto/JOBS.md", &err), 0);
    if (caloris_file_read(path, &text, &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < caloris_job_fields_count; i++) {
        const struct caloris_job_field *field = &caloris_job_fields[i];
        char row[1024], words[CALORIS_FIELD_WORDS], escaped[2 * CALORIS_FIELD_WORDS];
        size_t n = 0;
        for (const char *c = caloris_job_field_words(field, words); *c; c++) {
            if (*c == '|')
                escaped[n++] = '\\';
            escaped[n++] = *c;
        }
        escaped[n] = '\0';
        snprintf(row, sizeof(row), "\n| `%s` | %s | %s | %s |\n", field->name, escaped,
                 *field->default_text ? field->default_text : "–", field->help);
        if (!strstr(text.data, row))
            fail_msg("JOBS.md lacks the row%s", row);
    }
    for (size_t p = 0; p < caloris_job_presets_count; p++) {
        const struct caloris_job_preset *preset = &caloris_job_presets[p];
        char row[256];
        snprintf(row, sizeof(row), "\n| `%s` |", preset->name);
        for (size_t i = 0; i < CALORIS_PRESET_FIELDS && preset->fields[i].name; i++)
            snprintf(row + strlen(row), sizeof(row) - strlen(row), " %s |",
                     preset->fields[i].value);
        if (!strstr(text.data, row))
            fail_msg("JOBS.md lacks the row%s", row);
    }
    caloris_buf_free(&text);
}

/* As large as a job may be, and what is added to it on its way to a group. */
static void the_largest_job_is_kept(void **state)
{
    (void)state;
    static const char begin[] = "{\"prompt\":\"", end[] = "\"}";
    const size_t n = CALORIS_JOB_MAX_BYTES;
    struct caloris_buf settled = CALORIS_BUF(CALORIS_JOB_MAX_STORED);
    struct caloris_job job, again;
    struct caloris_err err = {0};
    char *json = malloc(n);
    assert_non_null(json);
    memset(json, 'a', n);
    memcpy(json, begin, sizeof(begin) - 1);
    memcpy(json + n - (sizeof(end) - 1), end, sizeof(end) - 1);
    if (caloris_job_parse(json, n, &job, &err) < 0 ||
        caloris_job_settle(json, n, &job, &settled, NULL, &err) < 0 ||
        caloris_job_parse_stored(settled.data, settled.size, &again, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(again.prompt_bytes, job.prompt_bytes);
    assert_true(settled.size + sizeof("\"seed\": 9007199254740991, ") < CALORIS_JOB_MAX_STORED);
    caloris_job_free(&job);
    caloris_job_free(&again);
    assert_int_equal(caloris_job_parse(settled.data, settled.size, &again, &err), -1);
    caloris_job_free(&again);
    caloris_buf_free(&settled);
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_a_bare_prompt_with_defaults),
        cmocka_unit_test(takes_every_field),
        cmocka_unit_test(fits_the_default_block_to_short_answers),
        cmocka_unit_test(bounds_entropy_by_entropy),
        cmocka_unit_test(lists_presets),
        cmocka_unit_test(settles_presets),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_depth_and_size),
        cmocka_unit_test(the_largest_job_is_kept),
        cmocka_unit_test(sets_fields_from_flags),
        cmocka_unit_test(writes_results),
        cmocka_unit_test(documents_every_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
