#!/bin/bash
# Everything that can be killed is killed while recorded jobs run; in the end every job has one result, the recorded one.
#
#   chaos.sh [SECONDS [SEED]]     (30, 1) how long things go wrong, and in which order
#
# Three hosts: n1 has the gateway and the clients, n2 a group of two ranks and one rank of a group of three, n3 the other
# two; they speak TCP with keys. Meanwhile: kill -9 of the gateway, of ranks, of whole groups and of clients, cut cables,
# once a full disk; kills go on while a cable is cut or the disk is full. The model is a small one of the recorded ones:
# what is computed is not the point, and hundreds of its jobs, of every kind, are on their way in a minute.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/hosts.sh
. "$(dirname "$0")/hosts.sh"

CHAOS_SECONDS=${1:-30}
RANDOM=${2:-1}
CLIENTS=(1 2 3 4)
SET=llada
MODEL=$GOLDEN/$SET
STATE=$WORK/state
TERMINAL=; [ ! -t 2 ] || TERMINAL=yes
export OMP_NUM_THREADS=1 OMPI_MCA_mpi_yield_when_idle=1 CALORIS_SOURCE_DIR=$SOURCE
export OMPI_MCA_oob_tcp_if_include=10.77.0.0/24 OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 \
    PRTE_MCA_prte_if_include=10.77.0.0/24
unset CALORIS_ENDPOINT CALORIS_CLUSTER CALORIS_CERTIFICATE CALORIS_SERVER_KEY XDG_CONFIG_HOME XDG_STATE_HOME

now_ms() { date +%s%3N; }

# ---- what runs -----------------------------------------------------------------------------------

# Not when the test has failed, either: its process is gone then.
goes_on() { kill -0 $$ 2>/dev/null && [ ! -e "$WORK/$1" ]; }

# Nobody gets into a host that is cut off.
until_there() { while [ -e "$WORK/cut.$1" ] && goes_on stop; do sleep 0.1; done; }

# keep NAME HOST CMD…: starts it again whenever it ends, until the test says stop.
keep()
{
    local name=$1 host=$2
    shift 2
    while goes_on stop; do
        until_there "$host"
        hosts_run "$host" "$@" >>"$WORK/$name.log" 2>&1 </dev/null
        ! goes_on stop || echo "$name" >>"$WORK/ended"
        sleep 0.2
    done
}

group() # NAME HOST "HOST:RANKS…": the first is where it is kept
{
    local place
    for place in $3; do
        echo "${place%:*} slots=${place#*:}"
    done >"$WORK/hosts.$1"
    keep "$1" "$2" caloris-run-group --hostfile "$WORK/hosts.$1" \
        --launcher "mpirun --allow-run-as-root --oversubscribe --bind-to none --wdir $WORK" \
        "$BIN/caloris-engine" --name "$1" --model "$MODEL" --threads 1 --row-budget 512 --rank-silent 3s --cluster chaos
}

# client N: batches of all recorded jobs, one after the other while things go wrong; each goes on where it was killed.
client()
{
    local round=0 out
    while goes_on calm; do
        round=$((round + 1))
        out=$WORK/out.$1.$round.jsonl
        until hosts_run n1 caloris batch -q --cluster chaos "$WORK/in.jsonl" -o "$out" --resume \
            >>"$WORK/client.log" 2>&1 </dev/null; do
            goes_on stop || return 1
            echo client >>"$WORK/ended"
            sleep 0.2
            until_there n1
        done
        sleep 0.5 # the queue's disk, of a given size, has to hold what a fast machine makes of an hour
    done
}

# ---- what goes wrong -----------------------------------------------------------------------------

declare -A COUNT=([gateway]=0 [rank]=0 [group]=0 [client]=0 [cable]=0 [disk]=0)

