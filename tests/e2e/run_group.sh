#!/bin/bash
# caloris-run-group: a host is lost while jobs run, and the group comes back on the others, with fewer
# ranks; every job ends with the recorded ids. Told to leave, it hands its jobs back.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

MODEL=$SOURCE/deploy/models/tinycoder
cd "$WORK" || fail "no $WORK"
hosts_up 2
golden_jobs make tinycoder:1:12 >jobs.jsonl || fail "no jobs"

mkdir -m 700 state
caloris-gateway --state "$WORK/state" --name mine >gateway.log 2>&1 &
await 10 grep -q "^ready" gateway.log || fail "no gateway"
printf 'n1 slots=2\n\n# the one that will be lost\nn2 slots=1\n' >hosts

# On n1, as mpirun is; both reach n2 by the agent of hosts.sh.
export OMPI_MCA_plm=rsh OMPI_MCA_plm_rsh_agent=$HOSTS_AGENT \
    OMPI_MCA_oob_tcp_if_include=10.77.0.0/24 OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 \
    PRTE_MCA_plm=ssh PRTE_MCA_plm_ssh_agent=$HOSTS_AGENT \
    PRTE_MCA_prte_if_include=10.77.0.0/24 OMPI_MCA_hwloc_base_binding_policy=none
hosts_run n1 caloris-run-group --hostfile hosts --launcher "mpirun --wdir $WORK" \
    "$BIN/caloris-engine" --threads 1 --model "$MODEL" --rank-silent 1s \
    --gateway "ipc://$WORK/state/groups.sock" >group.log 2>&1 </dev/null &
keeper=$!
await 30 grep -q "knows us" group.log || fail "no group"
grep -q "^run-group: 3 ranks on n1:2,n2:1" group.log || fail "not three ranks on two hosts"

jobs=()
while read -r line; do
    jobs+=("$(caloris submit --cluster mine --job - <<<"$line")") || fail "submit: exit $?"
done <jobs.jsonl
computes() { caloris cluster --cluster mine --json -q | grep -qE '"running":[1-9]'; }
await 20 computes || fail "no job runs"
hosts_cut n2
limited 100 caloris wait --cluster mine "${jobs[@]}" 2>wait.log || fail "wait: exit $?"
for job in "${jobs[@]}"; do
    caloris results --cluster mine --json "$job" >>out.jsonl || fail "results: exit $?"
done
golden_jobs check tinycoder:1:12 out.jsonl >check.log || fail "not the recorded runs: $(cat check.log)"
grep -q "not arrived: rank 2 on n2" group.log || fail "the lost rank is not named"
grep -q "^run-group: host n2 is not there" group.log || fail "the lost host is not named"
grep -q "^run-group: 2 ranks on n1:2" group.log || fail "not again with two ranks"
echo "a host lost: 12 jobs as recorded"

# Told to leave: it is the process inside that gets the signal, as from a shell or a batch system.
pid=$(leftovers | sed -n 's/^\([0-9]*\) [^ ]*bash [^ ]*caloris-run-group .*/\1/p' | head -n 1)
kill -TERM "$pid" || fail "no caloris-run-group among $(leftovers)"
wait $keeper
code=$?
[ $code = 75 ] || fail "told to leave: exit $code, not 75"
grep -q "handing .* jobs back" group.log || fail "it did not hand back"

# Of Open MPI nothing is left on the host that was there.
# shellcheck disable=SC2016 # the host's own
files() { hosts_run n1 sh -c 'ls -d "$TMPDIR"/* /dev/shm/*' 2>files.log; }
left=$(files) && fail "left behind on n1: $left"

# All of it killed: files stay, until it is started again and ends in order.
again()
{
    hosts_run n1 caloris-run-group --ranks 2 --launcher "mpirun --wdir $WORK" "$BIN/caloris-engine" --name "$1" \
        --threads 1 --model "$MODEL" --gateway "ipc://$WORK/state/groups.sock" >"$1.log" 2>&1 </dev/null &
    keeper=$!
    await 30 grep -q "knows us" "$1.log" || fail "no group $1"
}
again killed
leftovers | sed -n 's/^\([0-9]*\) .*caloris-engine --[n]ame killed .*/\1/p' | xargs kill -KILL
wait $keeper
killed_gone() { ! leftovers | grep -q "caloris-engine --[n]ame killed "; }
await 10 killed_gone || fail "still runs: $(leftovers)"
left=$(files) || fail "nothing was left that could be cleared"
again next
left=$(files | grep -c "caloris-group\.")
[ "$left" = 1 ] || fail "not one directory of run-group: $(files)"
leftovers | sed -n 's/^\([0-9]*\) .*bash [^ ]*caloris-run-group .*--[n]ame next .*/\1/p' | xargs kill -TERM
wait $keeper
left=$(files) && fail "left behind on n1: $left"
echo "killed and started again: nothing is left"

# What is wrong for good is not tried again.
mkdir broken
echo '{' >broken/config.json
limited 30 caloris-run-group --ranks 2 "$BIN/caloris-engine" --model broken --jobs jobs.jsonl \
    --out none.jsonl 2>broken.log </dev/null
[ $? = 2 ] || fail "a broken model: not exit code 2"
grep -q "starting it again" broken.log && fail "a broken model is tried again"
limited 5 caloris-run-group --ranks 2 2>usage.log && fail "no program is no error"
caloris-run-group --help | grep -q "^Exit codes" || fail "no help"
