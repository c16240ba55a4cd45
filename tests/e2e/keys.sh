#!/usr/bin/env bash
# Keys: a gateway that listens at TCP takes jobs, and groups, from those it knows, each within its rights.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

unset CALORIS_ENDPOINT CALORIS_CLUSTER CALORIS_CERTIFICATE CALORIS_SERVER_KEY XDG_CONFIG_HOME XDG_STATE_HOME
cd "$WORK" || fail "no $WORK"
MODEL=$SOURCE/deploy/models/tinycoder
SECRET_WORD=Zaunkoenig # stands in every prompt, and in no log

# expect CODE WORDS CMD…: the exit code, and words that stand in what was said on stderr.
expect()
{
    local code=$1 words=$2 got
    shift 2
    limited 20 "$@" >out 2>said
    got=$?
    [ "$got" = "$code" ] || fail "$*: exit code $got, not $code: $(cat said)"
    [ -z "$words" ] || grep -qF -- "$words" said || fail "$*: nothing says \"$words\": $(cat said)"
}
# has FILE WORDS
has() { grep -qF -- "$2" "$1"; }

# ---- keygen ----

expect 0 "is yours alone" caloris keygen
[ "$(stat -c %a .config/caloris/key)" = 600 ] || fail "the secret key is not 0600"
[ "$(stat -c %a .config/caloris/key.pub)" = 644 ] || fail "the public key is not 0644"
grep -q secret-key .config/caloris/key.pub && fail "the public file has the secret key"
has .config/caloris/key.pub "$(cat out)" || fail "keygen prints another key than it writes"
expect 2 "is not replaced" caloris keygen
expect 0 "" caloris keygen --server -o server
for who in alice bob eve worker boss janitor; do expect 0 "" caloris keygen -o "$who.key"; done

# ---- what does not start ----

expect 2 "a TCP address needs keys" caloris-gateway --state s --clients 'tcp://127.0.0.1:*' --groups 'tcp://127.0.0.1:*'
expect 2 "a TCP address needs keys" caloris-gateway --state s --clients 'tcp://127.0.0.1:*' --certificate server
expect 2 "are for tcp://" caloris-gateway --state s --token
[ ! -e s ] || fail "a gateway that was refused made its state directory"
mkdir authorized
install -m 600 server.pub public
expect 2 "public: curve/secret-key is missing" caloris-gateway --state s --name t --clients 'tcp://127.0.0.1:*' --certificate public \
    --authorized authorized
cp alice.key.pub authorized/alice
sed 's/^curve/  curve/' bob.key.pub >authorized/bob
expect 2 "authorized/bob:4: " caloris-gateway --state s --name t --clients 'tcp://127.0.0.1:*' --certificate server \
    --authorized authorized
chmod 644 server
expect 2 "chmod 600 server" caloris-gateway --state s --name t --clients 'tcp://127.0.0.1:*' --certificate server \
    --authorized authorized
chmod 600 server
# A group without keys ends before it loads anything: the model that it names is not there.
expect 2 "a TCP address needs keys" caloris-engine --comm threads --model none --gateway tcp://127.0.0.1:1
expect 2 "a TCP address needs keys" caloris list --endpoint tcp://127.0.0.1:1

# ---- who may do what ----

{ printf 'limits\n    max_priority = 0\n    max_bytes = 4KiB\n'; cat bob.key.pub; } >authorized/bob
{ cat worker.key.pub; echo 'rights = "serve"'; } >authorized/worker
{ cat boss.key.pub; echo 'rights = "submit read-all admin"'; } >authorized/boss
{ cat janitor.key.pub; echo 'rights = "admin read-own"'; } >authorized/janitor
caloris-gateway --state s --name t --clients 'tcp://127.0.0.1:*' --groups 'tcp://127.0.0.1:*' \
    --certificate server --authorized authorized --log-level debug >gateway.out 2>gateway.log &
gateway=$!
await 10 has gateway.out ready || fail "the gateway does not start"
endpoint=$(sed -n 's/^ready: clients \(tcp[^ ]*\) .*/\1/p' gateway.out)
groups=$(sed -n 's/^ready: .* groups \(tcp[^ ]*\)$/\1/p' gateway.out)
export CALORIS_ENDPOINT=$endpoint CALORIS_SERVER_KEY=$WORK/server.pub
as() { local who=$1; shift; CALORIS_CERTIFICATE=$WORK/$who.key "$@"; }

as alice expect 0 "" caloris submit --gen-length 8 --block-length 8 "$SECRET_WORD one"
job=$(cat out)
as alice expect 0 "" caloris show "$job"
grep -q "$SECRET_WORD" out || fail "alice does not see her job"
as bob expect 5 "no job $job" caloris show "$job"
as bob expect 5 "no job $job" caloris watch "$job"
as bob expect 5 "no job $job" caloris results "$job"
as bob expect 5 "no job $job" caloris cancel "$job"
as bob expect 0 "" caloris list -a --no-header
[ ! -s out ] || fail "bob sees others' jobs: $(cat out)"
as alice expect 0 "" caloris list -a --no-header
[ "$(wc -l <out)" = 1 ] || fail "alice does not see her one job: $(cat out)"
as boss expect 0 "" caloris show "$job"
as boss expect 0 "" caloris list -a --no-header
[ "$(wc -l <out)" = 1 ] || fail "the boss does not see alice's job: $(cat out)"
as bob expect 0 "" caloris list --count --no-header
grep -q alice out && fail "bob sees whose the jobs are: $(cat out)"
as boss expect 0 "" caloris list --count
has out "alice " || fail "the boss does not see whose the jobs are: $(cat out)"
as bob expect 2 "priority: 1; with your key it is 0 at most" caloris submit --priority 1 x
as bob expect 2 "max_bytes: the job takes" caloris submit "$(printf '%5000s' x)"
as bob expect 0 "" caloris submit -q --priority -1 x
as bob expect 0 "" caloris cancel "$(cat out)"
as worker expect 4 "needs the right submit" caloris submit x
as worker expect 4 "needs the right read-own" caloris show "$job"
as alice expect 4 "needs the right admin" caloris group drain any
as boss expect 5 "any" caloris group drain any

