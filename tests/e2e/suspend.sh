#!/usr/bin/env bash
# Ctrl-Z while a canvas is painted and keys are waited for: the shell gets its cursor and its lines back, and what goes
# on is painted anew and takes keys again.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
command -v script >/dev/null || skip "no script(1)"

HIDE=$(printf '\033[?25l')
SHOW=$(printf '\033[?25h')
SCREEN=$WORK/screen
mkfifo "$WORK/keys"
exec 3<>"$WORK/keys"
cat >"$WORK/shell.sh" <<'SHELL'
set -m
go() { until [ -e "$1" ]; do sleep 0.05; done; }
caloris replay --step "$1"
go "$2/go.1"
fg # not in a loop: a job that stops ends that
go "$2/go.2"
fg
SHELL
TERM=xterm limited 100 script -qfec "bash $WORK/shell.sh $SOURCE/tests/unit/sample_trace.jsonl $WORK" "$SCREEN" \
    >/dev/null 2>"$WORK/script.log" <&3 &
terminal=$!

seen() { [ "$(grep -oF "$1" "$SCREEN" 2>/dev/null | wc -l)" = "$2" ]; }
state() { grep -q "^State:[[:space:]]$2" "/proc/$1/status"; }
# Whether the terminal gives keys one by one, unseen.
takes_keys() { [ "$(stty -F "$tty" -a | grep -oE -- '-(icanon|echo)\b' | wc -l)" = 2 ]; }
await 30 seen "$HIDE" 1 || fail "nothing is painted"
pid=$(leftovers | grep -E '^[0-9]+ caloris replay' | cut -d' ' -f1)
tty=$(readlink "/proc/$pid/fd/1")
seen "$SHOW" 0 || fail "the cursor is there already"
takes_keys || fail "no keys are taken"
for round in 1 2; do
    kill -TSTP "$pid"
    await 30 state "$pid" T || fail "it does not stop"
    await 10 seen "$SHOW" $round || fail "no cursor while it is stopped"
    takes_keys && fail "the shell gets keys, no lines"
    touch "$WORK/go.$round"
    await 30 seen "$HIDE" $((round + 1)) || fail "nothing is painted any more"
    await 30 takes_keys || fail "no keys are taken any more"
    echo -n n >&3 # the next step
done
echo -n nnnnnnnnnn >&3
wait "$terminal" || fail "exit code $?"
seen "$SHOW" 3 || fail "no cursor at the end"
grep -q "return out" "$SCREEN" || fail "no result"