# shoot WHAT WHO PATTERN [all]: kill -9 of one of the processes whose command line matches, or of all. WHO will be
# waited for: group a, group b or "." for any group.
shoot()
{
    local found
    mapfile -t found < <(leftovers | grep -E "^[0-9]+ ([^ ]*/)?$3" | cut -d' ' -f1)
    [ ${#found[@]} -gt 0 ] || return 0
    [ "${4:-}" = all ] || found=("${found[RANDOM % ${#found[@]}]}")
    kill -KILL "${found[@]}" 2>/dev/null || return 0
    COUNT[$1]=$((COUNT[$1] + 1))
    [ "$1" = client ] || echo "$(now_ms) $2 $1" >>"$WORK/shots"
}

# What takes a while goes on beside the rest.
passing=()

cut_cable() # HOST
{
    [ ! -e "$WORK/cut.$1" ] || return 0
    : >"$WORK/cut.$1"
    # Shorter and longer than --lost, and than the 10 s after which ZeroMQ gives a connection up; in again by the end.
    local seconds=$((1 + RANDOM % 15)) rest=$((CHAOS_SECONDS - (SECONDS - begun)))
    [ $seconds -le $rest ] || seconds=$((rest > 0 ? rest : 1))
    { hosts_cut "$1" && sleep $seconds && hosts_mend "$1" && rm "$WORK/cut.$1"; } &
    passing+=($!)
    COUNT[cable]=$((COUNT[cable] + 1))
}

# To the last byte; the gateway is killed, and has to start there. While its cable is cut nobody gets
# into the host.
on_n1() { until hosts_run n1 "$@" 2>/dev/null || ! goes_on stop; do sleep 0.5; done; }
fill_disk()
{
    # shellcheck disable=SC2016 # the inner shell expands it
    on_n1 bash -c 'dd if=/dev/zero of="$1" bs=4k 2>/dev/null; :' fill "$STATE/ballast"
    { sleep 8 && on_n1 rm -f "$STATE/ballast"; } &
    passing+=($!)
    shoot gateway . 'caloris-gateway '
    COUNT[disk]=$((COUNT[disk] + 1))
}

something_goes_wrong()
{
    local group
    group=$([ $((RANDOM % 2)) = 0 ] && echo a || echo b)
    case $((RANDOM % 8)) in
    0 | 1) shoot gateway . 'caloris-gateway ' ;;
    2 | 3) shoot rank "$group" "caloris-engine --name $group " ;;
    4) shoot group "$group" "(bash .*/caloris-run-group .*|mpirun .*)?caloris-engine --name $group " all ;;
    5 | 6) shoot client . 'caloris batch ' ;;
    7) cut_cable "n$((1 + RANDOM % 3))" ;;
    esac
}

# ---- how it went ---------------------------------------------------------------------------------

# recoveries: for each shot, the seconds until the group that it met (after one at the gateway: any) took up work
# again; fails while one has not.
recoveries()
{
    local name stamp
    for name in a b; do
        sed -n 's/^\([0-9T:.Z-]*\) .* knows us as .*/\1/p' "$WORK/$name.log" | while read -r stamp; do
            echo "$(date --date="$stamp" +%s%3N) $name"
        done
    done | sort -n | awk '
        NR == FNR { at[++n] = $1; who[n] = $2; next }
        {
            for (i = 1; i <= n && !(at[i] > $1 && ($2 == "." || $2 == who[i])); i++)
                ;
            if (i > n) exit 1
            print (at[i] - $1) / 1000
        }' - "$WORK/shots" | sort -n
    [ "${PIPESTATUS[2]}" = 0 ]
}

all_recovered() { recoveries >"$WORK/recoveries"; }

# What the queue counts: "queued running finished".
queue()
{
    hosts_run n1 caloris list --limit 1 --json --cluster chaos |
        sed -n 's/.*"queued":\([0-9]*\),"running":\([0-9]*\),"finished":\([0-9]*\).*/\1 \2 \3/p'
}

# Programs of ours and their launchers; the hosts themselves stay.
programs() { leftovers | grep -E '^[0-9]+ ([^ ]*/)?(bash [^ ]*/)?(caloris|mpirun|orted|prted)'; }

# ---- the test ------------------------------------------------------------------------------------

# What starts programs again must be gone before their files are, whenever the test ends.
kept=() clients=()
end_loops()
{
    kill -KILL "${kept[@]}" "${clients[@]}" "${passing[@]}"
    wait
} 2>/dev/null
trap 'end_loops; _lib_cleanup' EXIT

hosts_up 3
export OMPI_MCA_plm=rsh OMPI_MCA_plm_rsh_agent=$HOSTS_AGENT PRTE_MCA_plm=ssh PRTE_MCA_plm_ssh_agent=$HOSTS_AGENT
golden_jobs make $SET >"$WORK/in.jsonl" || fail "no recorded jobs"
each=$(wc -l <"$WORK/in.jsonl")

mkdir -m 700 "$STATE"
hosts_run n1 mount -t tmpfs -o size=$((32 + CHAOS_SECONDS / 4))m,mode=0700 tmpfs "$STATE"
# --attempts: a job that runs alone is shot like any other, and in a long run one of them more than three times.
keep gateway n1 caloris-gateway --name chaos --token --state "$STATE" --beat 500ms --lost 3s --attempts 10 \
    --clients tcp://10.77.0.11:7711 --groups tcp://10.77.0.11:7712 &
kept+=($!)
await 10 test -s "$HOME/.caloris/chaos" || fail "the gateway does not start"
group a n2 n2:2 &
kept+=($!)
group b n3 "n3:2 n2:1" &
kept+=($!)
for i in "${CLIENTS[@]}"; do
    client "$i" &
    clients+=($!)
