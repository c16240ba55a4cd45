#!/bin/bash
# check_layout.sh must name every planted violation, and nothing else.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

# plant FILE INCLUDE [COMPLAINT]: line 2 of FILE includes something; COMPLAINT: what must be said.
expected=()
planted=0
plant() {
    local file=$1.$((++planted)).c
    mkdir -p "$tree/$(dirname "$file")"
    printf '/* planted */\n#include %s\n' "$2" >"$tree/$file"
    if [ $# -gt 2 ]; then
        expected+=("$file:2: $3")
    fi
}

# Fine.
plant base/x '"base/err.h"'
plant base/conf '"base/conf_impl.h"'
plant base/conf_file '<libconfig.h>'
plant proto/x '"base/err.h"'
plant proto/x '<zmq.h>'
plant worker/x '"worker/step.h"'
plant worker/nn/x '"worker/kernels/kernels.h"'
plant worker/nn/x '"worker/nn/inner.h"'
plant worker/nn/x '"worker/engine.h"'
plant worker/comm/x '<mpi.h>'
plant worker/kernels/x '<immintrin.h>'
plant worker/kernels/x '<cblas.h>'
plant worker/pool/x '<hwloc.h>'
plant coordinator/x '"coordinator/link/link.h"'
plant coordinator/link/x '"worker/engine.h"'
plant coordinator/link/x '"proto/caloris.pb-c.h"'
plant coordinator/text/x '<pcre2.h>'
plant coordinator/gateway/x '"coordinator/gateway/store/store.h"'
plant coordinator/gateway/store/x '<sqlite3.h>'
plant client/cmd/x '"client/connection.h"'
plant client/x '"proto/wire.h"'
plant client/view/x '<utf8proc.h>'
plant base/x '<stdio.h>'

# The table of folders.
plant base/x '"proto/wire.h"' 'base may not include proto'
plant base/x '"worker/engine.h"' 'base may not include worker'
plant proto/x '"coordinator/text/text.h"' 'proto may not include coordinator'
plant worker/x '"proto/jobs.h"' 'worker may not include proto'
plant worker/nn/x '"coordinator/denoise/denoise.h"' 'worker may not include coordinator'
plant worker/nn/x '"tests/tools/x.h"' 'worker may not include tests'
plant client/x '"worker/engine.h"' 'client may not include worker'
plant client/x '"coordinator/text/text.h"' 'client may not include coordinator'
plant coordinator/gateway/x '"worker/engine.h"' 'gateway may not include worker'
plant coordinator/gateway/x '"coordinator/text/text.h"' 'gateway may not include coordinator'
plant coordinator/link/x '"coordinator/gateway/gateway.h"' 'coordinator may not include gateway'
plant coordinator/link/x '"worker/comm/comm.h"' \
    'coordinator may include worker/engine.h of the worker, not worker/comm/comm.h'
plant coordinator/link/x '<worker/step.h>' \
    'coordinator may include worker/engine.h of the worker, not worker/step.h'

# Doors.
plant worker/nn/x '"worker/kernels/table.h"' 'worker/kernels/table.h stays inside worker/kernels/'
plant worker/nn/x '"worker/step.h"' 'worker/step.h stays inside worker/'
plant coordinator/link/x '"coordinator/text/bpe.h"' 'coordinator/text/bpe.h stays inside'
plant coordinator/gateway/x '"coordinator/gateway/store/schema.h"' \
    'coordinator/gateway/store/schema.h stays inside'
plant worker/nn/x '"base/conf_impl.h"' 'base/conf_impl.h stays inside base/'
plant worker/nn/x '"inner.h"' 'write the path of "inner.h" from the root'

# One place for each library.
plant worker/nn/x '<mpi.h>' 'mpi.h is not known here'
plant coordinator/link/x '<mpi.h>' 'mpi.h is not known here'
plant worker/x '<zmq.h>' 'zmq.h is not known here'
plant coordinator/schedule/x '"proto/caloris.pb-c.h"' 'proto/caloris.pb-c.h is not known here'
plant coordinator/denoise/x '<protobuf-c/protobuf-c.h>' 'protobuf-c/protobuf-c.h is not known here'
plant coordinator/gateway/x '<sqlite3.h>' 'sqlite3.h is not known here'
plant coordinator/gateway/x '<microhttpd.h>' 'microhttpd.h is not known here'
plant worker/nn/x '<cblas.h>' 'cblas.h is not known here'
plant worker/nn/x '  <openblas/cblas.h>' 'openblas/cblas.h is not known here'
plant worker/comm/x '<xmmintrin.h>' 'xmmintrin.h is not known here'
plant client/x '<utf8proc.h>' 'utf8proc.h is not known here'
plant client/x '<pcre2.h>' 'pcre2.h is not known here'
plant base/x '<libconfig.h>' 'libconfig.h is not known here'
plant worker/comm/x '<hwloc/openfabrics-verbs.h>' 'hwloc/openfabrics-verbs.h is not known here'

failures=0
said=$(bash "$here/check_layout.sh" "$tree") && {
    echo "a tree full of violations passed"
    failures=1
}
for line in "${expected[@]}"; do
    if ! grep -qF -- "$line" <<<"$said"; then
        echo "not named: $line"
        failures=1
    fi
done
if ! grep -qx "${#expected[@]} includes break the layout" <<<"$said"; then
    echo "expected ${#expected[@]} complaints:"
    echo "$said"
    failures=1
fi
[ "$failures" -eq 0 ] && echo "all ${#expected[@]} planted violations were named"
exit "$failures"
