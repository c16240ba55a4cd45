#!/bin/bash
# Builds the fuzz targets with clang and libFuzzer and runs each of them, from its seeds in
# tests/fuzz/corpus.
#
#   tests/fuzz/run.sh [SECONDS [TARGET…]]
#
# SECONDS per target (10), as many of them side by side as there are cores. What is found new is kept in the build directory
# ($CALORIS_FUZZ_BUILD, build-fuzz) for the next run; an input that breaks a parser is named
# there, and the run ends with 1. 77: there is no clang with libFuzzer.
set -euo pipefail

case ${1:-} in -h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
esac
seconds=${1:-10}
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "$0: SECONDS is a whole number, not '$seconds'" >&2
    exit 2
fi
shift || true

source_dir=$(cd "$(dirname "$0")/../.." && pwd)
build=${CALORIS_FUZZ_BUILD:-$source_dir/build-fuzz}
for clang in "${CALORIS_CLANG:-clang-14}" clang; do
    if echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
        "$clang" -fsanitize=fuzzer -x c - -o /dev/null 2>/dev/null; then
        break
    fi
    clang=
done
if [ -z "$clang" ]; then
    echo "Not run: no clang with libFuzzer (Debian: clang-14 libclang-rt-14-dev)." >&2
    exit 77
fi

# -O1 without the flags of a release: built in half the time, and as fast as fuzzing needs.
build() {
    cmake -S "$source_dir" -B "$build" -G Ninja -DCMAKE_C_COMPILER="$clang" \
        -DCMAKE_BUILD_TYPE=Fuzz -DCMAKE_C_FLAGS="-O1 -gline-tables-only" \
        -DBUILD_TESTING=OFF -DCALORIS_FUZZ=ON &&
        cmake --build "$build" --target fuzz
}
if ! build >"$build.log" 2>&1; then
    cat "$build.log" >&2
    exit 1
fi
rm -f "$build.log"

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(basename -a "$build"/bin/fuzz_* | sed 's/^fuzz_//')
fi

export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1
export LSAN_OPTIONS=suppressions=$source_dir/tests/tools/lsan.supp:print_suppressions=0

# A line of its own for each, when it is through.
fuzz() # target
{
    local found=$build/corpus/$1 seeds=$source_dir/tests/fuzz/corpus/$1 log=$build/$1.log runs peak
    mkdir -p "$found"
    if "$build/bin/fuzz_$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -malloc_limit_mb=512 -max_len=65536 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$build/$1-" "$found" "$seeds" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
        printf '%-18s %9s inputs, peak %s MiB\n' "$1" "$runs" "$peak"
    else
        tail -n 40 "$log" >&2
        printf '%-18s FAILED\n' "$1"
        return 1
    fi
}

for target in "${targets[@]}"; do
    if [ ! -d "$source_dir/tests/fuzz/corpus/$target" ]; then
        echo "$0: no seeds for $target in tests/fuzz/corpus" >&2
        exit 2
    fi
done
export -f fuzz
export build seconds source_dir
# shellcheck disable=SC2016 # expanded by the inner shells
if ! printf '%s\n' "${targets[@]}" | xargs -n 1 -P "$(nproc)" bash -c 'fuzz "$1"' fuzz; then
    echo "Inputs that broke a parser: $build/TARGET-crash-…; run one with $build/bin/fuzz_TARGET FILE" >&2
    exit 1
fi
