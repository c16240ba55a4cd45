#!/bin/bash
# From keygen to a served job on two hosts: a gateway on one (the login node), a group of two ranks on the other.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/hosts.sh
. "$(dirname "$0")/hosts.sh"

unset CALORIS_ENDPOINT CALORIS_CLUSTER CALORIS_CERTIFICATE CALORIS_SERVER_KEY XDG_CONFIG_HOME XDG_STATE_HOME
hosts_up 2
cd "$WORK" || fail "no $WORK"
MODEL=$SOURCE/deploy/models/tinycoder

# on HOST CMD…, for at most a minute
on()
{
    local host=$1
    shift
    hosts_run "$host" timeout --kill-after=3 60 "$@"
}
serving() { on n1 caloris cluster "$@" --json 2>/dev/null | grep -q '"ranks":2'; }

# One user, one home directory: the token.
on n1 caloris-gateway --state s1 --name hpc --token --clients 'tcp://*:7711' --groups 'tcp://*:7712' >gateway.log 2>&1 &
await 20 test -e .caloris/hpc || fail "the gateway does not start"
grep -q '"endpoint": "tcp://n1:7711"' .caloris/hpc || fail "it publishes $(grep -o 'tcp[^"]*' .caloris/hpc)"
on n2 mpirun --allow-run-as-root -n 2 caloris-engine --threads 1 --row-budget 64 --model "$MODEL" --cluster hpc \
    </dev/null >group.log 2>&1 &
await 40 serving --cluster hpc || fail "the group does not come"
for host in n1 n2; do
    on $host caloris run -q --cluster hpc --gen-length 16 --block-length 16 "Return the sum." >out.$host ||
        fail "run on $host: exit code $?"
done
cmp out.n1 out.n2 || fail "other text on the other host"
echo "with the token: served on n2, asked from n1 and n2"

# Keys of one's own, and what somebody without one is told.
mkdir authorized
for who in server alice worker eve; do
    on n1 caloris keygen -o "$who" >/dev/null 2>&1 || fail "keygen $who"
done
cp alice.pub authorized/alice
{ cat worker.pub; echo 'rights = "serve"'; } >authorized/worker
on n1 caloris-gateway --state s2 --name keyed --clients 'tcp://*:7721' --groups 'tcp://*:7722' --certificate server \
    --authorized authorized >gateway2.log 2>&1 &
await 20 test -e .caloris/keyed || fail "the gateway with keys does not start"
grep -q secret .caloris/keyed && fail "it publishes a secret"
on n2 mpirun --allow-run-as-root -n 2 caloris-engine --threads 1 --row-budget 64 --model "$MODEL" \
    --gateway tcp://n1:7722 --server-key server.pub --certificate worker </dev/null >group2.log 2>&1 &
await 40 serving --cluster keyed --certificate alice || fail "the group with a key does not come"
on n2 caloris run -q --endpoint tcp://n1:7721 --server-key server.pub --certificate alice \
    --gen-length 16 --block-length 16 "Return the sum." >out.keyed || fail "alice's run on n2: exit code $?"
cmp out.n1 out.keyed || fail "other text with keys"
on n2 caloris list --cluster keyed --certificate eve 2>said
[ $? = 4 ] || fail "eve is not refused"
grep -q "the server refused your key" said || fail "eve is told: $(cat said)"
echo "with keys: served on n2, asked from n2; a key that is not authorized is refused"
