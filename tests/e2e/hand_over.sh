#!/usr/bin/env bash
# A job goes on where a group left it that was killed, or was told to drain: another group, of another number of
# ranks, gives the recorded ids and computes only what was missing.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

unset CALORIS_ENDPOINT CALORIS_CLUSTER XDG_RUNTIME_DIR
MODEL=$SOURCE/deploy/models/tinycoder
STATE=$WORK/state
export CALORIS_ENDPOINT=ipc://$STATE/clients.sock
# Four blocks of 16 passes.
PARAMS="--preset exact --early-stop false --commit quota --quota block --steps 64 --gen-length 64 --block-length 16"

prompt() { sed -n "$(($1 + 1))p" "$MODEL/prompts.jsonl" | sed 's/.*"prompt": "\([^"]*\)".*/\1/'; }
recorded()
{
    grep -o "\"id\":\"p$(printf %03d "$1")\".*" "$MODEL/reference.json" |
        grep -o '"steps":64,"gen_length":64,"block_length":16,"cache":"none"},"ids":\[[0-9,]*\]' | grep -o '"ids".*'
}
# group NAME RANKS: starts one; its launcher's process id is in $group.
group()
{
    mpirun -n "$2" caloris-engine --gateway "ipc://$STATE/groups.sock" --name "$1" --threads 1 --row-budget 64 \
        >"$WORK/$1.log" 2>&1 &
    group=$!
    await 30 here "$1" || fail "group $1 does not come"
}
# shellcheck disable=SC2317 # called by await
here() { caloris cluster --json -q | grep -qF "\"name\":\"$1\""; }
# ranks PID: the engines below a launcher.
ranks()
{
    local stat pid name parent _
    for stat in /proc/[0-9]*/stat; do
        read -r pid name _ parent _ 2>/dev/null <"$stat" || continue
        [ "$parent" = "$1" ] && [ "$name" = "(caloris-engine)" ] && echo "$pid"
    done
}
# field JOB NAME: a number of what show says.
field() { caloris show --json "$1" | grep -o "\"$2\":[0-9]*" | sed 's/.*://'; }
# shellcheck disable=SC2317 # called by await
on_its_way() { [ "$(field "$job" block)" -ge 1 ] 2>/dev/null || caloris results -q "$job" >"$WORK/early" 2>&1; }
# signal NAME…: to all ranks of the group, in this order.
signal()
{
    local name
    for name; do
        # shellcheck disable=SC2046 # process ids are words
        kill "-$name" $(ranks "$group") || fail "kill -$name"
    done
}
# start FROM: submits prompts until one was caught in the middle, a block done; $job and $number say which. The group
# stands still then, so that the job is not over before something is done to it.
start()
{
    for number in $(seq "$1" $(($1 + 4))); do
        # shellcheck disable=SC2086 # PARAMS are words
        job=$(caloris submit $PARAMS "$(prompt "$number")") || fail "submit"
        await 60 on_its_way || fail "job $job: no block is done"
        signal STOP
        caloris show --json "$job" | grep -q '"state":"running"' && return
        signal CONT
    done
    fail "no job was caught in the middle"
}
# finish RANKS HOW: the job's result: recorded ids, all of its forward passes, begun elsewhere.
finish()
{
    local result block passes
    caloris wait "$job" 2>"$WORK/wait.log" || fail "$2: wait"
    result=$(caloris results --json "$job")
    grep -qF "$(recorded "$number")" <<<"$result" || fail "$2: other ids than the recorded ones: $result"
    grep -q '"forward_passes":64,"steps":64' <<<"$result" || fail "$2: not 64 passes in all: $result"
    grep -q "\"ranks\":$1" <<<"$result" || fail "$2: not by the second group: $result"
    block=$(grep -o '"resumed":{"block":[0-9]*' <<<"$result" | grep -o '[0-9]*$')
    passes=$(grep -o '"resumed":{[^}]*"forward_passes":[0-9]*' <<<"$result" | grep -o '[0-9]*$')
    [ "${block:-0}" -ge 1 ] || fail "$2: begun anew: $result"
    [ "$passes" = $((16 * block)) ] || fail "$2: $passes passes before block $block"
    echo "$2: job $job resumed at block $block of 4, $passes of 64 forward passes were done"
}

[ -n "$(recorded 0)" ] || fail "reference.json has no such run"
mkdir -m 700 "$STATE"
caloris-gateway --state "$STATE" --beat 200ms --lost 2s >"$WORK/gateway.log" 2>&1 &
await 20 caloris list -q >/dev/null 2>&1 || fail "the gateway does not start"

# Killed in the middle.
group first 2
start 0
kill -KILL "$(ranks "$group" | head -n 1)" || fail "kill"
signal CONT
wait "$group"
group second 3
finish 3 "kill -9"

# Told to drain in the middle: SIGUSR1 to the ranks, of which rank 0 hands everything back.
start 10
signal USR1 CONT
wait "$group"
group third 1
[ "$(field "$job" crashes)" = 0 ] || fail "a drained job counts a crash"
finish 1 "drain"
kill -TERM "$group"
wait "$group"
exit 0
