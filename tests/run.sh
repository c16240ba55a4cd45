#!/bin/bash
# Installs what is missing, builds, and runs the whole of ctest.
#
#   tests/run.sh [--asan | --tsan] [--no-install] [ARGUMENTS OF ctest…]
#
#   --asan, --tsan   build with sanitizers, and run the tests that are meant for them
#   --no-install     leave the Debian packages alone
#
# For example: tests/run.sh -R layout; tests/run.sh --asan -L unit
set -euo pipefail

preset=release
install=()
while [ $# -gt 0 ]; do
    case $1 in
    --asan) preset=asan ;;
    --tsan) preset=tsan ;;
    --no-install) install=(--no-install) ;;
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) break ;;
    esac
    shift
done

cd "$(dirname "$0")/.."
# shellcheck source=../deploy/install-deps.sh
source deploy/install-deps.sh
caloris_install_deps "${install[@]}" "${caloris_build_packages[@]}" "${caloris_test_packages[@]}"

# Inherited ones can hide half of the machine from OpenBLAS.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE

# The quick start builds in the same place, without tests.
cmake --preset "$preset" -DBUILD_TESTING=ON
cmake --build --preset "$preset"

# ThreadSanitizer of gcc 12 wants its fixed addresses free; newer kernels scatter more widely.
run=()
if [ "$preset" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
    run=(setarch "$(uname -m)" -R)
fi
exec "${run[@]}" ctest --preset "$preset" "$@"
