#!/bin/bash
# Three ranks on two hosts, which share no memory, give the recorded ids, and what is wrong on the
# other host is said with its name.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

hosts_up 2
cd "$WORK" || fail "no $WORK"

for model in llada llada-gqa; do
    golden_jobs make "$model" >jobs.jsonl || fail "no jobs of $model"
    rm -f out.jsonl
    hosts_mpirun -n 3 "$BIN/caloris-engine" --threads 1 --model "$GOLDEN/$model" --max-requests 8 \
        --jobs jobs.jsonl --out out.jsonl </dev/null >engine.log 2>&1 || fail "$model over two hosts: exit $?"
    golden_jobs check "$model" out.jsonl >check.log || fail "$model: not the recorded runs"
    grep -q '"ranks":3}' out.jsonl || fail "not three ranks"
    echo "$model, 3 ranks on 2 hosts: $(tail -n 1 check.log)"
done

# The ranks were where they should be, and an error names the host that it is on.
cat >rank <<'RANK'
#!/bin/bash
[ "$(hostname)" = n2 ] && set -- "$@" --model "$ODD_MODEL"
exec "$BIN/caloris-engine" --threads 1 "$@"
RANK
chmod +x rank
export BIN ODD_MODEL=$WORK/none
hosts_mpirun -x BIN -x ODD_MODEL -n 3 ./rank --model "$GOLDEN/llada" --jobs jobs.jsonl \
    --out other.jsonl </dev/null >engine.log 2>&1
code=$?
[ $code = 2 ] || fail "a model that is missing on n2: exit $code, not 2"
[ "$(grep -c '^caloris-engine: ' engine.log)" = 1 ] || fail "not one line"
grep -q '^caloris-engine: rank 2 on n2: .*none/config.json: No such file' engine.log ||
    fail "no line that names rank, host and file"
echo "missing on n2: $(grep '^caloris-engine: ' engine.log)"
