#!/bin/bash
# The offline mode loses nothing and doubles nothing: killed anywhere, --resume ends with the
# recorded results. Bad lines fail alone and by name, results are never written over, and exit codes
# say what happened.
. "$(dirname "$0")/lib.sh"

JOBS=$WORK/jobs.jsonl
OUT=$WORK/out.jsonl

# Runs to the end and expects an exit code.
#   mpi or threads, code, options…
engine()
{
    local transport=$1 code=$2 launcher=(mpirun -n 2 caloris-engine)
    shift 2
    [ "$transport" = mpi ] || launcher=(caloris-engine --comm threads --ranks 2)
    limited 100 "${launcher[@]}" --threads 1 "$@" >"$WORK/engine.log" 2>&1
    local left=$?
    [ $left = "$code" ] || fail "$transport $*: exit $left, not $code"
}

complaint() # words of the engine's one line
{
    local lines
    lines=$(grep '^caloris-engine: ' "$WORK/engine.log")
    [ "$(wc -l <<<"$lines")" = 1 ] || fail "not one line of complaint"
    grep -q -- "$1" <<<"$lines" || fail "\"$lines\" does not say: $1"
}

results() # at least so many are there
{
    [ -e "$OUT" ] && [ "$(wc -l <"$OUT")" -ge "$1" ]
}

# ---- bad lines fail alone ------------------------------------------------------------------------

