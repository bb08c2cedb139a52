#!/usr/bin/env bash
# Trains once for each point of a grid of gin bindings, each in a folder of its own in OUT.
# Usage: launchers/sweep.sh [--dry_run] [--slurm] OUT 'NAME=VALUE|VALUE...' ... -- FLAGS...
#   launchers/sweep.sh runs/alpha 'loss.cql_alpha=0.01|0.05' 'train.seed=0|1' -- \
#     --gin_files=gin_configs/multigame.gin --gin_bindings="data.dir='/data/dqn'"
# FLAGS are as for python -m cql_atari.train. One after the other here, or with --slurm as an array
# of launchers/slurm.sbatch, which reads partition, GPUs and so on from SBATCH_PARTITION, SBATCH_GRES...
# The same command goes on with what isn't finished.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
slurm='' code=0
if [[ $1 == --slurm ]]; then slurm=launchers/slurm.sbatch && shift; fi
if [[ $slurm && ! -f $slurm ]]; then fail "--slurm: run it from the repository's root"; fi
[[ ${1-} ]] || fail "give OUT, the folder of the runs"
out=$1 && shift
points=("")
while [[ ${1-} != -- ]]; do
  [[ ${1-} ]] || fail "give -- before the flags of train"
  if [[ $1 != ?*=?* ]]; then fail "$1: give NAME=VALUE|VALUE..."; fi
  IFS='|' read -ra values <<<"${1#*=}"
  grown=()
  for point in "${points[@]}"; do
    for value in "${values[@]}"; do grown+=("$point${1%%=*}=$value"$'\n'); done
  done
  points=("${grown[@]}") && shift
done
[[ ${points[0]} ]] || fail "give a grid, NAME=VALUE|VALUE..., before --"
shift
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
# POINTS through the environment: --export=ALL,POINTS=... would end at a comma in OUT.
if [[ $slurm ]]; then run env POINTS="$out/points" sbatch --array="0-$i" --export=ALL "$slurm" "$@"; fi
exit "$code"
