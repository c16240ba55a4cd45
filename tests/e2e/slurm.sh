#!/bin/bash
# The batch scripts under a real Slurm: a controller and three nodes, each a host of its own made of
# namespaces (hosts.sh), for as long as this test runs. Nothing of it is left on the machine.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

PATH=$PATH:/usr/sbin
for tool in munged mungekey slurmctld slurmd sbatch; do
    command -v "$tool" >/dev/null || skip "no command $tool (Debian: slurm-wlm, munge)"
done

MODEL=$SOURCE/deploy/models/tinycoder
SLURM=$WORK/slurm
export SLURM_CONF=$SLURM/slurm.conf
# mpirun would see that ranks outnumber cores; srun does not tell them.
export OMPI_MCA_mpi_yield_when_idle=1

on_n1() { hosts_run n1 "$@"; }

# ---- the cluster -------------------------------------------------------------------------------

# TmpFS has %n in it because the PMIx plugins of nodes would otherwise share a directory.
# config_overrides lets a machine with fewer cores pose as these nodes.
write_slurm_conf()
{
    mkdir -p "$SLURM/state"
    cat >"$SLURM_CONF" <<CONF
ClusterName=caloris
SlurmctldHost=n1(10.77.0.11)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$SLURM/munge.sock
CredType=cred/munge
StateSaveLocation=$SLURM/state
SlurmctldPidFile=$SLURM/slurmctld.pid
SlurmdSpoolDir=$SLURM/spool.%n
SlurmdPidFile=$SLURM/slurmd.%n.pid
TmpFS=$SLURM/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName=n[1-3] NodeAddr=10.77.0.[11-13] CPUs=2 RealMemory=500
PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=60
CONF
}

# Runs until the hosts go down.
daemon() # host log command…
{
    local host=$1 log=$2
    shift 2
    hosts_run "$host" "$@" >"$WORK/$log.log" 2>&1 </dev/null &
}

