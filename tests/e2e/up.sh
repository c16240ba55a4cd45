#!/usr/bin/env bash
# caloris up: a gateway and a group on this machine answer with the recorded ids, whoever of them is killed; nothing
# is left behind.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

unset CALORIS_ENDPOINT CALORIS_CLUSTER XDG_RUNTIME_DIR
export TMPDIR=$WORK # an "up" of another test beside this one would clear what one leaves here
MODEL=$SOURCE/deploy/models/tinycoder
export MODEL WORK
PARAMS="--preset exact --early-stop false --commit quota --steps 96 --gen-length 96 --block-length 96"
export PARAMS

# prompt N, recorded N: text of the N-th prompt (from 0); ids that third-party code gave for it with PARAMS.
prompt() { sed -n "$(($1 + 1))p" "$MODEL/prompts.jsonl" | sed 's/.*"prompt": "\([^"]*\)".*/\1/'; }
recorded()
{
    grep -o "\"id\":\"p$(printf %03d "$1")\".*" "$MODEL/reference.json" |
        grep -o '"steps":96,"gen_length":96,"block_length":96,"cache":"none"},"ids":\[[0-9,]*\]' | grep -o '"ids".*'
}
# child PID NAME: the children of a process that have this name.
child()
{
    local stat pid name parent _
    for stat in /proc/[0-9]*/stat; do
        read -r pid name _ parent _ 2>/dev/null <"$stat" || continue
        [ "$parent" = "$1" ] && [ "$name" = "($2)" ] && echo "$pid"
    done
}
# launcher PID: mpirun, which is called prterun from Open MPI 5 on.
launcher() { child "$1" mpirun; child "$1" prterun; }
# Nothing that up started still runs.
gone()
{
    local left
    left=$(leftovers)
    case $left in
    *caloris-gateway* | *caloris-engine* | *mpirun* | *prterun*) fail "left behind: $left" ;;
    esac
}
export -f prompt recorded child launcher

[ -n "$(recorded 0)" ] || fail "reference.json has no such run"

# One command: the recorded ids on stdout and nothing else, everything gone afterwards.
# shellcheck disable=SC2086 # PARAMS are words
limited 60 caloris up --ranks 2 -- caloris run --json $PARAMS "$(prompt 0)" >"$WORK/out" 2>"$WORK/up.log" ||
    fail "up: exit code $?"
grep -qF "$(recorded 0)" "$WORK/out" || fail "other ids than the recorded ones: $(cat "$WORK/out")"
[ "$(wc -l <"$WORK/out")" = 1 ] || fail "more than the result on stdout: $(cat "$WORK/out")"
gone
dir=$(sed -n 's/.*ready after .* at ipc:\/\/\(.*\)\/clients.sock/\1/p' "$WORK/up.log")
[ -n "$dir" ] || fail "up does not say where it is"
[ ! -e "$dir" ] || fail "$dir is left behind"

# The command's exit code is up's.
limited 60 caloris up -q -- sh -c 'exit 42' 2>>"$WORK/up.log"
[ $? = 42 ] || fail "the command's exit code is lost"

# What is drawn at random has bytes of every kind, NULs, too (id 188): it ends, and is printed whole.
# shellcheck disable=SC2016 # for the shell inside
limited 60 caloris up -q -- bash -c 'for seed in 31 32 33 34; do
    caloris run --json --temperature 60 --commit quota --steps 2 --gen-length 224 --block-length 224 --early-stop false \
        --logits-eos-inf true --eot-id 507 --seed $seed x && caloris results $((seed - 30)) >"$WORK/text" || exit
    [ "$(caloris results --json $((seed - 30)) | grep -o "u0000" | wc -l)" = "$(tr -dc "\0" <"$WORK/text" | wc -c)" ] || exit
done' >"$WORK/out" 2>>"$WORK/up.log" || fail "bytes of every kind: exit code $?"
[ "$(wc -l <"$WORK/out")" = 4 ] || fail "bytes of every kind: $(cat "$WORK/out")"

# A model that cannot be loaded is not tried again.
mkdir "$WORK/broken"
echo '{' >"$WORK/broken/config.json"
limited 60 caloris up --ranks 2 --model "$WORK/broken" -- true 2>"$WORK/broken.log"
[ $? = 2 ] || fail "a broken model: not exit code 2"
grep -q "config.json" "$WORK/broken.log" || fail "a broken model: the file is not named"

