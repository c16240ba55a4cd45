#!/bin/bash
# The source looks as .clang-format says (version 14: others differ in details), and no line, comment
# or not, is wider than 100 columns. Skipped where that version is not installed.
set -euo pipefail

cd "$(dirname "$0")/../.."
formatter=$(command -v clang-format-14 || true)
if [ -z "$formatter" ] && clang-format --version 2>/dev/null | grep -q ' version 14\.'; then
    formatter=clang-format
fi
if [ -z "$formatter" ]; then
    echo "skipped: no clang-format 14 here (Debian: clang-format-14)"
    exit 77
fi

wrong=0
mapfile -t files < <(find base proto worker coordinator client tests -name '*.[ch]' | LC_ALL=C sort)
# All in one process: starting it costs more than a file.
if ! "$formatter" --dry-run --Werror "${files[@]}"; then
    echo "these lines are not as $formatter -i writes them"
    wrong=1
fi
if LC_ALL=C.UTF-8 grep -nE '^.{101}' "${files[@]}" | cut -c 1-120; then
    echo "these lines have more than 100 columns"
    wrong=1
fi
exit "$wrong"
