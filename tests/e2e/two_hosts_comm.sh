#!/bin/bash
# Three ranks on two hosts: the cases of test_comm_mpi hold over a network, and a rank that aborts ends the world with
# its exit code.
set -u
. "$(dirname "$0")/hosts.sh"

program=$CALORIS_BIN_DIR/test_comm_mpi

fail()
{
    echo "$*" >&2
    exit 1
}

hosts_up 2

found=$(hosts_mpirun -n 3 "$program") || fail "test_comm_mpi over two hosts returns $?: $found"
echo "$found"
grep -q "3 ranks: n1 n1 n2$" <<<"$found" || fail "not over both hosts: $found"
grep -q ", 0 failures$" <<<"$found" || fail "$found"

code=0
hosts_mpirun -n 3 "$program" abort >/dev/null 2>&1 || code=$?
[ "$code" = 69 ] || fail "a rank aborted with 69, mpirun returned $code"
