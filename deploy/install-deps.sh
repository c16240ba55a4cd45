#!/bin/bash
# Installs what Caloris needs from Debian 12 (and its kin). Run it, or source it and call
# caloris_install_deps. On other systems: the list below, by your package manager or
# in a prefix of your own that CMAKE_PREFIX_PATH names (CONTRIBUTING.md).
#
#   deploy/install-deps.sh               to build and run
#   deploy/install-deps.sh --tests       to run the tests, too
#   … --no-install                       only say what is missing
set -euo pipefail

caloris_build_packages=(
    gcc cmake ninja-build pkg-config
    libopenmpi-dev openmpi-bin         # the ranks
    libopenblas-dev                     # fp32 products; threads are ours
    libzmq3-dev                        # between gateway, groups and clients
    libprotobuf-c-dev protobuf-c-compiler
    libconfig-dev libjansson-dev
    libsqlite3-dev                     # the queue
    libpcre2-dev libutf8proc-dev       # tokenizers
    libhwloc-dev                       # cores of a rank
    help2man                           # manual pages out of --help
)
caloris_test_packages=(
    libcmocka-dev clang-format-14 shellcheck
    clang-14 libclang-rt-14-dev        # libFuzzer
    iproute2 util-linux                # hosts made of namespaces
    sshfs openssh-sftp-server          # a network file system
    prometheus                         # promtool, which reads our metrics
    slurm-wlm munge                    # for a cluster of them; nothing of it is configured
)

# Is this package there, or something that provides it?
caloris_has_package() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

# caloris_install_deps [--no-install] PACKAGE…
caloris_install_deps() {
    local install=yes missing=() package become=()
    if [ "${1:-}" = --no-install ]; then
        install=no
        shift
    fi
    if ! command -v dpkg-query >/dev/null; then
        echo "This is no Debian: make sure that what these packages hold is there: $*" >&2
        return 0
    fi
    for package in "$@"; do
        caloris_has_package "$package" || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        echo "All Debian packages are there." >&2
        return 0
    fi
    if [ "$install" = no ]; then
        echo "Not installed (--no-install): ${missing[*]}" >&2
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "Missing: ${missing[*]}" >&2
            echo "Run as root: apt-get install ${missing[*]}" >&2
            echo "(this is neither root, nor is there sudo; --no-install goes on without)" >&2
            return 1
        fi
        become=(sudo)
    fi
    echo "Installing Debian packages: ${missing[*]}" >&2
    # A minimal image comes without package lists.
    if ! "${become[@]}" apt-get -q install -y --no-install-recommends "${missing[@]}" >&2; then
        echo "Once more, with fresh package lists." >&2
        "${become[@]}" apt-get -q update >&2
        "${become[@]}" apt-get -q install -y --no-install-recommends "${missing[@]}" >&2
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    options=()
    packages=("${caloris_build_packages[@]}")
    for argument in "$@"; do
        case $argument in
        --no-install) options+=(--no-install) ;;
        -h | --help)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        --tests) packages+=("${caloris_test_packages[@]}") ;;
        *)
            echo "Usage: $0 [--tests] [--no-install]" >&2
            exit 2
            ;;
        esac
    done
    caloris_install_deps "${options[@]}" "${packages[@]}"
fi
