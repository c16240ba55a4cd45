#!/bin/bash
# Nobody leaves alone: whatever is wrong with a model, on all ranks or on one, there is one line
# that says what, where and whose, all ranks leave with the same code, soon, and nothing is left
# running.
. "$(dirname "$0")/lib.sh"

RANKS=3
SECONDS_TO_LEAVE=15 # 5 are promised; a busy machine gets more
FIRST=model-00001-of-00002.safetensors
SECOND=model-00002-of-00002.safetensors
Q=model.transformer.blocks.2.q_proj.weight
LAST=model.transformer.wte.weight

golden_jobs make llada >"$WORK/jobs.jsonl" || fail "no jobs"

# What mpirun starts for each rank: rank $ODD_RANK ("all": every rank) has the odd model and limits.
# Exit codes are kept in files: of mpirun only the first is to be had.
cat >"$WORK/rank" <<'RANK'
#!/bin/bash
rank=$OMPI_COMM_WORLD_RANK
model=$WHOLE_MODEL
before=()
if [ "$ODD_RANK" = all ] || [ "$ODD_RANK" = "$rank" ]; then
    model=$ODD_MODEL
    [ -z "${ODD_LIMIT:-}" ] || ulimit -v "$ODD_LIMIT"
    [ -z "${ODD_BEFORE:-}" ] || read -ra before <<<"$ODD_BEFORE"
fi
"${before[@]}" caloris-engine --model "$model" --threads 1 "$@"
code=$?
echo "$code" >"$CODES/$rank"
exit "$code"
RANK
chmod +x "$WORK/rank"
export WHOLE_MODEL=$GOLDEN/llada CODES=$WORK/codes
export ODD_MODEL=$WORK/odd ODD_RANK="" ODD_LIMIT="" ODD_BEFORE=""
# Else mpirun kills at the first failure whoever has not left yet. (Now it leaves with 0 itself.)
export OMPI_MCA_orte_abort_on_non_zero_status=0 PRTE_MCA_state_base_error_non_zero_exit=0

