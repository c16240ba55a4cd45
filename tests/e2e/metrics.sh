#!/bin/bash
# caloris metrics: what promtool reads without complaint, and figures that are those of what was done.
. "$(dirname "$0")/lib.sh"

MODEL=$SOURCE/deploy/models/tinycoder
cd "$WORK" || fail "no $WORK"
golden_jobs make tinycoder:1 | head -n 6 >jobs.jsonl || fail "no jobs"
mkdir -m 700 state
caloris-gateway --state "$WORK/state" --name mine >gateway.log 2>&1 &
await 10 grep -q "^ready" gateway.log || fail "no gateway"
export CALORIS_CLUSTER=mine
caloris metrics >empty.log || fail "of a gateway without groups: exit $?"
caloris-engine --comm threads --ranks 2 --threads 1 --model "$MODEL" --name "g \"1\\" \
    --row-budget 128 --rank-silent 1s --gateway "ipc://$WORK/state/groups.sock" \
    >engine.log 2>&1 </dev/null &
group=$!
await 20 grep -q "knows us" engine.log || fail "no group"

jobs=()
while read -r line; do
    jobs+=("$(caloris submit --job - <<<"$line")") || fail "submit: exit $?"
done <jobs.jsonl
jobs+=("$(caloris submit --ids 1,2,999999 --gen-length 8)") || fail "submit: exit $?" # no such id
jobs+=("$(caloris submit --model nobody x)") || fail "submit: exit $?"
caloris cancel "${jobs[7]}" || fail "cancel: exit $?"
limited 60 caloris wait "${jobs[@]}" 2>wait.log
tokens=0 steps=0
for job in "${jobs[@]:0:6}"; do
    line=$(caloris results --json "$job") || fail "results: exit $?"
    tokens=$((tokens + $(grep -o '"completion_tokens":[0-9]*' <<<"$line" | head -n 1 | grep -o '[0-9]*$')))
    steps=$((steps + $(grep -o '"forward_passes":[0-9]*' <<<"$line" | grep -o '[0-9]*$')))
done

# is SAMPLE VALUE: a line, as it stands; the group's come with its next beat.
current() { caloris metrics >metrics.log && caloris metrics --json >metrics.json; }
is() { grep -qxF -- "$1 $2" metrics.log || fail "not $1 $2: $(grep -F -- "${1%%[{]*}" metrics.log)"; }
beat() { current && grep -qE 'caloris_group_steps_total\{.*\} [1-9]' metrics.log; }
await 10 beat || fail "no figures of the group: $(cat metrics.log)"
is 'caloris_accepted_jobs_total' 8
is 'caloris_jobs_total{state="done"}' 6
is 'caloris_jobs_total{state="failed"}' 1
is 'caloris_jobs_total{state="cancelled"}' 1
is 'caloris_jobs{state="queued"}' 0
is 'caloris_jobs{state="running"}' 0
is 'caloris_jobs{state="finished"}' 8
is 'caloris_queued_jobs' 0
is 'caloris_running_jobs' 0
is 'caloris_generated_tokens_total' "$tokens"
is 'caloris_denoise_steps_total' "$steps"
is 'caloris_queue_wait_seconds_count' 6
is 'caloris_request_duration_seconds_bucket{le="+Inf"}' 6
is 'caloris_time_to_first_block_seconds_count' 6
is 'caloris_tokens_per_step_count' 6
is 'caloris_groups_lost_total' 0
is 'caloris_ranks_ready{group="g \"1\\",model_name="tinycoder"}' 2
phases=()
for phase in attention mlp head other; do
    phases+=("forward_seconds_total\{group=.*,rank=\"1\",phase=\"$phase\"")
done
for name in "${phases[@]}" 'allreduce_seconds_total\{group=.*,rank="1"' 'allreduce_bytes_total\{group=.*,rank="1"'; do
    grep -qE "^caloris_$name\} [0-9.e+-]*[1-9]" metrics.log ||
        fail "no $name of rank 1: $(grep "seconds_total" metrics.log)"
done
value() { sed -n "s/^caloris_$1{group=\"g .*\"} //p" metrics.log; }
all_classed() { current && [ "$(value batch_rows_count)" = "$(value group_steps_total)" ]; } # a step may be running
await 10 all_classed || fail "a step is in no class of rows: $(grep -e batch_rows -e steps_total metrics.log)"
[ "$(value batch_rows_sum)" = "$(value group_rows_total)" ] || fail "$(grep rows metrics.log)"
grep -qE '^caloris_rank_memory_bytes\{.*,rank="1",kind="weights"\} [1-9]' metrics.log || fail "no memory"
for sample in '"name":"caloris_accepted_jobs_total","value":8.0' \
    '"name":"caloris_jobs_total","labels":{"state":"failed"},"value":1.0'; do
    grep -qF -- "$sample" metrics.json || fail "not in the JSON: $sample"
done

# A group that is lost is counted, and its figures are gone.
kill -KILL "$group"
lost() { caloris metrics | grep -qx 'caloris_groups_lost_total 1'; }
await 20 lost || fail "the lost group is not counted"
caloris metrics | grep -q 'caloris_ranks_ready{' && fail "figures of a group that is gone"

# It comes back under its name: another process, and so a restart. One that left and comes again is none.
restarts() { caloris metrics | grep -qx "caloris_engine_restarts_total $1"; }
serve_again()
{
    caloris-engine --comm threads --threads 1 --model "$MODEL" --name "g \"1\\" --row-budget 128 \
        --gateway "ipc://$WORK/state/groups.sock" >again.log 2>&1 </dev/null &
    group=$!
    await 30 grep -q "knows us" again.log || fail "no group under the name of the lost one"
}
restarts 0 || fail "a restart of nobody"
serve_again
restarts 1 || fail "the restart is not counted: $(caloris metrics | grep restarts)"
kill -TERM "$group"
wait "$group"
serve_again
restarts 1 || fail "a group that left is counted as restarted"
kill -TERM "$group"
wait "$group"

command -v promtool >/dev/null || skip "all but promtool, which is not here (Debian: prometheus)"
for text in empty.log metrics.log; do
    said=$(promtool check metrics <"$text" 2>&1) || fail "promtool: $said"
    [ -z "$said" ] || fail "promtool: $said"
done
echo "promtool: $(grep -c '^# TYPE' metrics.log) families are fine"
