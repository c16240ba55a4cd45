#!/bin/bash
# A job that kills its group whenever it runs: a rank of three is killed (-9) as soon as that job is
# seen running. Its neighbours all finish; it runs alone, and is given up; caloris-run-group brings the
# group back after each of the five times, although all are within a minute.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

NEIGHBOURS=6
export CALORIS_ENDPOINT=ipc://$WORK/state/clients.sock
export OMPI_MCA_btl=self,vader OMPI_MCA_plm_rsh_agent=/bin/false
caloris-gateway --state "$WORK/state" --name poison --beat 100ms --lost 3s \
    >"$WORK/ready" 2>"$WORK/gateway.log" &
await 20 grep -q ready "$WORK/ready" || fail "no gateway"

caloris-run-group --ranks 3 --launcher "mpirun --oversubscribe --bind-to none" caloris-engine --name g \
    --threads 1 --model "$SOURCE/deploy/models/tinycoder" --gateway "ipc://$WORK/state/groups.sock" \
    >"$WORK/group.log" 2>&1 </dev/null &
keeper=$!

# Long enough to be seen running; its neighbours are short.
poison=$(caloris submit --id poison --preset exact --gen-length 224 --early-stop false "x") ||
    fail "submit"
jobs=()
for ((i = 0; i < NEIGHBOURS; i++)); do
    jobs+=("$(caloris submit --gen-length 8 "def f$i(a):")") || fail "submit"
done

state() { caloris show --json "$1" | sed 's/.*"state":"\([a-z]*\)".*/\1/'; }
# The last rank: not the one that speaks to the gateway.
kill_a_rank()
{
    local pid
    pid=$(leftovers | awk '$2 ~ /caloris-engine$/ { last = $1 } END { print last }')
    [ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null
}

kills=0
end=$((SECONDS + 120))
while [ "$SECONDS" -lt "$end" ]; do
    case $(state "$poison") in
    running)
        kill_a_rank && kills=$((kills + 1))
        while [ "$(state "$poison")" = running ] && [ "$SECONDS" -lt "$end" ]; do
            sleep 0.05
        done
        ;;
    failed | done) break ;;
    esac
    sleep 0.05
done
caloris show "$poison" >"$WORK/poison.log"
grep -q "^state *failed" "$WORK/poison.log" || fail "the poison has not failed after $kills kills"
grep -q "^crashes *5" "$WORK/poison.log" || fail "not two crashes in company and three alone"
grep -q "^attempts *3" "$WORK/poison.log" || fail "not three attempts"
grep -q "^error *given up: 5 groups were lost" "$WORK/poison.log" || fail "show does not say why"
caloris results --json "$poison" >"$WORK/result.log" 2>&1 && fail "a dead letter is no success"
grep -q '"code":"dead_letter"' "$WORK/result.log" || fail "the result does not say so"

limited 60 caloris wait "${jobs[@]}" >"$WORK/wait.log" 2>&1 || fail "a neighbour did not finish"
for job in "${jobs[@]}"; do
    caloris show --json "$job" | grep -q '"attempts":0' || fail "job $job was blamed"
done

# The group serves on, and the one who keeps it is still there to be told to leave.
job=$(caloris submit --gen-length 8 "def g(a):") || fail "submit"
limited 60 caloris wait "$job" >"$WORK/wait.log" 2>&1 || fail "nobody serves after the poison"
kill -TERM "$keeper"
wait "$keeper"
code=$?
[ "$code" = 75 ] || fail "told to leave: exit $code, not 75"
echo "killed $kills times; $NEIGHBOURS neighbours are done"
exit 0