# Who administers the gateway ends others' jobs, and reads none of them.
for verb in show results watch; do
    as janitor expect 5 "no job $job" caloris $verb "$job"
done
as alice expect 0 "" caloris submit "$SECRET_WORD to be cancelled"
doomed=$(cat out)
as janitor expect 0 "" caloris cancel --json "$doomed"
[ "$(cat out)" = "{\"job\":$doomed,\"state\":\"cancelled\"}" ] || fail "the janitor reads: $(cat out)"
as janitor expect 5 "no job $doomed" caloris results "$doomed"
as alice expect 0 "" caloris list -a --no-header
grep -q cancelled out || fail "the janitor's word does not count: $(cat out)"

# Keys that are not known, not the gateway's, not there.
as eve expect 4 "the server refused your key" caloris list
CALORIS_SERVER_KEY=$WORK/eve.key.pub as alice expect 4 "does not have the gateway's key" caloris list
chmod 640 bob.key
as bob expect 2 "chmod 600 $WORK/bob.key" caloris list
chmod 600 bob.key
as nobody expect 2 "nobody.key" caloris list
CALORIS_ENDPOINT=tcp://127.0.0.1:1 as alice expect 3 "127.0.0.1:1" caloris list --timeout 500ms

# A key without the right to serve cannot lease; the group ends, and does not try again.
expect 2 "the server refused this group's key" caloris-engine --comm threads --model "$MODEL" --row-budget 64 \
    --gateway "$groups" --certificate "$WORK/alice.key" --threads 1
has gateway.log "it has no right to serve" || fail "the gateway does not say why"
as alice expect 0 "" caloris show "$job"
grep -q QUEUED out || grep -qi queued out || fail "the job is not queued: $(cat out)"

# One that may serve does.
caloris-engine --comm threads --model "$MODEL" --row-budget 64 --threads 1 --gateway "$groups" \
    --certificate "$WORK/worker.key" >engine.log 2>&1 &
engine=$!
as alice limited 30 caloris wait "$job" || fail "alice's job is not done"
as alice expect 0 "" caloris results "$job"
as bob expect 5 "no job $job" caloris results "$job"
as boss expect 0 "" caloris results "$job"

# ---- keys that come and go ----

# A set that is wrong changes nothing, and says where.
echo 'rihgts = "admin"' >>authorized/bob
kill -HUP $gateway
await 10 has gateway.log "the keys stay as they were: authorized/bob:9: unknown name rihgts" ||
    fail "a wrong file is not named"
as bob expect 0 "" caloris list

# A key that is taken away: who waits with it is told at once; a group with it ends, and what it had is queued.
kill -STOP $engine
as bob caloris submit -q "$SECRET_WORD two" >bobs || fail "bob cannot submit"
as bob limited 20 caloris wait "$(cat bobs)" 2>wait.log &
waiter=$!
sleep 0.3
rm authorized/bob authorized/worker
kill -HUP $gateway
wait $waiter
code=$?
[ $code = 4 ] || fail "bob waits on, or ends with $code: $(cat wait.log)"
has gateway.log "keys: bob removed" || fail "the gateway does not log that bob's key is gone"
kill -CONT $engine
wait $engine
code=$?
[ $code = 2 ] || fail "a group whose key is gone: exit code $code"
as bob expect 4 "the server refused your key" caloris list
as alice expect 0 "" caloris list

# Prompts stand in no log, whatever its level.
grep -l "$SECRET_WORD" -- *.log && fail "a prompt was logged"
kill -TERM $gateway
wait $gateway || fail "the gateway's exit code is $?"

# ---- the token: whoever can read the published file ----

unset CALORIS_ENDPOINT CALORIS_SERVER_KEY
start_with_token()
{
    caloris-gateway --state s2 --name mine --clients 'tcp://127.0.0.1:*' --groups 'tcp://127.0.0.1:*' --token \
        >token.out 2>token.log &
    gateway=$!
    await 10 has token.out ready || fail "a gateway with a token does not start"
}
start_with_token
[ "$(stat -c %a .caloris/mine)" = 600 ] || fail "the published file is not 0600"
caloris-engine --comm threads --model "$MODEL" --row-budget 64 --threads 1 --cluster mine >engine2.log 2>&1 &
engine=$!
expect 0 "" caloris run -q --cluster mine --gen-length 8 --block-length 8 "$SECRET_WORD"
cp .caloris/mine copy
chmod 644 .caloris/mine
expect 2 "chmod 600" caloris list --cluster mine
chmod 600 .caloris/mine
kill -KILL $gateway
wait $gateway 2>/dev/null
: >token.out
start_with_token
[ "$(sed 's/127[^"]*//g' .caloris/mine)" = "$(sed 's/127[^"]*//g' copy)" ] || fail "a new life has new keys"
kill -TERM $engine $gateway
wait $engine $gateway
[ ! -e .caloris/mine ] || fail "the published file is left behind"
echo "keys: all as it should be"
