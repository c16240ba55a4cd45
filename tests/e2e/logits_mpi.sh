#!/bin/bash
# caloris-engine --logits under mpirun gives the logits that third-party code recorded, at any
# number of ranks: also with more ranks than heads, with weights in bf16, and where config.json
# leaves n_kv_heads open.
. "$(dirname "$0")/lib.sh"

TOLERANCE=5e-4 # the recorder's own word for fp32 engines
RANKS="1 2 3 5 7 9"

# Logits of the inputs in $WORK/in.jsonl, against recorded ones.
check() # ranks model_dir recorded…
{
    local ranks=$1 dir=$2
    shift 2
    limited 30 mpirun -n "$ranks" caloris-engine --model "$dir" --threads 1 \
        --logits "$WORK/in.jsonl" --out "$WORK/out.f32" >"$WORK/engine.log" 2>&1 || fail "$dir, $ranks ranks: exit $?"
    logits_diff "$WORK/out.f32" "$TOLERANCE" "$@" >"$WORK/diff.log" ||
        fail "$dir, $ranks ranks: not the recorded logits"
    echo "${dir#"$GOLDEN/"}, $ranks ranks: $(cat "$WORK/diff.log")"
}

for model in llada llada-gqa; do
    recorded=$GOLDEN/$model
    golden_jobs logits "$model" short infill long >"$WORK/in.jsonl" || fail "no inputs of $model"
    for ranks in $RANKS; do
        check "$ranks" "$recorded" \
            "$recorded/logits-short.f32" "$recorded/logits-infill.f32" "$recorded/logits-long.f32"
    done
    golden_jobs logits "$model" infill >"$WORK/in.jsonl" || fail "no infill of $model"
    for ranks in $RANKS; do
        check "$ranks" "$recorded/bf16" "$recorded/logits-infill-bf16weights.f32"
    done
done

# n_kv_heads: null means as many as heads.
cp -r "$GOLDEN/llada" "$WORK/null"
sed -i 's/"n_kv_heads": 6/"n_kv_heads": null/' "$WORK/null/config.json"
grep -q '"n_kv_heads": null' "$WORK/null/config.json" || fail "config.json not edited"
golden_jobs logits llada infill >"$WORK/in.jsonl"
check 3 "$WORK/null" "$GOLDEN/llada/logits-infill.f32"

# A world of threads writes the same file.
limited 30 caloris-engine --comm threads --ranks 5 --model "$GOLDEN/llada" --threads 1 \
    --logits "$WORK/in.jsonl" --out "$WORK/out.f32" >"$WORK/engine.log" 2>&1 ||
    fail "threads: exit $?"
logits_diff "$WORK/out.f32" "$TOLERANCE" "$GOLDEN/llada/logits-infill.f32" || fail "threads"

# A line that is no input ends it, by name.
for line in '{"prompt": "x"}' '{"ids": [320]}' '{"ids": []}' '{"ids": [1], "idz": 2}' 'ids'; do
    printf '%s\n%s\n' '{"ids": [1]}' "$line" >"$WORK/in.jsonl"
    limited 30 mpirun -n 2 caloris-engine --model "$GOLDEN/llada" --threads 1 \
        --logits "$WORK/in.jsonl" --out "$WORK/out.f32" >"$WORK/engine.log" 2>&1 &&
        fail "$line was accepted"
    [ "$(grep -c "^caloris-engine: .*in.jsonl: line 2" "$WORK/engine.log")" = 1 ] ||
        fail "$line: no line that says so"
done

[ -z "$(leftovers)" ] || fail "left behind: $(leftovers)"
