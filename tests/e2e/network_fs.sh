#!/bin/bash
# A queue on a file system that two hosts have mounted over a network protocol (SFTP, through FUSE:
# without locks and shared memory): one gateway has it, and the other takes it over when that one is dead.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

sftp=/usr/lib/openssh/sftp-server
{ command -v sshfs && [ -x $sftp ]; } >/dev/null || skip "no sshfs, or no $sftp"
printf '#!/bin/sh\nexec %s\n' $sftp >"$WORK/sftp"
chmod +x "$WORK/sftp"
mkdir -m 700 "$WORK/disk" "$WORK/sockets"
trap 'umount -l "$WORK"/host[12] 2>/dev/null; _lib_cleanup' EXIT
for host in 1 2; do
    mkdir "$WORK/host$host"
    sshfs -o ssh_command="$WORK/sftp" -o cache=no "local:$WORK/disk" "$WORK/host$host" 2>"$WORK/sshfs.log" ||
        skip "sshfs does not mount: $(tail -n 1 "$WORK/sshfs.log")"
done
unshare -u -p -f true 2>/dev/null || skip "no right to make namespaces"

# on_host N ACTION…: with process ids and a name of its own; in the background, becomes that process.
on_host() { exec unshare -u -p -f --kill-child sh -c "hostname host$1; shift; exec \"\$@\"" - "$@"; }

# Its sockets are not where the queue is: this protocol has none.
limited 20 caloris-gateway --config /dev/null --state "$WORK/host1/queue" --state-on-network-fs 2>"$WORK/bind.log"
[ $? = 2 ] || fail "there are sockets on SFTP"
grep -q "clients.sock: .*a file system without sockets" "$WORK/bind.log" || fail "it does not say what is missing"

# start N: the gateway of host N.
start()
{
    : >"$WORK/ready$1"
    on_host "$1" caloris-gateway --config /dev/null --state "$WORK/host$1/queue" --state-on-network-fs \
        --clients "ipc://$WORK/sockets/c$1" --groups "ipc://$WORK/sockets/g$1" \
        >"$WORK/ready$1" 2>"$WORK/gateway$1.log" &
    started=$!
    export CALORIS_ENDPOINT=ipc://$WORK/sockets/c$1
}

start 1
first=$started
await 30 grep -q ready "$WORK/ready1" || fail "no gateway on SFTP"
for i in 1 2 3; do
    [ "$(caloris submit --id "job-$i" "x")" = "$i" ] || fail "submit"
done

start 2
wait "$started"
[ $? = 2 ] || fail "two gateways have the directory"
grep -q "belongs to another gateway, process .* on host host1, which is alive" "$WORK/gateway2.log" ||
    fail "it does not say who has it"

kill -KILL "$first"
wait "$first" 2>/dev/null
start 2
await 40 grep -q ready "$WORK/ready2" || fail "a dead gateway's directory is not taken over"
caloris list --json | grep -q '"queued":3,' || fail "jobs are lost"
[ "$(caloris submit "x")" = 4 ] || fail "submit after taking over"
pkill -TERM -P "$started" # its child: unshare itself waits for that one
wait "$started" 2>/dev/null
caloris admin check --state "$WORK/host1/queue" >"$WORK/check.log" || fail "the database is damaged"
grep -qx "ok: 4 queued, 0 finished" "$WORK/check.log" || fail "jobs are lost"
