/* The groups of a gateway: who serves, and who shall leave. */
#include "client/cmd/cmd.h"

#include "base/time.h"

#include <inttypes.h>
#include <string.h>

#define AT(member) offsetof(struct flags, member)

enum { LOOK_EVERY_MS = 200 };

const struct caloris_option group_options[] = {
    {.name = "wait",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(wait),
     .help = "drain: return when the group has left",
     .flag_only = true},
    {.name = "hand-back",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(hand_back),
     .help = "drain: its jobs go back to the queue now, and are continued elsewhere",
     .flag_only = true},
    {.name = NULL},
};

int verb_cluster(struct invocation *in)
{
    struct caloris_err err = {0};
    caloris_answer *answer = NULL;
    int rc = EXIT_DONE;
    struct caloris_client *client = cmd_connect(in, &err);
    if (client)
        answer = caloris_client_cluster(client, &err);
    if (!answer) {
        rc = cmd_fail(in, &err);
    } else if (in->flags.json) {
        rc = cmd_print_json(in, cmd_cluster_json(answer->cluster));
    } else {
        cmd_cluster_table(answer->cluster, true);
        if (!in->flags.quiet)
            cmd_say(in, "%s: %zu group%s, %" PRIu64 " jobs queued, %" PRIu64 " running",
                    caloris_client_agent(client), answer->cluster->n_groups,
                    answer->cluster->n_groups == 1 ? "" : "s", answer->cluster->queued,
                    answer->cluster->running);
    }
    caloris_answer_free(answer);
    caloris_client_close(client);
    return rc;
}

/* Whether the group is connected: 1, 0, -1 and err. */
static int is_there(struct caloris_client *client, const char *name, struct caloris_err *err)
{
    caloris_answer *answer = caloris_client_cluster(client, err);
    int there = answer ? 0 : -1;
    for (size_t i = 0; answer && i < answer->cluster->n_groups; i++)
        there |= strcmp(answer->cluster->groups[i]->name, name) == 0;
    caloris_answer_free(answer);
    return there;
}

static int drain(const struct invocation *in, struct caloris_client *client, const char *name,
                 struct caloris_err *err)
{
    if (caloris_client_drain(client, name, in->flags.hand_back, err) < 0)
        return -1;
    int there = in->flags.wait ? 1 : 0;
    while (there == 1 && (there = is_there(client, name, err)) == 1) {
        if (cmd_signal())
            return caloris_err_set(err, CALORIS_CANCELLED, "interrupted");
        caloris_time_sleep_ms(LOOK_EVERY_MS);
    }
    return there;
}

int verb_group(struct invocation *in)
{
    struct caloris_err err = {0};
    const char *what = in->operands[0];
    if (strcmp(what, "list") == 0 && in->n_operands == 1)
        return verb_cluster(in);
    if (strcmp(what, "drain") != 0 || in->n_operands != 2) {
        caloris_err_set(&err, CALORIS_USAGE, "%.40s: say \"list\", or \"drain NAME\"", what);
        return cmd_fail(in, &err);
    }
    const char *name = in->operands[1];
    struct caloris_client *client = cmd_connect(in, &err);
    int rc = client ? drain(in, client, name, &err) : -1;
    int code = EXIT_DONE;
    if (rc < 0) {
        code = cmd_fail(in, &err);
    } else if (in->flags.json) {
        json_t *object = json_object();
        json_object_set_new(object, "group", json_string(name));
        json_object_set_new(object, "left", json_boolean(in->flags.wait));
        code = cmd_print_json(in, object);
    } else if (!in->flags.quiet) {
        cmd_say(in, in->flags.wait ? "%s has left" : "%s takes no more jobs, and will leave", name);
    }
    caloris_client_close(client);
    return code;
}
