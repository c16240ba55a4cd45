#!/bin/bash
# Jobs through the offline mode end with the ids and after the forward passes that third-party code
# recorded: whatever the number of ranks, the transport, and the number of requests in flight.
. "$(dirname "$0")/lib.sh"

# The programs of a world.
launcher() # ranks transport
{
    case $2 in
    mpi) run=(mpirun -n "$1" caloris-engine --threads 1) ;;
    threads) run=(caloris-engine --threads 1 --comm threads --ranks "$1") ;;
    esac
}

engine()
{
    limited 100 "${run[@]}" --out "$WORK/out.jsonl" "$@" </dev/null >"$WORK/engine.log" 2>&1 ||
        fail "${run[*]} $*: exit $?"
}

# Holds the results against the record.
check() # set ranks what
{
    golden_jobs check "$1" "$WORK/out.jsonl" >"$WORK/check.log" || fail "$*: not the recorded runs"
    [ "$(grep -c "\"ranks\":$2}" "$WORK/out.jsonl")" = "$(wc -l <"$WORK/jobs.jsonl")" ] ||
        fail "$*: the results do not say how many ranks made them"
    echo "$*: $(tail -n 1 "$WORK/check.log")"
    rm "$WORK/out.jsonl"
}

for model in llada llada-gqa; do
    golden_jobs make "$model" >"$WORK/jobs.jsonl" || fail "no jobs of $model"
    grep -v '"cfg_scale":\(0\.[0-9]*[1-9]\|[1-9]\)' "$WORK/jobs.jsonl" >"$WORK/unguided.jsonl"
    for ranks in 1 2 3 5 7; do
        # Ranks as threads: test decode_threads has them all; here one, for the way there.
        for transport in mpi $([ "$ranks" = 3 ] && echo threads); do
            launcher "$ranks" "$transport"
            engine --model "$GOLDEN/$model" --jobs "$WORK/jobs.jsonl" --max-requests 8
            check "$model" "$ranks" "$transport, 8 requests"
            # One at a time. A guided request needs two canvases: these are added behind the others.
            engine --model "$GOLDEN/$model" --jobs "$WORK/unguided.jsonl" --max-requests 1
            engine --model "$GOLDEN/$model" --jobs "$WORK/jobs.jsonl" --max-requests 2 --resume
            check "$model" "$ranks" "$transport, 1 request"
        done
    done
done

# The model that ships with the program, which is the default. Its runs of 96 and of 64 steps take
# long: tests/tp/decode_demo_test.c has some of them; offline.sh has all of 24 steps.
while read -r set ranks transport requests; do
    golden_jobs make "$set" >"$WORK/jobs.jsonl" || fail "no jobs of $set"
    launcher "$ranks" "$transport"
    engine --jobs "$WORK/jobs.jsonl" --max-requests "$requests"
    check "$set" "$ranks" "$transport, $requests requests"
done <<'RUNS'
tinycoder:1:16 2 mpi 8
tinycoder:3 3 mpi 1
tinycoder:3 2 threads 16
tinycoder:4 1 mpi 1
tinycoder:4 3 mpi 16
tinycoder:5 2 mpi 1
tinycoder:5 5 mpi 16
RUNS

[ -z "$(leftovers)" ] || fail "left behind: $(leftovers)"
