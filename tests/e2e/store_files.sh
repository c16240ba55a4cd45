#!/bin/bash
# The queue's directory: copied, checked and made small by hand; on a file system of its own that
# runs full; as if on a network file system.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

without=()
# start DIR OPTION…: a gateway there; CALORIS_ENDPOINT names it.
start()
{
    local dir=$1
    shift
    : >"$WORK/ready"
    "${without[@]}" caloris-gateway --config /dev/null --state "$dir" --clients "ipc://$dir/c" "$@" \
        >"$WORK/ready" 2>>"$WORK/gateway.log" &
    gateway=$!
    await 30 grep -q ready "$WORK/ready" || fail "no gateway"
    export CALORIS_ENDPOINT=ipc://$dir/c
}
stop()
{
    kill "-${1:-TERM}" "$gateway"
    wait "$gateway" 2>/dev/null
}
queued() { caloris list --json --limit 1 | sed 's/.*"queued":\([0-9]*\).*/\1/'; }

# ---- backup, check, compact

dir=$WORK/one
start "$dir"
for i in 1 2 3; do
    caloris submit --id "job-$i" "x" >/dev/null || fail "submit"
done
[ -z "$(find "$dir" -type f -perm /077)" ] || fail "others may read files of the queue: $(ls -l "$dir")"
caloris admin backup --state "$dir" "$WORK/copy.db" >/dev/null || fail "backup beside a gateway"
[ "$(stat -c %a "$WORK/copy.db")" = 600 ] || fail "others may read the copy"
caloris admin backup --state "$dir" "$WORK/copy.db" 2>/dev/null && fail "a file was overwritten"
caloris admin check --state "$dir" >"$WORK/check.log" || fail "check beside a gateway"
grep -qx "ok: 3 queued, 0 finished" "$WORK/check.log" || fail "check counts wrongly"
caloris admin compact --state "$dir" 2>"$WORK/compact.log" && fail "compact beside a gateway"
grep -q "stop it first.*process $gateway" "$WORK/compact.log" || fail "compact does not say why not"
caloris cancel 1 2 3 >/dev/null || fail "cancel"
stop
caloris admin compact --state "$dir" >/dev/null || fail "compact"
caloris admin check --state "$dir" | grep -qx "ok: 0 queued, 3 finished" || fail "after compact"
rm "$dir"/queue.db*
mv "$WORK/copy.db" "$dir/queue.db"
start "$dir"
[ "$(queued)" = 3 ] || fail "the copy is not what was copied"
[ "$(caloris submit "x")" = 1000004 ] || fail "numbers may be given again"
stop
head -c 3000 /dev/zero | dd of="$dir/queue.db" bs=1024 seek=12 conv=notrunc 2>/dev/null
caloris admin check --state "$dir" 2>/dev/null && fail "damage is not found"
caloris admin check --state "$WORK/nowhere" 2>"$WORK/check.log" && fail "there is a queue nowhere"
grep -q "there is no queue" "$WORK/check.log" || fail "check does not say what is missing"

# ---- as if on a network file system

dir=$WORK/net
start "$dir" --state-on-network-fs
[ "$(caloris submit "x")" = 1 ] || fail "submit"
[ ! -e "$dir/queue.db-shm" ] || fail "memory is shared through the file system"
read -r host pid _ <"$dir/owner"
[ "$host $pid" = "$(hostname) $gateway" ] || fail "owner says $host $pid"
caloris admin check --state "$dir" 2>"$WORK/check.log" && fail "two at one database"
grep -q "state-on-network-fs" "$WORK/check.log" || fail "check does not say who has it"
: >"$WORK/ready"
limited 20 caloris-gateway --config /dev/null --state "$dir" --state-on-network-fs 2>"$WORK/second.log" &&
    fail "two gateways have the directory"
grep -q "belongs to another gateway, process $gateway on host" "$WORK/second.log" || fail "not who has it"
stop KILL
caloris admin check --state "$dir" >/dev/null || fail "check after a crash"
start "$dir" --state-on-network-fs # this host knows that the other is dead
[ "$(queued)" = 1 ] || fail "the job is lost"
# The same host name, the same process number, and another machine or container, which is alive.
stop KILL
elsewhere()
{
    echo "$(hostname) $gateway 7 $1 12345678-9abc-def0-1234-56789abcdef0 4026531836" >"$WORK/owner"
    mv "$WORK/owner" "$dir/owner"
}
beats=0
elsewhere $beats
while sleep 1; do
    elsewhere $((beats += 1))
done &
beating=$!
limited 20 caloris-gateway --config /dev/null --state "$dir" --state-on-network-fs 2>"$WORK/second.log" &&
    fail "a directory that is alive was taken"
kill "$beating"
grep -q "belongs to another gateway" "$WORK/second.log" || fail "not who has it"
rm "$dir/owner"
start "$dir" --state-on-network-fs
[ "$(queued)" = 1 ] || fail "the job is lost"
echo "elsewhere 7 12345 1" >"$dir/owner" # another host took it for dead
await 20 grep -q "process 7 on host elsewhere has taken the directory over" "$WORK/gateway.log" ||
    fail "two gateways have the directory"
