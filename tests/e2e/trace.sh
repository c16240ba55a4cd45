#!/bin/bash
# Recordings of real runs: put together step by step they end in exactly the results; they survive a
# torn end, replay from a pipe, and of what is no recording the line is named.
. "$(dirname "$0")/lib.sh"

checked() # file, how many recordings at least
{
    trace_check "$1" "$2" >"$WORK/check.log" 2>&1 || fail "$1: $(cat "$WORK/check.log")"
}

offline() # model, jobs, options…
{
    local model=$1 jobs=$2
    shift 2
    limited 100 caloris-engine --comm threads --ranks 2 --threads 1 --row-budget 128 \
        --model "$model" --jobs "$jobs" --out "$WORK/out.jsonl" "$@" >"$WORK/engine.log" 2>&1 ||
        fail "offline: exit $?"
}

# ---- every way of decoding -----------------------------------------------------------------------

for set in llada llada-gqa; do
    golden_jobs make $set >"$WORK/jobs.jsonl" || fail "$set"
    rm -f "$WORK/out.jsonl"
    offline "$GOLDEN/$set" "$WORK/jobs.jsonl" --trace "$WORK/$set.jsonl"
    checked "$WORK/$set.jsonl" "$(wc -l <"$WORK/jobs.jsonl")"
done

demo=$SOURCE/deploy/models/tinycoder
{
    golden_jobs make tinycoder:1 | head -n 6
    cat <<'LINES'
{"id": "hole", "prompt": "def f(a):\n    return [M][M]\n", "hole": "[M]", "gen_length": 8}
{"id": "guided", "prompt": "def f(a):\n", "gen_length": 24, "cfg_scale": 0.5, "cache": "dual", "block_length": 8}
{"id": "warm", "prompt": "def f(a):\n", "gen_length": 24, "temperature": 1.5, "order": "random"}
{"id": "best", "prompt": "def f(a):\n", "gen_length": 24, "temperature": 2, "best": 3, "seed": 5}
{"id": "best-hole", "prompt": "def f(a):\n    return [M]\n", "hole": "[M]", "gen_length": 8, "temperature": 2, "best": 8, "seed": 5}
LINES
} >"$WORK/jobs.jsonl"
rm -f "$WORK/out.jsonl"
offline "$demo" "$WORK/jobs.jsonl" --trace "$WORK/demo.jsonl"
checked "$WORK/demo.jsonl" 11
grep -q '"masks_left":0,"canvas"' "$WORK/demo.jsonl" || fail "the first of several answers won all"

# ---- a torn end is dropped, the rest is kept -----------------------------------------------------

lines=$(wc -l <"$WORK/demo.jsonl")
head -n $((lines - 2)) "$WORK/demo.jsonl" >"$WORK/torn.jsonl"
printf '{"step": 9' >>"$WORK/torn.jsonl"
cat >>"$WORK/jobs.jsonl" <<'LINES'
{"id": "more", "prompt": "def g(a):\n", "gen_length": 16}
LINES
offline "$demo" "$WORK/jobs.jsonl" --trace "$WORK/torn.jsonl" --resume
checked "$WORK/torn.jsonl" 11

# What is wrong in itself is not cut off: whole recordings may follow.
sed '3s/"step"/"stop"/' "$WORK/torn.jsonl" >"$WORK/wrong.jsonl"
cp "$WORK/wrong.jsonl" "$WORK/before.jsonl"
limited 100 caloris-engine --comm threads --threads 1 --row-budget 128 --model "$demo" \
    --jobs "$WORK/jobs.jsonl" --out "$WORK/out.jsonl" --trace "$WORK/wrong.jsonl" --resume \
    >"$WORK/engine.log" 2>&1
[ $? = 2 ] || fail "a wrong line before whole recordings: exit code"
grep -q "wrong.jsonl: line 3: step: missing" "$WORK/engine.log" || fail "the line is not named"
cmp "$WORK/wrong.jsonl" "$WORK/before.jsonl" || fail "recordings were cut off"

# ---- answers that end early, with gaps behind their ends -----------------------------------------

sed -nE '1,60s/^(\{"id": "[^"]*"), "prompt": "([^"]*)".*/\1, "messages": [{"role": "user", "content": "\2"}], "preset": "fast"}/p' \
    "$demo/prompts.jsonl" >"$WORK/fast.jobs"
[ "$(wc -l <"$WORK/fast.jobs")" -ge 50 ] || fail "only $(wc -l <"$WORK/fast.jobs") prompts"
rm -f "$WORK/out.jsonl"
offline "$demo" "$WORK/fast.jobs" --trace "$WORK/fast.jsonl"
checked "$WORK/fast.jsonl" "$(wc -l <"$WORK/fast.jobs")"
caloris replay --json "$WORK/fast.jsonl" >/dev/null 2>"$WORK/replay.log" || fail "replay: exit $?"

