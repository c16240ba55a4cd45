#!/bin/bash
# caloris batch: killed anywhere and resumed, every line has exactly one result, the recorded one, and
# the gateway was never asked twice; both forms of lines; what is wrong fails alone; a long file in
# bounded memory; Ctrl-C; a gateway that is killed meanwhile, goes back to a copy of its queue, or is gone.
. "$(dirname "$0")/lib.sh"

IN=$WORK/in.jsonl
OUT=$WORK/out.jsonl
golden_jobs make tinycoder:1 >"$IN" || fail "golden_jobs"
lines=$(wc -l <"$IN")

cat >"$WORK/inside.sh" <<'INSIDE'
set -u
# ---- killed at any moment ----
kills=0
while :; do
    caloris batch -q "$IN" -o "$OUT" --resume 2>>"$WORK/batch.log" &
    batch=$!
    sleep "0.$((RANDOM % 9 + 1))"
    if [ $kills = 3 ]; then # this gateway is the one of "up", who starts it again
        kill -KILL "$(pgrep -P "$PPID" -x caloris-gateway | head -n 1)" 2>/dev/null
    fi
    if [ $kills -lt 12 ] && kill -KILL $batch 2>/dev/null; then
        wait $batch 2>/dev/null
        kills=$((kills + 1))
        printf '{"id":"torn' >>"$OUT" # as a host that dies leaves it
        continue
    fi
    wait $batch
    echo "exit $? after $kills kills" >"$WORK/killed"
    break
done
caloris list --all --limit 100000 --json -q >"$WORK/list"

# ---- both forms, and what is wrong ----
prompt="Return the largest even number of a list."
caloris run -q "$prompt" >"$WORK/text"
cat >"$WORK/mixed.jsonl" <<'LINES'
{"custom_id":"chat","method":"POST","url":"/v1/chat/completions","body":{"model":"tinycoder","max_tokens":96,"n":1,"messages":[{"role":"user","content":[{"type":"text","text":"Return the largest even "},{"type":"text","text":"number of a list."}]}]}}

