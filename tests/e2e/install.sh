#!/bin/bash
# cmake --install with DESTDIR: what is there, nothing else, and it runs from there.
#
#   install.sh BUILD_DIR CMAKE
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

DESTDIR=$WORK/root "$2" --install "$1" >"$WORK/install.log" 2>&1 || fail "cmake --install"

prefix=$(dirname "$(dirname "$(find "$WORK/root" -path '*/bin/caloris')")")
[ "$prefix" != . ] || fail "no bin/caloris under DESTDIR"
(cd "$prefix" && find . -type f ! -path './share/man/*' | LC_ALL=C sort) >"$WORK/there"
cat >"$WORK/wanted" <<'EOF'
./bin/caloris
./bin/caloris-engine
./bin/caloris-gateway
./bin/caloris-run-group
./share/caloris/caloris.conf
./share/caloris/models/tinycoder/README.md
./share/caloris/models/tinycoder/config.json
./share/caloris/models/tinycoder/model.safetensors
./share/caloris/models/tinycoder/prompts.jsonl
./share/caloris/models/tinycoder/reference.json
./share/caloris/models/tinycoder/tokenizer.json
./share/caloris/models/tinycoder/tokenizer_config.json
./share/caloris/slurm/group.sbatch
./share/caloris/slurm/offline.sbatch
./share/caloris/slurm/serve.sbatch
EOF
diff -u "$WORK/wanted" "$WORK/there" || fail "what is installed is not what should be"

# A page for each program and each verb, in which its --help is found again.
if command -v help2man >/dev/null; then
    man=$prefix/share/man/man1
    for name in caloris-engine caloris-gateway caloris-run-group $("$prefix/bin/caloris" --help | sed -n 's/^  \([a-z]*\)  .*/caloris-\1/p'); do
        grep -q '^\.SH DESCRIPTION' "$man/$name.1" || fail "$name.1 is no manual page"
    done
    grep -q '^caloris-run \\- submit a job' "$man/caloris-run.1" || fail "caloris-run.1 has another name"
    grep -q -e '\\-\\-block\\-length' "$man/caloris-run.1" || fail "caloris-run.1 lacks an option"
fi

for program in caloris caloris-engine caloris-gateway; do
    said=$(limited 20 "$prefix/bin/$program" --version) || fail "$program --version"
    [[ $said =~ ^$program\ [0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "$program --version said: $said"
    [ -x "$prefix/bin/$program" ] || fail "$program is not executable"
    # Nothing of the build folder is needed to run it. (An MPI in a prefix of its own may be.)
    if readelf -d "$prefix/bin/$program" 2>/dev/null | grep -E 'RUNPATH|RPATH' | grep -qF "$1"; then
        fail "$program still has a run path into $1"
    fi
done