# ---- run, watch, replay --------------------------------------------------------------------------

cat >"$WORK/inside.sh" <<'INSIDE'
set -eu
prompt="Return the largest even number of a list."
caloris run -q --trace "$WORK/run.jsonl" "$prompt" >"$WORK/text"
caloris run -q --json --trace "$WORK/json.jsonl" --preset exact --early-stop false \
    "$prompt" >"$WORK/result"
caloris run -q --json --trace "$WORK/hole.jsonl" --hole '[M]' --gen-length 0 \
    "$(printf 'def f(a):\n    return [M]\n')" >"$WORK/filled"
caloris run -q --raw --hole '[M]' --gen-length 0 "$(printf 'def f(a):\n    return [M]')" >"$WORK/filled.txt"
caloris watch 1 --trace "$WORK/late.jsonl" >/dev/null 2>"$WORK/late.err"
INSIDE
export WORK
limited 60 caloris up -q --ranks 2 -- bash "$WORK/inside.sh" >"$WORK/up.log" 2>&1 || fail "up: $?"
checked "$WORK/run.jsonl" 1
checked "$WORK/json.jsonl" 1
checked "$WORK/hole.jsonl" 1
grep -q '"canvas":\[' "$WORK/filled" || fail "only a hole to fill: $(cat "$WORK/filled")"
grep -q '"canvas_text":"user.*return ' "$WORK/filled" || fail "no text of it: $(cat "$WORK/filled")"
[ "$(head -n 1 "$WORK/filled.txt")" = "def f(a):" ] || fail "a hole to fill prints $(cat "$WORK/filled.txt")"
[ "$(wc -l <"$WORK/json.jsonl")" = 98 ] || fail "96 steps, $(wc -l <"$WORK/json.jsonl") lines"
grep -q "no step was seen" "$WORK/late.err" || fail "watching what has ended: $(cat "$WORK/late.err")"

caloris replay - <"$WORK/run.jsonl" >"$WORK/replayed" 2>"$WORK/replay.log" || fail "replay: exit $?"
tail -n "$(wc -l <"$WORK/text")" "$WORK/replayed" | cmp - "$WORK/text" || fail "another text"
steps=$(grep -c '^step ' "$WORK/replayed")
[ "$steps" = "$(grep -c '"step"' "$WORK/run.jsonl")" ] || fail "$steps steps replayed"
[ "$(caloris replay --json "$WORK/json.jsonl" | wc -l)" = 98 ] || fail "replay --json"
if command -v script >/dev/null; then
    TERM=xterm script -qec "caloris replay $WORK/run.jsonl --speed 100" /dev/null >"$WORK/painted" </dev/null
    grep -q "masks left 0" "$WORK/painted" || fail "replay on a terminal: no last frame"
    [ "$(grep -o $'\e\\[?25[hl]' "$WORK/painted" | tail -n 1)" = $'\e[?25h' ] || fail "no cursor"
    TERM=dumb script -qec "caloris replay $WORK/run.jsonl --speed 100" /dev/null >"$WORK/painted" </dev/null
    grep -q "^step " "$WORK/painted" || fail "replay on a dumb terminal: no steps"
    ! grep -q $'\e' "$WORK/painted" || fail "a dumb terminal is painted on"
fi

# ---- what is no recording ------------------------------------------------------------------------

refused() # words of the complaint, arguments
{
    local words=$1
    shift
    limited 10 caloris replay "$@" >"$WORK/replayed" 2>"$WORK/replay.log"
    [ $? = 2 ] || fail "replay $*: exit code"
    grep -q "$words" "$WORK/replay.log" || fail "replay $*: does not say $words"
}
sed 's/"caloris_trace":1/"caloris_trace":9/' "$WORK/run.jsonl" >"$WORK/newer.jsonl"
sed 3d "$WORK/run.jsonl" >"$WORK/gap.jsonl"
: >"$WORK/nothing.jsonl"
refused "newer.jsonl: line 1: a trace of version 9; this program reads 1" "$WORK/newer.jsonl"
refused "line 1: no trace of caloris" "$WORK/out.jsonl"
refused "line 1: column" "$SOURCE/README.md"
refused "line 3: step 3 behind step 1" "$WORK/gap.jsonl"
refused "is empty" "$WORK/nothing.jsonl"
refused "No such file" "$WORK/none.jsonl"
refused "needs a terminal" "$WORK/run.jsonl" --step
limited 10 caloris-engine --gateway ipc:///tmp/x/y --trace "$WORK/x" 2>"$WORK/engine.log"
[ $? = 2 ] || fail "--trace without --jobs"
