#!/usr/bin/env bash
# Every file of gin_configs/ablations/ against the base, with several seeds, and a page whose ablation
# table has the differences with intervals over seeds. Each run goes on where it was stopped.
# Usage: launchers/ablations.sh [--dry_run] DATA_DIR OUT FLAGS...      (further flags of train)
#   launchers/ablations.sh runs/quickstart/data runs/ablations --gin_files=gin_configs/quickstart.gin
# SEEDS='0 1 2' (the default) and ABLATIONS='no_cql mse' take some of them. Runs lie in OUT/NAME/SEED; the
# base is OUT/base. FLAGS hold for all: an ablation comes after them.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[[ ${2-} ]] || fail "give OUT, the folder of the runs"
data=$1 out=$2
shift 2
names=${ABLATIONS:-$(cd "$root/gin_configs/ablations" && printf '%s\n' *.gin)}
code=0
for seed in ${SEEDS:-0 1 2}; do # all of a seed before the next: the table fills evenly
  for name in base $names; do
    name=${name%.gin}
    flags=(--gin_files=gin_configs/multigame.gin --gin_bindings="data.dir='$data'" "$@")
    if [[ $name != base ]]; then flags+=(--gin_files="gin_configs/ablations/$name.gin"); fi
    run "$python" -m cql_atari.train "${flags[@]}" --gin_bindings="train.seed=$seed" \
      --workdir="$out/$name/$seed" || code=$?
    if [[ $code -eq 75 ]]; then exit 75; fi # asked to stop
  done
done
report=("$out" --output="$out/report.html")
if compgen -G "$data/*/*/episodes.jsonl" >/dev/null; then report+=(--data_dir="$data"); fi # raw scores
run "$python" -m cql_atari.report "${report[@]}"
exit "$code"
