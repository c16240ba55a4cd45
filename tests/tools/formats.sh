#!/bin/bash
# Pass rate of the demo model in every weight format, as a table: tests/tools/formats.sh [--bin DIR]
# [--ranks N] [--prompts N] …: options of pass_rate.py, which does the work.
set -euo pipefail

here=$(dirname "$0")
line='s/^([0-9]+ of [0-9]+) right \(([0-9.]+) %, 95 % interval ([0-9.-]+)\); [^;]*; ([0-9.]+) forward.*, ([0-9.]+) tokens per pass$/\1 | \2 | \3 | \4 | \5/p'

printf '| weights | right | %% | 95 %% interval | forward passes a job | tokens a pass |\n'
printf '|---|---:|---:|---:|---:|---:|\n'
for format in fp32 bf16 int8 int4; do
    result=$("$here/pass_rate.py" "$@" -- --weights "$format" --threads 1 --log-level error 2>/dev/null |
        sed -nE "$line")
    if [ -z "$result" ]; then
        echo "formats.sh: no pass rate with --weights $format" >&2
        exit 1
    fi
    printf '| %s | %s |\n' "$format" "$result"
done
