#!/bin/bash
# configs/caloris.conf is what the programs' own option tables print, and every program reads it.
# With --write: makes it so.
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

sample() {
    cat <<'EOF'
# Caloris: every key of every program, commented out, with the value that holds when nothing is
# written ("" stands for none).
#
# Looked for at --config FILE, then $CALORIS_CONFIG, then $XDG_CONFIG_HOME/caloris/caloris.conf
# (~/.config/caloris/caloris.conf), then /etc/caloris/caloris.conf; the first that is there is read.
# Built-in values < this file < CALORIS_* in the environment < flags; --print-config shows where
# each value came from. Whole numbers above 2147483647 end with L; sizes and durations stand in
# quotes ("8GiB", "30s"); @include "other.conf" puts another file in place, relative to this one.

EOF
    caloris-engine --print-sample || return
    echo
    caloris-gateway --print-sample || return
    echo
    caloris list --print-sample
}

sample >"$WORK/sample.conf" || fail "a program cannot print its sample"
if [ "${1:-}" = --write ]; then
    cp "$WORK/sample.conf" "$SOURCE/configs/caloris.conf"
    exit 0
fi
diff -u "$SOURCE/configs/caloris.conf" "$WORK/sample.conf" ||
    fail "configs/caloris.conf is not what the programs print; tests/e2e/config_sample.sh --write"

# With each key uncommented it is read, and means what holds without it.
sed -E '/^    # [a-z0-9_]+ = .*;$/s/# //' "$WORK/sample.conf" >"$WORK/live.conf"
for program in caloris-engine caloris-gateway "caloris list"; do
    # Words: a program and its verb.
    # shellcheck disable=SC2086
    env -u CALORIS_SOURCE_DIR -u CALORIS_BIN_DIR $program --config "$WORK/live.conf" \
        --print-config >"$WORK/said" 2>"$WORK/said.log" || fail "$program does not read its sample"
    grep -q "live.conf:" "$WORK/said" || fail "$program took nothing from its sample"
done
