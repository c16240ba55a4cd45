#!/bin/bash
# From a fresh checkout to an answer: installs what is missing, builds, starts a gateway and a group
# of two ranks with the demo model, runs one job, prints its text and a line of figures, and stops
# everything.
#
#   deploy/quickstart.sh [--no-install] ["an English sentence"]
set -euo pipefail

sentence="Compute the sum of the squares of the negative numbers in nums."
install=()
while [ $# -gt 0 ]; do
    case $1 in
    --no-install) install=(--no-install) ;;
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    -*)
        echo "$0: unknown option $1" >&2
        exit 2
        ;;
    *) sentence=$1 ;;
    esac
    shift
done

say() {
    printf '\n== %s\n' "$*" >&2
}

cd "$(dirname "$0")/.."
say "Packages"
# shellcheck source=install-deps.sh
source deploy/install-deps.sh
caloris_install_deps "${install[@]}" "${caloris_build_packages[@]}"

# Inherited ones can hide half of the machine from OpenBLAS.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE

say "Building into build/"
cmake --preset release -DBUILD_TESTING=OFF >/dev/null
cmake --build --preset release

say "One job: $sentence"
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
# On a terminal the canvas is painted while it settles, slowly enough to be seen.
# shellcheck disable=SC2016 # the inner shell expands these
build/bin/caloris up --ranks 2 -- bash -euo pipefail -c '
    if [ -t 1 ]; then
        job=$("$1" submit "$2" --gen-length 96)
        "$1" watch --view --delay 50 "$job"
        "$1" results "$job" >"$3"
    else
        "$1" run "$2" --gen-length 96 | tee "$3"
    fi' quickstart "$PWD/build/bin/caloris" "$sentence" "$answer"

# The model writes nothing but small functions over lists of numbers; still, it is given no time.
if command -v python3 >/dev/null; then
    say "The function runs"
    timeout 10 python3 -I - "$answer" <<'EOF'
import sys

names = {}
exec(compile(open(sys.argv[1]).read(), "answer", "exec"), names)
function = next(value for name, value in names.items() if name != "__builtins__" and callable(value))
numbers = [3, -4, 0, 7, 10, 6, -9, 8]
print(f"{function.__name__}({numbers}) = {function(numbers)}")
EOF
else
    say "No python3 here, so the function is not run"
fi
