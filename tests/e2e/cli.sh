#!/usr/bin/env bash
# The command line's contract: help of every verb, exit codes, what goes to stdout, shapes of --json.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

unset CALORIS_ENDPOINT CALORIS_CLUSTER NO_COLOR
STATE=$WORK/state
mkdir -m 700 "$STATE"

# expect CODE WORDS CMD…: the exit code, and words that stdout or stderr must hold.
expect()
{
    local code=$1 words=$2 got
    shift 2
    limited 60 "$@" >"$WORK/out" 2>"$WORK/err" </dev/null
    got=$?
    [ "$got" = "$code" ] || fail "$*: exit code $got, not $code: $(cat "$WORK/err")"
    [ -z "$words" ] || cat "$WORK/out" "$WORK/err" | grep -qF -- "$words" || fail "$*: nothing says \"$words\": $(cat "$WORK/out" "$WORK/err")"
}

# Nothing but what is expected on stdout of the last command.
stdout_is() { [ "$(cat "$WORK/out")" = "$1" ] || fail "stdout is \"$(cat "$WORK/out")\", not \"$1\""; }
stdout_like() { grep -qE -- "$1" "$WORK/out" || fail "stdout is \"$(cat "$WORK/out")\", nothing like $1"; }

VERBS="up run submit batch watch replay wait list show results cancel cluster group metrics presets keygen"
for verb in $VERBS plan doctor shard admin; do
    expect 0 "Usage:" caloris "$verb" --help
    [ -s "$WORK/err" ] && fail "$verb --help writes to stderr"
    expect 0 "  $verb " caloris --help
done
for verb in $VERBS; do
    expect 2 "nonsense" caloris "$verb" --nonsense
    stdout_is ""
done
for field in preset gen_length block_length order commit steps threshold factor gamma early_commit quota cache refresh temperature cfg_scale seed \
    early_stop eos_id eot_id mask_id logits_eos_inf confidence_eos_eot_inf hole chat_template id; do
    expect 0 "--${field//_/-} " caloris run --help
    expect 0 "--${field//_/-} " caloris submit --help
done

# Presets.
expect 0 "the default" caloris presets
stdout_like '^balanced '
expect 0 "" caloris presets --json
stdout_like '"exact":\{.*"cache":"none"'

# Usage.
expect 2 "no verb dance" caloris dance
expect 2 "no verb dance" caloris --json dance list
expect 2 "Usage" caloris
expect 2 "a verb is missing" caloris --cluster list
stdout_is ""
expect 0 "Usage" caloris --cluster list --help
expect 0 "caloris 0" caloris -V
expect 2 "needs one of" caloris run
expect 2 "needs one of" caloris run hello --ids 1,2
expect 2 "too many" caloris run two prompts
expect 2 "is no token id" caloris submit --ids 1,x
expect 2 "gen_length" caloris submit hello --gen-length many
expect 2 "threshold" caloris run hello --threshold 1.5
expect 2 "is no job number" caloris show first
expect 2 "missing" caloris wait
expect 2 "a name is" caloris list --cluster ../secret
expect 2 "needs keys" caloris list --endpoint tcp://127.0.0.1:5555
expect 2 "none/key: No such file" caloris keygen -o "$WORK/none/key"
expect 2 "" caloris up --model "$WORK/none" -- true

# Nobody is there: 3, and the endpoint is named.
expect 3 "cluster default" caloris list
expect 3 "$WORK/none/clients.sock" caloris list --endpoint "ipc://$WORK/none/clients.sock"
expect 3 "$STATE/clients.sock" caloris submit hello --endpoint "ipc://$STATE/clients.sock" --timeout 300ms

# A gateway without a group: jobs wait.
caloris-gateway --state "$STATE" >"$WORK/gateway.log" 2>&1 &
gateway=$!
await 30 test -e "$HOME/.caloris/default" || fail "the gateway does not start"
expect 0 "" caloris submit "write a loop" --gen-length 32 --seed 7
stdout_is 1
expect 0 "" caloris submit --json --raw "x = " --id mine
stdout_is '{"job":2}'
expect 0 "" caloris submit --ids 5,6,7
expect 0 "" bash -c 'printf "from\0a pipe\n" | caloris submit -'
expect 0 "" bash -c 'printf %s "{\"ids\":[1,2],\"gen_length\":32}" | caloris submit --job - --gen-length 64'
stdout_is 5
expect 0 "queued" caloris show 1
expect 0 "" caloris show 1 --json
stdout_like '^\{"job":1,"id":null,"state":"queued","submitted":"20[^"]+Z","started":null,'
stdout_like '"request":\{.*"cache":.*"messages":\[\{"role":"user","content":"write a loop"\}\],"gen_length":32,"seed":7\}\}$'
expect 0 "" caloris show --json 2
stdout_like '"prompt":"x = ","id":"mine"'
expect 0 "" caloris show --json 4
stdout_like '"content":"from\\u0000a pipe"'
expect 0 "" caloris show --json 5
stdout_like '"ids":\[1,2\],"gen_length":64'
expect 0 "JOB " caloris list
[ "$(wc -l <"$WORK/out")" = 6 ] || fail "list: $(cat "$WORK/out")"
expect 0 "" caloris list --no-header --limit 2
[ "$(wc -l <"$WORK/out")" = 2 ] || fail "list --limit 2: $(cat "$WORK/out")"
expect 0 "" caloris list --json
stdout_like '^\{"jobs":\[\{"job":5,.*\],"queued":5,"running":0,"finished":0\}$'
expect 0 "" caloris list --count
stdout_like "^$(id -un) +5 +0 +-\$"
stdout_like '^\(all\) +5 +0 +0$'
expect 0 "" caloris list --count --json
stdout_is "{\"users\":[{\"user\":\"$(id -un)\",\"queued\":5,\"running\":0}],\"queued\":5,\"running\":0,\"finished\":0}"
expect 0 "" caloris cluster --json
stdout_is '{"groups":[],"queued":5,"running":0}'
expect 75 "" caloris results 1
stdout_is ""