done

: >"$WORK/shots"
begun=$SECONDS
while [ $((SECONDS - begun)) -lt "$CHAOS_SECONDS" ]; do
    something_goes_wrong
    if [ "${COUNT[disk]}" = 0 ] && [ $((SECONDS - begun)) -ge $((CHAOS_SECONDS / 2)) ]; then
        fill_disk
    fi
    [ -z "$TERMINAL" ] || printf '\r%4d of %d s' $((SECONDS - begun)) "$CHAOS_SECONDS" >&2
    sleep "$((1 + RANDOM % 3)).$((RANDOM % 10))"
done
[ -z "$TERMINAL" ] || printf '\r\033[K' >&2
wait "${passing[@]}"
: >"$WORK/calm"

# From here on nothing is in the way: whoever was shot comes back, and everything comes to its end.
ended() { ! kill -0 "$1" 2>/dev/null; }
await 60 all_recovered || fail "not all came back: $(cat "$WORK/shots")"
for pid in "${clients[@]}"; do
    await 500 ended "$pid" || fail "a client does not end; queued, running, finished: $(queue)"
done
jobs=0
for out in "$WORK"/out.*.jsonl; do
    golden_jobs check $SET "$out" >"$WORK/check.log" || fail "$out: not the recorded ids, each once"
    jobs=$((jobs + each))
done
[ "$(queue)" = "0 0 $jobs" ] || fail "in the queue (queued, running, finished): $(queue), not 0 0 $jobs"
hosts_run n1 caloris list --all --limit 100000 --json -q --cluster chaos >"$WORK/list" || fail "no list of jobs"
hosts_run n1 caloris admin check --state "$STATE" >"$WORK/admin.log" 2>&1 || fail "the queue is damaged"

# Nothing of ours is left: no process, no shared memory, no file.
: >"$WORK/stop"
programs | grep -E '^[0-9]+ ([^ ]*/)?(bash [^ ]*/caloris-run-group|caloris-gateway) ' | cut -d' ' -f1 |
    xargs -r kill -TERM
for pid in "${kept[@]}"; do
    await 30 ended "$pid" || fail "still runs: $(programs)"
done
# Open MPI's daemon of a host that was cut off learns in half a minute that its mpirun is gone.
no_programs() { ! programs >/dev/null; }
await 60 no_programs || fail "left behind: $(programs)"
for host in n1 n2 n3; do
    left=$(hosts_run $host ls -A /dev/shm | grep .) && fail "left in shared memory of $host: $left"
    # shellcheck disable=SC2016 # the host's own
    left=$(hosts_run $host sh -c 'ls -A "$TMPDIR"' | grep .) && fail "left in the temporary directory of $host: $left"
done
left=$(hosts_run n1 ls -A "$STATE" | grep -vxE 'queue\.db|lock|reserve|(server|token)\.key(\.pub)?') && fail "left in the state directory: $left"

# ---- in figures ----------------------------------------------------------------------------------

# Groups by caloris-run-group, unless it was killed with them.
for name in a b; do
    sed -n "s/^run-group: .*; starting it again$/$name/p" "$WORK/$name.log"
done >>"$WORK/ended"
# The most of one job.
most() { grep -o "\"$1\":[0-9]*" "$WORK/list" | cut -d: -f2 | sort -n | tail -n 1; }
echo "seed ${2:-1}: $jobs jobs in $((SECONDS - begun)) s, each with one result, the recorded ids"
printf '%d kills in %d s: gateway %d, rank %d, group %d, client %d; cables cut %d, disk filled %d\n' \
    $((COUNT[gateway] + COUNT[rank] + COUNT[group] + COUNT[client])) "$CHAOS_SECONDS" "${COUNT[gateway]}" \
    "${COUNT[rank]}" "${COUNT[group]}" "${COUNT[client]}" "${COUNT[cable]}" "${COUNT[disk]}"
printf '%d restarts: %s\n' "$(wc -l <"$WORK/ended")" \
    "$(sort "$WORK/ended" | uniq -c | awk '{printf "%s%s %s", (NR > 1 ? ", " : ""), $2, $1}')"
printf 'jobs that went back to the queue: %d; most crashes of one: %d, of them alone: %d\n' \
    "$(sed -n 's/.*; \([0-9]*\) jobs go back to the queue.*/\1/p' "$WORK/gateway.log" | awk '{n += $1} END {print n + 0}')" \
    "$(most crashes)" "$(most attempts)"
awk 'NR == FNR { at[NR] = $1; n = NR; next } END {
    printf "recovered: %d of %d; seconds to recover: median %.1f, worst %.1f\n", n, FNR, at[int((n + 1) / 2)], at[n]
}' "$WORK/recoveries" "$WORK/shots"
