#include "coordinator/plan/plan.h"

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* What the fullest rank holds of each thing. */
static struct caloris_rank_share fullest(const struct caloris_rank_share *shares, int ranks)
{
    struct caloris_rank_share most = {0};
    for (int rank = 0; rank < ranks; rank++) {
        const struct caloris_rank_share *s = &shares[rank];
        most.weight_bytes =
            s->weight_bytes > most.weight_bytes ? s->weight_bytes : most.weight_bytes;
        if (s->plain_weight_bytes > most.plain_weight_bytes)
            most.plain_weight_bytes = s->plain_weight_bytes;
        most.kv_bytes = s->kv_bytes > most.kv_bytes ? s->kv_bytes : most.kv_bytes;
        most.work_bytes = s->work_bytes > most.work_bytes ? s->work_bytes : most.work_bytes;
        most.load = s->load > most.load ? s->load : most.load;
    }
    return most;
}

/* What a group would hold in a weight format. */
struct format_plan {
    const char *format;
    struct caloris_rank_share most; /* of any rank */
    uint64_t all_weights;           /* of all ranks, without outliers */
};

/* Packed weights come in one format only; others in any. */
static bool may_have(const struct caloris_engine_options *options,
                     const struct caloris_model_facts *model, size_t i)
{
    return !model->packed || strcmp(caloris_engine_format(i), options->weights) == 0;
}

static int plan_format(const struct caloris_engine_options *options, size_t i,
                       struct format_plan *plan, struct caloris_err *err)
{
    struct caloris_engine_options other = *options;
    struct caloris_model_facts model;
    struct caloris_rank_share *shares = calloc((size_t)options->ranks, sizeof(*shares));
    if (!shares)
        return caloris_err_sys(err, "plan of %d ranks", options->ranks);
    *plan = (struct format_plan){.format = caloris_engine_format(i)};
    other.weights = plan->format;
    int rc = caloris_engine_plan(&other, &model, shares, err);
    plan->most = fullest(shares, options->ranks);
    for (int rank = 0; rank < options->ranks; rank++)
        plan->all_weights += shares[rank].plain_weight_bytes;
    free(shares);
    return rc;
}

static int print_formats(const struct caloris_engine_options *options,
                         const struct caloris_model_facts *model, FILE *to, struct caloris_err *err)
{
    bool bounds = false;
    fprintf(to, "\n%-9s %22s %22s %22s %22s\n", "--weights", "weights, fullest rank", "at most",
            "weights, all ranks", "work, fullest rank");
    for (size_t i = 0; caloris_engine_format(i); i++) {
        struct format_plan plan;
        char weights[CALORIS_SIZE_TEXT], all[CALORIS_SIZE_TEXT], work[CALORIS_SIZE_TEXT];
        char bound[CALORIS_SIZE_TEXT];
        if (!may_have(options, model, i))
            continue;
        if (plan_format(options, i, &plan, err) < 0)
            return -1;
        bounds |= plan.most.weight_bytes > plan.most.plain_weight_bytes;
        fprintf(to, "%-9s %22s %22s %22s %22s\n", plan.format,
                caloris_size_text(plan.most.plain_weight_bytes, weights),
                caloris_size_text(plan.most.weight_bytes, bound),
                caloris_size_text(plan.all_weights, all),
                caloris_size_text(plan.most.work_bytes, work));
    }
    if (bounds)
        fprintf(to, "(at most: if every matrix had so many outliers that it is kept in bf16; a "
                    "shard file says exactly)\n");
    if (model->packed)
        fprintf(to, "(what the shard file holds; another format takes another shard file)\n");
    return 0;
}

static void print_table(const struct caloris_engine_options *options,
                        const struct caloris_model_facts *model,
                        const struct caloris_rank_share *shares, FILE *to)
{
    fprintf(to,
            "%s: %.1f million parameters, %zu layers x %zu, %zu/%zu heads x %zu, FFN %zu, "
            "vocabulary %zu\n",
            model->family, (double)model->parameters * 1e-6, model->layers, model->hidden,
            model->heads, model->kv_heads, model->head_dim, model->ffn, model->vocab);
    fprintf(
        to,
        "%d rank%s x %d thread%s; weights as %s; at most %zu canvases of %zu tokens, %zu rows a "
        "step\n\n",
        options->ranks, options->ranks == 1 ? "" : "s", options->threads,
        options->threads == 1 ? "" : "s", options->weights, options->max_requests,
        options->max_canvas, options->max_step_rows);
    fprintf(to, "%4s  %-11s %-11s %-15s %-17s %10s %10s %10s %10s  %5s\n", "rank", "heads",
            "KV heads", "FFN columns", "vocabulary", "read", "weights", "K/V", "work", "load");
    for (int rank = 0; rank < options->ranks; rank++) {
        const struct caloris_rank_share *s = &shares[rank];
        char range[4][32], bytes[4][CALORIS_SIZE_TEXT];
        const size_t first[4] = {s->head_first, s->kv_head_first, s->ffn_first, s->vocab_first};
        const size_t count[4] = {s->heads, s->kv_heads, s->ffn, s->vocab};
        for (int i = 0; i < 4; i++) {
            if (count[i])
                snprintf(range[i], sizeof(range[i]), "%zu-%zu", first[i], first[i] + count[i] - 1);
            else
                snprintf(range[i], sizeof(range[i]), "none");
        }
        fprintf(to, "%4d  %-11s %-11s %-15s %-17s %10s %10s %10s %10s  %5.3f\n", rank, range[0],
                range[1], range[2], range[3], caloris_size_text(s->read_bytes, bytes[0]),
                caloris_size_text(s->weight_bytes, bytes[1]),
                caloris_size_text(s->kv_bytes, bytes[2]),
                caloris_size_text(s->work_bytes, bytes[3]), s->load);
    }
    fprintf(to, "\npredicted balance %.1f %% (mean load over that of the fullest rank)\n",
            100 / fullest(shares, options->ranks).load);
}