# A flag beats a variable, whichever of the two options it is.
expect 0 "" env CALORIS_ENDPOINT=ipc:///nowhere/x caloris list --cluster default
expect 3 "nowhere" env CALORIS_ENDPOINT=ipc:///nowhere/x caloris list
# It may stand before the verb.
expect 0 "" env CALORIS_ENDPOINT=ipc:///nowhere/x caloris --cluster default -q --timeout=5s list --json
stdout_like '^\{"jobs":\['
expect 2 "a name is" caloris --cluster ../secret list

# No such job: 5, by every verb that takes one.
for verb in show results cancel watch wait; do
    expect 5 "99" caloris "$verb" 99
    stdout_is ""
done

# Cancelled jobs count as failed for who waits.
expect 0 "" caloris cancel 1
expect 0 "" caloris cancel 2 3 --json
stdout_like '^\{"jobs":\[\{"job":2,"id":"mine","state":"cancelled",.*\{"job":3,.*\]\}$'
expect 1 "cancelled" caloris wait 1
expect 1 "" caloris wait 1 2 --json
stdout_like '^\{"jobs":\[\{"job":1,.*\{"job":2,'
expect 1 "cancelled" caloris results 1
expect 1 "cancelled" caloris watch 3
expect 0 "cancelled" caloris list -a
expect 0 "" caloris list --json
stdout_like '"queued":2,"running":0,"finished":3'

# Ctrl-C while waiting: 130; the job of run is cancelled, that of wait is not.
# (Jobs in the background of a script ignore SIGINT; timeout brings it back, and passes on what it gets: twice, but for
# --foreground, and the second one ends at once.)
# interrupted WORDS TEST… -- CMD…: as soon as the test holds; it says these words.
interrupted()
{
    local words=$1 holds=()
    shift
    while [ "$1" != -- ]; do
        holds+=("$1")
        shift
    done
    shift
    timeout --foreground --preserve-status 60 "$@" >"$WORK/out" 2>"$WORK/err" </dev/null &
    local running=$!
    await 30 "${holds[@]}" || fail "$*: not even begun"
    kill -INT "$running"
    wait "$running"
    local got=$?
    [ $got = 130 ] || fail "$*: exit code $got, not 130: $(cat "$WORK/err")"
    [ -z "$words" ] || grep -qF -- "$words" "$WORK/err" || fail "$*: nothing says \"$words\": $(cat "$WORK/err")"
}
interrupted "" grep -q "job 4 queued" "$WORK/out" -- caloris watch 4
expect 130 "" timeout --preserve-status -s INT 3 caloris wait 4
interrupted "job 6 is cancelled" grep -q "job 6 queued" "$WORK/err" -- caloris run --view "never mind"
expect 0 "queued" caloris show 4
expect 0 "cancelled" caloris show 6

# A gateway that is killed while somebody waits.
limited 90 caloris watch 4 >"$WORK/wait.out" 2>"$WORK/wait.log" &
waiter=$!
await 30 grep -q "queued" "$WORK/wait.out" || fail "nobody waits"
kill -KILL "$gateway"
await 30 grep -q "went away" "$WORK/wait.log" || fail "nobody says that the gateway went away"
caloris-gateway --state "$STATE" >>"$WORK/gateway.log" 2>&1 &
await 30 grep -q "again" "$WORK/wait.log" || fail "nobody dials again"
await 30 grep -q "connected" "$WORK/wait.log" || fail "the waiting client does not come back"
expect 0 "" caloris cancel 4
wait "$waiter"
code=$?
[ $code = 1 ] || fail "wait ended with $code: $(cat "$WORK/wait.log")"

# More than the queue takes: try again, later. (A batch does so by itself.)
caloris-gateway --state "$WORK/small" --name small --max-queued 2 --max-bytes 20KiB >"$WORK/small.log" 2>&1 &
await 30 test -e "$HOME/.caloris/small" || fail "the small gateway does not start"
expect 0 "" caloris submit one --cluster small
expect 0 "" caloris submit two --cluster small
expect 75 "max_queued: user $(id -un) has 2 jobs in the queue, as many as may be; try again in 1 s" caloris submit three --cluster small
stdout_is ""
expect 0 "" caloris cancel 1 --cluster small
expect 0 "" caloris submit three --cluster small
stdout_is 3
# Likewise in bytes; what alone is more than may be is not to be tried again.
expect 0 "" caloris cancel 2 --cluster small
long=$(printf '%15000s' x)
expect 0 "" caloris submit "$long" --cluster small
expect 0 "" caloris cancel 3 --cluster small
expect 75 "max_bytes: user $(id -un) has 15." caloris submit "$long" --cluster small
expect 2 "max_bytes: the job takes 29." caloris submit "$long$long" --cluster small
stdout_is ""