nodes_are_idle() { [ "$(on_n1 sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 3 ]; }

start_slurm()
{
    local node
    write_slurm_conf
    mungekey --create --keyfile="$SLURM/munge.key" || fail "no munge key"
    # --force: the directory is in /tmp, which munged would rather not have.
    daemon n1 munged munged --foreground --force --key-file="$SLURM/munge.key" \
        --socket="$SLURM/munge.sock" --pid-file="$SLURM/munged.pid" \
        --seed-file="$SLURM/munge.seed"
    await 10 test -S "$SLURM/munge.sock" || fail "munged does not start"
    daemon n1 slurmctld slurmctld -D -c -i
    for node in n1 n2 n3; do
        mkdir "$SLURM/spool.$node" "$SLURM/tmp.$node"
        daemon "$node" "slurmd.$node" slurmd -D -N "$node"
    done
    await 30 nodes_are_idle || fail "no three idle nodes: $(on_n1 sinfo -lN 2>&1)"
}

# ---- jobs --------------------------------------------------------------------------------------

# Submits one of the scripts, over $NODES (3) nodes with a rank on each; prints the number.
submit() # script arguments…
{
    local script=$1
    shift
    on_n1 sbatch --parsable --nodes="${NODES:-3}" --ntasks-per-node=1 --cpus-per-task=1 --time=5 \
        --output="$WORK/job-%j.log" "$SOURCE/deploy/slurm/$script" "$@" ||
        fail "sbatch $script: exit $?"
}

job() { on_n1 scontrol show job "$1" --oneliner; }
has_left() { ! job "$1" | grep -qE 'JobState=(PENDING|CONFIGURING|RUNNING|COMPLETING) '; }

# Waits for a job and holds its state and exit code against what they should be.
ends() # job seconds state:code
{
    local found
    await "$2" has_left "$1" || fail "job $1 still runs after $2 s: $(job "$1")"
    found=$(job "$1" | sed 's/.* JobState=\([A-Z]*\) .* ExitCode=\([0-9]*:[0-9]*\) .*/\1:\2/')
    [[ $found =~ ^($3)$ ]] || fail "job $1 ended as $found, not as $3"
}

# The process of one rank.
rank()
{
    local pid _
    while read -r pid _; do
        grep -qzx "SLURM_PROCID=$1" "/proc/$pid/environ" && echo "$pid" && return
    done < <(leftovers | grep 'bin/caloris-engine ')
    return 1
}

has_lines() { [ -e "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]; }
nothing_runs() { [[ $(leftovers) != *bin/caloris-* ]]; }

export CALORIS_THREADS=1 # three hosts share the cores of one, of which Slurm knows nothing
hosts_up 3
start_slurm

# ---- offline.sbatch: a dead rank ends the job, so does a signal; the next one goes on -----------

set=tinycoder:1
golden_jobs make "$set" >"$WORK/jobs.jsonl" || fail "no jobs of $set"
# More of them for these jobs of Slurm's, so that a fast machine is not through before it is stopped.
sets=("$set" tinycoder:3 tinycoder:4 tinycoder:5)
for one in "${sets[@]}"; do golden_jobs make "$one" || fail "no jobs of $one"; done >"$WORK/many.jsonl"
out=$WORK/out.jsonl

# srun's code is the largest of its tasks': the one that was killed has 137, those that were ended
# because of it may have 143.
job=$(submit offline.sbatch "$MODEL" "$WORK/many.jsonl" "$out")
await 30 has_lines "$out" 2 || fail "no results of job $job"
kill -KILL "$(rank 2)" || fail "no rank 2 of job $job"
ends "$job" 20 "FAILED:(137|143):0"
await 10 nothing_runs || fail "left behind by job $job: $(leftovers)"
done_before=$(wc -l <"$out")
echo "a rank killed: the job failed with $done_before results"

# What --signal sends before the time is over goes to all ranks at once.
job=$(submit offline.sbatch "$MODEL" "$WORK/many.jsonl" "$out")
await 30 has_lines "$out" $((done_before + 1)) || fail "no results of job $job"
on_n1 scancel --signal=USR1 "$job"
ends "$job" 20 FAILED:75:0
grep -q "resume goes on" "$WORK/job-$job.log" || fail "job $job: not a word how to go on"
echo "SIGUSR1: the job handed back with $(wc -l <"$out") results"

job=$(submit offline.sbatch "$MODEL" "$WORK/many.jsonl" "$out")
ends "$job" 100 COMPLETED:0:0
for one in "${sets[@]}"; do
    golden_jobs check "$one" <(grep -e "\"id\":\"p...-${one#*:}\"" "$out") >"$WORK/check.log" ||
        fail "not the recorded runs"
done
grep -q '"ranks":3' "$out" || fail "not made by three ranks"
echo "submitted again: $(tail -n 1 "$WORK/check.log")"

# ---- srun without PMIx is told so ----------------------------------------------------------------

on_n1 srun -N2 --mpi=none caloris-engine --model "$MODEL" --jobs "$WORK/jobs.jsonl" \
    --out "$WORK/none.jsonl" >"$WORK/none.log" 2>&1
code=$?
[ $code = 2 ] || fail "srun --mpi=none: exit $code, not 2"
grep -q "use srun --mpi=pmix" "$WORK/none.log" || fail "srun --mpi=none: no hint"

# ---- serve.sbatch: clients in the allocation, a dead rank, the end ------------------------------

cat >"$WORK/submit.sh" <<'CLIENT'
while read -r line; do
    caloris submit --cluster "$1" --job - <<<"$line" || exit 1
done <"$WORK/jobs.jsonl"
CLIENT
cat >"$WORK/collect.sh" <<'CLIENT'
mapfile -t jobs <"$WORK/numbers"
caloris wait --cluster "$1" "${jobs[@]}" >&2 || exit 1
for job in "${jobs[@]}"; do
    caloris results --cluster "$1" --json "$job" || exit 1
done
CLIENT
export WORK

# Half of the jobs are enough to be still at work when something is stopped.
set=tinycoder:1:20
golden_jobs make "$set" >"$WORK/jobs.jsonl" || fail "no jobs of $set"

job=$(submit serve.sbatch "$MODEL" "$WORK/state")
log=$WORK/job-$job.log
await 20 grep -qs "knows us" "$log" || fail "no group under job $job"

# The job's log says how one gets in. This machine has one home for all nodes, as clusters do.
wanted="caloris run --cluster slurm-$job"
read -ra inside < <(sed -n "s/^\(srun --jobid=$job .*\) $wanted .*/\1/p" "$log")
[ ${#inside[@]} -gt 0 ] || fail "the log of job $job does not say how to get in"
in_job() { on_n1 "${inside[@]}" "$@" 2>"$WORK/client.log" || fail "$*: exit $?"; }

prompt=$(sed -n '1s/.*"prompt": "\([^"]*\)".*/\1/p' "$MODEL/prompts.jsonl")
in_job caloris run --json --cluster "slurm-$job" --preset exact --gen-length 96 \
    --block-length 32 --steps 24 --quota block --early-stop false "$prompt" >"$WORK/answer.log"
recorded=$(grep -F '"id":"p000-1"' "$out" | grep -o '"ids":\[[0-9,]*\]')
grep -qF "${recorded:-no such run}" "$WORK/answer.log" || fail "run: not the recorded ids"

in_job bash "$WORK/submit.sh" "slurm-$job" >"$WORK/numbers"
kill -KILL "$(rank 1)" || fail "no rank 1 of job $job"
in_job bash "$WORK/collect.sh" "slurm-$job" >"$WORK/served.jsonl"
golden_jobs check "$set" "$WORK/served.jsonl" >"$WORK/check.log" || fail "not the recorded runs"
grep -q "the group ended with .*; starting it again" "$log" || fail "the log says nothing of it"
echo "a rank killed: $(tail -n 1 "$WORK/check.log")"

on_n1 scancel "$job"
ends "$job" 20 CANCELLED:75:0
await 10 nothing_runs || fail "left behind by job $job: $(leftovers)"
[ ! -e "$HOME/.caloris/slurm-$job" ] || fail "the cluster's file is left behind"

# ---- group.sbatch: a gateway outside, groups of two sizes that come and go ------------------------

on_n1 caloris-gateway --state "$WORK/login" --name hpc --token --clients 'tcp://10.77.0.11:*' \
    --groups 'tcp://10.77.0.11:*' >"$WORK/gateway.log" 2>&1 </dev/null &
gateway=$!
await 10 test -e "$HOME/.caloris/hpc" || fail "the gateway does not start"
one=$(NODES=1 submit group.sbatch "$MODEL" hpc --row-budget 64)
two=$(NODES=2 submit group.sbatch "$MODEL" hpc --row-budget 64)
for job in $one $two; do
    await 30 grep -qs "knows us as slurm-$job" "$WORK/job-$job.log" || fail "group of job $job"
done
on_n1 bash "$WORK/submit.sh" hpc >"$WORK/numbers" 2>"$WORK/client.log" || fail "submit: exit $?"
on_n1 scancel --signal=USR1 "$two"
ends "$two" 20 FAILED:75:0
on_n1 bash "$WORK/collect.sh" hpc >"$WORK/served.jsonl" 2>"$WORK/client.log" ||
    fail "collect: exit $?"
golden_jobs check "$set" "$WORK/served.jsonl" >"$WORK/check.log" || fail "not the recorded runs"
grep -qE '"ranks":1\b' "$WORK/served.jsonl" ||
    fail "the group of one rank made nothing: $(grep -o '"ranks":[^,]*' "$WORK/served.jsonl" | sort | uniq -c)"
grep -qE "handing [0-9]+ jobs back" "$WORK/job-$two.log" || fail "job $two handed nothing back"
on_n1 caloris group drain --cluster hpc "slurm-$one" >"$WORK/drain.log" 2>&1 || fail "drain: $?"
ends "$one" 20 COMPLETED:0:0
kill "$(leftovers | sed -n 's/^\([0-9]*\) caloris-gateway .*/\1/p')"
wait $gateway || fail "gateway: exit $?"
echo "two groups of a gateway outside, one sent away: $(tail -n 1 "$WORK/check.log")"
