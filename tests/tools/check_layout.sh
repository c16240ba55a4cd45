#!/bin/bash
# Who may include whom (docs/ARCHITECTURE.md): reads every #include line under ROOT and names
# each one, as file:line, that breaks the table of folders, a folder's door, or the rule that an
# outside library is known in one place. Exit 1 when there is any.
#
#   check_layout.sh [ROOT]        the tests are free to include what they test
set -euo pipefail

cd "${1:-$(dirname "$0")/../..}"
folders=()
for folder in base proto worker coordinator client; do
    if [ -d "$folder" ]; then
        folders+=("$folder")
    fi
done
if [ ${#folders[@]} -eq 0 ]; then
    echo "check_layout.sh: nothing to check in $PWD" >&2
    exit 2
fi

# shellcheck disable=SC2016 # $0 below is awk's
find "${folders[@]}" -name '*.[ch]' | LC_ALL=C sort | xargs awk '
BEGIN {
    # Area of the file -> areas it may include. coordinator/gateway is an area of its own.
    may["base"] = " base "
    may["proto"] = " proto base "
    may["worker"] = " worker base "
    may["gateway"] = " gateway proto base "
    may["coordinator"] = " coordinator proto base "
    may["client"] = " client proto base "

    # Outside header (pattern) -> where it may be included (pattern of the file).
    place["^mpi\\.h$"] = "^worker/comm/"
    place["^zmq\\.h$"] = "^(proto|coordinator/link|coordinator/gateway|client)/"
    place["\\.pb-c\\.h$"] = "^(proto|coordinator/link|coordinator/gateway|client)/"
    place["^protobuf-c/"] = "^(proto|coordinator/link|coordinator/gateway|client)/"
    place["^sqlite3"] = "^coordinator/gateway/store/"
    place["^microhttpd"] = "^coordinator/gateway/http/"
    place["^(cblas|f77blas|lapacke?)"] = "^worker/kernels/"
    place["openblas"] = "^worker/kernels/"
    place["intrin\\.h$"] = "^worker/kernels/"
    place["^arm_(neon|sve)"] = "^worker/kernels/"
    place["^pcre2"] = "^coordinator/text/"
    place["^utf8proc"] = "^(coordinator/text|client/view)/" # normal forms; widths of cells
    place["^libconfig"] = "^base/conf"
    place["^hwloc"] = "^worker/pool/"
}

function area(path) {
    if (path ~ /^coordinator\/gateway\//)
        return "gateway"
    return substr(path, 1, index(path, "/") - 1)
}

function folder(path) {
    sub(/\/[^\/]*$/, "", path)
    return path
}

# The header that bears the name of its folder. In base, proto and client all headers are doors
# but those that say that they are inside ones.
function is_door(path,    dir, name) {
    dir = folder(path)
    name = substr(path, length(dir) + 2)
    if (name ~ /_impl\.h$/)
        return 0
    if (area(path) ~ /^(base|proto|client)$/ || path == "worker/engine.h")
        return 1
    sub(/^.*\//, "", dir)
    return name == dir ".h"
}

function complain(why) {
    printf "%s:%d: %s\n", FILENAME, FNR, why
    bad++
}

/^[ \t]*#[ \t]*include[ \t]*["<]/ {
    quoted = $0 ~ /^[^<]*"/
    header = $0
    sub(/^[^"<]*["<]/, "", header)
    sub(/[">].*$/, "", header)

    for (pattern in place) {
        if (header ~ pattern && FILENAME !~ place[pattern])
            complain(header " is not known here, only in files that match " place[pattern])
    }

    from = area(FILENAME)
    if (header ~ /^(base|proto|worker|coordinator|client|tests)\//) {
        to = area(header)
        if (to == "worker" && from == "coordinator") {
            if (header != "worker/engine.h")
                complain("coordinator may include worker/engine.h of the worker, not " header)
        } else if (index(may[from], " " to " ") == 0) {
            complain(from " may not include " to " (" header ")")
        } else if (folder(header) != folder(FILENAME) && !is_door(header)) {
            complain(header " stays inside " folder(header) "/; its door is another header")
        }
    } else if (quoted) {
        complain("write the path of \"" header "\" from the root of the source")
    }
}

END {
    if (bad)
        printf "%d includes break the layout\n", bad
    exit bad > 0
}'
