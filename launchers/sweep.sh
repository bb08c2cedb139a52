#!/usr/bin/env bash
# Trains once for each point of a grid of gin bindings, each in a folder of its own in OUT.
# Usage: launchers/sweep.sh [--dry_run] [--slurm] OUT 'NAME=VALUE|VALUE...' ... -- FLAGS...
#   launchers/sweep.sh runs/alpha 'loss.cql_alpha=0.01|0.05' 'train.seed=0|1' -- \
#     --gin_files=gin_configs/multigame.gin --gin_bindings="data.dir='/data/dqn'"
# FLAGS are those of python -m cql_atari.train. One after the other here, or with --slurm as an array
# of launchers/slurm.sbatch, which reads partition, GPUs and so on from SBATCH_PARTITION, SBATCH_GRES...
# The same command goes on with what isn't finished.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
slurm=
if [[ $1 == --slurm ]]; then slurm=1 && shift; fi
out=$1 && shift
points=("")
while [[ ${1:?give -- before the flags of train} != -- ]]; do
  IFS='|' read -ra values <<<"${1#*=}"
  grown=()
  for point in "${points[@]}"; do
    for value in "${values[@]}"; do grown+=("$point${1%%=*}=$value"$'\n'); done
  done
  points=("${grown[@]}") && shift
done
shift

code=0
for i in "${!points[@]}"; do
  mapfile -t bindings <<<"${points[i]%$'\n'}"
  flags=("${bindings[@]/#/--gin_bindings=}" --workdir="$out/$(IFS=,; tr -c 'A-Za-z0-9.,=_\n-' _ <<<"${bindings[*]}")")
  if [[ ! $slurm ]]; then
    run "$python" -m cql_atari.train "$@" "${flags[@]}" || code=$?
    if [[ $code -eq 75 ]]; then exit 75; fi # asked to stop
  elif [[ ! $dry_run ]]; then
    mkdir -p "$out/points" && printf '%s\n' "${flags[@]}" >"$out/points/$i"
  fi
done
if [[ $slurm ]]; then run sbatch --array="0-$i" --export="ALL,POINTS=$out/points" launchers/slurm.sbatch "$@"; fi
exit "$code"
