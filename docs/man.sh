#!/bin/bash
# Manual pages, made of what --help prints: man.sh BIN_DIR OUT_DIR. Of each program, and of each verb of caloris.
set -euo pipefail

bin=$1 out=$2
export LC_ALL=C.UTF-8 PATH=$bin:$PATH
mkdir -p "$out"

# page NAME WHAT-IT-IS COMMAND: the page of "caloris run" would else be called caloris.
page()
{
    local roff=${1//-/\\-}
    # help2man makes question marks of what is no ASCII: of our ellipses.
    help2man --no-info --name="$2" --version-string="$version" "$3" |
        sed -e 's/???/\\\&.../g' -e "s/^\.TH [^ ]* /.TH ${1^^} /" -e "s/^$3 \\\\- /$roff \\\\- /" >"$out/$1.1"
}

version=$(caloris --version | sed 's/.* //')
page caloris "serve masked-diffusion language models" caloris
page caloris-engine "a group of ranks that computes jobs" caloris-engine
page caloris-gateway "the queue of jobs, and the groups that compute them" caloris-gateway
page caloris-run-group "keep a group running when ranks and hosts are lost" caloris-run-group
while read -r verb what; do
    if [ "$(caloris "$verb" --help)" = "$(caloris-engine --help)" ]; then
        ln -sf caloris-engine.1 "$out/caloris-$verb.1" # a verb of that program
    else
        page "caloris-$verb" "$what" "caloris $verb"
    fi
done < <(caloris --help | sed -n 's/^  \([a-z][a-z-]*\)  *\([a-z].*\)/\1 \2/p')