{"custom_id":"raw","method":"POST","url":"/v1/completions","body":{"prompt":"def f(a):\n","max_tokens":16}}
{"id":"ours","prompt":"def f(a):\n","gen_length":16}
{"custom_id":"top","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"x"}],"top_p":0.5}}
{"id":"long","ids":[1],"gen_length":1000000}
{"id":"bad","ids":[1],"gen_lenght":8}
no JSON
LINES
caloris batch -q "$WORK/mixed.jsonl" -o "$WORK/mixed.out" --errors "$WORK/mixed.err"
echo $? >"$WORK/mixed.code"
for i in 1 2 3; do
    caloris batch -q "$WORK/mixed.jsonl" -o "$WORK/shard.$i" --shard $i/3
done
# ---- Ctrl-C ----
set -m
sed 's/^{/{"model":"nobody",/' "$IN" >"$WORK/never.jsonl" # nobody will ever compute them
caloris batch -q "$WORK/never.jsonl" -o "$WORK/int.out" 2>"$WORK/int.err" &
batch=$!
until caloris list --json -q --limit 1 | grep -q '"queued":[1-9]'; do sleep 0.05; done
kill -INT $batch
wait $batch
echo $? >"$WORK/int.code"
INSIDE
export WORK IN OUT
limited 200 caloris up -q --ranks 2 -- bash "$WORK/inside.sh" >"$WORK/inside.log" 2>"$WORK/up.log" ||
    fail "up: exit $?"

grep -q "^exit 0 after" "$WORK/killed" || fail "$(cat "$WORK/killed")"
golden_jobs check tinycoder:1 "$OUT" >"$WORK/check.log" 2>&1 || fail "not the recorded results"
[ "$(wc -l <"$OUT")" = "$lines" ] || fail "$(wc -l <"$OUT") results of $lines lines"
[ ! -e "$OUT.batch" ] || fail "a state is left behind"
jobs=$(grep -o '"job":[0-9]*' "$WORK/list" | wc -l)
[ "$jobs" = "$lines" ] || fail "$jobs jobs at the gateway for $lines lines"

[ "$(cat "$WORK/mixed.code")" = 1 ] || fail "mixed: exit $(cat "$WORK/mixed.code")"
[ "$(wc -l <"$WORK/mixed.out")" = 3 ] || fail "mixed: $(cat "$WORK/mixed.out")"
[ "$(wc -l <"$WORK/mixed.err")" = 4 ] || fail "mixed: $(cat "$WORK/mixed.err")"
while read -r file words; do
    grep -q -- "$words" "$WORK/$file" || fail "$file does not say $words: $(cat "$WORK/$file")"
done <<'WORDS'
mixed.out "id":"batch_req_1","custom_id":"chat".*"status_code":200.*"object":"chat.completion".*"model":"tinycoder"
mixed.out "custom_id":"raw".*"object":"text_completion".*"model":"tinycoder".*"text":
mixed.out "id":"ours".*"line":4
mixed.err "custom_id":"top".*"response":null.*body: top_p: 0.5 is not supported
mixed.err "id":"long".*"error".*"line":6
mixed.err "id":"bad".*gen_lenght.*"line":7
mixed.err "id":null.*no JSON.*"line":8
WORDS
text=$(sed ':a;N;$!ba;s/\n/\\n/g;s/"/\\"/g' "$WORK/text")
grep -qF "\"role\":\"assistant\",\"content\":\"$text" "$WORK/mixed.out" || fail "another text: $text"
[ "$(cat "$WORK"/shard.[123] | wc -l)" = 7 ] || fail "shards: $(cat "$WORK"/shard.[123])"
[ "$(grep -c . "$WORK/shard.1")" = 3 ] || fail "the first shard: $(cat "$WORK/shard.1")"

[ "$(cat "$WORK/int.code")" = 130 ] || fail "Ctrl-C: exit $(cat "$WORK/int.code")"
grep -q -- "--resume goes on" "$WORK/int.err" || fail "Ctrl-C: $(cat "$WORK/int.err")"

# ---- a gateway that goes back to a copy of its queue knows none of the jobs that it accepted --------

start()
{
    : >"$WORK/ready"
    caloris-gateway --config /dev/null --state "$WORK/queue" >"$WORK/ready" 2>>"$WORK/gateway.log" &
    gateway=$!
    await 20 grep -q ready "$WORK/ready" || fail "no gateway"
}
export CALORIS_ENDPOINT=ipc://$WORK/queue/clients.sock
golden_jobs make tinycoder:1:16 >"$WORK/some.jsonl" || fail "golden_jobs"
start
caloris admin backup --state "$WORK/queue" "$WORK/copy.db" >/dev/null || fail "backup"
(
    # On a terminal, if there is one to be had: with a bar.
    command=(caloris batch "$WORK/some.jsonl" -o "$WORK/back.jsonl" --window 12)
    command -v script >/dev/null || exec "${command[@]}" 2>"$WORK/screen"
    COLUMNS=100 exec script -qfec "${command[*]}" "$WORK/screen" >/dev/null </dev/null
) &
batch=$!
all_queued() { caloris list --json -q --limit 1 | grep -q '"queued":12\b'; }
await 30 all_queued || fail "the batch is not there"
kill -KILL $gateway
wait $gateway 2>/dev/null
rm "$WORK"/queue/queue.db*
mv "$WORK/copy.db" "$WORK/queue/queue.db"
start
caloris-engine --model "$SOURCE/deploy/models/tinycoder/" --threads 1 --name g \
    --gateway "ipc://$WORK/queue/groups.sock" 2>"$WORK/engine.log" &
engine=$!
wait $batch || fail "the batch did not outlive its queue: exit $?, $(tr '\r' '\n' <"$WORK/screen" | tail -n 3)"
golden_jobs check tinycoder:1:16 "$WORK/back.jsonl" >"$WORK/check.log" 2>&1 || fail "not the recorded results"
[ "$(grep -c '"model":"tinycoder"' "$WORK/back.jsonl")" = 16 ] || fail "whose results? $(cat "$WORK/back.jsonl")"
[ "$(wc -l <"$WORK/back.jsonl")" = 16 ] || fail "$(wc -l <"$WORK/back.jsonl") results of 16 lines"
if command -v script >/dev/null; then
    tr '\r' '\n' <"$WORK/screen" >"$WORK/screen.log"
    grep -qE "^.{0,4}\[#+\.+\] [0-9]+/16 jobs, 0 failed, [0-9.]+/s, 0:[0-9]{2}:[0-9]{2} left" "$WORK/screen.log" ||
        fail "no bar with the time that is left"
    grep -qE "\[#{24}\] 16/16 jobs, 0 failed" "$WORK/screen.log" || fail "the bar does not end full"
fi

# ---- a gateway that is gone for good: the batch ends, and goes on with another one ----------------

caloris batch "$WORK/some.jsonl" -o "$WORK/moved.jsonl" --window 4 --patience 2s 2>"$WORK/gone.log" &
batch=$!
await 60 test -s "$WORK/moved.jsonl" || fail "no result of the batch"
kill -KILL $gateway $engine
wait $gateway $engine 2>/dev/null
SECONDS=0
wait $batch
code=$?
[ $code = 3 ] || fail "no gateway: exit $code"
[ $SECONDS -lt 30 ] || fail "no gateway: after $SECONDS s with a patience of 2 s"
before=$(wc -l <"$WORK/moved.jsonl")
[ "$before" -lt 16 ] || fail "the batch was done before the gateway was gone"
for words in "queue/clients.sock" "so far" "moved.jsonl holds whole lines; the same command with --resume goes on"; do
    grep -qF -- "$words" "$WORK/gone.log" || fail "no gateway: nothing says \"$words\": $(cat "$WORK/gone.log")"
done
CALORIS_ENDPOINT=ipc://$WORK/other/clients.sock
caloris-gateway --config /dev/null --state "$WORK/other" >"$WORK/ready" 2>>"$WORK/gateway.log" &
gateway=$!
await 20 grep -q "ready.*other" "$WORK/ready" || fail "no other gateway"
caloris-engine --model "$SOURCE/deploy/models/tinycoder" --threads 1 --name g \
    --gateway "ipc://$WORK/other/groups.sock" 2>"$WORK/engine.log" &
engine=$!
limited 120 caloris batch -q "$WORK/some.jsonl" -o "$WORK/moved.jsonl" --resume || fail "the batch does not go on: exit $?"
golden_jobs check tinycoder:1:16 "$WORK/moved.jsonl" >"$WORK/check.log" 2>&1 || fail "not the recorded results"
[ "$(wc -l <"$WORK/moved.jsonl")" = 16 ] || fail "$(wc -l <"$WORK/moved.jsonl") results of 16 lines"
kill -TERM $gateway $engine
wait $gateway $engine 2>/dev/null
unset CALORIS_ENDPOINT

# ---- no gateway is needed: long files, and files that do not fit together -------------------------

refused() # words of the complaint, arguments
{
    local words=$1
    shift
    limited 20 caloris batch "$@" >"$WORK/refused.log" 2>&1
    [ $? = 2 ] || fail "batch $*: not refused"
    grep -q -- "$words" "$WORK/refused.log" || fail "batch $*: does not say $words"
}
head -n 3 "$IN" >"$WORK/other.jsonl"
refused "has results already" "$IN" -o "$OUT"
refused "is no result of this batch" "$WORK/other.jsonl" -o "$OUT" --resume
refused "other contents" "$WORK/other.jsonl" -o "$WORK/int.out" --resume
refused "the jobs come from" "$IN" -o "$IN"
refused "not i/n" "$IN" -o "$WORK/x" --shard 5/4
refused "says where results go" "$IN"
refused "no pipe" - -o "$WORK/x" --resume
yes '{"ids": [1], "gen_lenght": 8}' | head -n 200000 >"$WORK/long.jsonl"
(
    ulimit -v 150000
    limited 100 caloris batch -q "$WORK/long.jsonl" -o "$WORK/long.out"
)
[ $? = 1 ] || fail "200,000 lines"
[ "$(wc -l <"$WORK/long.out")" = 200000 ] || fail "$(wc -l <"$WORK/long.out") of 200,000 results"
[ "$(tail -n 1 "$WORK/long.out" | grep -o '"line":[0-9]*')" = '"line":200000' ] || fail "its last"
