# shellcheck shell=bash
# tests/e2e/lib.sh: what the script tests share. To be sourced; a script ends with 0 (passed), 77
# (skipped) or anything else (failed).
#
#   $WORK                  an empty directory, removed on EXIT
#   $GOLDEN                tests/golden/models
#   fail TEXT…             ends the test, with the last lines of every log in $WORK
#   skip TEXT…             ends the test with 77
#   limited SECONDS CMD…   runs a command; one that takes longer is killed and fails with 124 or 137
#   await SECONDS CMD…     repeats a command until it succeeds; fails when the time is over
#   leftovers              prints the processes that this test started and that still run
#
# Whatever a test starts carries its mark in the environment; what is left of it on EXIT is killed.

set -u
SOURCE=${CALORIS_SOURCE_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
BIN=${CALORIS_BIN_DIR:?set CALORIS_BIN_DIR to the build directory\'s bin}
# shellcheck disable=SC2034 # for those who source this
GOLDEN=$SOURCE/tests/golden/models
WORK=$(mktemp -d "${TMPDIR:-/tmp}/caloris-e2e.XXXXXX")
export CALORIS_TEST_MARK=$WORK
# A configuration of whoever runs the tests is none of theirs.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export HOME=$WORK
export PATH=$BIN:$PATH

leftovers()
{
    local all=(/proc/[0-9]*/environ) environ pid
    while read -r environ; do
        pid=${environ//[!0-9]/}
        [ "$pid" != $$ ] || continue
        printf '%s %s\n' "$pid" "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")"
    done < <(grep -lzsxF "CALORIS_TEST_MARK=$CALORIS_TEST_MARK" "${all[@]}")
}

_lib_cleanup()
{
    local pid _
    trap - EXIT
    while read -r pid _; do
        kill -KILL "$pid" 2>/dev/null
    done < <(leftovers)
    rm -rf "$WORK"
}
trap _lib_cleanup EXIT
trap 'exit 129' HUP INT TERM

fail()
{
    local log
    for log in "$WORK"/*.log; do
        [ -s "$log" ] && echo "--- ${log##*/}" && tail -n 30 "$log"
    done >&2
    echo "FAILED: $*" >&2
    exit 1
}

skip()
{
    echo "skipped: $*" >&2
    exit 77
}

limited()
{
    local seconds=$1
    shift
    timeout --kill-after=3 "$seconds" "$@"
}

await()
{
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}