static int print_json(const struct caloris_engine_options *options,
                      const struct caloris_model_facts *model,
                      const struct caloris_rank_share *shares, FILE *to, struct caloris_err *err)
{
    json_t *ranks = json_array(), *formats = json_object();
    for (size_t i = 0; caloris_engine_format(i); i++) {
        struct format_plan format;
        if (!may_have(options, model, i))
            continue;
        if (plan_format(options, i, &format, err) < 0) {
            json_decref(ranks);
            json_decref(formats);
            return -1;
        }
        json_object_set_new(formats, format.format,
                            json_pack("{s:I, s:I, s:I, s:I}", "weight_bytes",
                                      (json_int_t)format.most.weight_bytes, "plain_weight_bytes",
                                      (json_int_t)format.most.plain_weight_bytes,
                                      "all_weight_bytes", (json_int_t)format.all_weights,
                                      "work_bytes", (json_int_t)format.most.work_bytes));
    }
    for (int rank = 0; rank < options->ranks; rank++) {
        const struct caloris_rank_share *s = &shares[rank];
        json_array_append_new(
            ranks,
            json_pack("{s:i, s:[I,I], s:[I,I], s:[I,I], s:[I,I], s:I, s:I, s:I, s:I, s:I, s:f}",
                      "rank", rank, "heads", (json_int_t)s->head_first, (json_int_t)s->heads,
                      "kv_heads", (json_int_t)s->kv_head_first, (json_int_t)s->kv_heads, "ffn",
                      (json_int_t)s->ffn_first, (json_int_t)s->ffn, "vocabulary",
                      (json_int_t)s->vocab_first, (json_int_t)s->vocab, "read_bytes",
                      (json_int_t)s->read_bytes, "weight_bytes", (json_int_t)s->weight_bytes,
                      "plain_weight_bytes", (json_int_t)s->plain_weight_bytes, "kv_bytes",
                      (json_int_t)s->kv_bytes, "work_bytes", (json_int_t)s->work_bytes, "load",
                      s->load));
    }
    json_t *plan = json_pack(
        "{s:s, s:I, s:s, s:i, s:I, s:I, s:I, s:f, s:o, s:o}", "family", model->family, "parameters",
        (json_int_t)model->parameters, "weights", options->weights, "threads", options->threads,
        "max_requests", (json_int_t)options->max_requests, "max_canvas",
        (json_int_t)options->max_canvas, "max_step_rows", (json_int_t)options->max_step_rows,
        "balance", 1 / fullest(shares, options->ranks).load, "ranks", ranks, "formats", formats);
    int rc = plan && json_dumpf(plan, to, JSON_COMPACT | CALORIS_JSON_DIGITS) == 0
                 ? 0
                 : caloris_err_sys(err, "writing the plan");
    fputc('\n', to);
    json_decref(plan);
    return rc;
}

int caloris_plan_print(struct caloris_engine_options *options, bool json, FILE *to,
                       struct caloris_err *err)
{
    struct caloris_model_facts model;
    struct caloris_rank_share *shares = calloc((size_t)options->ranks, sizeof(*shares));
    if (!shares)
        return caloris_err_sys(err, "plan of %d ranks", options->ranks);
    int rc = caloris_engine_plan(options, &model, shares, err);
    if (rc == 0 && json)
        rc = print_json(options, &model, shares, to, err);
    else if (rc == 0) {
        print_table(options, &model, shares, to);
        rc = print_formats(options, &model, to, err);
    }
    free(shares);
    return rc;
}

void caloris_plan_line(const struct caloris_engine_facts *facts, char *text, size_t size)
{
    const struct caloris_rank_share most = fullest(facts->shares, facts->ranks);
    char bytes[3][CALORIS_SIZE_TEXT];
    snprintf(text, size,
             "%d rank%s x %d thread%s; per rank at most %s of weights as %s, %s of K/V, %s of work "
             "buffers",
             facts->ranks, facts->ranks == 1 ? "" : "s", facts->threads,
             facts->threads == 1 ? "" : "s", caloris_size_text(most.weight_bytes, bytes[0]),
             facts->format, caloris_size_text(most.kv_bytes, bytes[1]),
             caloris_size_text(most.work_bytes, bytes[2]));
}
