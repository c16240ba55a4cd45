#!/bin/bash
# What a served group costs while it has nothing to do: percent of a core, per process. CSV on stdout.
#
#   tests/bench/idle.sh [RANKS] [SECONDS]          (programs from build/bin, or $CALORIS_BIN_DIR)
set -euo pipefail

ranks=${1:-2}
seconds=${2:-10}
bin=${CALORIS_BIN_DIR:-$(dirname "$0")/../../build/bin}

# CPU seconds of a process so far: user and system, behind the name in parentheses.
cpu_ticks() {
    local stat
    stat=$(<"/proc/$1/stat")
    # shellcheck disable=SC2086 # the fields are wanted apart
    set -- ${stat##*) }
    echo $((${12} + ${13}))
}

# The body runs inside `caloris up`, so that the group and the gateway are its siblings.
# shellcheck disable=SC2016
exec "$bin/caloris" up --ranks "$ranks" -- bash -euo pipefail -c '
    '"$(declare -f cpu_ticks)"'
    seconds=$1
    up=$PPID
    mapfile -t pids < <(for p in /proc/[0-9]*; do
        p=${p#/proc/}
        name=$(cat "/proc/$p/comm" 2>/dev/null || true)
        [[ $name == caloris-engine || $name == caloris-gateway ]] || continue
        q=$p
        while [ "$q" -gt 1 ] && [ "$q" != "$up" ]; do
            q=$(sed -n "s/^PPid:[[:space:]]*//p" "/proc/$q/status" 2>/dev/null || echo 0)
        done
        [ "$q" = "$up" ] && echo "$p"
    done)
    declare -A before
    sleep 2
    for p in "${pids[@]}"; do before[$p]=$(cpu_ticks "$p"); done
    sleep "$seconds"
    echo "process,pid,seconds,percent_of_a_core"
    hz=$(getconf CLK_TCK)
    for p in "${pids[@]}"; do
        ticks=$(($(cpu_ticks "$p") - before[$p]))
        awk -v name="$(cat "/proc/$p/comm")" -v pid="$p" -v s="$seconds" -v t="$ticks" -v hz="$hz" \
            "BEGIN { printf \"%s,%d,%d,%.2f\n\", name, pid, s, 100 * t / hz / s }"
    done
' idle "$seconds"
