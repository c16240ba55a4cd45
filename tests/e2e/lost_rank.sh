#!/bin/bash
# A rank that stops, a rank 0 that stops, a cable that is cut: one line says who did not arrive where,
# everybody leaves with 69, and nothing is left behind. Ranks that have nothing to do are not lost.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

MODEL=$SOURCE/deploy/models/tinycoder
cd "$WORK" || fail "no $WORK"
prompt() { sed -n "$(($1 + 1))p" "$MODEL/prompts.jsonl" | sed 's/.*"prompt": "\([^"]*\)".*/\1/'; }
golden_jobs make tinycoder:1 >jobs.jsonl || fail "no jobs"

# The process of one rank, and whether the group has begun to compute.
rank()
{
    local pid _
    while read -r pid _; do
        grep -qzx "OMPI_COMM_WORLD_RANK=$1\|PMIX_RANK=$1" "/proc/$pid/environ" && echo "$pid" && return
    done < <(leftovers | grep -E '^[0-9]+ [^ ]*caloris-engine ')
    return 1
}
computes() { [ -s out.jsonl ]; }
no_ranks() { ! leftovers | grep -qE '^[0-9]+ [^ ]*caloris-engine '; }

# Starts three ranks in the background: $world. The rest are options: by default a file of jobs.
start() # mpirun options…
{
    local launcher=$1
    shift
    rm -f out.jsonl
    [ $# -gt 0 ] || set -- --max-requests 2 --jobs jobs.jsonl --out out.jsonl
    "$launcher" -n 3 "$BIN/caloris-engine" --threads 1 --model "$MODEL" --rank-silent 1s \
        --rank-stands 3s "$@" </dev/null >engine.log 2>&1 &
    world=$!
}
# Waits for its end: a code, and a line of its log.
ends()
{
    wait "$world"
    local code=$?
    [ $code = "$1" ] || fail "exit $code, not $1"
    [ -z "$2" ] || grep -qE " error engine rank=[0-2]/3 step=[0-9]+ $2" engine.log || fail "no line \"$2\""
    await 10 no_ranks || fail "left behind: $(leftovers)"
    echo "$3: $(grep -oE ' error engine .*' engine.log | head -n 1)"
}

place='waiting in (all-reduce [12] of layer [0-9]+|the all-reduce of the embedding|a broadcast|the gathering of summaries)'

start mpirun
await 30 computes || fail "nothing is computed"
kill -STOP "$(rank 1)" || fail "no rank 1"
ends 69 "$place; not arrived: rank 1 on $(hostname) \(silent for [0-9.]+ s\)" "rank 1 stopped"

start mpirun
await 30 computes || fail "nothing is computed"
kill -STOP "$(rank 0)" || fail "no rank 0"
ends 69 "rank [12] has had no answer from rank 0 on $(hostname) for" "rank 0 stopped"

# Nothing to do for longer than any limit, then a job.
mkdir -m 700 state
caloris-gateway --state "$WORK/state" --name mine >gateway.log 2>&1 &
gateway=$!
await 10 grep -q "^ready" gateway.log || fail "no gateway"
start mpirun --gateway "ipc://$WORK/state/groups.sock"
await 30 grep -q "knows us" engine.log || fail "the group does not come up"
sleep 5
limited 30 caloris run -q --cluster mine "$(prompt 0)" >answer.log || fail "no answer after a pause"
kill -USR1 "$world"
ends 75 "" "idle for 5 s, then a job"
grep -q " error " engine.log && fail "an idle group complains"

# Asked to leave is one of them that is not rank 0, while it computes: all hand back and leave.
start mpirun --gateway "ipc://$WORK/state/groups.sock"
await 30 grep -q "knows us" engine.log || fail "the group does not come up"
job=$(caloris submit -q --cluster mine --preset exact --gen-length 224 --early-stop false "x") || fail "submit"
running() { caloris show --cluster mine --json "$job" | grep -q '"state":"running"'; }
await 30 running || fail "the job does not run"
kill -TERM "$(rank 2)" || fail "no rank 2"
ends 75 "" "rank 2 was asked to leave"
grep -q "rank 2 was asked to leave (Terminated): all do" engine.log || fail "nobody says who was asked"
grep -q "handing 1 jobs back" engine.log || fail "the job was not handed back"
caloris show --cluster mine "$job" | grep -q "^state *queued" || fail "the job does not wait again"
kill "$gateway"

# Two hosts, and the cable of the second is cut. All ranks leave, the one that is cut off, too. Open
# MPI's daemons do not notice for a quarter of an hour (TCP tries again for so long); who starts
# groups must not wait for them, and neither does this test.
HOSTS_SLOTS=2 hosts_up 2
start hosts_mpirun
await 30 computes || fail "nothing is computed over two hosts"
hosts_cut n2
await 20 no_ranks || fail "ranks are left on a host that is cut off: $(leftovers)"
line=$(grep -oE " error engine rank=0/3 step=[0-9]+ $place; not arrived: rank 2 on n2 \(silent for [0-9.]+ s\).*" engine.log) ||
    fail "no line about rank 2 on n2"
echo "cable cut: ${line# error engine }"
