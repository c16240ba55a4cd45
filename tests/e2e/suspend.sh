#!/usr/bin/env bash
# Ctrl-Z while a canvas is painted: the shell gets its cursor back, and what goes on is painted anew.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
command -v script >/dev/null || skip "no script(1)"

HIDE=$(printf '\033[?25l')
SHOW=$(printf '\033[?25h')
SCREEN=$WORK/screen
cat >"$WORK/shell.sh" <<'SHELL'
set -m
caloris replay --speed 0.1 "$1" &
echo $! >"$2"
wait -f $!
echo "exit $?"
SHELL
TERM=xterm limited 60 script -qfec "bash $WORK/shell.sh $SOURCE/tests/unit/sample_trace.jsonl $WORK/pid" "$SCREEN" \
    >/dev/null 2>"$WORK/script.log" </dev/null &
terminal=$!

seen() { [ "$(grep -oF "$1" "$SCREEN" 2>/dev/null | wc -l)" = "$2" ]; }
state() { grep -q "^State:[[:space:]]$2" "/proc/$1/status"; }
await 30 seen "$HIDE" 1 || fail "nothing is painted"
pid=$(cat "$WORK/pid")
seen "$SHOW" 0 || fail "the cursor is there already"
for round in 1 2; do
    kill -TSTP "$pid"
    await 30 state "$pid" T || fail "it does not stop"
    seen "$SHOW" $round || fail "no cursor while it is stopped"
    kill -CONT "$pid"
    await 30 seen "$HIDE" $((round + 1)) || fail "nothing is painted any more"
done
wait "$terminal" || fail "exit code $?"
seen "$SHOW" 3 || fail "no cursor at the end"
grep -q "return out" "$SCREEN" || fail "no result"
