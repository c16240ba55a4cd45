#!/bin/bash
# Groups come and go: two of different models and sizes; one is drained while it computes, one hands
# its jobs back, one runs out of time. The jobs all end with the recorded ids.
. "$(dirname "$0")/lib.sh"

MODEL=$SOURCE/deploy/models/tinycoder
cd "$WORK" || fail "no $WORK"
golden_jobs make tinycoder:1 | sed 's/^{/{"model":"tinycoder",/' >jobs.jsonl || fail "no jobs"
mkdir -m 700 state
caloris-gateway --state "$WORK/state" --name mine >gateway.log 2>&1 &
await 10 grep -q "^ready" gateway.log || fail "no gateway"
export CALORIS_CLUSTER=mine

# A group in the background, with a log of its name; its process in $group.
start() # name model options…
{
    local name=$1 model=$2
    shift 2
    caloris-engine --comm threads --threads 1 --model "$model" --name "$name" --row-budget 128 \
        --gateway "ipc://$WORK/state/groups.sock" "$@" >"$name.log" 2>&1 </dev/null &
    group=$!
    await 20 grep -q "knows us" "$name.log" || fail "group $name does not come up"
}
groups() { caloris group list --json -q; }
# The entry of one group, and whether words are in it.
says() { groups | grep -o "{[^{}]*\"name\":\"$1\"[^{}]*}" | grep -qE "$2"; }
submit() # first last
{
    local line
    while read -r line; do
        jobs+=("$(caloris submit --job - <<<"$line")") || fail "submit: exit $?"
    done < <(sed -n "$1,$2p" jobs.jsonl)
}
# All jobs so far are done, as recorded.
all_done()
{
    local job
    limited 60 caloris wait "${jobs[@]}" 2>wait.log || fail "wait: exit $?"
    : >out.jsonl
    for job in "${jobs[@]}"; do
        caloris results --json "$job" >>out.jsonl || fail "results: exit $?"
    done
    golden_jobs check tinycoder:1 out.jsonl >check.log
    [ "$(grep -c ": no result$" check.log) $(tail -n 1 check.log)" = \
        "$((40 - ${#jobs[@]})) 40 runs, $((40 - ${#jobs[@]})) wrong" ] ||
        fail "not the recorded runs: $(grep -v ": no result$" check.log)"
}
left() # code name
{
    wait "$group"
    local code=$?
    [ $code = "$1" ] || fail "group $2: exit $code, not $1"
    says "$2" . && fail "group $2 is still listed"
    return 0
}

start other "$GOLDEN/llada" --ranks 2
start one "$MODEL" --max-requests 2
says other '"model":"llada".*"ranks":2.*"state":"serving".*"version":"caloris-engine [0-9.]+"' ||
    fail "not as it should be: $(groups)"
caloris group list >table.log 2>/dev/null || fail "list: exit $?"
grep -qE "^one +serving +tinycoder +$(hostname) +1 +0/4 +[0-9]+ s caloris-engine" table.log ||
    fail "no line of group one: $(cat table.log)"

# Drained: it finishes what it holds and leaves with 0; the other jobs wait for the next one.
jobs=()
submit 1 16
await 10 says one '"running":[1-9]' || fail "group one does not compute"
limited 60 caloris group drain one --wait 2>drain.log || fail "drain: exit $?"
left 0 one
grep -q "finishing [1-4] jobs" one.log || fail "not a word of it"
[ "$(caloris list --no-header | grep -c queued)" -ge 1 ] || fail "it took more than it held"
says other '"state":"serving"' || fail "the other one has left, too"
echo "drained: $(grep -o 'drained by.*' one.log)"

# Handed back: at once, and the next one goes on.
start two "$MODEL" --ranks 2
submit 17 24
await 10 says two '"running":[1-9]' || fail "group two does not compute"
limited 20 caloris group drain two --hand-back --wait 2>drain.log || fail "drain: exit $?"
left 0 two
grep -q "handing [1-9][0-9]* jobs back" two.log || fail "not a word of it"
SLURM_JOB_END_TIME=soon start three "$MODEL" # which is not known, but said
grep -q 'warn .*SLURM_JOB_END_TIME is "soon", no time' three.log || fail "no warning of an end that is no time"
all_done
kill -USR1 "$group"
left 75 three

# Its time is over before the jobs are: what is left is handed back, and the code is 75, as after a
# signal. The long jobs of the beginning keep any machine busy for longer than the group has, and it
# has enough for a slow start.
long=()
for i in {1..8}; do
    long+=("$(caloris submit -q --model tinycoder --gen-length 192 --block-length 192 --steps 192 \
        --commit quota --cache none --early-stop false "Write a function, variant $i")") ||
        fail "submit: exit $?"
done
submit 25 40
start four "$MODEL" --max-requests 2 --end-time $(($(date +%s) + 6)) --end-margin 1s
left 75 four
grep -q "the allocation ends: handing [1-9][0-9]* jobs back" four.log || fail "not a word of it"
[ "$(caloris list --no-header | grep -c queued)" -ge 1 ] || fail "not the time for all jobs"
echo "time over: $(grep -o 'the allocation ends.*' four.log | head -n 1)"
for job in "${long[@]}"; do # but for those that a fast machine has done
    caloris cancel "$job" >cancel.log 2>&1 || grep -q "job $job has finished already" cancel.log ||
        fail "cancel: $(cat cancel.log)"
done
start five "$MODEL" --ranks 3 --end-time $(($(date +%s) + 3600))
all_done
kill -USR1 "$group"
left 75 five

# A name that is taken: who has it may be dying, so the newcomer asks until it is free.
caloris-engine --comm threads --threads 1 --model "$GOLDEN/llada" --name other \
    --gateway "ipc://$WORK/state/groups.sock" >heir.log 2>&1 </dev/null &
heir=$!
await 20 grep -q "another group is called other.*; asking for" heir.log || fail "a taken name is not noticed"
limited 60 caloris group drain other --wait 2>drain.log || fail "drain: exit $?"
await 20 grep -q "knows us as other" heir.log || fail "the name is free, the heir is not there"
kill -USR1 "$heir"
wait "$heir"
[ $? = 75 ] || fail "the heir: not exit code 75"

limited 10 caloris group drain four 2>none.log
[ $? = 5 ] || fail "a group that is not there: not exit code 5"
limited 10 caloris group drop other 2>usage.log
[ $? = 2 ] || fail "drop: not exit code 2"
