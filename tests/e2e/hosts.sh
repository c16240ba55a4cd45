# shellcheck shell=bash
# tests/e2e/hosts.sh: several "hosts" on this machine, for tests of worlds that span hosts. To be sourced.
#
#   hosts_up N             makes n1 … nN: each has its own name, network (10.77.0.10 + i on one bridge) and /dev/shm;
#                          ends the test with 77 (skipped) and the reason where this machine forbids that
#   hosts_mpirun ARGS…     mpirun on n1, over all hosts, $HOSTS_SLOTS (2) ranks to a host; n1 is filled first
#   hosts_run HOST CMD…    a command on one host
#   hosts_cut HOST         pulls its cable; hosts_mend HOST puts it in again
#   $HOSTS_AGENT           what mpirun calls in place of ssh
#   hosts_down             takes them down; also runs on EXIT, before a trap that was set earlier
#
# All live in one PID namespace, the "cluster". Killing its first process kills everything that was ever started in it,
# and with the last process go the namespaces, cables and mounts. The cluster dies with the test, so that even kill -9
# of the test leaves nothing but a directory in /tmp. No name outside is taken: tests may run beside each other.

HOSTS_LIBRARY=$(readlink -f "${BASH_SOURCE[0]}")
HOSTS_SLOTS=${HOSTS_SLOTS:-2}
_hosts_dir=
_hosts_parent=
_hosts_cluster_pid=

_hosts_skip()
{
    echo "skipped: $*" >&2
    exit 77
}

_hosts_check()
{
    local tool
    for tool in ip unshare nsenter setpriv mpirun; do
        command -v "$tool" >/dev/null || _hosts_skip "no command $tool"
    done
    [ "$(id -u)" = 0 ] || _hosts_skip "hosts are namespaces, which only root may make here"
    local probe='mount -t tmpfs tmpfs /dev/shm && hostname probe && ip link add probe0 type bridge &&
                 ip link add probe1 type veth peer name probe2'
    local why
    why=$(unshare -n -u -m -p -f --mount-proc sh -c "$probe" 2>&1) ||
        _hosts_skip "this machine does not let us make hosts: $why"
}

# First process of the cluster: makes the bridge and the hosts, says "ready", sleeps.
_hosts_cluster()
{
    local dir=$1 n=$2 i pid
    set -e
    mount --make-rprivate /
    ip link set lo up
    ip link add name switch0 type bridge
    ip link set switch0 up
    echo "127.0.0.1 localhost" >"$dir/etc_hosts"
    for ((i = 1; i <= n; i++)); do
        echo "10.77.0.$((10 + i)) n$i" >>"$dir/etc_hosts"
    done
    for ((i = 1; i <= n; i++)); do
        unshare -n -u -m sh -c "hostname n$i && mount -t tmpfs tmpfs /dev/shm &&
            mount --bind '$dir/etc_hosts' /etc/hosts && : >'$dir/n$i.named' && exec sleep infinity" &
        pid=$!
        while [ ! -e "$dir/n$i.named" ]; do
            kill -0 "$pid"
            sleep 0.02
        done
        ip link add "port$i" type veth peer name eth0 netns "$pid"
        ip link set "port$i" master switch0 up
        nsenter -t "$pid" -n ip link set lo up
        nsenter -t "$pid" -n ip addr add "10.77.0.$((10 + i))/24" dev eth0
        nsenter -t "$pid" -n ip link set eth0 up
        echo "$pid" >"$dir/n$i.pid"
    done
    : >"$dir/ready"
    wait
}

# What mpirun calls in place of ssh: options, host, words of a shell command.
_hosts_write_agent()
{
    cat >"$_hosts_dir/agent" <<AGENT
#!/bin/bash
while [[ \$1 == -* ]]; do shift; done
host=\$1
shift
[ ! -e "$_hosts_dir/\$host.cut" ] || { echo "\$host: no route to host" >&2; exit 255; }
exec nsenter -t "\$(cat "$_hosts_dir/\$host.pid")" -n -u -m sh -c "\$*"
AGENT
    chmod +x "$_hosts_dir/agent"
}