# Runs the world and looks at how it ends.
#   what      for the reader
#   code      that every rank must leave with
#   words     that the one line must hold, one behind the other, as a regular expression
check() # what code words engine_options…
{
    local what=$1 code=$2 words=$3 started=$SECONDS lines codes
    shift 3
    rm -rf "$CODES" "$WORK/out.jsonl"
    mkdir "$CODES"
    limited "$SECONDS_TO_LEAVE" mpirun -n $RANKS "$WORK/rank" --jobs "$WORK/jobs.jsonl" \
        --out "$WORK/out.jsonl" "$@" </dev/null >"$WORK/engine.log" 2>&1
    case $? in
    124 | 137) fail "$what: still running after $SECONDS_TO_LEAVE s" ;;
    esac
    codes=$(cat "$CODES"/* | tr '\n' ' ')
    [ "$codes" = "$code $code $code " ] || fail "$what: ranks leave with $codes"
    lines=$(grep '^caloris-engine: ' "$WORK/engine.log")
    [ "$(wc -l <<<"$lines")" = 1 ] || fail "$what: not one line"
    grep -qE "rank [0-2] on $(hostname): .*$words" <<<"$lines" ||
        fail "$what: \"$lines\" is not about $words"
    [ ! -s "$WORK/out.jsonl" ] || fail "$what: there are results"
    [ -z "$(leftovers)" ] || fail "$what: left behind: $(leftovers)"
    echo "$what ($((SECONDS - started)) s): ${lines#caloris-engine: }"
}

# A fresh copy to damage.
copy()
{
    rm -rf "$WORK/odd"
    cp -r "$WHOLE_MODEL" "$WORK/odd"
    rm -rf "$WORK/odd/bf16" "$WORK/odd"/*.f32
    cd "$WORK/odd" || fail "no copy"
}

# Each damage, once on all ranks and once on the last of them only: all must end alike.
damage() # what words command…
{
    local what=$1 words=$2 rank
    shift 2
    copy
    "$@" || fail "$what: not damaged"
    cd "$WORK" || fail "no $WORK"
    for rank in all 2; do
        export ODD_RANK=$rank
        check "$what, rank $rank" 2 "$words"
    done
}

damage "missing tensor" "odd.*$Q" damage_tensor $SECOND $Q remove
damage "wrong shape" "$SECOND.*$Q.*48 x 47" damage_tensor $SECOND $Q shape 48 47
damage "unknown dtype" "$SECOND.*$Q.*F7" damage_tensor $SECOND $Q dtype F7
damage "truncated file" "$FIRST.*truncated" truncate -s -100 $FIRST
damage "truncated header" "$FIRST" truncate -s 700 $FIRST
damage "empty file" "$FIRST" truncate -s 0 $FIRST
damage "overlapping offsets" "$SECOND.*$Q.*overlap|$SECOND.*overlap.*$Q" \
    damage_tensor $SECOND $Q offsets 87932 97148
damage "offsets out of range" "$SECOND.*$LAST" \
    damage_tensor $SECOND $LAST offsets 1000000000 1000061440
damage "offsets backwards" "$SECOND.*$Q" damage_tensor $SECOND $Q offsets 97152 87936
damage "config.json is no JSON" "config.json" truncate -s 200 config.json
damage "index is no JSON" "model.safetensors.index.json" \
    sed -i '1s/{/[/' model.safetensors.index.json
damage "missing file" "$SECOND.*No such file" rm $SECOND
damage "no config.json" "config.json.*No such file" rm config.json
damage "a directory for a file" "$SECOND" sh -c "rm $SECOND && mkdir $SECOND"

# The same of packed weights.
flip() # offset from the end
{
    local size byte
    size=$(stat -c %s caloris.shard)
    byte=$(od -An -tu1 -j $((size - $1)) -N 1 caloris.shard)
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $((byte ^ 4)))" |
        dd of=caloris.shard bs=1 seek=$((size - $1)) conv=notrunc status=none
}
caloris shard "$GOLDEN/llada" --out "$WORK/packed" --weights int8 >"$WORK/shard.log" ||
    fail "not packed: $(cat "$WORK/shard.log")"
export WHOLE_MODEL=$WORK/packed
damage "truncated shard file" "odd/caloris.shard.*truncated" truncate -s -1 caloris.shard
damage "an empty shard file" "odd/caloris.shard.*no shard file" truncate -s 0 caloris.shard
damage "a newer shard file" "odd/caloris.shard.*version 3" \
    sh -c "printf '\\003' | dd of=caloris.shard bs=1 seek=8 conv=notrunc status=none"
damage "a flipped bit of the last unit" "odd/caloris.shard: .*blocks.2.ff_out.weight, unit 5 of 6" \
    flip 700
damage "a shard file of another model" "odd/caloris.shard was made for llada|has another model" \
    sed -i 's/"rope_theta": 500000.0/"rope_theta": 10000.0/' config.json
export WHOLE_MODEL=$GOLDEN/llada

# What one rank may not read. Root reads everything, unless it lays that power down.
copy
chmod 000 $SECOND
cd "$WORK" || fail "no $WORK"
export ODD_RANK=1
[ "$(id -u)" != 0 ] || export ODD_BEFORE="setpriv --bounding-set -dac_override,-dac_read_search"
if [ -z "$ODD_BEFORE" ] || { command -v setpriv && $ODD_BEFORE true; } >/dev/null 2>&1; then
    check "unreadable on rank 1" 2 "$SECOND.*Permission denied"
else
    echo "unreadable file: not tried, setpriv may not drop what it must" >&2
fi
export ODD_BEFORE=""

# Files that are fine and not those of the others: a stale copy on one host.
copy
sed -i 's/"rope_theta": 500000.0/"rope_theta": 10000.0/' config.json
cd "$WORK" || fail "no $WORK"
check "another model on rank 1" 2 "rank 1 on .* has another model"

# Memory that one rank does not get: 3 GiB of buffers are fine for the others, who never touch them.
export ODD_MODEL=$GOLDEN/llada ODD_LIMIT=1500000
check "out of memory on rank 1" 70 "max-step-rows 2000000.* GiB of memory: Cannot allocate memory" \
    --max-requests 4096 --max-step-rows 2000000

# Left to its habits, mpirun leaves with the code of the first rank that did.
unset OMPI_MCA_orte_abort_on_non_zero_status PRTE_MCA_state_base_error_non_zero_exit
for ODD_RANK in 0 1 2; do
    limited "$SECONDS_TO_LEAVE" mpirun -n $RANKS "$WORK/rank" --jobs "$WORK/jobs.jsonl" \
        --out "$WORK/out.jsonl" --max-requests 4096 --max-step-rows 2000000 </dev/null \
        >"$WORK/engine.log" 2>&1
    [ $? = 70 ] || fail "out of memory on rank $ODD_RANK: mpirun leaves with another code than 70"
done