# Whoever is killed while jobs run, every accepted job ends with the recorded ids.
cat >"$WORK/inside.sh" <<'INSIDE'
set -u
mode=$(stat -c %a "$(dirname "${CALORIS_ENDPOINT#ipc://}")")
[ "$mode" = 700 ] || { echo "the directory has mode $mode"; exit 1; }
jobs=()
for i in 0 1 2 3 4 5 6 7; do
    # shellcheck disable=SC2086 # PARAMS are words
    jobs+=("$(caloris submit $PARAMS "$(prompt $i)")") || exit 1
done
caloris wait "${jobs[@]}" 2>"$WORK/wait.log" &
waiter=$!
killed() { kill -KILL "$1" && echo "killed $2 $1"; }
# One group is there (a lost one is forgotten), and it computes.
running() { caloris cluster --json -q | grep -qE '^\{"groups":\[\{[^}]*"running":[1-9][^}]*\}\],'; }
# On a fast machine all may have been done meanwhile: then whoever is idle is killed.
at_work() { running || ! kill -0 "$waiter" 2>/dev/null; }
# Waits for as long as the slowest machine needs.
soon()
{
    local end=$((SECONDS + 40))
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}
soon at_work
killed "$(child "$PPID" caloris-gateway)" gateway
sleep 0.5
world=$(launcher "$PPID")
soon at_work
killed "$(child "$world" caloris-engine | head -n 1)" rank
another()
{
    local next
    next=$(launcher "$PPID")
    [ -n "$next" ] && [ "$next" != "$world" ]
}
soon another
soon at_work
killed "$(launcher "$PPID")" mpirun
wait "$waiter" || { echo "wait: exit code $?"; caloris list -a; exit 1; }
for i in 0 1 2 3 4 5 6 7; do
    caloris results --json "${jobs[$i]}" | grep -qF "$(recorded $i)" || { echo "job ${jobs[$i]}: other ids"; exit 1; }
done
[ "$(caloris list -a --no-header | wc -l)" = 8 ] || { echo "not 8 jobs"; exit 1; }
INSIDE
limited 150 caloris up --ranks 2 -- bash "$WORK/inside.sh" >"$WORK/inside.log" 2>"$WORK/up.log" || fail "exit code $?"
[ "$(grep -c "^killed" "$WORK/inside.log")" = 3 ] || fail "not all three were killed: $(cat "$WORK/inside.log")"
grep -q "the gateway ended (signal 9)" "$WORK/up.log" || fail "up does not tell that the gateway was killed"
[ "$(grep -c "the group ended" "$WORK/up.log")" = 2 ] || fail "up does not tell that the group was killed twice"
gone

# up itself killed: its servers end with it, and the next one clears what it left.
caloris up --ranks 2 --cluster mine >"$WORK/serve.log" 2>&1 &
server=$!
await 30 grep -q "ready after" "$WORK/serve.log" || fail "up without a command does not serve"
kill -KILL $server
all_gone() { (gone) 2>/dev/null; }
await 10 all_gone || gone
dir=$(sed -n 's/.*ready after .* at ipc:\/\/\(.*\)\/clients.sock/\1/p' "$WORK/serve.log")
[ -d "$dir" ] || fail "no directory \"$dir\" that the next one could clear"
limited 60 caloris up -q -- true || fail "up: exit code $?"
[ ! -e "$dir" ] || fail "$dir is still there"

# Without a command it serves under a name until it is told to end.
caloris up --cluster mine >"$WORK/serve.log" 2>&1 &
server=$!
await 30 grep -q "ready after" "$WORK/serve.log" || fail "up without a command does not serve"
limited 20 caloris run -q --cluster mine "$(prompt 0)" >"$WORK/out" || fail "run --cluster mine"
grep -q "^def " "$WORK/out" || fail "no function: $(cat "$WORK/out")"
kill -TERM $server
wait $server || fail "up: exit code $? when told to end"
[ ! -e "$HOME/.caloris/mine" ] || fail "the cluster's file is left behind"
gone
