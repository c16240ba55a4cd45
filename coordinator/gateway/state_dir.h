/* coordinator/gateway/state_dir.h: where a gateway keeps its state. */
#ifndef CALORIS_GATEWAY_STATE_DIR_H
#define CALORIS_GATEWAY_STATE_DIR_H

#include <limits.h>

struct caloris_err;

/* The absolute path of --state (given), else of the gateway's name (NULL: "default") below
 * $XDG_STATE_HOME or ~/.local/state. */
int state_dir_find(const char *given, const char *name, char path[PATH_MAX],
                   struct caloris_err *err);

#endif