cat >"$JOBS" <<'LINES'
{"id": "good", "ids": [1, 2, 3], "gen_length": 8, "seed": 1}
{"id": "unknown", "ids": [1], "gen_lenght": 8}
{"id": "range", "ids": [1], "gen_length": -1}
{"id": "type", "ids": [1], "steps": "4"}
{"id": "vocabulary", "ids": [320]}
{"id": "too_long", "ids": [1], "gen_length": 600}
{"id": "text", "prompt": "no tokenizer here"}
{"id": "good", "ids": [9], "gen_length": 8}
{"id": "cut", "ids": [1
{"id": "nothing", "ids": [1], "gen_length": 0}

   
{"ids": [1, 2, 3], "gen_length": 8, "seed": 1}
{"custom_id": "last", "ids": [1, 2, 3], "gen_length": 8, "seed": 1}
LINES
for transport in mpi threads; do
    rm -f "$OUT"
    engine $transport 0 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$OUT"
    [ "$(wc -l <"$OUT")" = 12 ] || fail "$transport: $(wc -l <"$OUT") results of 12 jobs"
    [ "$(grep -c '"error"' "$OUT")" = 9 ] || fail "$transport: $(cat "$OUT")"
    while read -r id words; do
        grep "\"id\":\"$id\"" "$OUT" | grep -q "\"error\":.*$words" ||
            fail "$transport: no error of $id that names $words: $(cat "$OUT")"
    done <<'ERRORS'
unknown gen_lenght
range gen_length
type steps
vocabulary ids
too_long gen_length
text prompt
good id:
line-9 bad_request
nothing gen_length
ERRORS
    [ "$(grep -c '"ids":\[[0-9,]*\],.*"forward_passes"' "$OUT")" = 3 ] || fail "not three answers"
    # The same job under three names: its ids are the same. A line without id goes by its number.
    [ "$(grep '"forward_passes"' "$OUT" | grep -o '"ids":\[[0-9,]*\]' | sort -u | wc -l)" = 1 ] ||
        fail "$transport: one job, several answers: $(cat "$OUT")"
    grep -q '"id":"line-13"' "$OUT" || fail "no line-13"
    grep -q "12 jobs: 3 done, 9 failed, 0 skipped" "$WORK/engine.log" || fail "miscounted"
done

# ---- what is refused -----------------------------------------------------------------------------

cp "$OUT" "$WORK/before"
engine mpi 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$OUT"
complaint "out.jsonl has results already: --resume"
cmp -s "$OUT" "$WORK/before" || fail "results were touched"
cp "$JOBS" "$WORK/before"
engine mpi 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$JOBS"
complaint "jobs.jsonl is the file the jobs come from"
ln "$JOBS" "$WORK/link.jsonl"
engine threads 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$WORK/link.jsonl" --resume
complaint "is the file the jobs come from"
engine threads 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$WORK/new.jsonl" --trace "$JOBS"
complaint "jobs.jsonl is the file the jobs come from"
engine mpi 2 --model "$GOLDEN/llada" --logits "$JOBS" --out "$JOBS"
complaint "jobs.jsonl is the file the jobs come from"
cmp -s "$JOBS" "$WORK/before" || fail "the jobs were touched"
engine threads 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$WORK/new.jsonl" --trace "$WORK/./new.jsonl"
complaint "new.jsonl is the file of the results"
rm -f "$WORK/new.jsonl"
engine threads 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$WORK/new.jsonl" --trace "$WORK/none/trace"
complaint "--trace $WORK/none/trace: No such file"
engine threads 2 --model "$GOLDEN/llada" --jobs "$WORK" --out "$WORK/new.jsonl"
complaint "--jobs $WORK: Is a directory"
engine mpi 2 --model "$GOLDEN/llada" --jobs "$WORK/none.jsonl" --out "$WORK/new.jsonl"
complaint "none.jsonl: No such file"
[ ! -e "$WORK/new.jsonl" ] || fail "a file for the results of no jobs"
! grep -q "loaded in" "$WORK/engine.log" || fail "a model was loaded for it"
engine mpi 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$WORK/none/out.jsonl"
complaint "none/out.jsonl: No such file"
engine mpi 2 --model "$WORK/none" --jobs "$JOBS" --out "$WORK/new.jsonl"
complaint "none/config.json: No such file"
engine threads 2 --model "$GOLDEN/llada" --logits "$WORK/none.jsonl" --out "$WORK/new.f32"
complaint "--logits $WORK/none.jsonl: No such file"
engine mpi 2 --jobs "$JOBS"
complaint "--out"
engine threads 2 --resume --logits "$JOBS" --out "$WORK/new.jsonl"
complaint "--resume"
engine mpi 2 --job "$JOBS"
complaint "--job"
printf 'no json\n{"id": "x"}\n' >"$WORK/damaged.jsonl"
engine threads 2 --model "$GOLDEN/llada" --jobs "$JOBS" --out "$WORK/damaged.jsonl" --resume
complaint "damaged.jsonl: line 1"

# What a model answers may hold a NUL: such a result counts, too.
printf '{"id": "nul", "text": "a\\u0000b"}\n' >"$OUT"
printf '{"id": "nul", "ids": [1], "gen_length": 8}\n{"id": "next", "ids": [1], "gen_length": 8}\n' \
    >"$WORK/nul.jsonl"
engine threads 0 --model "$GOLDEN/llada" --jobs "$WORK/nul.jsonl" --out "$OUT" --resume
grep -q "2 jobs: 1 done, 0 failed, 1 skipped" "$WORK/engine.log" || fail "a NUL in the results before"

# ---- stdin, and an empty file --------------------------------------------------------------------

rm "$OUT"
golden_jobs make llada | engine mpi 0 --model "$GOLDEN/llada" --jobs - --out "$OUT"
golden_jobs check llada "$OUT" || fail "stdin under mpirun"
rm "$OUT"
golden_jobs make llada | engine threads 0 --model "$GOLDEN/llada" --jobs - --out "$OUT"
golden_jobs check llada "$OUT" || fail "stdin"
rm "$OUT"
engine mpi 0 --model "$GOLDEN/llada" --jobs /dev/null --out "$OUT" --resume
[ ! -s "$OUT" ] || fail "results of no jobs"

# ---- killed, stopped, resumed --------------------------------------------------------------------

# One long run, cut off again and again, each time behind some more results.

# Starts in the background and waits for three new results; $started is the process.
start() # transport
{
    local launcher=(mpirun -n 2 caloris-engine) before=0
    [ "$1" = mpi ] || launcher=(caloris-engine --comm threads --ranks 2)
    [ ! -e "$OUT" ] || before=$(wc -l <"$OUT")
    "${launcher[@]}" --threads 1 --jobs "$JOBS" --out "$OUT" --resume --max-requests 2 </dev/null \
        >"$WORK/engine.log" 2>&1 &
    started=$!
    await 60 results $((before + 3)) || fail "$1: no results come"
}

# The process of a rank, by what mpirun put in its environment.
rank_process()
{
    local pid _
    while read -r pid _; do
        grep -qzxF "OMPI_COMM_WORLD_RANK=$1" "/proc/$pid/environ" 2>/dev/null && echo "$pid"
    done < <(leftovers)
}

gone()
{
    [ -z "$(leftovers)" ]
}

# Waits for what was started, and for all that it started.
ended() # what code
{
    local code=0
    wait "$started" 2>/dev/null || code=$?
    [ "$2" = any ] && [ $code != 0 ] || [ "$2" = $code ] || fail "$1: exit $code, not $2"
    await 15 gone || fail "$1: left behind: $(leftovers)"
    results "$(wc -l <"$JOBS")" && fail "$1: it was over before"
    echo "$1: $(wc -l <"$OUT") of $(wc -l <"$JOBS") results"
}

# The jobs behind the first forty have 64 steps each: no machine is through with them before the last start.
sets=(tinycoder:1 tinycoder:2:20)
for set in "${sets[@]}"; do golden_jobs make "$set"; done >"$JOBS"
rm "$OUT"

start threads
kill -KILL "$started"
ended "killed" 137
printf '{"id":"p001-1","ids":[1,2' >>"$OUT" # what a host that dies may leave

start mpi
kill -KILL "$(rank_process 1)"
ended "rank 1 killed" any

start mpi
kill -KILL "$started"
ended "mpirun killed" 137

start mpi
kill -USR1 "$started" # which mpirun hands to every rank
ended "mpirun told to hand back" 75
complaint "stopped by a signal"

start threads
kill -USR1 "$started"
ended "told to hand back" 75
complaint "stopped by a signal"

start threads
kill -INT "$started"
ended "interrupted" 75
complaint "stopped by a signal"

before=$(wc -l <"$OUT")
engine mpi 0 --jobs "$JOBS" --out "$OUT" --resume
for set in "${sets[@]}"; do
    golden_jobs check "$set" <(grep -e "\"id\":\"p...-${set:10:1}\"" "$OUT") || fail "lost or doubled"
done
[ "$(wc -l <"$OUT")" = "$(wc -l <"$JOBS")" ] || fail "results that are nobody's"
grep -q " $before skipped" "$WORK/engine.log" || fail "did again what was done"

gone || fail "left behind: $(leftovers)"

# Where the time went, as one JSON object: the rows of the schedule's steps are the engine's.
head -n 8 "$JOBS" >"$WORK/few.jsonl"
caloris-engine --comm threads --ranks 2 --profile --json --row-budget 128 --jobs "$WORK/few.jsonl" \
    --out "$WORK/few.out" >"$WORK/profile.json" 2>"$WORK/profile.log" || fail "--profile: exit $?"
rows=$(grep -oE '"rows":[1-9][0-9]*' "$WORK/profile.json")
[ "$(wc -l <<<"$rows") $(sort -u <<<"$rows" | wc -l)" = "2 1" ] || fail "the schedule counts otherwise: $rows"
grep -qE '"schedule":\{"steps":[1-9].*"crowded_fill":(1|0\.[89])' "$WORK/profile.json" ||
    fail "no fill: $(cat "$WORK/profile.json")"
