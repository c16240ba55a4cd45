#include "coordinator/gateway/state_dir.h"

#include "base/err.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int state_dir_find(const char *given, const char *name, char path[PATH_MAX],
                   struct caloris_err *err)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;
    if (given && given[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof(here)))
            return caloris_err_sys(err, "the current directory");
        return caloris_file_join(path, PATH_MAX, here, given, err);
    }
    name = name ? name : "default";
    if (given)
        n = snprintf(path, PATH_MAX, "%s", given);
    else if (xdg && xdg[0] == '/')
        n = snprintf(path, PATH_MAX, "%s/caloris/%s", xdg, name);
    else if (home && home[0] == '/')
        n = snprintf(path, PATH_MAX, "%s/.local/state/caloris/%s", home, name);
    else
        return caloris_err_set(err, CALORIS_BAD_CONFIG,
                               "neither XDG_STATE_HOME nor HOME is set: --state says where to be");
    if (n < 0 || n >= PATH_MAX)
        return caloris_err_set(err, CALORIS_BAD_CONFIG, "the state directory's path is too long");
    return 0;
}