wait "$gateway"
[ -e "$dir/owner" ] || fail "the other's file is gone"
rm "$dir/owner"

# One that has no locks at all: neither ours nor the database's are needed.
if command -v strace >/dev/null && strace -D -o /dev/null true 2>/dev/null; then
    without=(strace -D -f -o "$WORK/locks" -e "trace=flock,fcntl" -e inject=flock:error=ENOLCK)
    start "$WORK/lockless" --state-on-network-fs
    without=()
    [ "$(caloris submit "x")" = 1 ] || fail "submit without locks"
    grep -q "lock: no lock (No locks available)" "$WORK/gateway.log" || fail "no word about the lock"
    stop
    grep SETLK "$WORK/locks" && fail "the database locks"
else
    echo "no strace: a file system without locks is left out" >&2
fi

# ---- a full disk

dir=$WORK/small
mkdir -m 700 "$dir"
mount -t tmpfs -o size=32m,mode=700 tmpfs "$dir" 2>/dev/null || {
    echo "no right to mount: the full disk is left out" >&2
    exit 0
}
trap 'stop KILL 2>/dev/null; umount -l "$dir"; _lib_cleanup' EXIT
start "$dir"
head -c 300000 /dev/zero | tr '\0' 'x' >"$WORK/prompt"

# As if on a network file system: what names the owner is written on a full disk, too.
start_net() { start "$dir" --state-on-network-fs; }
fill() { dd if=/dev/zero of="$dir/other" bs=4k oflag=append conv=notrunc 2>/dev/null; }
stop
start_net
told() { read -r _ _ _ count _ <"$dir/owner" && [ "$count" -gt 2 ]; }
fill
await 20 told || fail "it does not say that it is alive on a full disk: $(cat "$dir/owner")"
stop KILL
start_net
rm "$dir/other"
stop
start "$dir"

# Somebody else fills it; the gateway starts where nothing is free. What was there can be read, nothing
# is taken.
start_full()
{
    start "$dir"
    [ "$(queued)" = 3 ] || fail "$(queued) of 3 jobs are left on the full disk"
    caloris show 1 >/dev/null || fail "no show on the full disk"
    caloris submit - <"$WORK/prompt" >/dev/null 2>"$WORK/full.log"
    [ $? = 75 ] || fail "a job is taken on the full disk"
}
for i in 1 2 3; do
    caloris submit - <"$WORK/prompt" >/dev/null || fail "submit"
done
fill
for i in 1 2 3; do
    stop KILL
    start_full # behind the end of the log
    fill
done
rm "$dir/other"
stop # the log is gone, and its index
fill
start_full
rm "$dir/other"

accepted=3
for ((i = 0; i < 150; i++)); do
    caloris submit - <"$WORK/prompt" >/dev/null 2>"$WORK/full.log"
    code=$?
    [ "$code" = 0 ] || break
    accepted=$((accepted + 1))
done
[ "$code" = 75 ] || fail "a full disk: exit code $code"
grep -q "full.*try again in" "$WORK/full.log" || fail "it is not said that the disk is full"
[ "$accepted" -gt 3 ] || fail "nothing fits"
[ "$(queued)" = "$accepted" ] || fail "$(queued) of $accepted jobs are left"
# What was accepted finds room for what becomes of it: submissions leave a part of the disk free.
caloris cancel 1 || fail "no room for the end of a job that was accepted"
[ "$(caloris results 1 2>&1 | grep -c "cancelled on request")" = 1 ] || fail "no result of job 1"
stop
start "$dir" --keep-free 0
full=$accepted
for ((i = 0; i < 100; i++)); do # now to the brim
    caloris submit - <"$WORK/prompt" >/dev/null 2>"$WORK/full.log" || break
    accepted=$((accepted + 1))
done
[ "$accepted" -gt "$full" ] || fail "nothing was left free"
grep -q "full.*try again in" "$WORK/full.log" || fail "it is not said that the disk is full to the brim"

# What fails here has not happened: metrics count what was answered. (A job is cancelled once.)
cancelled=0
for ((i = 2; i <= accepted; i++)); do
    caloris cancel "$i" 2>"$WORK/full.log" && cancelled=$((cancelled + 1))
    grep -q "full.*try again in" "$WORK/full.log" && caloris cancel "$i" 2>/dev/null && cancelled=$((cancelled + 1))
done
[ "$(caloris metrics | sed -n 's/^caloris_jobs_total{state="cancelled"} //p')" = "$cancelled" ] ||
    fail "$cancelled jobs were cancelled, the metrics say: $(caloris metrics | grep caloris_jobs_total)"
accepted=$((accepted - cancelled - 1))
stop KILL
mount -o remount,size=64m "$dir" || fail "remount"
start "$dir"
[ "$(queued)" = "$accepted" ] || fail "$(queued) of $accepted jobs are left after a restart"
caloris submit - <"$WORK/prompt" >/dev/null || fail "the disk has room again"
[ "$(stat -c %s "$dir/reserve")" = 262144 ] || fail "nothing is held for the next start"
stop
caloris admin check --state "$dir" >/dev/null || fail "the queue is damaged"
echo "$accepted jobs outlived the full disk"
