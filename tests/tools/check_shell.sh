#!/bin/bash
# Every script of the project passes shellcheck. Skipped where that is not installed.
set -euo pipefail

cd "$(dirname "$0")/../.."
if ! command -v shellcheck >/dev/null; then
    echo "skipped: no shellcheck here"
    exit 77
fi
mapfile -t scripts < <(
    find deploy tests -name '*.sh' -o -name '*.sbatch' -o -name run-group | LC_ALL=C sort
    find .ci -type f
)
shellcheck "${scripts[@]}"
echo "${#scripts[@]} scripts are clean"
