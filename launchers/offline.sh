#!/usr/bin/env bash
# The paper's offline phase: one network on 40 games, evaluated at the end; beside it policies that
# don't look at the screen, and the table of all. Every step goes on where it was stopped.
# Usage: launchers/offline.sh [--dry_run] DATA_DIR OUT FLAGS...      (further flags of train)
#   launchers/offline.sh /data/dqn runs/near --gin_files=gin_configs/datasets/near_optimal.gin
# DATA_DIR holds .gz files or RLDS (launchers/get_data.sh). Several devices: add
# --gin_bindings="train.strategy='mirrored'", or use multi_worker.sh, slurm.sbatch, tpu_pod.sh.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[[ ${2-} ]] || fail "give OUT, the folder of the run"
data=$1 out=$2
shift 2
gin=(--gin_files=gin_configs/multigame.gin --gin_bindings="data.dir='$data'")
other=()
for flag; do
  if [[ $flag == --gin_* ]]; then gin+=("$flag"); else other+=("$flag"); fi
done

run "$python" -m cql_atari.train "${gin[@]}" "${other[@]}" --workdir="$out/agent"
for policy in random best_fixed; do
  if [[ -s $out/$policy/scores.json ]]; then continue; fi
  run "$python" -m cql_atari.evaluate --policy="$policy" "${gin[@]}" --out="$out/$policy"
done
run "$python" -m cql_atari.report "$out"