hosts_up()
{
    _hosts_check
    local n=$1 tries
    _hosts_dir=$(mktemp -d "${TMPDIR:-/tmp}/caloris-hosts.$$.XXXXXX")
    mkdir "$_hosts_dir/tmp"
    eval "set -- $(trap -p EXIT)"
    # shellcheck disable=SC2064 # the earlier trap is meant as it is now
    trap "hosts_down; ${3:-:}" EXIT
    _hosts_write_agent
    # shellcheck disable=SC2034 # for those who source this
    HOSTS_AGENT=$_hosts_dir/agent
    # shellcheck disable=SC2016 # expanded by the inner shell
    setpriv --pdeathsig KILL unshare -n -m -p -f --kill-child --mount-proc \
        bash -c '. "$1"; _hosts_cluster "$2" "$3"' cluster "$HOSTS_LIBRARY" "$_hosts_dir" "$n" \
        2>"$_hosts_dir/log" &
    _hosts_parent=$!
    for ((tries = 0; tries < 3000; tries++)); do
        if [ -e "$_hosts_dir/ready" ]; then
            read -r _hosts_cluster_pid <"/proc/$_hosts_parent/task/$_hosts_parent/children"
            return
        fi
        kill -0 "$_hosts_parent" 2>/dev/null || break
        sleep 0.02
    done
    echo "hosts do not come up: $(cat "$_hosts_dir/log")" >&2
    exit 1
}

hosts_run()
{
    local host=$1
    shift
    nsenter -t "$_hosts_cluster_pid" -m -p "$_hosts_dir/agent" "$host" \
        "cd $(printf %q "$PWD") && TMPDIR=$_hosts_dir/tmp $(printf '%q ' "$@")"
}

hosts_mpirun()
{
    local list="" pidfile host
    for pidfile in "$_hosts_dir"/n*.pid; do
        host=$(basename "$pidfile" .pid)
        list+="${list:+,}$host:$HOSTS_SLOTS"
    done
    # Open MPI 4 starts its daemons by plm/rsh and OMPI_MCA_oob_…, Open MPI 5 by the names of PRTE.
    OMPI_MCA_plm=rsh OMPI_MCA_plm_rsh_agent=$_hosts_dir/agent \
        OMPI_MCA_oob_tcp_if_include=10.77.0.0/24 OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 \
        PRTE_MCA_plm=ssh PRTE_MCA_plm_ssh_agent=$_hosts_dir/agent \
        PRTE_MCA_prte_if_include=10.77.0.0/24 PRTE_MCA_rmaps_default_mapping_policy=slot \
        hosts_run n1 mpirun --allow-run-as-root --host "$list" --wdir "$PWD" "$@"
}

# Who is cut off cannot be logged into, either: the agent says so.
_hosts_port() { nsenter -t "$_hosts_cluster_pid" -n ip link set "port${1#n}" "$2"; }
hosts_cut() { : >"$_hosts_dir/$1.cut" && _hosts_port "$1" down; }
hosts_mend() { rm -f "$_hosts_dir/$1.cut" && _hosts_port "$1" up; }

hosts_down()
{
    if [ -n "$_hosts_parent" ]; then
        kill -KILL "$_hosts_parent" 2>/dev/null
        wait "$_hosts_parent" 2>/dev/null
        while [ -n "$_hosts_cluster_pid" ] && kill -0 "$_hosts_cluster_pid" 2>/dev/null; do
            sleep 0.02
        done
        _hosts_parent=
        _hosts_cluster_pid=
    fi
    if [ -n "$_hosts_dir" ]; then
        rm -rf "$_hosts_dir"
        _hosts_dir=
    fi
}
