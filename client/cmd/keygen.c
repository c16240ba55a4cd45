/* keygen: a certificate of one's own. */
#include "client/cmd/cmd.h"

#include "base/file.h"

#include <limits.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#define AT(member) offsetof(struct flags, member)

const struct caloris_option keygen_options[] = {
    {.name = "server",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(server),
     .flag_only = true,
     .help = "the gateway's own keys: ~/.config/caloris/server where --out is not said"},
    {.name = "out",
     .letter = 'o',
     .type = CALORIS_OPTION_TEXT,
     .offset = AT(out),
     .argument = "FILE",
     .flag_only = true,
     .help = "where they go (default: ~/.config/caloris/key, where clients and groups look)"},
    {.name = "json",
     .type = CALORIS_OPTION_FLAG,
     .offset = AT(json),
     .help = "JSON on stdout: one object",
     .flag_only = true},
    {.name = NULL},
};

static int find_place(const struct flags *flags, char path[PATH_MAX], struct caloris_err *err)
{
    if (flags->out) {
        int n = snprintf(path, PATH_MAX, "%s", flags->out);
        return n > 0 && n < PATH_MAX ? 0 : caloris_err_set(err, CALORIS_USAGE, "--out: no path");
    }
    if (caloris_address_own(flags->server ? "server" : "key", path, PATH_MAX, err) < 0)
        return -1;
    char *slash = strrchr(path, '/');
    *slash = '\0';
    int rc = caloris_file_make_dirs(path, 0700, err);
    *slash = '/';
    return rc;
}

/* user@host, a word for whoever reads the file. */
static void describe(const struct flags *flags, char *name, size_t size)
{
    char host[256] = "";
    const struct passwd *user = getpwuid(geteuid());
    gethostname(host, sizeof(host) - 1);
    snprintf(name, size, "%s%s@%s", flags->server ? "gateway of " : "", user ? user->pw_name : "?",
             host);
}

int verb_keygen(struct invocation *in)
{
    struct caloris_err err = {0};
    struct caloris_keys keys;
    char path[PATH_MAX], name[320];
    describe(&in->flags, name, sizeof(name));
    if (find_place(&in->flags, path, &err) < 0 || caloris_keys_make(&keys, &err) < 0)
        return cmd_fail(in, &err);
    int rc = caloris_keys_write(path, &keys, name, &err);
    explicit_bzero(keys.secret_key, sizeof(keys.secret_key));
    if (rc < 0) {
        if (err.code == CALORIS_IO && in->flags.out) /* a place of the command line */
            err.code = CALORIS_USAGE;
        return cmd_fail(in, &err);
    }
    cmd_say(in, "%s is yours alone; %s.pub is for others", path, path);
    if (in->flags.json)
        return cmd_print_json(
            in, json_pack("{s:s, s:s}", "certificate", path, "public_key", keys.public_key));
    puts(keys.public_key);
    return EXIT_DONE;
}
