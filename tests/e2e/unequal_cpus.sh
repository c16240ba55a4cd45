#!/bin/bash
# A world whose CPUs are not alike, here by --isa on one rank: all compute by the strongest kernels that all have, and
# say so; the logits are those of a world of such CPUs, bit for bit.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

golden_jobs make llada >"$WORK/jobs.jsonl" || fail "no jobs"
sed -n '1s/.*"ids":\(\[[0-9,]*\]\).*/{"ids":\1}/p' "$WORK/jobs.jsonl" >"$WORK/ids.json"
[ -s "$WORK/ids.json" ] || fail "the first job has no ids"

# logits OUT WORDS-OF-RANK-0 -- WORDS-OF-THE-OTHERS
logits()
{
    local out=$1 first=()
    shift
    while [ "$1" != -- ]; do
        first+=("$1")
        shift
    done
    shift
    local engine=(caloris-engine --model "$GOLDEN/llada" --weights int8 --threads 1 --logits "$WORK/ids.json" --out "$out")
    limited 60 mpirun --oversubscribe -n 1 "${engine[@]}" "${first[@]}" : -n 2 "${engine[@]}" "$@" \
        </dev/null >"$WORK/engine.log" 2>&1 || fail "$*: exit $?"
}

logits "$WORK/alike" --isa portable -- --isa portable
grep -q "for the sake of" "$WORK/engine.log" && fail "alike, and yet: $(cat "$WORK/engine.log")"
logits "$WORK/second" -- --isa portable
grep -q "all ranks use kernels up to portable, for the sake of rank 1 on .*; rank 0 on .* has " "$WORK/engine.log" ||
    fail "nobody says that the CPUs are not alike"
cmp "$WORK/alike" "$WORK/second" || fail "other logits"
logits "$WORK/first" --isa portable --
grep -q "for the sake of rank 0 on .*; rank 1 on .* has " "$WORK/engine.log" || fail "rank 0 is not named"
cmp "$WORK/alike" "$WORK/first" || fail "other logits when rank 0 is the weaker one"
echo "three ranks, one of them weaker: the logits of three weak ones"
